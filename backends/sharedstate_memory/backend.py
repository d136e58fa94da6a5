"""Entries in one dict per store name and interpreter.

A shared store's semantics without sharing: values are copied in and out, so
that changing the URL never changes what the program does.  Scalars, which
nobody can change, are kept as they are; containers are kept encoded.

Thread safety: every method, from any thread.  Reads of one key take no lock: an
entry is one tuple, replaced and never changed.

Invariants, with `lock` held:
    M1  every stored generation is at most `last`
    M2  `last` only grows, so a deleted key never reuses a generation
    M3  an entry that is visible is complete, and so is a transaction: its
        entries appear by one call of C
    M4  a signal handler, or a finalizer that the garbage collector runs, may
        write while its own thread is inside: the lock is re-entrant, and each
        write looks whether `last` has moved since it began, and then begins
        anew.  From that look to the last change no Python code is called, so
        no such code can come in between
Fork: hooks hold every lock across it, so the child's copy is whole.
"""

from __future__ import annotations

import os
import time
from _thread import TIMEOUT_MAX, LockType, allocate_lock

from sharedstate.backend import Backend, Deadline, Lock, Mutex, Presence, add_numbers, check_ttl, new_sharer
from sharedstate.errors import ClosedError, ConflictError, CorruptError, UnavailableError
from sharedstate.model import (
    ABSENT,
    Entry,
    LockRecord,
    Owner,
    Put,
    Sharer,
    Write,
)
from sharedstate.values import check_key, decode, encode
from sharedstate_memory.offer import CAPABILITIES

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

    from sharedstate.backend import StoreUrl

_CONTAINERS: Final = frozenset({list, tuple, dict})
_PURGE_AFTER: Final = 1000
_GONE: Final = (None, False, 0.0)  # for a delete, what `_prepare` is for a put


if TYPE_CHECKING:
    # Value (a scalar, or the bytes of an encoded container), is it encoded,
    # generation, deadline on the boot clock.  A plain tuple: making a named one
    # would cost more than the rest of a write.
    _Stored = tuple[Any, bool, int, float | None]


class _Mutex:
    """One named lock of one table."""

    __slots__ = ("lock", "record")

    def __init__(self) -> None:
        self.lock = allocate_lock()
        self.record: LockRecord | None = None  # guarded by lock; the latest acquisition's


