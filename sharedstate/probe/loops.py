"""What actors do in a loop, at the same time as another, and what each brings home.

A loop only acts and records; `judging` decides what the records prove.  Loops
of two actors overlap because both wait for one moment of the monotonic clock,
which all processes of a host share.

Runs inside every kind of actor, so this imports only what every interpreter can.
"""

from __future__ import annotations

import time

from sharedstate.errors import ConflictError, LockTimeoutError

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Final, TypeAlias

    from sharedstate.store import Store

    Span: TypeAlias = tuple[int, int, int]  # begin and end, in ns on the monotonic clock; rounds at the most
    Tell: TypeAlias = Callable[[Any], None]  # sends what is done so far, in case the actor is killed

__all__ = ["LOOPS", "proof", "proves_itself"]

SLOTS: Final = 300
"""How many keys `write_until_killed` goes round, so that it never fills a store."""


_YIELD_EVERY: Final = 32
_GRACE_NS: Final = 10_000_000_000


def _rounds(span: Span, has_result: Callable[[], bool] = lambda: True) -> Iterator[int]:
    """Yield rounds until the span is over: at least one, and up to 10 s more until there is a result.

    On a busy machine one side may lose every race, or wake up too late: once
    the other has ended it succeeds, unless the store is at fault.
    """
    begin_ns, end_ns, at_most = span
    while (early_ns := begin_ns - time.monotonic_ns()) > 0:
        time.sleep(max(0, early_ns - 300_000) / 1e9)  # the last 0.3 ms are spun: both sides start together
    for number in range(at_most):
        late_ns = time.monotonic_ns() - end_ns
        if number and late_ns >= 0 and (has_result() or late_ns >= _GRACE_NS):
            return
        if number % _YIELD_EVERY == 0:
            # CPython 3.11 and 3.12 never take a shared GIL away from a legacy
            # interpreter that another one waits for: a loop must give it up.
            time.sleep(1e-5)
        yield number


# --- Lost updates --------------------------------------------------------------


def increment_many(store: Store, _tell: Tell, key: str, span: Span) -> tuple[list[Any], int, int]:
    """Increment `key`; return the totals handed out, and when the first and the last one was."""
    receipts: list[int | float] = []
    first_ns = 0
    for _ in _rounds(span):
        receipts.append(store.increment(key))
        first_ns = first_ns or time.monotonic_ns()
    return receipts, first_ns, time.monotonic_ns()


# --- Torn reads ----------------------------------------------------------------


def proof(number: int) -> list[Any]:
    """Return a value that a mixture of two others cannot equal: of changing length, its number in every part."""
    length = number * 37 % 3000
    return [number, bytes([number % 251]) * length, (str(number), number)]


def proves_itself(value: Any) -> bool:
    """Return whether `value` is exactly what `proof` made of some number."""
    kind: type = type(value)  # pyright: ignore[reportUnknownVariableType]  the type of Any
    return kind is list and bool(value) and type(value[0]) is int and bool(value == proof(value[0]))


_TWICE: Final = 0x1_0000_0001  # a number times this has two equal halves: a torn 64-bit word has not


def write_proofs(store: Store, _tell: Tell, key: str, span: Span) -> int:
    """Overwrite `key` and `key`.word with values that prove themselves; return how often."""
    written = 0
    for number in _rounds(span):
        store.set(key, proof(number))
        store.set(f"{key}.word", (number & 0x7FFF_FFFF) * _TWICE)
        written += 1
    return written


def read_proofs(store: Store, _tell: Tell, key: str, span: Span) -> tuple[int, int, list[str]]:
    """Read both; return how often, how many different values were seen, and what was torn."""
    reads, seen, torn = 0, set[int](), list[str]()
    for _ in _rounds(span, lambda: reads > 0):  # noqa: B023  its newest value is what is asked for
        value, word = store.get(key), store.get(f"{key}.word", 0)
        if value is not None:
            reads += 1
            if proves_itself(value):
                seen.add(value[0])
            else:
                torn.append(repr(value)[:200])
        if word >> 32 != word & 0xFFFF_FFFF:
            torn.append(hex(word))
    return reads, len(seen), torn[:3]


# --- Transactions --------------------------------------------------------------


