"""Entries in one dict per store name and interpreter.

A shared store's semantics without sharing: values are copied in and out, so
that changing the URL never changes what the program does.  Scalars, which
nobody can change, are kept as they are; all else is kept encoded.

The entries are an `Entries`, whose every method is atomic: the C module
`_entries`, or where that is not built `entries.py`, which states the invariants
M1 to M8.  What stands here is the rest: names, checks, containers, locks.  The
verbs that a program calls a million times are a `Handle`'s own bound methods,
put on the instance.

Thread safety: every method, from any thread; no lock is held here while an
`Entries` is at work.
Fork: hooks hold every store across it, so the child's copy is whole.
"""

from __future__ import annotations

import os
import time
from _thread import TIMEOUT_MAX, LockType, allocate_lock
from _weakref import ref

from sharedstate.backend import Backend, Deadline, Lock, Mutex, Presence, check_ttl, keeps_deadline, new_sharer
from sharedstate.errors import ClosedError, CorruptError, UnavailableError
from sharedstate.model import ABSENT, DELETE, Entry, LockRecord, Owner, Sharer
from sharedstate.values import check_key, decode, encode
from sharedstate_memory.offer import CAPABILITIES

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Final, NoReturn

    from sharedstate.backend import StoreUrl
    from sharedstate.model import Put, Write
    from sharedstate_memory._entries import Change, Stored

try:
    from sharedstate_memory._entries import Entries, Handle
except ImportError:
    if TYPE_CHECKING:
        raise
    from sharedstate_memory.entries import Entries, Handle

_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})


class _Mutex:
    """One named lock of one table."""

    __slots__ = ("lock", "record")

    def __init__(self) -> None:
        self.lock = allocate_lock()
        self.record: LockRecord | None = None  # guarded by lock; the latest acquisition's


class _Table:
    """One store of this interpreter: what all its handles share."""

    def __init__(self) -> None:
        self.entries = Entries()
        # Each use of these two is one call of C, and so atomic.
        self.mutexes: dict[str, _Mutex] = {}
        self.sharers: dict[str, Sharer] = {}  # by token
        _living.add(ref(self, _living.discard))


_tables: dict[str, _Table] = {}  # guarded by _tables_lock
_tables_lock = Mutex()  # a finalizer may open a store

# Every table, removed ones too: handles and locks of them stay.  Not a WeakSet, in whose walk a signal handler may add
# one; each use of this is one call of C.
_living: set[ref[_Table]] = set()
_held: list[list[_Table]] = []  # guarded by _tables_lock; for each fork under way, what its hooks hold


def _before_fork() -> None:
    _tables_lock.acquire()
    # Once for all three hooks: a signal handler of this thread may make tables in between, or fork.
    tables = [table for each in _living.copy() if (table := each()) is not None]
    _held.append(tables)
    for table in tables:
        table.entries.hold()


def _after_fork_in_parent() -> None:
    for table in _held.pop():
        table.entries.let_go()
    _tables_lock.release()


def _after_fork_in_child() -> None:
    for table in _held[-1]:
        table.entries.after_fork_in_child()
        table.sharers.clear()  # they are the parent's
        for mutex in table.mutexes.copy().values():
            mutex.lock = allocate_lock()  # the parent's holders are not here
    _after_fork_in_parent()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def connect(url: StoreUrl) -> MemoryBackend:
    """Open this interpreter's store of that name."""
    name = url.name(default="default")
    url.finish()
    with _tables_lock:
        table = _tables.setdefault(name, _Table())
    return MemoryBackend(url.canonical(name), table)


def exists(url: StoreUrl) -> bool:
    """Return whether this interpreter has a store of that name."""
    with _tables_lock:
        return url.name(default="default") in _tables


def discover() -> list[str]:
    """Return the URLs of this interpreter's stores."""
    with _tables_lock:
        return [f"memory:{name}" for name in _tables]


def remove(url: StoreUrl) -> None:
    """Remove this interpreter's store of that name; open handles see it as gone."""
    name = url.name(default="default")
    with _tables_lock:
        table = _tables.pop(name, None)
    if table is None:
        raise UnavailableError(url=url.text, reason="this interpreter has no such store", advice="Nothing to remove.")
    table.entries.remove()


def temporary_url(directory: str) -> str:
    """Return the URL of a store that does not exist yet, for an experiment; `directory` is not used."""
    del directory
    return f"memory:probe-{os.urandom(8).hex()}"


