"""The entries of one store in Python: the reference for the C module `_entries`, and the fallback without it.

What the two do is the same to the last error, and the same tests judge both.
How they keep the invariants differs: the C module has sections that run no
Python code (`c/entries.h`); here a lock keeps other threads out, and a write
begins anew when a signal handler or finalizer of its own thread came between.

Thread safety: every method, from any thread.  Reads of one key take no lock: an
entry is one tuple, replaced and never changed.

Invariants, with `_lock` held:
    M1  every stored generation is at most `last`
    M2  `last` only grows, so a deleted key never reuses a generation
    M3  what one call changes appears at once: by one call of C
    M4  a signal handler, or a finalizer that the garbage collector runs, may
        write while its own thread is inside: the lock is re-entrant, and each
        write looks whether `last` has moved since it began, and then begins
        anew.  From that look to the last change no Python code is called, so
        no such code can come in between (`_change_locked`)
    M5  a value is an exact None, bool, int, float, str or bytes, and a key an
        exact str: to hash, compare or drop one runs no Python code
    M6  whoever is enlisted is woken by the first change, removal or close after
        that
    M7  a removed store stays empty: each write looks at `is_removed`
    M8  a handle's `_is_closed` becomes True once
Fork: `hold` keeps the lock across it, so the child's copy is whole.
"""

from __future__ import annotations

import time
from _operator import call

from sharedstate.backend import Mutex, add_numbers, check_ttl
from sharedstate.errors import ConflictError
from sharedstate.model import ABSENT
from sharedstate.values import check_key, decode, encode

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, NoReturn

    from sharedstate_memory._entries import Change, Stored

__all__ = ["Entries", "Handle"]

_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})
_PURGE_AFTER: Final = 1000
_GONE: Final = (None, False, ABSENT, 0.0)  # an entry that expired long ago
_NEVER: Final = (None, False, ABSENT, None)  # one that has no deadline to keep


