"""What transactions over several keys may answer: some order of all of them explains each, and it is that of time.

    S1  A committed transaction saw, of every key that it read, what the keys held at the one instant at which its
        writes took effect; that instant lies between its begin and its end (strict serializability).
    S2  So did a committed one that only read.
    S3  One that lost a race (ConflictError) changed nothing; and it did lose one: something else may have been
        written to what it had read, between its begin and its end.
    S4  Verbs on one key take part as transactions of one step.  `get_many` is a `get` of each key, at instants of
        their own: the contract promises no more.

A step of a transaction is `(how, key, number)`: `put` a number, `drop` the key,
or `sum` what was read and the number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from judged.one_key import frozen
from judged.search import MOST_STATES, Verdict, explain, is_unknown, returned_ns
from sharedstate.model import MISSING
from sharedstate.testing.histories import CONFLICT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sharedstate.testing.histories import Operation

__all__ = ["find_idle_conflicts", "has_no_effect", "judge_many_keys", "written_by"]

State = tuple[tuple[str, Any], ...]


def judge_many_keys(operations: Iterable[Operation], most_states: int = MOST_STATES) -> Verdict:
    """Search for a serial order; every key was absent before."""
    telling = [op for op in operations if op.result != CONFLICT and not (is_unknown(op) and not _writes(op))]
    return explain(telling, (), _step, has_no_effect, most_states)


def find_idle_conflicts(operations: Sequence[Operation]) -> list[Operation]:
    """Return the transactions that lost a race although nobody raced with them (S3)."""
    writers = [op for op in operations if op.result != CONFLICT and not has_no_effect(op)]
    return [
        op
        for op in operations
        if op.verb == "transact"
        and op.result == CONFLICT
        and not any(
            other.called_ns <= returned_ns(op)
            and returned_ns(other) >= op.called_ns
            and set(op.argument[0]) & _keys_written(other)
            for other in writers
        )
    ]


def has_no_effect(op: Operation) -> bool:
    """Return whether an operation that had this result changed nothing."""
    return op.verb == "get" or op.result == CONFLICT or (op.verb == "delete" and op.result is False) or not _writes(op)


def written_by(op: Operation, seen: Sequence[Any]) -> dict[str, Any]:
    """Return what a transaction writes that has read these values, by key; MISSING: it drops it."""
    reads, steps = op.argument
    total = sum(value for value in seen if type(value) is int)
    values = {"put": lambda number: number, "drop": lambda _: MISSING, "sum": lambda number: total + number}
    del reads
    return {key: values[how](number) for how, key, number in steps}


def _writes(op: Operation) -> bool:
    return op.verb != "get" and not (op.verb == "transact" and not op.argument[1])


def _keys_written(op: Operation) -> set[str]:
    return {key for _, key, _ in op.argument[1]} if op.verb == "transact" else {op.key}


def _changed(state: State, changes: dict[str, Any]) -> State:
    held = {**dict(state), **changes}
    return tuple(sorted((key, value) for key, value in held.items() if value is not MISSING))


def _step(state: State, op: Operation, _now_ns: int) -> list[State]:
    held = dict(state)
    found = held.get(op.key, MISSING)
    is_told = not is_unknown(op)
    after: State | None = None
    match op.verb:
        case "get":
            after = state if found == (MISSING if op.result is None else frozen(op.result)) else None
        case "set":
            after = _changed(state, {op.key: op.argument[0]})
        case "delete":
            if not is_told or op.result == (found is not MISSING):
                after = state if found is MISSING else _changed(state, {op.key: MISSING})
        case "increment":
            total = (0 if found is MISSING else found) + op.argument[0]
            after = _changed(state, {op.key: total}) if not is_told or op.result == total else None
        case "transact":
            seen = [held.get(key, MISSING) for key in op.argument[0]]
            told = seen
            if is_told:
                told = [MISSING if value is None else frozen(value) for value in op.result]
            if seen == told:
                changes = written_by(op, seen)
                after = _changed(state, changes) if changes else state
    return [] if after is None else [after]
