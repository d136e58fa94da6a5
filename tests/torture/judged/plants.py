"""Bugs, planted into one handle of a store: each is one that a backend could have.

Where a bug is a race, it lingers in it, so that it happens in a short run.
"""

from __future__ import annotations

import os
import time

from sharedstate.backend.locks import FileLock
from sharedstate.model import DELETE, KEEP, MISSING, Put

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from sharedstate.store import Store

__all__ = ["PLANTS", "plant"]


def plant(bug: str, store: Store, seat: Any) -> None:
    """Plant a bug by its name into this handle."""
    del seat
    PLANTS[bug](store)


def _linger() -> None:
    time.sleep(os.urandom(1)[0] / 255 * 3e-4)


def _is_time(one_in: int) -> bool:
    return os.urandom(1)[0] % one_in == 0


def _lose_updates(store: Any) -> None:
    """`increment` reads and writes, and others may come between."""
    get, put = store.get, store.set

    def increment(key, by=1, initial=0, ttl_s=None):
        value = get(key, initial)
        _linger()
        put(key, value + by, ttl_s)
        return value + by

    store.increment = increment


def _read_stale(store: Any) -> None:
    """`get` answers from a cache that nobody told of a write."""
    get, cache = store.get, {}

    def cached(key, default=None):
        if key not in cache or _is_time(4):
            cache[key] = get(key, MISSING)
        return default if cache[key] is MISSING else cache[key]

    store.get = cached


def _compare_nothing(store: Any) -> None:
    """`compare_and_set` compares, and then writes as if nothing could come between."""
    put, generation, swap = store.set, store.generation, store.compare_and_set

    def compare_and_set(key, value, expected, ttl_s=None):
        if generation(key) != expected:
            return swap(key, value, expected, ttl_s)
        _linger()
        put(key, value, ttl_s)
        return generation(key)

    store.compare_and_set = compare_and_set


def _count_again(store: Any) -> None:
    """A key's generations begin again with each value: those of the store are not told."""
    read, known = store.read, {}

    def forgetful(key):
        entry = read(key)
        if entry is None or _is_time(2):  # else update_with would try for ever
            return entry
        number = known.setdefault((key, entry.generation), len(known) % 5 + 1)
        return entry._replace(generation=number)

    store.read = forgetful


def _skew_writes(store: Any) -> None:
    """`commit` compares only what it writes, so each of two transactions may undo what the other relies on."""
    commit = store._backend.commit
    store._backend.commit = lambda writes, expected={}: commit(
        writes, {key: generation for key, generation in expected.items() if key in writes}
    )


def _alone(write: Any) -> Any:
    """Return the write without a deadline to keep, for which one must know the entry."""
    return Put(write.value) if isinstance(write, Put) and write.ttl_s is KEEP else write


def _commit_in_parts(store: Any) -> None:
    """`commit` writes one key after another."""
    commit = store._backend.commit

    def in_parts(writes, expected={}):  # noqa: B006  only read
        if len(writes) < 2:
            return commit(writes, expected)
        commit({}, expected) if expected else None
        generations = {}
        for key, write in writes.items():
            generations.update(commit({key: _alone(write)}))
            _linger()
        return generations

    store._backend.commit = in_parts


def _keep_what_was_refused(store: Any) -> None:
    """A transaction that loses a race leaves its first write behind."""
    commit = store._backend.commit

    def leaky(writes, expected={}):  # noqa: B006  only read
        try:
            return commit(writes, expected)
        except Exception:
            for key, write in [*writes.items()][:1]:
                if write is not DELETE:
                    commit({key: _alone(write)})
            raise

    store._backend.commit = leaky


def _raise_the_dead(store: Any) -> None:
    """What is not there any more, expired or evicted, is answered from a cache."""
    get, read, last = store.get, store.read, {}

    def revive(key, default=None):
        value = get(key, MISSING)
        if value is not MISSING:
            last[key] = value
        return last.get(key, default)

    def reread(key):
        entry = read(key)
        if entry is not None:
            last[key] = entry.value
        return entry

    store.get, store.read = revive, reread


def _let_live(store: Any) -> None:
    """A deadline is met too late, by some milliseconds: entries are written to live longer than was asked."""
    put = store.set
    store.set = lambda key, value, ttl_s=None: put(key, value, None if ttl_s is None else ttl_s + 0.01)


def _write_behind(store: Any) -> None:
    """A write is acknowledged, and done when the next verb is called, or never, if there is none."""
    put, waiting = store.set, []

    def flushed(call):
        def flush(*arguments, **options):
            while waiting:
                put(*waiting.pop())
            return call(*arguments, **options)

        return flush

    for verb in ("get", "read", "add", "delete", "increment", "compare_and_set", "touch", "get_many"):
        setattr(store, verb, flushed(getattr(store, verb)))
    store.set = flushed(lambda key, value, ttl_s=None: waiting.append((key, value, ttl_s)))


def _revert_at_opening(store: Any) -> None:
    """Recovery undoes what was acknowledged: whoever comes later puts back the last value but one that it finds."""
    put, seen = store.set, store.get("undone", {})
    for key, value in seen.items():
        if store.get(key) is not None:
            put(key, value)

    def remember(key, value, ttl_s=None):
        before = store.get(key)
        put(key, value, ttl_s)
        if before is not None:
            put("undone", {key: before})

    store.set = remember


def _exclude_nobody(store: Any) -> None:
    """A lock is had without waiting for it."""

    class Open(FileLock):
        def _wait(self, fd, deadline):
            pass

    _lock_with(store, Open)


def _repeat_tokens(store: Any) -> None:
    """Tokens are those of a clock that ticks too seldom."""

    class Coarse(FileLock):
        def _sign(self, fd):
            return super()._sign(fd) // 20_000

    _lock_with(store, Coarse)


def _lock_with(store: Any, kind: type[FileLock]) -> None:
    store._backend.lock = lambda name, timeout_s=None: kind(store._backend._locks, name, timeout_s)


def _fence_nothing(store: Any) -> None:
    """What a lock guards takes each write, whatever its token."""

    class Blind:
        def __init__(self, transaction):
            self._transaction = transaction

        def get(self, key, default=None):
            self._transaction.get(key, default)
            return default

        def set(self, key, value):
            self._transaction.set(key, value)

    transact = store.transact
    store.transact = lambda body: transact(lambda tx: body(Blind(tx)))


PLANTS: Final = {
    "commits in parts": _commit_in_parts,
    "compares nothing": _compare_nothing,
    "counts generations again": _count_again,
    "excludes nobody": _exclude_nobody,
    "fences nothing": _fence_nothing,
    "keeps what was refused": _keep_what_was_refused,
    "lets live": _let_live,
    "loses updates": _lose_updates,
    "raises the dead": _raise_the_dead,
    "reads stale": _read_stale,
    "repeats tokens": _repeat_tokens,
    "reverts at opening": _revert_at_opening,
    "skews writes": _skew_writes,
    "writes behind": _write_behind,
}
