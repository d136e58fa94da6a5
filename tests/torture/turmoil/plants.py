"""Bugs of a store for which the turmoil must be found to fail.

Each changes one handle, in each hand that opens one.
"""

from __future__ import annotations

import time

from sharedstate.model import Put

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from sharedstate.store import Store

__all__ = ["PLANTS", "plant"]


def plant(name: str, store: Store) -> None:
    """Make the handle behave as the bug of that name does; "": as it should."""
    if name:
        PLANTS[name](store)


def _commit_key_by_key(store: Store) -> None:
    """A transaction compares, and then writes its keys one by one."""
    commit = store._backend.commit

    def commit_key_by_key(writes: Any, expected: Any = None) -> dict[str, int]:
        commit({}, expected)
        generations = {}
        for key, write in writes.items():
            alone = Put(write.value) if isinstance(write, Put) else write  # to keep a deadline, one must know the entry
            generations.update(commit({key: alone}, {}))
        return generations

    store._backend.commit = commit_key_by_key  # type: ignore[method-assign]


def _increment_in_two_steps(store: Store) -> None:
    """What another one added between get and set is lost."""

    def increment(key: str, by: int = 1) -> int:
        total: int = store.get(key, 0) + by
        time.sleep(0)
        store.set(key, total)
        return total

    store.increment = increment  # type: ignore[method-assign, assignment]


def _lock_outlives_its_holder(store: Store) -> None:
    """The lock is an entry, so nobody takes it back from the dead."""

    class Entry:
        def __init__(self, name: str, timeout_s: float) -> None:
            self._key, self._timeout_s = f"lock {name}", timeout_s

        def acquire(self) -> int:
            ends_at = time.monotonic() + self._timeout_s
            while not store.add(self._key, True):
                if time.monotonic() > ends_at:
                    from sharedstate import LockTimeoutError

                    raise LockTimeoutError(url=store.url, what=self._key, timeout_s=self._timeout_s, holder="")
                time.sleep(1e-3)
            return int(store.increment("tokens"))

        def release(self) -> None:
            store.delete(self._key)

    store.lock = Entry  # type: ignore[method-assign, assignment]


def _lock_per_handle(store: Store) -> None:
    """The lock excludes nobody but the threads of its own handle."""

    class Alone:
        def __init__(self, name: str, timeout_s: float) -> None:
            self._name = name

        def acquire(self) -> int:
            return int(store.increment(f"token {self._name}"))

        def release(self) -> None:
            pass

    store.lock = Alone  # type: ignore[method-assign, assignment]


def _token_of_the_holder(store: Store) -> None:
    """Each handle counts its own fencing tokens."""
    lock, tokens = store.lock, iter(range(1, 1 << 30))

    def counted(name: str, timeout_s: float | None = None) -> Any:
        found = lock(name, timeout_s)
        acquire = found.acquire

        def acquire_and_count() -> int:
            acquire()
            return next(tokens)

        found.acquire = acquire_and_count  # type: ignore[method-assign, assignment]
        return found

    store.lock = counted  # type: ignore[method-assign]


def _write_behind(store: Store) -> None:
    """A write is acknowledged while it waits in a buffer, which its own handle reads."""
    write, read = store.set, store.get
    buffer: dict[str, Any] = {}

    def write_behind(key: str, value: Any, ttl_s: float | None = None) -> None:
        buffer[key] = value
        if len(buffer) == 4:
            for late, kept in buffer.items():
                write(late, kept, ttl_s)
            buffer.clear()

    def read_through(key: str, default: Any = None) -> Any:
        return buffer[key] if key in buffer else read(key, default)

    store.set = write_behind  # type: ignore[method-assign]
    store.get = read_through  # type: ignore[method-assign]


def _half_a_value(store: Store) -> None:
    """A large value is written in two steps."""
    write = store.set

    def in_two_steps(key: str, value: Any, ttl_s: float | None = None) -> None:
        if type(value) in {bytes, str} and len(value) > 100:
            write(key, value[: len(value) // 2], ttl_s)
            time.sleep(1e-4)
        write(key, value, ttl_s)

    def many_in_two_steps(values: Any, ttl_s: float | None = None) -> None:
        for key, value in values.items():
            in_two_steps(key, value, ttl_s)

    store.set = in_two_steps  # type: ignore[method-assign]
    store.set_many = many_in_two_steps  # type: ignore[method-assign]


def _no_deadline(store: Store) -> None:
    """What should expire stays."""
    write = store.set
    store.set = lambda key, value, ttl_s=None: write(key, value)  # type: ignore[method-assign, misc]


def _never_woken(store: Store) -> None:
    """Who waits for a change learns of none."""

    def wait_for_change(key: str, since: int, timeout_s: float | None = None) -> int:
        time.sleep(1e6 if timeout_s is None else timeout_s)
        return since

    store.wait_for_change = wait_for_change  # type: ignore[method-assign]


def _growth(store: Store) -> None:
    """Each counted hit leaves an entry behind."""
    increment = store.increment

    def increment_and_litter(key: str, by: int = 1) -> Any:
        total = increment(key, by)
        if key == "hits":
            store.set(f"litter {total}", b"." * 2000)
        return total

    store.increment = increment_and_litter  # type: ignore[method-assign, assignment]


def _crash(store: Store) -> None:
    """A hand ends by itself, now and then."""
    write = store.set

    def write_or_die(key: str, value: Any, ttl_s: float | None = None) -> None:
        write(key, value, ttl_s)
        if type(value) is bytes and len(value) > 4000:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGSEGV)

    store.set = write_or_die  # type: ignore[method-assign]


PLANTS: Final[dict[str, Callable[[Store], None]]] = {
    "commit key by key": _commit_key_by_key,
    "crash": _crash,
    "growth": _growth,
    "half a value": _half_a_value,
    "increment in two steps": _increment_in_two_steps,
    "lock outlives its holder": _lock_outlives_its_holder,
    "lock per handle": _lock_per_handle,
    "never woken": _never_woken,
    "no deadline": _no_deadline,
    "token of the holder": _token_of_the_holder,
    "write behind": _write_behind,
}
