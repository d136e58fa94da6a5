"""Concurrent histories, and the judges that decide whether a correct store could have made them.

Actors do operations at the same time; each is recorded with the moments, on one
monotonic clock, between which it took effect.  A judge is a pure function of the
record: it returns what is wrong with it, nothing if there is an explanation.

    H1  An operation took effect at one instant between its call and its return,
        so the moments may be taken too early and too late, never the other way.
    H2  An operation without a return (its actor died) took effect once after its
        call, or never.
    H3  A hold is recorded the other way round: from after the lock was acquired
        to before it was released, so two that overlap were truly both held.

Needs neither pytest nor hypothesis.
"""

from __future__ import annotations

import time
from _thread import allocate_lock
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from sharedstate.errors import ConflictError
from sharedstate.model import ABSENT, MISSING, Entry, Missing
from sharedstate.probe.actors import ActorTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from sharedstate.store import Store

__all__ = [
    "CONFLICT",
    "Hold",
    "Operation",
    "Recorder",
    "judge_counter",
    "judge_locks",
    "judge_register",
    "judge_transfers",
    "record_holds",
    "record_rounds",
]

CONFLICT: Final = "conflict"
"""The result of a compare_and_set that raised ConflictError."""

_NEVER_NS: Final = 2**63
_GLANCE_S: Final = 0.0005


class Operation(NamedTuple):
    """One operation of one actor.

    Attributes:
        actor: who did it.
        verb: get, read, set, add, delete, increment or compare_and_set; what a
            judge does not know it leaves alone.
        key: of the store.
        argument: the value of set and add, the amount of increment, and
            (value, expected) of compare_and_set.
        result: as the verb returned it; `CONFLICT`; MISSING if it never returned.
        called_ns: a moment before it began, on the monotonic clock.
        returned_ns: a moment after it ended; None if it never returned.
    """

    actor: str
    verb: str
    key: str
    argument: Any
    result: Any
    called_ns: int
    returned_ns: int | None

    def __str__(self) -> str:
        returned = "?" if self.returned_ns is None else self.returned_ns
        call = f"{self.verb}({self.key!r}, {self.argument!r})"
        return f"[{self.called_ns}..{returned}] {self.actor}: {call} = {self.result!r}"


class Hold(NamedTuple):
    """One time that one actor held one lock."""

    actor: str
    name: str
    token: int
    acquired_ns: int
    released_ns: int | None  # None: it still holds it, or died with it


# --- Recording ----------------------------------------------------------------


class Recorder:
    """Does the operations of this process's threads, and records them.

    Thread safety: any thread; each records under its own actor's name.
    """

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._operations: list[Operation] = []  # guarded by _lock
        self._holds: list[Hold] = []  # guarded by _lock

    @property
    def operations(self) -> list[Operation]:
        """What was recorded so far."""
        with self._lock:
            return list(self._operations)

    @property
    def holds(self) -> list[Hold]:
        """The holds recorded so far."""
        with self._lock:
            return list(self._holds)

    def perform(self, actor: str, verb: str, key: str, argument: Any, call: Callable[[], Any]) -> Any:
        """Call, record and return the result; a ConflictError counts as the result `CONFLICT`."""
        called_ns = time.monotonic_ns()
        result: Any = MISSING
        returned_ns = None
        try:
            try:
                result = call()
            except ConflictError:
                result = CONFLICT
            returned_ns = time.monotonic_ns()
        finally:
            with self._lock:
                self._operations.append(Operation(actor, verb, key, argument, result, called_ns, returned_ns))
        return result

    def hold(self, actor: str, store: Store, name: str, body: Callable[[], Any]) -> None:
        """Run `body` under the lock of that name, and record for how long it was surely held."""
        with store.lock(name) as lock:
            acquired_ns, token = time.monotonic_ns(), lock.token
            try:
                body()
            finally:
                released_ns = time.monotonic_ns()
                with self._lock:
                    self._holds.append(Hold(actor, name, token, acquired_ns, released_ns))


class _Actor(Protocol):
    """What `sharedstate.probe.actors.Actor` offers."""

    def start(self, verb: str, *arguments: Any, **options: Any) -> None: ...

    def call(self, verb: str, *arguments: Any, **options: Any) -> Any: ...

    def result(self, timeout_s: float | None = None) -> Any: ...


def record_rounds(actors: Mapping[str, _Actor], rounds: Iterable[Sequence[tuple[str, str, Any]]]) -> list[Operation]:
    """Have actors of any kind do operations at the same time, round by round.

    Args:
        actors: by name, each with its own handle on the store.
        rounds: for each actor, in order, the (verb, key, argument) of its operation.

    Returns:
        The history: the operations of one round all overlap, those of two rounds do not.
    """
    history: list[Operation] = []
    for steps in rounds:
        called: list[tuple[str, _Actor, tuple[str, str, Any], int]] = []
        for (name, actor), step in zip(actors.items(), steps, strict=False):
            called_ns = time.monotonic_ns()
            actor.start(step[0], step[1], *_arguments(*step))
            called.append((name, actor, step, called_ns))
        for name, actor, (verb, key, argument), called_ns in called:
            try:
                result = actor.result()
            except ConflictError:
                result = CONFLICT
            history.append(Operation(name, verb, key, argument, result, called_ns, time.monotonic_ns()))
    return history


