"""One writer at a time: between threads, interpreters and processes, and across forks.

Threads of one handle are excluded by a lock of the interpreter, everyone else
by a flock on the store's `lock` file: flock belongs to the open description, so
threads that share one are not excluded by it.  The flock is taken by fcntl and
not through portalocker, whose wrapper costs as much as the whole write; it is
the same lock of the kernel, and either waits for the other.

Thread safety: any thread.  A handle's index lock is part of the section, and
may also be taken alone, by readers that catch up.

Invariants:
    W1  who is inside holds the thread lock, the flock and the index lock, taken
        in this order
    W3  an exception that a signal handler raises, whichever line it hits, leaves
        nothing held.  Hence a function that runs the section's body: on the way
        into an __exit__ of Python code such an exception would skip it
    W2  a process flocks no description that it inherited: its parent's lock
        would count as its own
Fork: the locks and the descriptor belong to one fork epoch.  A child makes its
own when it first needs them; the parent's descriptor is closed in it.
Crash: the kernel frees the flock.
"""

from __future__ import annotations

import os
from _thread import get_ident
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock

from sharedstate.backend import Backoff, Deadline, Mutex, fork_epoch, has_name, keep_on_fork, open_unshared
from sharedstate.errors import ClosedError
from sharedstate_file.place import read_text

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, TypeVar

    from sharedstate_file.place import Place

    _T = TypeVar("_T")

__all__ = ["WriterLock"]

_TRY: Final = LOCK_EX | LOCK_NB
_CLOSED: Final = -2
_UNOPENED: Final = -1


class _Turn:
    """What one process needs to take turns."""

    __slots__ = ("epoch", "fd", "index", "is_ending", "lock", "owner")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        # Re-entrant only because such a lock knows whether it is ours to release.
        self.lock = Mutex()
        self.owner = 0  # guarded by lock; ident of the thread inside
        self.is_ending = False  # guarded by lock; closed by a signal handler of the thread inside
        # Re-entrant: the garbage collector may run a finalizer that reads the
        # store while its thread is catching up.
        self.index = Mutex()
        self.fd = _UNOPENED  # guarded by lock


class WriterLock:
    """The writers' section of one handle."""

    def __init__(self, place: Place) -> None:
        self._place = place
        epoch = fork_epoch()
        self._turn = _Turn(epoch)
        self._turns = {epoch: self._turn}

    def run(self, body: Callable[[], _T]) -> _T:
        """Wait for this handle's turn, and return what `body` returns inside the section.

        Raises:
            LockTimeoutError: others wrote, or stood still, all the time; or it
                is a signal handler, or a finalizer, that came upon its own
                thread inside, for which it cannot wait.
            ClosedError: the handle was closed.
            UnavailableError: the store is gone.
        """
        turn = self._turn
        if turn.epoch != fork_epoch():
            turn = self._enter_child()
        if turn.owner == get_ident():
            raise Deadline(0).timed_out(self._place.url, "the writers' lock", "the write that this one interrupted")
        try:
            deadline = None if turn.lock.acquire(blocking=False) else self._wait_for_thread(turn)
            try:
                turn.owner = get_ident()
                if turn.fd < 0:
                    self._open(turn)
                try:
                    flock(turn.fd, _TRY)
                except BlockingIOError:
                    self._wait_for_flock(turn.fd, deadline or Deadline(self._place.timeout_s))
                with turn.index:
                    return body()
            finally:
                # Of these lines none calls anything before the flock is free.
                turn.owner = 0
                if turn.fd >= 0:
                    flock(turn.fd, LOCK_UN)  # no harm if we did not get it
                if turn.is_ending:
                    self._drop(turn)
        finally:
            try:  # noqa: SIM105  contextlib would cost each fresh interpreter its import
                turn.lock.release()
            except RuntimeError:
                pass  # it was never ours

    def index(self) -> Mutex:
        """Return the lock of the handle's index, for readers that catch up."""
        if self._turn.epoch != fork_epoch():
            return self._enter_child().index
        return self._turn.index

    def is_current(self) -> bool:
        """Return whether the store was not removed, nor is another one in its place; ask inside the section."""
        return has_name(self._turn.fd)

    def close(self) -> None:
        """Give the descriptor back, once nobody of this handle is inside."""
        turn = self._turn
        if turn.epoch != fork_epoch():
            turn = self._enter_child()
        if turn.owner == get_ident():
            turn.is_ending = True  # by a signal handler that interrupted the thread inside
            return
        with turn.lock:
            self._drop(turn)

    def __del__(self) -> None:
        if self._turn.epoch == fork_epoch():
            self._drop(self._turn)

    # --- Opening and forks ----------------------------------------------------

    def _enter_child(self) -> _Turn:
        # setdefault: of several threads that come here at once, all get the
        # same turn.  The parent's locks may be held by threads that are not here.
        epoch = fork_epoch()
        was_closed = self._turn.fd == _CLOSED
        self._turn = turn = self._turns.setdefault(epoch, _Turn(epoch))
        if was_closed:
            turn.fd = _CLOSED
        return turn

    def _open(self, turn: _Turn) -> None:
        if turn.fd == _CLOSED:
            raise ClosedError(url=self._place.url)
        try:
            turn.fd = open_unshared(self._place.open_lock)
        except FileNotFoundError:
            raise self._place.gone() from None

    def _drop(self, turn: _Turn) -> None:
        fd, turn.fd = turn.fd, _CLOSED
        if fd >= 0:
            keep_on_fork(fd)
            os.close(fd)

    # --- Waiting --------------------------------------------------------------

    def _wait_for_thread(self, turn: _Turn) -> Deadline:
        deadline = Deadline(self._place.timeout_s)
        if not turn.lock.acquire(timeout=self._place.timeout_s):
            raise deadline.timed_out(self._place.url, "the writers' lock", "another thread of this handle")
        return deadline

    def _wait_for_flock(self, fd: int, deadline: Deadline) -> None:
        # A write takes microseconds: who sleeps 5 ms between looks would starve.
        backoff = Backoff(longest_s=5e-4)
        while True:
            if deadline.has_passed():
                raise deadline.timed_out(self._place.url, "the writers' lock", _describe_holder(fd))
            backoff.sleep(deadline)
            try:
                flock(fd, _TRY)
            except BlockingIOError:
                continue
            return


def _describe_holder(fd: int) -> str:
    """Return who holds the flock, as far as this pid namespace can see."""
    found = os.fstat(fd)
    wanted = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    # 1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF
    for fields in map(str.split, read_text("/proc/locks").splitlines()):
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == wanted:
            return f"pid {fields[4]}"
    return ""
