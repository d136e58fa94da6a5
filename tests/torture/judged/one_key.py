"""What one key may answer, at every moment: the model of a register, a counter, a lease and a cache at once.

    R1  A read sees the value of the latest write before it, with its type.
    R2  Generations grow with each write: also across delete, expiry and eviction, also those nobody was told.
    R3  From its deadline on an entry is absent to every verb, and until then it is there.  A deadline lies `ttl_s`
        after some moment of the call that set it, give or take `slack_ns`.
    R4  Who keeps a deadline (increment, update_with) moves it by nothing, and undoes no touch.
    R5  Where the store evicts, an entry may vanish at any moment.  It never comes back by itself.
    R6  What was refused (any error but OutcomeUnknownError) changed nothing.

Values are told apart with their types.  Entries are recorded as `(value,
generation, deadline)`, the deadline None or the two moments of the monotonic
clock between which it lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from judged.search import MOST_STATES, NEVER_NS, Verdict, explain, is_unknown, returned_ns
from sharedstate.model import ABSENT, MISSING
from sharedstate.testing.histories import CONFLICT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sharedstate.testing.histories import Operation

__all__ = ["NOT_THERE", "PLAIN", "REFUSED", "UNTOLD", "Rules", "frozen", "has_no_effect", "judge_one_key"]

REFUSED: Final = "refused"
"""The first part of the result of what raised another error; the second is the error's name."""

NOT_THERE: Final = "not there"
"""The result of a `ttl` that raised KeyError."""

UNTOLD: Final = "untold"
"""The result of a `delete` (by `clear`) that was not told whether there was anything."""


class Rules(NamedTuple):
    """What else the judge has to reckon with."""

    evicts: bool = False
    slack_ns: int = 0


PLAIN: Final = Rules()


class State(NamedTuple):
    """What the key holds."""

    value: Any = MISSING
    generation: int = ABSENT  # of what it holds, as far as somebody was told
    least: int = ABSENT  # the newest generation handed out is at least this
    dies_from_ns: int = NEVER_NS  # its deadline lies between these two
    dies_until_ns: int = NEVER_NS
    floor_ns: int = 0  # it must be that late, since something has expired


def frozen(value: Any) -> Any:
    """Return something hashable that tells any two values apart, type included."""
    if value is MISSING or type(value) in {int, str, bytes}:
        return value
    return f"{type(value).__name__} {value!r}"


def judge_one_key(operations: Iterable[Operation], rules: Rules = PLAIN, most_states: int = MOST_STATES) -> Verdict:
    """Search for an order that explains what was done to one key, which was absent before."""
    telling = [op for op in operations if _tells(op)]
    return explain(telling, State(), lambda state, op, now: _step(state, op, now, rules), has_no_effect, most_states)


def has_no_effect(op: Operation) -> bool:
    """Return whether an operation that had this result changed nothing."""
    if op.verb in {"get", "read", "ttl"} or op.result == CONFLICT or _is_refused(op):
        return True
    if op.verb in {"add", "delete", "touch"}:
        return op.result is False
    if op.verb == "setdefault":
        return bool(frozen(op.result) != frozen(op.argument))
    return bool(op.verb == "pop" and op.result is None)


def _tells(op: Operation) -> bool:
    """Return whether an operation says anything: not so a read without a result, or what was refused (R6)."""
    if is_unknown(op):
        return op.verb not in {"get", "read", "ttl"}
    return not _is_refused(op) or (op.verb == "increment" and op.result[1] == "ValueTypeError")


def _is_refused(op: Operation) -> bool:
    return type(op.result) is tuple and len(op.result) == 2 and op.result[0] == REFUSED


def _step(state: State, op: Operation, now_ns: int, rules: Rules) -> list[State]:
    now_ns = max(now_ns, state.floor_ns)
    end_ns = returned_ns(op)
    if end_ns < now_ns:
        return []
    follow: list[State] = []
    if state.value is MISSING or now_ns <= state.dies_until_ns:
        after = _VERBS[op.verb](state, op, rules)
        if after is not None:
            follow.append(after)
    if state.value is not MISSING and (rules.evicts or end_ns >= state.dies_from_ns):
        floor_ns = state.floor_ns
        if not rules.evicts:
            floor_ns = max(floor_ns, state.dies_from_ns)
        gone = State(least=state.least, floor_ns=floor_ns)
        after = _VERBS[op.verb](gone, op, rules)
        if after is not None:
            follow.append(after)
    return follow


# --- What writes and generations do ----------------------------------------------


def _put(  # noqa: PLR0917
    state: State, value: Any, ttl_s: float | None, op: Operation, rules: Rules, told: int = ABSENT
) -> State | None:
    if told != ABSENT and told <= state.least:
        return None
    least = told if told != ABSENT else state.least + 1
    if ttl_s is None:
        return State(frozen(value), told, least, floor_ns=state.floor_ns)
    ttl_ns = int(ttl_s * 1e9)
    until_ns = NEVER_NS if op.returned_ns is None else op.returned_ns + ttl_ns + rules.slack_ns
    return State(frozen(value), told, least, op.called_ns + ttl_ns - rules.slack_ns, until_ns, state.floor_ns)


def _put_kept(state: State, value: Any) -> State:
    """Write what expires as the entry before it does."""
    return state._replace(value=frozen(value), generation=ABSENT, least=state.least + 1)