class Entries:
    """What all handles of one store share; see `_entries.pyi` for what the methods promise."""

    def __init__(self) -> None:
        self._lock = Mutex()
        self.table: dict[str, Stored] = {}  # guarded by _lock; single reads need none
        self.last = ABSENT  # guarded by _lock; the newest generation, also of deletes
        self.hits = self.misses = 0  # a thread switch falls between two statements, and into none
        self.is_removed = False  # guarded by _lock
        self._expiring = 0  # guarded by _lock; entries with a deadline written since the last purge
        self._waiters: list[Callable[[], object]] = []  # guarded by _lock; the same list always
        # Guarded by _lock.  To list this calls and forgets all waiters, and then raises IndexError: all in one call of
        # C, which no signal handler's exception can cut short (M6).
        self._wakes = map(call, iter(self._waiters.pop, None))

    # --- Reading ------------------------------------------------------------

    def look(self, key: str, /) -> Stored | None:
        """Return the entry of `key`, or None if it is absent or expired."""
        stored = self._look(key)
        if stored is None:
            self.misses += 1
        else:
            self.hits += 1
        return stored

    def _look(self, key: str) -> Stored | None:
        stored = self.table.get(key)
        return None if stored is None or _is_past(stored) else stored

    @property
    def asked(self) -> tuple[int, int]:
        """How many questions for one entry found it, and how many did not."""
        return self.hits, self.misses

    def keys(self, prefix: str, /) -> list[str]:
        """Return the keys that start with `prefix`."""
        with self._lock:
            entries = self.table.copy()
        return [key for key, stored in entries.items() if key.startswith(prefix) and not _is_past(stored)]

    def snapshot(self) -> list[tuple[str, Any, bool, int, float | None]]:
        """Return all entries as they are at one instant, expired ones too."""
        with self._lock:
            entries = self.table.copy()
        return [(key, *stored) for key, stored in entries.items() if stored is not _GONE]

    # --- Writing ------------------------------------------------------------

    def commit(self, changes: dict[str, Change | None], expected: dict[str, int], /) -> int | None:
        """Apply all changes if every key of `expected` is at that generation."""
        with self._lock:  # and not acquire(), after which an exception of a signal handler would leave it held
            while True:
                before = self.last
                if self.is_removed:
                    return None
                for key, generation in expected.items():
                    stored = self._look(key)
                    found = ABSENT if stored is None else stored[2]
                    if found != generation:
                        raise ConflictError(key=key, expected=generation, found=found)
                written: dict[str, Stored] = {}
                for generation, (key, change) in enumerate(changes.items(), before + 1):
                    # A delete is a write of what has expired: so all appears at once (M3).
                    if change is None:
                        written[key] = _GONE
                    else:
                        until = self.table.get(key, _NEVER)[3] if change[2] is True else change[2]
                        written[key] = (*change[:2], generation, until)
                expiring = sum(stored[3] is not None for stored in written.values() if stored is not _GONE)
                if self._change_locked(before, before + len(changes), written, expiring):
                    return before + 1

    def put(self, key: str, value: Any, is_encoded: bool, expires_at: float | None) -> bool:
        """Store, whatever was there; return False if the store was removed.  For `Handle`."""
        with self._lock:
            while True:
                before = self.last
                stored = (value, is_encoded, before + 1, expires_at)
                if self.is_removed:
                    return False
                if self._change_locked(before, before + 1, {key: stored}, expires_at is not None):
                    return True

    def add(self, key: str, by: int | float, initial: int | float, created_until: float | None) -> int | float | None:
        """Add to the number at `key` and return the sum, None if the store was removed.  For `Handle`."""
        with self._lock:
            while True:
                before = self.last
                if self.is_removed:
                    return None
                stored = self._look(key)
                if stored is None:
                    total, expires_at = add_numbers(key, initial, by), created_until
                else:
                    number = decode(stored[0]) if stored[1] else stored[0]
                    total, expires_at = add_numbers(key, number, by), stored[3]
                counted = (total, False, before + 1, expires_at)
                expiring = stored is None and expires_at is not None
                if self._change_locked(before, before + 1, {key: counted}, expiring):
                    return total

    def take(self, key: str, /) -> Stored | None:
        """Remove `key` and return what it was."""
        with self._lock:
            while True:
                before = self.last
                stored = self._look(key)
                if stored is None:
                    return None
                if self._change_locked(before, before + 1, {key: _GONE}):
                    return stored

    def touch(self, key: str, expires_at: float | None, /) -> bool:
        """Let `key` expire at another time."""
        with self._lock:
            while True:
                before = self.last
                stored = self._look(key)
                if stored is None:
                    return False
                touched = (*stored[:3], expires_at)
                # A change too: who waits for its expiry must look again.
                if self._change_locked(before, before + 1, {key: touched}, expires_at is not None):
                    return True

    def _change_locked(self, before: int, after: int, written: dict[str, Stored], expiring: int = 0) -> bool:
        """Move `last` from `before` to `after`, store `written` and wake who waits; or return False (M4, M7).

        From the look to the last waiter there is no place where a signal handler
        may run, but for after the change, where what it raises waits for them.
        """
        if self.last != before or self.is_removed:
            return False
        try:
            self.last = after
            self.table.update(written)
        finally:
            if self._waiters:
                try:  # noqa: SIM105  contextlib would cost each fresh interpreter its import
                    list(self._wakes)
                except IndexError:
                    pass
        for key, stored in written.items():
            if stored is _GONE:
                self._drop(key, stored)
        if expiring:
            self._expiring += expiring
            self._purge()
        return True

    def remove(self) -> None:
        """Drop everything, for good."""
        with self._lock:
            try:
                self.is_removed = True
                self.table.clear()
            finally:
                try:  # noqa: SIM105
                    list(self._wakes)
                except IndexError:
                    pass

    def _purge(self) -> None:
        """Drop expired entries, once enough were written to pay for the walk."""
        if self._expiring < max(_PURGE_AFTER, len(self.table) // 2):
            return
        self._expiring = 0
        for key, stored in self.table.copy().items():
            if _is_past(stored):
                self._drop(key, stored)

    def _drop(self, key: str, stored: Stored) -> None:
        """Forget an entry that is absent by its deadline, unless another one has taken its place (M4)."""
        try:
            if self.table[key] is stored:
                del self.table[key]
        except KeyError:
            pass

    # --- Waiting ------------------------------------------------------------

    def enlist(self, token: int, wake: Callable[[], object], /) -> bool:
        """Have the next change call `wake`; return False if there was one since `token`."""
        with self._lock:
            self._waiters.append(wake)
            if self.last == token and not self.is_removed:
                return True
            self.leave(wake)
            return False

    def leave(self, wake: Callable[[], object], /) -> None:
        """Do not call `wake` any more."""
        with self._lock:
            try:  # noqa: SIM105  contextlib would cost each fresh interpreter its import
                self._waiters.remove(wake)
            except ValueError:
                pass

    def wake(self) -> None:
        """Call, and forget, whoever is enlisted."""
        with self._lock:
            try:  # noqa: SIM105
                list(self._wakes)
            except IndexError:
                pass

    # --- Fork ---------------------------------------------------------------

    def hold(self) -> None:
        """Let no other thread change anything until `let_go`."""
        self._lock.acquire()

    def let_go(self) -> None:
        """End what `hold` began."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Forget whoever is enlisted: they are the parent's."""
        self._waiters.clear()


class Handle:
    """The hot verbs of one handle; see `_entries.pyi`."""

    def __init__(self, entries: Entries, url: str, refuse: Callable[[str, bool], NoReturn]) -> None:
        self._all = entries
        self.table = entries.table  # for reads without a lock
        self._url = url
        self._refuse = refuse
        self._is_closed = False

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, or `default`."""
        if self._is_closed:
            self._refuse(self._url, False)
        try:
            stored = self.table.get(key)
        except TypeError:  # unhashable
            stored = None
        if stored is None:
            check_key(key)
            self._all.misses += 1
            return default
        value, is_encoded, _, expires_at = stored
        if expires_at is not None and expires_at <= _now():
            self._all.misses += 1
            return default
        self._all.hits += 1
        return decode(value) if is_encoded else value

    def set(self, key: str, value: Any, ttl_s: float | None = None) -> None:
        """Store `value`, whatever was there."""
        check_key(key)
        if self._is_closed:
            self._refuse(self._url, False)
        encoded = encode(value)  # refuses what no backend could keep
        is_encoded = type(value) not in _SCALARS
        if not self._all.put(key, encoded if is_encoded else value, is_encoded, _deadline(ttl_s)):
            self._refuse(self._url, True)

    def increment(
        self, key: str, by: int | float = 1, initial: int | float = 0, ttl_s: float | None = None
    ) -> int | float:
        """Add `by` to the number at `key` and return the sum."""
        check_key(key)
        if self._is_closed:
            self._refuse(self._url, False)
        total = self._all.add(key, by, initial, _deadline(ttl_s))
        if total is None:
            self._refuse(self._url, True)
        return total

    def close(self) -> None:
        """Refuse every further verb."""
        self._is_closed = True


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _is_past(stored: Stored) -> bool:
    return stored[3] is not None and stored[3] <= _now()


def _deadline(ttl_s: float | None) -> float | None:
    if ttl_s is None:
        return None
    check_ttl(ttl_s)
    return _now() + ttl_s