def record_holds(actors: Mapping[str, _Actor], name: str, turns: int, patience_s: float = 30.0) -> list[Hold]:
    """Have all actors want one lock, `turns` times each, and record who had it when.

    Each gives it back after everybody was looked at once more, so that two who
    have it at a time are seen to.
    """
    holds: list[Hold] = []
    left = dict.fromkeys(actors, turns)
    held: dict[str, Hold] = {}
    for actor in actors.values():
        actor.start("lock_acquire", name, patience_s)
    while left:
        due = list(held)
        for who in left.keys() - held.keys():
            try:
                token = actors[who].result(_GLANCE_S)
            except ActorTimeoutError:
                continue
            held[who] = Hold(who, name, token, time.monotonic_ns(), None)
        for who in due:
            holds.append(held.pop(who)._replace(released_ns=time.monotonic_ns()))
            actors[who].call("lock_release", name)
            left[who] -= 1
            if left[who]:
                actors[who].start("lock_acquire", name, patience_s)
            else:
                del left[who]
    return holds


def _arguments(verb: str, _key: str, argument: Any) -> tuple[Any, ...]:
    if verb in {"get", "read", "delete"}:
        return ()
    return tuple(argument) if verb == "compare_and_set" else (argument,)


# --- Judging counters, sums and locks -------------------------------------------


def judge_counter(operations: Iterable[Operation], final: int | None, initial: int = 0) -> list[str]:
    """Judge increments by 1 of one key: none lost, none doubled, totals in the order of time.

    Args:
        operations: the increments; others are left alone.
        final: what the counter was in the end; None if unknown.
        initial: what it was in the beginning.
    """
    increments = [operation for operation in operations if operation.verb == "increment"]
    finished = sorted((op for op in increments if op.returned_ns is not None), key=lambda op: op.result)
    faults: list[str] = []
    for before, after in pairwise(finished):
        if before.result == after.result:
            faults.append(f"the total {after.result} was handed out twice: {before}; {after}")
    # Totals grow with time: walk from the greatest down, with the earliest
    # return of all that are greater.
    earliest: Operation | None = None
    for operation in reversed(finished):
        if earliest is not None and _returned(earliest) < operation.called_ns:
            faults.append(f"a total went back in time: {earliest} returned before {operation} was called")
        if earliest is None or _returned(operation) < _returned(earliest):
            earliest = operation
    if final is not None:
        least = initial + len(finished)
        most = initial + len(increments)
        if not least <= final <= most:
            expected = str(least) if least == most else f"{least} to {most}"
            faults.append(f"the counter ended at {final} instead of {expected}: {len(increments)} increments")
        if finished and not initial < finished[0].result <= finished[-1].result <= final:
            faults.append(
                f"totals from {finished[0].result} to {finished[-1].result}, yet it went from {initial} to {final}"
            )
    return faults


def judge_transfers(operations: Iterable[Operation], total: int) -> list[str]:
    """Judge audits, operations whose result is the amounts that one transaction saw: their sum never changes."""
    return [
        f"the amounts add up to {sum(operation.result)} instead of {total}: {operation}"
        for operation in operations
        if operation.verb == "audit" and operation.returned_ns is not None and sum(operation.result) != total
    ]


def judge_locks(holds: Iterable[Hold]) -> list[str]:
    """Judge holds: no two of one lock at a time, and each later one with a greater fencing token."""
    faults: list[str] = []
    last_by_name: dict[str, Hold] = {}
    for hold in sorted(holds, key=lambda hold: hold.acquired_ns):
        last = last_by_name.get(hold.name)
        if last is not None:
            # A hold without an end is that of one who died: it lasts to the next acquisition at the most.
            if last.released_ns is not None and hold.acquired_ns < last.released_ns:
                faults.append(f"two held the lock at a time: {last}; {hold}")
            if hold.token <= last.token:
                faults.append(f"the fencing token did not grow: {last}; {hold}")
        last_by_name[hold.name] = hold
    return faults


# --- Judging one key: linearizability --------------------------------------------


class _State(NamedTuple):
    """What a key may hold.  A generation is 0 while nothing told it."""

    value: Any
    generation: int
    newest: int  # the greatest generation known to have been handed out


def judge_register(operations: Iterable[Operation], *, initial: Any = MISSING) -> list[str]:
    """Judge the operations of each key: is there an order in which they explain one another?

    The search of Wing and Gong, with the memory of Lowe: take any operation that
    none of the remaining ones precedes in time, apply it, and go back if it does
    not fit; never enter the same set of operations done and the same state twice.

    Args:
        operations: any number of keys, each judged alone.
        initial: what each key held before; MISSING: it was absent.
    """
    by_key: dict[str, list[Operation]] = {}
    for operation in operations:
        by_key.setdefault(operation.key, []).append(operation)
    return [fault for key, own in by_key.items() for fault in _judge_key(key, own, initial)]