def transfer_many(store: Store, _tell: Tell, keys: list[str], step: int, span: Span) -> tuple[int, int]:
    """Move amounts between `keys`, each move in a transaction; return how many committed and how many lost a race."""
    committed = conflicts = 0
    for number in _rounds(span, lambda: committed > 0):  # noqa: B023  its newest value is what is asked for
        giver, taker = keys[number % len(keys)], keys[(number * step + 1) % len(keys)]
        if giver == taker:
            continue
        try:
            with store.transaction() as transaction:
                transaction[giver] -= number % 7 + 1
                transaction[taker] += number % 7 + 1
        except ConflictError:
            conflicts += 1
        else:
            committed += 1
    return committed, conflicts


def audit_many(store: Store, _tell: Tell, keys: list[str], span: Span) -> tuple[int, list[int]]:
    """Add up `keys` in a transaction; return how often that committed, and the different sums."""
    audits, sums = 0, set[int]()
    for _ in _rounds(span, lambda: audits > 0):  # noqa: B023  its newest value is what is asked for
        try:
            with store.transaction() as transaction:
                total = sum(transaction[key] for key in keys)
        except ConflictError:
            continue
        audits += 1
        sums.add(total)
    return audits, sorted(sums)[:5]


# --- Locks ---------------------------------------------------------------------


def guarded_many(store: Store, _tell: Tell, name: str, me: str, span: Span) -> tuple[int, list[str], list[int]]:
    """Under lock `name`, add 1 to key `name` by reading and writing, which only a lock makes safe.

    Returns:
        How many were added, what was seen of somebody else inside, and the
        fencing tokens.
    """
    added, intruders, tokens = 0, list[str](), list[int]()
    lock = store.lock(name)
    for _ in _rounds(span):
        try:
            token = lock.acquire(1.0)
        except LockTimeoutError:  # the other side never lets go: not fair, but it excludes
            continue
        try:
            store.set(f"{name}.inside", me)
            store.set(name, store.get(name, 0) + 1)
            inside = store.get(f"{name}.inside")
            if inside != me:
                intruders.append(str(inside))
        finally:
            lock.release()
        added += 1
        tokens.append(token)
    return added, intruders[:3], tokens


def lock_when_free(store: Store, _tell: Tell, name: str, timeout_s: float) -> int:
    """Wait for the lock, give it back, and return when it was had, in ns on the monotonic clock."""
    with store.lock(name, timeout_s):
        return time.monotonic_ns()


# --- Death ---------------------------------------------------------------------


def write_until_killed(store: Store, tell: Tell, prefix: str, at_most: int) -> int:
    """Write numbers round `SLOTS` keys, and a pair of keys in a transaction; tell each when it is done."""
    for number in range(at_most):
        slot = f"{prefix}.{number % SLOTS}"
        if number % 4:
            store.set(slot, proof(number))
        else:
            with store.transaction() as transaction:
                transaction[slot] = proof(number)
                transaction[f"{prefix}.pair"] = number
                transaction[f"{prefix}.twin"] = number
        tell(number)
    return at_most


# --- Delay ---------------------------------------------------------------------


def write_stamps(store: Store, _tell: Tell, key: str, count: int, gap_s: float) -> int:
    """Write the time to `key`, `count` times, with a pause before each so that the reader waits."""
    for _ in range(count):
        time.sleep(gap_s)
        store.set(key, time.monotonic_ns())
    store.set(key, 0)
    return count


def wait_for_stamps(store: Store, tell: Tell, key: str, timeout_s: float) -> list[int]:
    """Wait for each change of `key`; return how many ns after its writing each was seen."""
    delays = list[int]()
    entry = store.read(key)
    generation = entry.generation if entry else 0
    tell("waiting")
    while True:
        found = store.wait_for_change(key, generation, timeout_s)
        now_ns = time.monotonic_ns()
        entry = store.read(key)
        if found == generation or entry is None or not entry.value:
            return delays
        if entry.generation == found:  # else a later one: its time is not this waking's
            delays.append(now_ns - entry.value)
        generation = entry.generation


LOOPS: Final[dict[str, Callable[..., Any]]] = {
    loop.__name__: loop
    for loop in (
        audit_many,
        guarded_many,
        increment_many,
        lock_when_free,
        read_proofs,
        transfer_many,
        wait_for_stamps,
        write_proofs,
        write_stamps,
        write_until_killed,
    )
}
