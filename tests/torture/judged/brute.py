"""The judges' questions on tiny histories, answered by trying every order: slow, simple, and nobody's code but its own.

Written from the promises, not from the judges: values in a dict, generations
and deadlines as inequalities.
"""

from __future__ import annotations

from itertools import combinations, permutations, product
from typing import TYPE_CHECKING, Any

from judged.many_keys import written_by
from judged.one_key import REFUSED, UNTOLD
from sharedstate.model import MISSING
from sharedstate.testing.histories import CONFLICT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sharedstate.testing.histories import Operation

__all__ = ["has_order", "has_serial_order", "orders"]


def orders(operations: Sequence[Operation]) -> Iterator[tuple[Operation, ...]]:
    """Yield every order that respects time, with and without each operation of unknown result."""
    told = [op for op in operations if op.result is not MISSING]
    untold = [op for op in operations if op.result is MISSING]
    for number in range(len(untold) + 1):
        for happened in combinations(untold, number):
            for order in permutations([*told, *happened]):
                if all(
                    not (after.returned_ns is not None and after.returned_ns < before.called_ns)
                    for i, before in enumerate(order)
                    for after in order[i + 1 :]
                ):
                    yield order


def has_serial_order(operations: Sequence[Operation]) -> bool:
    """Return whether transactions and single verbs have an explanation."""
    return any(_runs(order) for order in orders([op for op in operations if op.result != CONFLICT]))


def _runs(order: Sequence[Operation]) -> bool:
    store: dict[str, Any] = {}
    for op in order:
        is_told = op.result is not MISSING
        if op.verb == "transact":
            seen = [store.get(key) for key in op.argument[0]]
            if is_told and list(op.result) != seen:
                return False
            changes = written_by(op, [MISSING if value is None else value for value in seen])
        else:
            held = store.get(op.key)
            answers = {
                "get": held,
                "set": None,
                "delete": held is not None,
                "increment": (held or 0) + op.argument[0] if op.verb == "increment" else None,
            }
            if is_told and op.result != answers[op.verb]:
                return False
            changes = {
                "get": {},
                "set": {op.key: op.argument[0] if op.verb == "set" else None},
                "delete": {op.key: MISSING},
                "increment": {op.key: answers["increment"]},
            }[op.verb]
        for key, value in changes.items():
            if value is MISSING:
                store.pop(key, None)
            else:
                store[key] = value
    return True


def has_order(operations: Sequence[Operation], *, evicts: bool = False, is_leased: bool = False) -> bool:
    """Return whether the operations on one key have an explanation.

    Args:
        operations: few.
        evicts: what is there may vanish before any of them.
        is_leased: what is there vanishes at its deadline, and only then.
    """
    kept = [op for op in operations if not (type(op.result) is tuple and op.result[0] == REFUSED)]
    for order in orders(kept):
        choices = [(False, True)] * len(order) if evicts or is_leased else [(False,)] * len(order)
        if any(_explains(order, vanished, is_leased=is_leased) for vanished in product(*choices)):
            return True
    return False


class _Version:
    """A write, its generation as far as it was told, and the bounds of its deadline."""

    def __init__(self, value: Any, generation: int, deadline: tuple[int, int] | None) -> None:
        self.value = value
        self.generation = generation
        self.deadline = deadline
        self.alive_at: list[int] = []  # positions of what found it there
        self.gone_at: int | None = None  # the position before which it had expired


def _explains(  # noqa: C901, PLR0912  a verb after another
    order: Sequence[Operation], vanished: Sequence[bool], *, is_leased: bool
) -> bool:
    versions: list[_Version] = []
    held: _Version | None = None
    for place, op in enumerate(order):
        if vanished[place]:
            if held is None or (is_leased and held.deadline is None):
                return False
            held.gone_at = place
            held = None
        if held is not None:
            held.alive_at.append(place)
        value = None if held is None else held.value
        is_told = op.result is not MISSING
        writes: Any = None
        match op.verb:
            case "get":
                answer = value
            case "read":
                answer = op.result
                if is_told and (op.result is None) != (held is None):
                    return False
                if is_told and held is not None and (op.result[0] != value or not _told(held, op.result[1])):
                    return False
            case "set":
                answer, writes = op.result, op.argument
            case "add":
                answer, writes = held is None, op.argument if held is None else None
            case "delete":
                answer = op.result if op.result == UNTOLD else held is not None
                held = None
            case "pop":
                answer = value
                held = None
            case "increment":
                answer = (value or 0) + op.argument[0]
                writes = (answer, op.argument[1])
            case "compare_and_set":
                new, expected, ttl_s = op.argument
                if op.result == CONFLICT:
                    if held is None and expected == 0:
                        return False
                    if held is not None and held.generation == expected != 0:
                        return False
                    answer = CONFLICT
                elif held is None:
                    if expected != 0:
                        return False
                    answer, writes = op.result, (new, ttl_s)
                else:
                    if expected == 0 or not _told(held, expected):
                        return False
                    answer, writes = op.result, (new, ttl_s)
            case _:
                raise ValueError(op.verb)
        if is_told and op.result != answer:
            return False
        if writes is not None:
            generation = op.result if op.verb == "compare_and_set" and is_told else 0
            deadline = None if writes[1] is None else _deadline(op, writes[1])
            if op.verb == "increment" and held is not None:
                deadline = held.deadline  # as it stands at that moment, to the bit
            held = _Version(writes[0], generation, deadline)
            versions.append(held)
    return _grow(versions) and (not is_leased or _in_time(order, versions))


def _told(version: _Version, generation: int) -> bool:
    if version.generation == 0:
        version.generation = generation
    return version.generation == generation


def _grow(versions: Sequence[_Version]) -> bool:
    last = 0
    for version in versions:
        last = version.generation if version.generation > last else last + 1
        if version.generation not in {0, last}:
            return False
    return True


def _deadline(op: Operation, ttl_s: float) -> tuple[int, int]:
    ttl_ns = int(ttl_s * 1e9)
    return op.called_ns + ttl_ns, 2**63 if op.returned_ns is None else op.returned_ns + ttl_ns


def _in_time(order: Sequence[Operation], versions: Sequence[_Version]) -> bool:
    """Return whether moments and deadlines can be chosen: the earliest that fit, from the first to the last."""
    moments = [op.called_ns for op in order]
    deadlines = {id(version): version.deadline[0] for version in versions if version.deadline is not None}
    for _ in range(len(order) + 1):
        for place in range(1, len(order)):
            moments[place] = max(moments[place], moments[place - 1])
        for version in versions:
            if version.deadline is None:
                continue
            least = max([deadlines[id(version)], *(moments[place] for place in version.alive_at)])
            deadlines[id(version)] = least
            if version.gone_at is not None:
                moments[version.gone_at] = max(moments[version.gone_at], least)
    ends = [2**63 if op.returned_ns is None else op.returned_ns for op in order]
    return all(moment <= end for moment, end in zip(moments, ends, strict=True)) and all(
        deadlines[id(version)] <= version.deadline[1] for version in versions if version.deadline is not None
    )
