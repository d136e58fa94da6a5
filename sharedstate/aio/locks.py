"""Locks for tasks: the store's own locks, with a task in the place of the thread.

    J1  At most one task, thread, interpreter or process within the backend's
        scope holds a lock: it is the same one that `Store.lock` gives.
    J2  Only the task that acquired it may release it, once.
    J3  A cancelled acquisition leaves it free, also where it had just come true.
    J4  The tasks of one loop that wait for one lock of a handle are let in as
        they came; of them one competes with everybody else.

A lock of the library belongs to the thread that acquired it.  So one on a disk
has a thread of its own while it is held, and one in memory the loop's.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING

from sharedstate.backend.forks import fork_epoch
from sharedstate.backend.waiting import Backoff, Deadline
from sharedstate.errors import LockLostError, LockOwnershipError, LockTimeoutError
from sharedstate.model import MISSING, Missing

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Self

    from sharedstate.backend import Lock

__all__ = ["AsyncLock"]


class AsyncLock:
    """A named lock, held by one task at a time: `async with store.lock("rebuild") as lock:`.

    One object may serve many tasks of one loop.

    Attributes:
        name: within its store.
        timeout_s: how long `async with lock:` and `acquire()` wait; None: for ever.
    """

    def __init__(
        self,
        name: str,
        timeout_s: float | None,
        make: Callable[[], Lock],
        turn: Callable[[], asyncio.Lock],
        is_quick: bool,
    ) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self._make = make
        self._find_turn = turn  # of this loop's tasks; held by the one that holds, or waits first for, the lock
        self._is_quick = is_quick
        self._holder: asyncio.Task[Any] | None = None
        self._held: _Held | None = None
        self._epoch = fork_epoch()

    async def acquire(self, timeout_s: float | Missing | None = MISSING) -> int:
        """Wait for the lock and return its fencing token.

        Args:
            timeout_s: 0 tries once; None waits for ever; by default the lock's own.

        Raises:
            LockTimeoutError: somebody else held it all the time.
            LockOwnershipError: this task holds it already, through this object.
        """
        if self._epoch != fork_epoch():  # what was held is the parent's
            self._epoch, self._holder, self._held = fork_epoch(), None, None
        me = asyncio.current_task()
        if self._holder is me:
            raise LockOwnershipError(name=self.name, reason="this task holds it already; it is not re-entrant")
        lock, turn = self._make(), self._find_turn()
        deadline = Deadline(self.timeout_s if timeout_s is MISSING else timeout_s)
        try:
            async with asyncio.timeout(deadline.timeout_s):
                await turn.acquire()
        except TimeoutError:
            raise deadline.timed_out(lock.url, f"lock {self.name!r}", "another task of this loop") from None
        held = _Held(lock, turn, None if self._is_quick else ThreadPoolExecutor(1, "sharedstate lock"))
        try:
            held.token = await _seize(held, deadline)
        except BaseException:
            held.end()
            held.pass_turn()
            raise
        self._holder, self._held = me, held
        return held.token

    async def try_acquire(self) -> bool:
        """Take the lock if it is free; return whether it is now held."""
        try:
            await self.acquire(0)
        except LockTimeoutError:
            return False
        return True

    async def release(self) -> None:
        """Give the lock back.

        Raises:
            LockOwnershipError: this task does not hold it; nothing happened.
            LockLostError: it was lost before, or is the parent's of this forked process; it is not held any more.
        """
        held = self._require_holder()
        self._holder = self._held = None
        try:
            await held.release()
        finally:
            held.pass_turn()

    @property
    def token(self) -> int:
        """The fencing token of the acquisition that this task holds.

        Send it with each write to what the lock guards, and refuse writes whose
        token is less than the greatest seen.  That the lock was lost, `release` tells.

        Raises:
            LockOwnershipError: this task does not hold the lock.
        """
        return self._require_holder().token

    def _require_holder(self) -> _Held:
        if self._epoch != fork_epoch() and self._held is not None:
            raise LockLostError(name=self.name, reason="it belongs to the parent of this forked process")
        if self._held is None:
            raise LockOwnershipError(name=self.name, reason="nobody holds it through this object")
        if self._holder is not asyncio.current_task():
            raise LockOwnershipError(name=self.name, reason="another task holds it")
        return self._held

    def is_held(self) -> bool:
        """Return whether the calling task holds the lock through this object."""
        return self._epoch == fork_epoch() and self._held is not None and self._holder is asyncio.current_task()

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()

    def __repr__(self) -> str:
        return f"<AsyncLock {self.name!r}{', held' if self._held is not None else ''}>"


async def _seize(held: _Held, deadline: Deadline) -> int:
    backoff = Backoff()
    while True:
        outcome = await held.attempt()
        if isinstance(outcome, int):
            return outcome
        if deadline.has_passed():
            raise deadline.timed_out(outcome.url, outcome.what, outcome.holder) from None
        await asyncio.sleep(deadline.remaining_s(backoff.next_s()))


class _Held:
    """A lock of the library and the thread that it belongs to: its own, or the loop's."""

    def __init__(self, lock: Lock, turn: asyncio.Lock, thread: ThreadPoolExecutor | None) -> None:
        self.token = 0
        self._lock = lock
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._epoch = fork_epoch()
        self._turn: asyncio.Lock | None = turn

    def pass_turn(self) -> None:
        """Let the next task of this loop try."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.release()

    def __del__(self) -> None:
        # Somebody has let go of a lock that he held; whoever waits for the turn has found it before.
        if self._turn is not None and self._epoch == fork_epoch():
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._turn.release)

    async def attempt(self) -> int | LockTimeoutError:
        """Return the fencing token if the lock is now held, else who has it."""
        if self._thread is None:
            return self._try()
        # With the task's context variables, as in the other threads.
        attempt = asyncio.get_running_loop().run_in_executor(self._thread, copy_context().run, self._try)
        return await asyncio.shield(attempt)

    def _try(self) -> int | LockTimeoutError:
        try:
            return self._lock.acquire(0)
        except LockTimeoutError as error:
            return error

    async def release(self) -> None:
        """Give it back; what was begun is done also if the caller is cancelled."""
        if self._thread is None:
            self._lock.release()
            return
        try:
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, self._lock.release))
        finally:
            self._thread.shutdown(wait=False)

    def end(self) -> None:
        """Free it, also if it comes true only now: an attempt that was cancelled is still under way (J3)."""
        if self._thread is None:
            self._free()
        else:
            self._thread.submit(self._free)  # after the attempt
            self._thread.shutdown(wait=False)

    def _free(self) -> None:
        if self._lock.is_held():
            self._lock.release()