class _Table:
    """One store of this interpreter: what all its handles share."""

    def __init__(self) -> None:
        self.lock = Mutex()
        self.entries: dict[str, _Stored] = {}  # guarded by lock; single reads need none
        self.last = ABSENT  # guarded by lock; the newest generation, also of deletes
        self.expiring = 0  # guarded by lock; entries with a deadline written since the last purge
        self.waiters: list[LockType] = []  # guarded by lock
        self.mutexes: dict[str, _Mutex] = {}  # guarded by lock
        self.sharers: dict[str, Sharer] = {}  # guarded by lock; by token
        self.is_removed = False  # guarded by lock

    def wake_locked(self) -> None:
        """Let every waiter look again."""
        while self.waiters:
            self.waiters.pop().release()

    def purge_locked(self) -> None:
        """Drop expired entries, once enough were written to pay for the walk."""
        if self.expiring < max(_PURGE_AFTER, len(self.entries) // 2):
            return
        self.expiring = 0
        now = _now()
        for key, stored in self.entries.copy().items():
            if _is_past(stored, now):
                self.drop_locked(key, stored)

    def drop_locked(self, key: str, stored: _Stored) -> None:
        """Forget an entry that is absent by its deadline, unless another one has taken its place (M4)."""
        try:
            if self.entries[key] is stored:
                del self.entries[key]
        except KeyError:
            pass


_tables: dict[str, _Table] = {}  # guarded by _tables_lock
_tables_lock = Mutex()  # a finalizer may open a store


def _before_fork() -> None:
    _tables_lock.acquire()
    for table in _tables.values():
        table.lock.acquire()


def _after_fork_in_parent() -> None:
    for table in _tables.values():
        table.lock.release()
    _tables_lock.release()


def _after_fork_in_child() -> None:
    for table in _tables.values():
        table.waiters.clear()
        table.sharers.clear()  # they are the parent's
        for mutex in table.mutexes.values():
            mutex.lock = allocate_lock()  # the parent's holders are not here
    _after_fork_in_parent()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _is_past(stored: _Stored, now: float) -> bool:
    return stored[3] is not None and stored[3] <= now


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
    with table.lock:
        table.is_removed = True
        table.entries.clear()
        table.wake_locked()


def temporary_url(directory: str) -> str:
    """Return the URL of a store that does not exist yet, for an experiment; `directory` is not used."""
    del directory
    return f"memory:probe-{os.urandom(8).hex()}"


class _ClosedEntries(dict[str, "_Stored"]):
    """What a closed handle reads from."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def get(self, *_arguments: Any) -> Any:
        """Refuse."""
        raise ClosedError(url=self._url)


class MemoryBackend(Backend):
    """One handle on one of this interpreter's tables."""

    capabilities = CAPABILITIES

    def __init__(self, url: str, table: _Table) -> None:
        self.url = url
        self._table: _Table | None = table
        self._entries = table.entries  # the table's own dict, for reads without a lock

    # --- Reading ------------------------------------------------------------

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, or `default`."""
        try:
            stored = self._entries.get(key)
        except TypeError:  # unhashable
            stored = None
        if stored is None:
            check_key(key)
            return default
        value, is_encoded, _, expires_at = stored
        if expires_at is not None and expires_at <= _now():
            return default
        return decode(value) if is_encoded else value

    def read(self, key: str) -> Entry | None:
        """Return the entry of `key`, or None."""
        check_key(key)
        stored = self._entries.get(key)
        return None if stored is None or _is_past(stored, _now()) else _entry(stored)

    def generation(self, key: str) -> int:
        """Return the generation of `key`, `ABSENT` if there is none."""
        check_key(key)
        stored = self._entries.get(key)
        return ABSENT if stored is None or _is_past(stored, _now()) else stored[2]

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys that start with `prefix`."""
        table, now = self._open_table(), _now()
        with table.lock:
            entries = table.entries.copy()
        return [key for key, stored in entries.items() if key.startswith(prefix) and not _is_past(stored, now)]

    # --- Writing ------------------------------------------------------------

    def set(self, key: str, value: Any, ttl_s: float | None = None) -> None:
        """Store `value`, whatever was there."""
        check_key(key)
        table = self._open_table()
        kept, is_encoded = _pack(value)
        expires_at = None if ttl_s is None else _deadline(ttl_s)
        with table.lock:  # and not acquire(), after which an exception of a signal handler would leave it held
            while True:
                generation = table.last + 1
                stored = (kept, is_encoded, generation, expires_at)
                if generation > table.last:  # M4
                    break
            table.last = generation
            table.entries[key] = stored
            if expires_at is not None:
                table.expiring += 1
                table.purge_locked()
            if table.waiters:
                table.wake_locked()

    def increment(
        self, key: str, by: int | float = 1, initial: int | float = 0, ttl_s: float | None = None
    ) -> int | float:
        """Add `by` to the number at `key` and return the sum."""
        check_key(key)
        table = self._open_table()
        created_until = None if ttl_s is None else _deadline(ttl_s)
        with table.lock:
            while True:
                generation = table.last + 1
                stored = table.entries.get(key)
                if stored is None or _is_past(stored, _now()):
                    total, expires_at = add_numbers(key, initial, by), created_until
                else:
                    total, expires_at = add_numbers(key, _entry(stored).value, by), stored[3]
                counted = (total, False, generation, expires_at)
                if generation > table.last:  # M4
                    break
            table.last = generation
            table.entries[key] = counted
            if stored is None and expires_at is not None:
                table.expiring += 1
                table.purge_locked()
            table.wake_locked()
            return total

    def take(self, key: str) -> Entry | None:
        """Remove `key` and return what it was."""
        check_key(key)
        table = self._open_table()
        with table.lock:
            while True:
                generation = table.last + 1
                stored = table.entries.get(key)
                if stored is None or _is_past(stored, _now()):
                    return None
                if generation > table.last:  # M4
                    break
            table.last = generation
            del table.entries[key]
            table.wake_locked()
        return _entry(stored)

    def touch(self, key: str, ttl_s: float | None) -> bool:
        """Let `key` expire at another time."""
        check_key(key)
        expires_at = None if ttl_s is None else _deadline(ttl_s)
        table = self._open_table()
        with table.lock:
            while True:
                moved = table.last + 1  # who waits for its expiry must look again
                stored = table.entries.get(key)
                if stored is None or _is_past(stored, _now()):
                    return False
                touched = (*stored[:3], expires_at)
                if moved > table.last:  # M4
                    break
            table.last = moved
            table.entries[key] = touched
            table.expiring += expires_at is not None
            table.wake_locked()
            return True

    def commit(self, writes: Mapping[str, Write], expected: Mapping[str, int] = {}) -> dict[str, int]:
        """Apply all of `writes` if every key of `expected` is at that generation."""
        for key in (*writes, *expected):
            check_key(key)
        packed = {key: _prepare(write) for key, write in writes.items() if isinstance(write, Put)}
        table = self._open_table()
        with table.lock:
            while True:
                before, now = table.last, _now()
                for key, generation in expected.items():
                    stored = table.entries.get(key)
                    found = ABSENT if stored is None or _is_past(stored, now) else stored[2]
                    if found != generation:
                        raise ConflictError(key=key, expected=generation, found=found)
                # A delete is a write of what has expired: so all appears at once (M3).
                changes: dict[str, _Stored] = {}
                for generation, key in enumerate(writes, before + 1):
                    value, is_encoded, expires_at = packed.get(key, _GONE)
                    changes[key] = (value, is_encoded, generation, expires_at)
                after = before + len(changes)
                if table.last == before:  # M4
                    break
            table.last = after
            table.entries.update(changes)
            for key, stored in changes.items():
                if key in packed:
                    table.expiring += stored[3] is not None
                else:
                    table.drop_locked(key, stored)
            table.purge_locked()
            table.wake_locked()
        return {key: stored[2] if key in packed else ABSENT for key, stored in changes.items()}

    # --- Waiting and locks --------------------------------------------------

    def change_token(self) -> int:
        """Return the number of the newest change: a generation, a removal or a new deadline."""
        table = self._open_table()
        with table.lock:  # so that it never tells of a write before that can be read
            return table.last

    def wait(self, token: int, timeout_s: float | None = None) -> bool:
        """Wait until a write moved the token on."""
        table, waiter = self._open_table(), allocate_lock()
        waiter.acquire()
        with table.lock:
            if table.last != token:
                return True
            table.waiters.append(waiter)
        waiter.acquire(timeout=Deadline(timeout_s).remaining_s(TIMEOUT_MAX))
        with table.lock:
            if waiter in table.waiters:
                table.waiters.remove(waiter)
            return table.last != token

    def lock(self, name: str, timeout_s: float | None = None) -> Lock:
        """Return the lock of this name."""
        check_key(name)
        table = self._open_table()
        with table.lock:
            mutex = table.mutexes.setdefault(name, _Mutex())
        return MemoryLock(self.url, name, timeout_s, mutex)

    def locks(self) -> list[LockRecord]:
        """Return what each lock says of itself."""
        table = self._open_table()
        with table.lock:
            mutexes = list(table.mutexes.values())
        return [mutex.record._replace(held=mutex.lock.locked()) for mutex in mutexes if mutex.record is not None]

    def announce(self, facts: Mapping[str, Any]) -> Presence:
        """Make the caller one of the sharers."""
        table, sharer = self._open_table(), new_sharer(facts)
        with table.lock:
            table.sharers[sharer.token] = sharer
        return MemoryPresence(sharer.token, table)

    def sharers(self) -> list[Sharer]:
        """Return those who are present now."""
        table = self._open_table()
        with table.lock:
            return list(table.sharers.values())

    def is_present(self, token: str) -> bool:
        """Return whether the sharer of that token is present."""
        return token in self._open_table().sharers

    # --- Figures and the end ------------------------------------------------

    def stats(self) -> dict[str, int | float | str]:
        """Return the number of entries and the encoded bytes of their values."""
        table = self._open_table()
        with table.lock:
            stored = table.entries.copy()
        size = sum(len(value) if is_encoded else len(encode(value)) for value, is_encoded, _, _ in stored.values())
        return {"entries": self.count(), "bytes": size, "capacity_bytes": 0, "generation": table.last}

    def check(self) -> None:
        """Verify M1, and that every container decodes."""
        table = self._open_table()
        with table.lock:
            entries, last = table.entries.copy(), table.last
        for key, (value, is_encoded, generation, _) in entries.items():
            if not ABSENT < generation <= last:
                raise CorruptError(url=self.url, reason=f"M1: {key!r} is at generation {generation}")
            if is_encoded:
                decode(value)

    def close(self) -> None:
        """Let go of the table, which stays until the interpreter ends."""
        table, self._table = self._table, None
        self._entries = _ClosedEntries(self.url)
        if table is not None:
            with table.lock:
                table.wake_locked()  # a thread that waits through this handle must learn of it

    def _open_table(self) -> _Table:
        table = self._table
        if table is None:
            raise ClosedError(url=self.url)
        if table.is_removed:
            advice = "Close this handle and open the store again, which makes a new one."
            raise UnavailableError(url=self.url, reason="the store was removed", advice=advice)
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

    def __init__(self, url: str, name: str, timeout_s: float | None, mutex: _Mutex) -> None:
        super().__init__(url, name, timeout_s)
        self._mutex = mutex

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


def _entry(stored: _Stored) -> Entry:
    value, is_encoded, generation, expires_at = stored
    return Entry(decode(value) if is_encoded else value, generation, expires_at)


def _deadline(ttl_s: float) -> float:
    check_ttl(ttl_s)
    return _now() + ttl_s


def _prepare(write: Put) -> tuple[Any, bool, float | None]:
    kept, is_encoded = _pack(write.value)
    return kept, is_encoded, None if write.ttl_s is None else _deadline(write.ttl_s)


def _pack(value: Any) -> tuple[Any, bool]:
    """Return what to keep of `value`, and whether it is encoded."""
    encoded = encode(value)  # refuses what no backend could keep
    return (encoded, True) if type(value) in _CONTAINERS else (value, False)