def _judge_key(key: str, operations: list[Operation], initial: Any) -> Iterator[str]:
    ordered = sorted((op for op in operations if op.verb in _MODEL), key=lambda op: op.called_ns)
    required = sum(1 << i for i, op in enumerate(ordered) if op.returned_ns is not None)
    state = _State(_frozen(initial), ABSENT, ABSENT)
    seen: set[tuple[int, _State]] = set()
    open_paths: list[tuple[int, _State]] = [(0, state)]
    best, best_state = 0, state
    while open_paths:
        done, state = open_paths.pop()
        if done & required == required:
            return
        if (done, state) in seen:
            continue
        seen.add((done, state))
        if done.bit_count() > best.bit_count():
            best, best_state = done, state
        for i in _candidates(ordered, done):
            after = _MODEL[ordered[i].verb](state, ordered[i])
            if after is not None:
                open_paths.append((done | 1 << i, after))
    stuck = "\n    ".join(str(ordered[i]) for i in _candidates(ordered, best))
    yield (
        f"{key!r}: no order explains its {len(ordered)} operations; after the {best.bit_count()} that can be "
        f"explained it holds {best_state.value!r}, which fits none of\n    {stuck}"
    )


def _candidates(ordered: list[Operation], done: int) -> list[int]:
    """Return which operations may come next: those called before any other remaining one returned."""
    found: list[int] = []
    first_return_ns = _NEVER_NS
    for i, operation in enumerate(ordered):
        if done >> i & 1:
            continue
        if operation.called_ns > first_return_ns:
            break  # ordered by call: neither may any after it
        found.append(i)
        first_return_ns = min(first_return_ns, _returned(operation))
    return [i for i in found if ordered[i].called_ns <= first_return_ns]


def _returned(operation: Operation) -> int:
    return _NEVER_NS if operation.returned_ns is None else operation.returned_ns


def _frozen(value: Any) -> Any:
    """Return something hashable that tells any two values apart, type included."""
    if isinstance(value, Missing):
        return value
    return f"{type(value).__name__} {value!r}"


def _put(state: _State, value: Any, generation: int = ABSENT) -> _State | None:
    """Return the state after a write, told to be at `generation`, or None if that is impossible."""
    if generation == ABSENT:
        return _State(_frozen(value), ABSENT, state.newest)
    return _State(_frozen(value), generation, generation) if generation > state.newest else None


def _at(state: _State, generation: int) -> _State | None:
    """Return the state if its generation is, or can be, this one."""
    if state.value is MISSING:
        return state if generation == ABSENT else None
    if state.generation != ABSENT:
        return state if generation == state.generation else None
    return _State(state.value, generation, generation) if generation > state.newest else None


def _get(state: _State, op: Operation) -> _State | None:
    found = MISSING if op.result is None else _frozen(op.result)
    return state if op.returned_ns is None or found == state.value else None


def _read(state: _State, op: Operation) -> _State | None:
    if op.returned_ns is None:
        return state
    entry: Entry | None = op.result
    if entry is None:
        return state if state.value is MISSING else None
    return _at(state, entry.generation) if state.value == _frozen(entry.value) else None


def _set(state: _State, op: Operation) -> _State | None:
    return _put(state, op.argument)


def _add(state: _State, op: Operation) -> _State | None:
    was_absent = state.value is MISSING
    if op.returned_ns is not None and op.result != was_absent:
        return None
    return _put(state, op.argument) if was_absent else state


def _delete(state: _State, op: Operation) -> _State | None:
    was_there = state.value is not MISSING
    if op.returned_ns is not None and op.result != was_there:
        return None
    return _State(MISSING, ABSENT, state.newest)


def _increment(state: _State, op: Operation) -> _State | None:
    number = 0 if state.value is MISSING else int(str(state.value).removeprefix("int "))
    total = number + op.argument
    return _put(state, total) if op.returned_ns is None or op.result == total else None


def _compare_and_set(state: _State, op: Operation) -> _State | None:
    value, expected = op.argument
    if op.returned_ns is None:
        matched = _at(state, expected)
        return state if matched is None else _put(matched, value)
    if op.result == CONFLICT:
        is_surely_at = state.value is MISSING if expected == ABSENT else state.generation == expected
        return None if is_surely_at else state
    matched = _at(state, expected)
    return None if matched is None else _put(matched, value, op.result)


_MODEL: Final[dict[str, Callable[[_State, Operation], _State | None]]] = {
    "add": _add,
    "compare_and_set": _compare_and_set,
    "delete": _delete,
    "get": _get,
    "increment": _increment,
    "read": _read,
    "set": _set,
}