class MemoryBackend(Backend):
    """One handle on one of this interpreter's tables."""

    capabilities = CAPABILITIES

    def __init__(self, url: str, table: _Table) -> None:
        self.url = url
        self._table: _Table | None = table
        self._handle = handle = Handle(table.entries, url, _refuse)
        self.get = handle.get  # type: ignore[method-assign]
        self.set = handle.set  # type: ignore[method-assign]
        self.increment = handle.increment  # type: ignore[method-assign]

    # The three that only hand on to the handle are what a type checker and a
    # subclass see; each instance has the handle's own in their place.

    def get(self, key: str, default: Any = None) -> Any:
        return self._handle.get(key, default)

    def set(self, key: str, value: Any, ttl_s: float | None = None) -> None:
        self._handle.set(key, value, ttl_s)

    def increment(
        self, key: str, by: int | float = 1, initial: int | float = 0, ttl_s: float | None = None
    ) -> int | float:
        return self._handle.increment(key, by, initial, ttl_s)

    # --- Reading ------------------------------------------------------------

    def read(self, key: str) -> Entry | None:
        check_key(key)
        stored = self._entries().look(key)
        return None if stored is None else _entry(stored)

    def generation(self, key: str) -> int:
        check_key(key)
        stored = self._entries().look(key)
        return ABSENT if stored is None else stored[2]

    def keys(self, prefix: str = "") -> list[str]:
        return self._open_table().entries.keys(prefix)

    # --- Writing ------------------------------------------------------------

    def take(self, key: str) -> Entry | None:
        check_key(key)
        stored = self._open_table().entries.take(key)
        return None if stored is None else _entry(stored)

    def delete(self, key: str) -> bool:
        check_key(key)
        return self._open_table().entries.take(key) is not None

    def touch(self, key: str, ttl_s: float | None) -> bool:
        check_key(key)
        expires_at = _deadline(ttl_s)
        return self._open_table().entries.touch(key, expires_at)

    def commit(self, writes: Mapping[str, Write], expected: Mapping[str, int] = {}) -> dict[str, int]:
        for key in (*writes, *expected):
            check_key(key)
        entries = self._open_table().entries
        changes = {
            key: None if write is DELETE else _pack(write, expected.get(key, ABSENT)) for key, write in writes.items()
        }
        first = entries.commit(changes, dict(expected))
        if first is None:
            _refuse(self.url, True)
        return {key: ABSENT if changes[key] is None else generation for generation, key in enumerate(changes, first)}

    # --- Waiting and locks --------------------------------------------------

    def change_token(self) -> int:
        """Return the number of the newest change: a generation, a removal or a new deadline."""
        return self._open_table().entries.last

    def wait(self, token: int, timeout_s: float | None = None) -> bool:
        """Wait until a write moved the token on."""
        entries, deadline, waiter = self._open_table().entries, Deadline(timeout_s), allocate_lock()
        waiter.acquire()
        wake = waiter.release
        is_over = False
        while not is_over and entries.enlist(token, wake):  # again if it was another handle's close that woke it
            try:
                self._open_table()  # who closes it, or removes the store, wakes those who are enlisted by then
                is_over = not waiter.acquire(timeout=deadline.remaining_s(TIMEOUT_MAX))
            finally:
                entries.leave(wake)
        return entries.last != token

    def lock(self, name: str, timeout_s: float | None = None) -> Lock:
        """Return the lock of this name."""
        check_key(name)
        return MemoryLock(self.url, name, timeout_s, self._open_table())

    def locks(self) -> list[LockRecord]:
        """Return what each lock says of itself."""
        mutexes = self._open_table().mutexes.copy().values()
        return [mutex.record._replace(held=mutex.lock.locked()) for mutex in mutexes if mutex.record is not None]

    def announce(self, facts: Mapping[str, Any]) -> Presence:
        """Make the caller one of the sharers."""
        table, sharer = self._open_table(), new_sharer(facts)
        table.sharers[sharer.token] = sharer
        return MemoryPresence(sharer.token, table)

    def sharers(self) -> list[Sharer]:
        """Return those who are present now."""
        return list(self._open_table().sharers.copy().values())

    def is_present(self, token: str) -> bool:
        """Return whether the sharer of that token is present."""
        return token in self._open_table().sharers

    # --- Figures and the end ------------------------------------------------

    def stats(self) -> dict[str, int | float | str]:
        """Return the number of entries and the encoded bytes of their values."""
        entries = self._open_table().entries
        rows = entries.snapshot()
        size = sum(len(value) if is_encoded else len(encode(value)) for _, value, is_encoded, _, _ in rows)
        hits, misses = entries.asked
        return {
            "entries": self.count(),
            "bytes": size,
            "capacity_bytes": 0,
            "generation": entries.last,
            "hits": hits,
            "misses": misses,
            "writes": entries.last,  # each gets a generation, and nothing else does
        }

    def check(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Verify M1, and that every container decodes."""
        entries = self._open_table().entries
        rows, last = entries.snapshot(), entries.last  # in this order: `last` only grows
        for done, (key, value, is_encoded, generation, _) in enumerate(rows):
            if progress is not None and done % 10_000 == 0:
                progress(done, len(rows))
            if not ABSENT < generation <= last:
                raise CorruptError(url=self.url, reason=f"M1: {key!r} is at generation {generation}")
            if is_encoded:
                try:
                    decode(value)
                except CorruptError as error:
                    raise CorruptError(url=self.url, reason=f"the value of {key!r} is {error.reason}") from error

    def close(self) -> None:
        """Let go of the table, which stays until the interpreter ends."""
        self._handle.close()
        table, self._table = self._table, None
        if table is not None:
            table.entries.wake()  # a thread that waits through this handle must learn of it

    def _entries(self) -> Entries:
        table = self._table
        if table is None:
            _refuse(self.url, False)
        return table.entries

    def _open_table(self) -> _Table:
        table = self._table
        if table is None or table.entries.is_removed:
            _refuse(self.url, table is not None)
        return table


class MemoryPresence(Presence):
    """A name in the table."""

    def __init__(self, token: str, table: _Table) -> None:
        self._table = table
        super().__init__(token)

    def _leave(self) -> None:
        self._table.sharers.pop(self.token, None)


class MemoryLock(Lock):
    """A named lock between the threads of one interpreter.

    It cannot be lost.  A thread that ends without releasing it keeps it held
    until the `Lock` object ends; nothing but the interpreter's end outlasts that.
    """

    _held: LockType | None = None  # the class's, for __del__: an exception may come as __init__ begins

    def __init__(self, url: str, name: str, timeout_s: float | None, table: _Table) -> None:
        super().__init__(url, name, timeout_s)
        self._table = table  # while that lives, a fork frees the child's mutex
        self._mutex = table.mutexes.setdefault(name, _Mutex())

    def _seize(self, deadline: Deadline) -> int:
        if self._held is not None and self._holder is None:
            self._free()  # an exception out of a signal handler ended the release before
        lock, mutex = self._mutex.lock, self._mutex
        # map() calls it in the assignment's own instruction, and not in a call's, at whose end a signal handler may
        # run: what that raised would leave a lock held of which nobody knows.
        (is_taken,) = map(lock.acquire, (True,), (deadline.remaining_s(TIMEOUT_MAX),))
        if is_taken:
            self._held = lock
        else:
            raise deadline.timed_out(self.url, f"lock {self.name!r}", str(mutex.record.owner) if mutex.record else "")
        try:
            now_s = time.time()
            token = max(mutex.record.token + 1 if mutex.record else 1, int(now_s * 1e6))
            mutex.record = LockRecord(self.name, True, token, Owner.current(), now_s)
        except BaseException:
            self._free()
            raise
        return token

    def _free(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            held.release()

    def _forget(self) -> None:
        self._held = None

    def __del__(self) -> None:
        self._free()


def _entry(stored: Stored) -> Entry:
    value, is_encoded, generation, expires_at = stored
    return Entry(decode(value) if is_encoded else value, generation, expires_at)


def _deadline(ttl_s: float | None) -> float | None:
    check_ttl(ttl_s)
    return None if ttl_s is None else _now() + ttl_s


def _pack(write: Put, expected: int) -> Change:
    encoded = encode(write.value)  # refuses what no backend could keep
    is_encoded = type(write.value) not in _SCALARS
    until = True if keeps_deadline(write.ttl_s, expected) else _deadline(write.ttl_s)
    return encoded if is_encoded else write.value, is_encoded, until


def _refuse(url: str, is_removed: bool) -> NoReturn:
    if is_removed:
        advice = "Close this handle and open the store again, which makes a new one."
        raise UnavailableError(url=url, reason="the store was removed", advice=advice)
    raise ClosedError(url=url)
