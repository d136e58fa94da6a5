"""Claims about locks, within one process; `probe` and `histories` carry them across every boundary."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

import sharedstate
from sharedstate.model import Owner
from sharedstate.testing.conformance.support import PATIENCE_S, Claims, run_together, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate.backend import Lock
    from sharedstate.store import Store

__all__ = ["LockClaims"]


def _in_thread(body: Callable[[], object]) -> object:
    return run_together(body)[0]


class LockClaims(Claims):
    """At most one thread holds a lock, only it may release it, and death frees it."""

    def test_excludes_another_lock_object(self, store: Store, open_another: Callable[[], Store]) -> None:
        """While one object holds the lock, no other of that name gets it: same handle, other handle, other thread."""
        other = open_another()

        with store.lock("l"):
            assert not store.lock("l").try_acquire()
            assert not other.lock("l").try_acquire()
            assert not _in_thread(lambda: other.lock("l").try_acquire())
            assert not _in_thread(lambda: store.lock("l").try_acquire())

        with other.lock("l", timeout_s=0):
            pass

    def test_names_are_independent(self, store: Store) -> None:
        """A lock excludes only its own name, and no key."""
        with store.lock("a", timeout_s=0), store.lock("b", timeout_s=0):
            store["a"] = 1

            assert store["a"] == 1
        assert list(store) == ["a"]

    def test_timeout(self, store: Store) -> None:
        """A held lock raises LockTimeoutError, a TimeoutError, when the time is up and not before."""
        waiter = store.lock("l", timeout_s=0.05)

        with store.lock("l"):
            began = time.monotonic()
            with pytest.raises(sharedstate.LockTimeoutError) as caught:
                waiter.acquire()
            waited_s = time.monotonic() - began
            with pytest.raises(sharedstate.LockTimeoutError):
                waiter.acquire(timeout_s=0)
            with pytest.raises(sharedstate.LockTimeoutError), waiter:
                pytest.fail("entered a lock that is held")

        assert waited_s >= 0.05
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.timeout_s == 0.05
        assert waiter.acquire(timeout_s=0)
        waiter.release()

    def test_acquire_waits_for_the_release(self, store: Store, open_another: Callable[[], Store]) -> None:
        """A thread that waits without a timeout gets the lock after it was released, not before."""
        other, order, is_held = open_another(), list[str](), threading.Event()

        def hold() -> None:
            with store.lock("l"):
                is_held.set()
                until(lambda: order == ["waits"])
                order.append("released")

        def wait() -> None:
            is_held.wait(PATIENCE_S)
            order.append("waits")
            with other.lock("l"):
                order.append("acquired")

        run_together(hold, wait)

        assert order == ["waits", "released", "acquired"]

    def test_one_object_serves_many_threads(self, store: Store) -> None:
        """Threads that share one Lock object exclude one another like any others."""
        lock = store.lock("l")

        with lock:
            assert not _in_thread(lock.try_acquire)
            assert not _in_thread(lock.is_held)
            assert lock.is_held()

        assert _in_thread(lambda: _take(lock, []))

    def test_only_its_thread_may_release(self, store: Store) -> None:
        """Release by another thread raises LockOwnershipError and frees nothing."""
        lock = store.lock("l")
        lock.acquire()

        with pytest.raises(sharedstate.LockOwnershipError):
            _in_thread(lock.release)

        assert lock.is_held()
        assert not store.lock("l").try_acquire()
        lock.release()

    def test_release_works_once(self, store: Store) -> None:
        """Releasing what is not held raises LockOwnershipError, and takes nothing from the next holder."""
        lock, other = store.lock("l"), store.lock("l")
        with pytest.raises(sharedstate.LockOwnershipError):
            lock.release()
        lock.acquire()
        lock.release()

        with other:
            with pytest.raises(sharedstate.LockOwnershipError):
                lock.release()
            assert not store.lock("l").try_acquire()

    def test_not_reentrant(self, store: Store) -> None:
        """A second acquire by the holder raises LockOwnershipError at once, and the lock stays held."""
        lock = store.lock("l")

        with lock:
            with pytest.raises(sharedstate.LockOwnershipError):
                lock.acquire()
            with pytest.raises(sharedstate.LockOwnershipError):
                lock.try_acquire()
            assert lock.is_held()
            assert not store.lock("l").try_acquire()

    def test_exception_in_the_block_releases(self, store: Store) -> None:
        """The `with` block gives the lock back however it ends."""
        with pytest.raises(ZeroDivisionError), store.lock("l"):
            raise ZeroDivisionError

        assert store.lock("l").try_acquire()

    def test_end_of_the_object_releases(self, store: Store) -> None:
        """A lock whose object is gone is free: its holder forgot it."""
        lock = store.lock("l")
        lock.acquire()

        del lock

        until(store.lock("l").try_acquire)

    def test_end_of_the_thread_releases_with_the_object(self, store: Store) -> None:
        """A thread that ends with a lock of its own leaves nothing behind."""
        _in_thread(lambda: store.lock("l").acquire())

        until(store.lock("l").try_acquire)

    def test_tokens_grow(self, store: Store, open_another: Callable[[], Store]) -> None:
        """Each acquisition's fencing token is greater than every earlier one's, across objects, handles and threads."""
        other, tokens = open_another(), list[int]()

        for handle in (store, other) * 5:
            with handle.lock("l") as lock:
                tokens.append(lock.token)
        tokens.append(int(str(_in_thread(lambda: store.lock("l").acquire()))))
        until(lambda: _take(store.lock("l"), tokens))

        assert tokens == sorted(set(tokens))
        assert all(type(token) is int and token > 0 for token in tokens)

    def test_token_is_the_holders(self, store: Store) -> None:
        """acquire() returns the token; asking for it without holding the lock raises LockOwnershipError."""
        lock = store.lock("l")
        with pytest.raises(sharedstate.LockOwnershipError):
            lock.token  # noqa: B018  a property that raises

        token = lock.acquire()

        assert lock.token == token
        with pytest.raises(sharedstate.LockOwnershipError):
            _in_thread(lambda: lock.token)
        lock.release()
        with pytest.raises(sharedstate.LockOwnershipError):
            lock.token  # noqa: B018

    def test_locks_tells_who_holds_what(self, store: Store, open_another: Callable[[], Store]) -> None:
        """locks() has a record of each lock ever acquired: name, whether held, latest token, owner and time."""
        store.lock("never").try_acquire  # noqa: B018  made, not acquired
        before = time.time()
        with store.lock("free"):
            pass

        with store.lock("held") as lock:
            me = Owner.current()
            records = {record.name: record for record in open_another().locks()}

            assert set(records) == {"free", "held"}
            assert records["held"].held
            assert not records["free"].held
            assert records["held"].token == lock.token
            assert before - 1 <= records["held"].acquired_at <= time.time() + 1
            assert records["held"].owner[:5] == me[:5]
            assert records["held"].owner.is_alive()
        assert not any(record.held for record in store.locks())

    def test_asking_disturbs_nobody(self, store: Store) -> None:
        """locks() neither takes nor frees a lock: the holder keeps it, and a free one can be had at once."""
        with store.lock("held") as lock:
            for _ in range(10):
                store.locks()
            assert lock.is_held()
            assert not store.lock("held").try_acquire()

        for _ in range(50):
            store.locks()
            with store.lock("held", timeout_s=0):
                pass

    def test_many_locks(self, store: Store) -> None:
        """A hundred locks can be held at once, and freed in any order."""
        locks = [store.lock(f"l{i}", timeout_s=0) for i in range(100)]
        for lock in locks:
            lock.acquire()

        for lock in locks[::2] + locks[1::2]:
            lock.release()

        assert all(lock.try_acquire() for lock in locks)

    def test_mutual_exclusion(self, store: Store, open_another: Callable[[], Store]) -> None:
        """What 6 threads, each 30 times, read and write back under a lock adds up to 180, with tokens in its order."""
        store["n"] = 0
        tokens: list[int] = []  # appended to under the lock

        def work(handle: Store) -> None:
            for _ in range(30):
                with handle.lock("l") as lock:
                    count = handle["n"]
                    tokens.append(lock.token)
                    handle["n"] = count + 1

        handles = [store, store, store, *(open_another() for _ in range(3))]
        run_together(*(lambda handle=handle: work(handle) for handle in handles))

        assert store["n"] == 180
        assert tokens == sorted(set(tokens))


def _take(lock: Lock, tokens: list[int]) -> bool:
    if not lock.try_acquire():
        return False
    tokens.append(lock.token)
    lock.release()
    return True
