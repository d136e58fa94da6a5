"""`sync=disk`: one fdatasync for all the writes that wait for one.

A write is appended and published under the writers' lock, as any other, and the
verb returns when the log is on disk up to there.  Whoever needs that and finds
nobody at it syncs, for all who have appended by then; the others wait, and
mostly find it done.  With eight writers at a time that is one fdatasync for
seven writes or so, instead of one each under the lock.

Thread safety: every function, from any thread and process.

Invariants:
    D1  synced word <= what fdatasync returned for, in the log that it names: it
        is read before the call and stored after it
    D2  a verb returns only when its frame is within the synced word, or in a log
        that is not current any more: compaction syncs all that it copies
    D3  a log is on disk as a prefix, so what a write was computed from is on
        disk when it is
    D4  nothing rests on who syncs, nor on how many: a process that is stopped
        while it holds the flock, or a word that two of them store in turn, costs
        an fdatasync too many
    D5  after a sync that failed nothing more of that log counts as synced, in any
        process: the kernel tells of an error once per open file and then calls
        the pages clean.  The next write goes on in a new log, made from memory
What D3 does not say: a *reader* may see a write some milliseconds before it is
on disk, and a power loss then takes it back.  No write of ours is acknowledged
in that state.
Fork: flock and fdatasync go to a descriptor of this process alone, which a child
does not inherit: it would keep the flock of a parent that died, and share its
parent's one report of an error.
Crash: the synced word falls behind, never ahead.  A new boot begins at 0, since
what a power loss left is settled from the logs alone.
"""

from __future__ import annotations

import os
from _thread import get_ident
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock

from sharedstate.backend import Deadline, Mutex, fork_epoch, keep_on_fork, open_private, open_unshared
from sharedstate.errors import OutcomeUnknownError, StateError
from sharedstate_file.head import number_of

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

    from sharedstate_file.head import Head
    from sharedstate_file.log import Log

__all__ = ["SharedSync", "sync_log"]


_PATIENCE_S: Final = 0.5  # for whoever syncs; a slow disk is waited for no longer than that before one's own call


def sync_log(head: Head, log: Log) -> None:
    """Sync a log by its own descriptor; who waits for frames in it learns of a failure by D5.

    Raises:
        OSError: it could not be synced.
    """
    try:
        os.fsync(log.fd)
    except OSError:
        head.doubt(log.number)
        raise


class SharedSync:
    """The wait of one handle's writes for the disk."""

    def __init__(self, url: str, head: Head) -> None:
        self._url = url
        self._head = head
        self._turns: dict[int, _Turn] = {}  # by fork epoch

    def is_doubtful(self, log: Log) -> bool:
        """Return whether a sync of `log` failed, so that no write to it can be acknowledged any more (D5)."""
        return self._head.is_doubtful(log.number)

    def wait(self, log: Log, word: int) -> None:
        """Return when the log is on disk up to what `word` counts.

        Raises:
            OutcomeUnknownError: the kernel could not write it, and does not say
                how much of it; the write may be read, and may not last.
        """
        patience = Deadline(_PATIENCE_S)
        self._head.sync_ended.wait_until(
            lambda: self._is_done(log, word) or (self._try_sync(log, patience) and self._is_done(log, word)),
            Deadline(None),
        )

    def close(self) -> None:
        """Give the descriptor back."""
        turn = self._turns.pop(fork_epoch(), None)
        if turn is not None and turn.owner != get_ident():  # else a signal handler, amid a sync: it goes with its turn
            turn.close()

    def _is_done(self, log: Log, word: int) -> bool:
        if number_of(self._head.words[0]) != log.number or number_of(word) != log.number:
            return True  # D2
        if self._head.is_doubtful(log.number):
            raise self._failed(log, "an earlier sync failed")
        synced = self._head.synced()
        return number_of(synced) == log.number and synced >= word

    def _try_sync(self, log: Log, patience: Deadline) -> bool:
        """Sync for everybody, and return True, unless somebody is at it."""
        epoch, me = fork_epoch(), get_ident()
        turn = self._turns.get(epoch) or self._turns.setdefault(epoch, _Turn(epoch))
        if turn.owner == me:
            self._sync(log, log.fd)  # a signal handler, amid a sync of its own thread
            return True
        is_tried = False
        try:  # as in WriterLock.run: whatever a signal handler raises, nothing stays held
            if not turn.lock.acquire(blocking=False):
                return False  # a thread of this process, which is not stopped unless we are
            turn.owner = me
            fd = turn.open(log)
            try:
                flock(fd, LOCK_EX | LOCK_NB)  # between processes; the log is nobody else's to lock
            except BlockingIOError:
                if not patience.has_passed():
                    return False
            is_tried = True
            try:
                self._sync(log, fd)
            finally:
                flock(fd, LOCK_UN)
        except FileNotFoundError:
            if number_of(self._head.words[0]) == log.number:
                raise self._failed(log, "it was removed") from None
            # else compacted meanwhile: D2
        finally:
            if turn.owner == me:  # nothing is called before the lock is free
                turn.owner = 0
            try:  # noqa: SIM105  contextlib would cost each fresh interpreter its import
                turn.lock.release()
            except RuntimeError:
                pass  # it was never ours
            if is_tried:
                self._head.sync_ended.ring()  # when all is free: who wakes up may want it
        return True

    def _sync(self, log: Log, fd: int) -> None:
        word = self._head.words[0]
        if number_of(word) != log.number:
            return
        try:
            os.fdatasync(fd)
        except OSError as error:
            self._head.doubt(log.number)
            raise self._failed(log, error.strerror) from error
        if not self._head.is_doubtful(log.number):  # D5: the error may have gone to another descriptor
            self._head.note_synced(word)

    def _failed(self, log: Log, reason: str | None) -> OutcomeUnknownError:
        return OutcomeUnknownError(url=self._url, reason=f"{log.path} could not be synced: {reason}")


class _Turn:
    """What one process needs to take turns: a thread at a time, and a descriptor of its own."""

    __slots__ = ("_epoch", "_fd", "_log", "lock", "owner")

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self.lock = Mutex()
        self.owner = 0  # guarded by lock; ident of the thread that syncs
        self._fd = -1  # guarded by lock
        self._log: Log | None = None  # guarded by lock; whose descriptor it is

    def open(self, log: Log) -> int:
        """Return a descriptor of this log; FileNotFoundError if it is gone."""
        if self._log is not log:
            self._close()
            try:
                self._fd = open_unshared(lambda: open_private(log.url, log.path, os.O_RDWR))
            except StateError:
                return log.fd  # no descriptor is left, say: the write is done, and must not be reported as refused
            self._log = log
        return self._fd

    def close(self) -> None:
        """Close the descriptor, once no thread is at it."""
        with self.lock:
            self._close()

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        fd, self._fd, self._log = self._fd, -1, None
        if fd >= 0 and self._epoch == fork_epoch():  # in a child it is closed, and the number may be another file's
            keep_on_fork(fd)
            os.close(fd)
