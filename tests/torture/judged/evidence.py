"""An illegal history: made small, kept as JSON, and judged again.

It is made small by forgetting results: an operation whose result is not known
may have happened or not, so what is illegal without its result is illegal for
the sake of the others.  Reads without a result are dropped.
"""

from __future__ import annotations

import ast
import json
import os
from typing import TYPE_CHECKING, Any, Final

from judged.holding import judge_fenced_writes
from judged.many_keys import has_no_effect as has_no_effect_on_many
from judged.many_keys import judge_many_keys
from judged.one_key import PLAIN, Rules, has_no_effect, judge_one_key
from judged.search import MOST_STATES, is_unknown
from sharedstate.model import MISSING
from sharedstate.testing.histories import Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from judged.search import Verdict

__all__ = ["describe", "judge_again", "keep", "minimise"]


_FEW_STATES: Final = 2_000
"""After so many the search for less is given up: what is not decided by then stays as it is."""


def _judge(kind: str, rules: Rules, most_states: int = MOST_STATES) -> Callable[[Sequence[Operation]], Verdict]:
    if kind == "one key":
        return lambda operations: judge_one_key(operations, rules, most_states)
    judge = judge_many_keys if kind == "many keys" else judge_fenced_writes
    return lambda operations: judge(operations, most_states)


def minimise(
    operations: Sequence[Operation],
    judge: Callable[[Sequence[Operation]], Verdict],
    is_idle: Callable[[Operation], bool],
) -> list[Operation]:
    """Return the history without whatever result it is illegal without."""
    kept = sorted(operations, key=lambda operation: operation.called_ns)
    size = max(1, len(kept) // 2)
    while True:
        start = 0
        while start < len(kept):
            chosen = kept[start : start + size]
            if not all(is_unknown(operation) for operation in chosen):
                weaker = [op if is_unknown(op) else op._replace(result=MISSING) for op in chosen if not is_idle(op)]
                fewer = [*kept[:start], *weaker, *kept[start + size :]]
                verdict = judge(fewer)
                if verdict.order is None and verdict.is_decided:
                    kept = fewer
                    start += len(weaker)
                    continue
            start += size
        if size == 1:
            break
        size //= 2
    # Writes that may have happened, of values that nobody was told of, explain nothing.
    told = " ".join(repr((op.argument, op.result)) for op in kept if not is_unknown(op))
    return [op for op in kept if not (is_unknown(op) and op.verb in _PUTS and _value_of(op) not in told)]


_PUTS: Final = frozenset({"add", "compare_and_set", "set", "setdefault"})


def _value_of(operation: Operation) -> str:
    argument = operation.argument
    return repr(argument[0] if type(argument) is tuple and argument else argument)


def keep(
    directory: Path, kind: str, operations: Sequence[Operation], rules: Rules = PLAIN, name: str = "history"
) -> str:
    """Write an illegal history, and the same made small, to a new file; return its path."""
    is_idle = {"one key": has_no_effect, "many keys": has_no_effect_on_many}.get(kind, lambda op: op.result is False)
    small = minimise(operations, _judge(kind, rules, _FEW_STATES), is_idle)
    number = sum(each.startswith(name) for each in os.listdir(directory))
    path = os.path.join(directory, f"{name}-{number}.json")
    with open(path, "w", encoding="utf-8") as file:
        whole = sorted(operations, key=lambda operation: operation.called_ns)
        json.dump(
            {
                "kind": kind,
                "rules": rules._asdict(),
                "small": [_packed(operation) for operation in small],
                "whole": [_packed(operation) for operation in whole],
            },
            file,
            indent=1,
        )
    return path


def judge_again(path: str, part: str = "whole") -> Verdict:
    """Judge the history that `keep` wrote; `part`: "whole" or "small"."""
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    return _judge(found["kind"], Rules(**found["rules"]))([_unpacked(each) for each in found[part]])


def describe(verdict: Verdict) -> str:
    """Say what is wrong, for people."""
    if verdict.order is not None:
        return f"legal: {len(verdict.order)} operations in this order\n" + "\n".join(map(str, verdict.order))
    if not verdict.is_decided:
        return f"undecided after {verdict.states} states"
    stuck = "\n    ".join(map(str, verdict.stuck))
    return f"illegal: no order explains it; where {verdict.held} is held, none of these fits:\n    {stuck}"


def _packed(operation: Operation) -> dict[str, Any]:
    row = operation._asdict()
    row["argument"] = repr(operation.argument)
    row["result"] = None if is_unknown(operation) else repr(operation.result)
    return row


def _unpacked(row: dict[str, Any]) -> Operation:
    result = MISSING if row["result"] is None else ast.literal_eval(row["result"])
    return Operation(**{**row, "argument": ast.literal_eval(row["argument"]), "result": result})