def _at(state: State, generation: int) -> State | None:
    """Return the state if its generation is, or can be, this one."""
    if state.value is MISSING or generation == ABSENT:
        return state if state.value is MISSING and generation == ABSENT else None
    if state.generation != ABSENT:
        return state if generation == state.generation else None
    return state._replace(generation=generation, least=generation) if generation >= state.least else None


def _dying(state: State, from_ns: int, until_ns: int, rules: Rules) -> State | None:
    """Return the state if its deadline is, or can be, between these two."""
    from_ns, until_ns = from_ns - rules.slack_ns, until_ns + rules.slack_ns
    if state.dies_from_ns == NEVER_NS or until_ns < state.dies_from_ns or from_ns > state.dies_until_ns:
        return None
    if from_ns <= state.dies_from_ns and until_ns >= state.dies_until_ns:
        return state
    return state._replace(
        dies_from_ns=max(state.dies_from_ns, from_ns), dies_until_ns=min(state.dies_until_ns, until_ns)
    )


def _gone(state: State) -> State:
    return State(least=state.least, floor_ns=state.floor_ns)


# --- The verbs -----------------------------------------------------------------


def _get(state: State, op: Operation, _rules: Rules) -> State | None:
    if is_unknown(op):
        return state
    return state if state.value == (MISSING if op.result is None else frozen(op.result)) else None


def _read(state: State, op: Operation, rules: Rules) -> State | None:
    if is_unknown(op):
        return state
    if op.result is None:
        return state if state.value is MISSING else None
    value, generation, deadline = op.result
    matched = _at(state, generation) if state.value == frozen(value) and generation != ABSENT else None
    if matched is None:
        return None
    if deadline is None:
        return matched if matched.dies_from_ns == NEVER_NS else None
    return _dying(matched, *deadline, rules)


def _ttl(state: State, op: Operation, rules: Rules) -> State | None:
    if is_unknown(op):
        return state
    if op.result == NOT_THERE or state.value is MISSING:
        return state if op.result == NOT_THERE and state.value is MISSING else None
    if op.result is None:
        return state if state.dies_from_ns == NEVER_NS else None
    left_ns = int(op.result * 1e9)
    # At 0.0 it had expired between the look and the sum.
    return _dying(state, op.called_ns + left_ns if left_ns else 0, returned_ns(op) + left_ns, rules)


def _set(state: State, op: Operation, rules: Rules) -> State | None:
    value, ttl_s = op.argument
    return _put(state, value, ttl_s, op, rules)


def _add(state: State, op: Operation, rules: Rules) -> State | None:
    value, ttl_s = op.argument
    was_absent = state.value is MISSING
    if not is_unknown(op) and op.result != was_absent:
        return None
    return _put(state, value, ttl_s, op, rules) if was_absent else state


def _setdefault(state: State, op: Operation, rules: Rules) -> State | None:
    if state.value is MISSING:
        is_told = not is_unknown(op)
        return (
            None if is_told and frozen(op.result) != frozen(op.argument) else _put(state, op.argument, None, op, rules)
        )
    return state if is_unknown(op) or frozen(op.result) == state.value else None


def _delete(state: State, op: Operation, _rules: Rules) -> State | None:
    was_there = state.value is not MISSING
    if not is_unknown(op) and op.result not in {UNTOLD, was_there}:
        return None
    return _gone(state) if was_there else state


def _pop(state: State, op: Operation, _rules: Rules) -> State | None:
    if not is_unknown(op) and (MISSING if op.result is None else frozen(op.result)) != state.value:
        return None
    return state if state.value is MISSING else _gone(state)


def _increment(state: State, op: Operation, rules: Rules) -> State | None:
    by, ttl_s = op.argument
    if state.value is MISSING:
        fits = is_unknown(op) or op.result == by
        return _put(state, by, ttl_s, op, rules) if fits else None
    if type(state.value) is not int:
        return state if is_unknown(op) or op.result == (REFUSED, "ValueTypeError") else None
    total = state.value + by
    return _put_kept(state, total) if is_unknown(op) or op.result == total else None


def _update_with(state: State, op: Operation, rules: Rules) -> State | None:
    """`change` adds to a number, and replaces what is none."""
    total = (state.value if type(state.value) is int else 0) + op.argument
    if not is_unknown(op) and op.result != total:
        return None
    return _put(state, total, None, op, rules) if state.value is MISSING else _put_kept(state, total)


def _compare_and_set(state: State, op: Operation, rules: Rules) -> State | None:
    value, expected, ttl_s = op.argument
    if op.result == CONFLICT:
        is_surely_at = state.value is MISSING if expected == ABSENT else state.generation == expected
        return None if is_surely_at else state
    matched = _at(state, expected)
    if matched is None:
        return None
    return _put(matched, value, ttl_s, op, rules, ABSENT if is_unknown(op) else op.result)


def _touch(state: State, op: Operation, rules: Rules) -> State | None:
    is_there = state.value is not MISSING
    if not is_unknown(op) and op.result != is_there:
        return None
    if not is_there:
        return state
    told = _put(state, None, op.argument, op, rules)
    assert told is not None
    return state._replace(dies_from_ns=told.dies_from_ns, dies_until_ns=told.dies_until_ns)


_VERBS: Final[dict[str, Callable[[State, Operation, Rules], State | None]]] = {
    "add": _add,
    "compare_and_set": _compare_and_set,
    "delete": _delete,
    "get": _get,
    "increment": _increment,
    "pop": _pop,
    "read": _read,
    "set": _set,
    "setdefault": _setdefault,
    "touch": _touch,
    "ttl": _ttl,
    "update_with": _update_with,
}
