"""One kind of history after another on one backend: planned, played, judged, and kept where it is illegal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from judged import plans
from judged.evidence import describe, keep
from judged.holding import judge_fenced_writes, judge_holds
from judged.many_keys import find_idle_conflicts, judge_many_keys
from judged.one_key import Rules, judge_one_key
from judged.recording import CASTS, fresh_store, run, run_and_kill
from judged.search import is_unknown, returned_ns

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from judged.recording import History
    from sharedstate.testing.histories import Operation

__all__ = ["KINDS", "Outcome", "play"]

_BATCH: Final = 250
_MORTALS: Final = 8
_SPAN_NS: Final = {"shm": 1_500_000, "file": 3_000_000, "sqlite": 5_000_000}
"""Within which actors are killed: about as long as a burst takes."""

_EVICTING: Final = "?size=1MiB&full=evict"
_FILL: Final = (5000, 900)
"""Some times what a region of 1 MiB has room for: at the first round everything is young."""

_ENOUGH: Final = 3
"""After so many faults no more of them are judged: a store that is broken may be so all the time."""

_REFUSALS: Final = frozenset({"ValueTypeError"})
"""What may be raised: by `increment`, of what is no number."""

KINDS: Final = ("keys", "leases", "transactions", "holds", "evicted keys")


class Outcome(NamedTuple):
    """What came of some histories."""

    faults: list[str]
    histories: int
    operations: int
    overlapping: int  # operations that overlapped another one on the same key
    unknown: int  # operations whose actors died in them
    killed: int  # actors
    unexplained: int  # histories of a store that evicts which need an eviction to be legal
    seconds: float

    @property
    def figures(self) -> dict[str, float]:
        """What is worth a figure."""
        numbers = self._asdict()
        del numbers["faults"]
        return {name: round(number, 1) for name, number in numbers.items() if number}


_GRAIN_NS: Final = {"sqlite": 1_000_000}  # deadlines are whole milliseconds there, and up to one early


def play(
    kind: str,
    scheme: str,
    bursts: int,
    dice: random.Random,
    directory: Path,
    *,
    kills: bool = False,
    plant: str = "",
) -> Outcome:
    """Play so many histories of a kind on fresh stores, and judge them.

    Args:
        kind: of `KINDS`.
        scheme: the backend's.
        bursts: how many histories.
        dice: decides what is done.
        directory: where stores are put, and illegal histories kept.
        kills: actors are forked processes, some of which are killed in the middle.
        plant: a bug of `plants`.
    """
    begun_s = time.monotonic()
    histories: list[History] = []
    faults: list[str] = []
    needed = 0
    while len(histories) < bursts and len(faults) < _ENOUGH:
        batch = min(_BATCH, bursts - len(histories))
        played = _play_batch(kind, scheme, batch, dice, directory, kills, plant)
        for history in played:
            faults += _judge(kind, history, directory)
            if len(faults) >= _ENOUGH:
                break
        if kind == "evicted keys":
            needed += sum(
                any(judge_one_key(own, Rules(slack_ns=each.slack_ns)).order is None for own in each.by_key().values())
                for each in played
            )
        histories += played
    operations = [operation for history in histories for operation in history.operations]
    return Outcome(
        faults,
        len(histories),
        len(operations),
        sum(_count_overlapping(own) for history in histories for own in history.by_key().values()),
        sum(map(is_unknown, operations)) + sum(held.freed_ns is None for each in histories for held in each.holds),
        sum(history.killed for history in histories),
        needed,
        time.monotonic() - begun_s,
    )


def _play_batch(  # noqa: PLR0917
    kind: str, scheme: str, bursts: int, dice: random.Random, directory: Path, kills: bool, plant: str
) -> list[History]:
    houses = CASTS[scheme]
    seats = _MORTALS if kills else sum(map(len, houses))
    # Who is killed must have something to be killed in.
    steps, turns = ((8, 16), (6, 10)) if kills else ((4, 8), (3, 5))
    made = {
        "keys": lambda: plans.plan_keys(dice, seats, bursts, steps=steps),
        "evicted keys": lambda: plans.plan_keys(dice, seats, bursts, fill=_FILL),
        "leases": lambda: plans.plan_leases(dice, seats, bursts),
        "transactions": lambda: plans.plan_transactions(dice, seats, bursts, steps=turns),
        "holds": lambda: plans.plan_holds(dice, seats, bursts),
    }[kind]()
    with fresh_store(scheme, directory, _EVICTING if kind == "evicted keys" else "") as url:
        if not kills:
            played = run(url, houses, made, directory, plant)
            return [history._replace(slack_ns=history.slack_ns + _GRAIN_NS.get(scheme, 0)) for history in played]
        span_ns = max(_SPAN_NS[scheme], 4_000_000 if kind in {"holds", "leases"} else 0)
        waves = plans.plan_waves(dice, bursts, seats=seats, span_ns=span_ns)
        return run_and_kill(url, waves, [*made, []], directory, plant)


def _judge(kind: str, history: History, directory: Path) -> list[str]:
    faults = [
        f"refused: {operation}"
        for operation in history.operations
        if type(operation.result) is tuple
        and operation.result[:1] == ("refused",)
        and not (operation.verb == "increment" and operation.result[1] in _REFUSALS)
    ]
    if kind == "transactions":
        verdict = judge_many_keys(history.operations)
        if verdict.order is None:
            path = keep(directory, "many keys", history.operations)
            faults.append(f"{describe(verdict)}\nkept: {path}")
        faults += [f"a conflict with nobody: {operation}" for operation in find_idle_conflicts(history.operations)]
        return faults
    for key, own in history.by_key().items():
        if kind == "holds":
            verdict, rules = judge_fenced_writes(own), Rules()
        else:
            rules = Rules(evicts=kind == "evicted keys", slack_ns=history.slack_ns)
            verdict = judge_one_key(own, rules)
        if verdict.order is None:
            path = keep(directory, "fenced writes" if kind == "holds" else "one key", own, rules)
            faults.append(f"{key}: {describe(verdict)}\nkept: {path}")
    return faults + judge_holds(history.holds)


def _count_overlapping(operations: list[Operation]) -> int:
    """Return how many of them overlapped another."""
    ordered = sorted(operations, key=lambda operation: operation.called_ns)
    overlapping: set[int] = set()
    latest = -1
    for place, operation in enumerate(ordered):
        if latest >= 0 and returned_ns(ordered[latest]) >= operation.called_ns:
            overlapping |= {latest, place}
        if latest < 0 or returned_ns(operation) > returned_ns(ordered[latest]):
            latest = place
    return len(overlapping)
