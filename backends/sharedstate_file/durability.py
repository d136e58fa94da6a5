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
    D4  nothing rests on who syncs, nor on how many: a lock that a fork doubles,
        a process that is stopped while it holds it, or a word that two of them
        store in turn, costs an fdatasync too many
What D3 does not say: a *reader* may see a write some milliseconds before it is
on disk, and a power loss then takes it back.  No write of ours is acknowledged
in that state.
Crash: the synced word falls behind, never ahead.  A new boot begins at 0, since
what a power loss left is settled from the logs alone.
"""

from __future__ import annotations

import os
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock

from sharedstate.backend import Backoff, Deadline, Mutex, fork_epoch
from sharedstate.errors import OutcomeUnknownError
from sharedstate_file.head import length_of, number_of

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

    from sharedstate_file.head import Head
    from sharedstate_file.log import Log

__all__ = ["SharedSync"]


_PATIENCE_S: Final = 0.5  # for whoever syncs; a slow disk is waited for no longer than that before one's own call


class SharedSync:
    """The wait of one handle's writes for the disk."""

    def __init__(self, url: str, head: Head) -> None:
        self._url = url
        self._head = head
        self._turns: dict[int, Mutex] = {}  # by fork epoch: a thread of the parent may have held its own
        self._doubtful = 0  # the word up to which a sync failed: the kernel tells it once per descriptor

    def wait(self, log: Log, word: int) -> None:
        """Return when the log is on disk up to what `word` counts.

        Raises:
            OutcomeUnknownError: the kernel could not write it, and does not say
                how much of it; the write may be read, and may not last.
        """
        patience, backoff = Deadline(_PATIENCE_S), Backoff(longest_s=5e-4)
        while not self._is_done(log, word):
            if patience.has_passed():
                self._sync(log)
            elif not self._try_sync(log):
                backoff.sleep(patience)

    def _is_done(self, log: Log, word: int) -> bool:
        if number_of(self._head.words[0]) != log.number or number_of(word) != log.number:
            return True  # D2
        if number_of(self._doubtful) == log.number and word <= self._doubtful:
            raise self._failed(log, "an earlier sync failed")
        synced = self._head.synced()
        return number_of(synced) == log.number and synced >= word

    def _try_sync(self, log: Log) -> bool:
        """Sync for everybody, and return True, unless somebody is at it."""
        turn = self._turns.setdefault(fork_epoch(), Mutex())
        try:  # as in WriterLock.run: whatever a signal handler raises, nothing stays held
            if not turn.acquire(blocking=False):
                return False
            try:
                flock(log.fd, LOCK_EX | LOCK_NB)  # between processes; the log is nobody else's to lock
                self._sync(log)
            except BlockingIOError:
                return False
            finally:
                flock(log.fd, LOCK_UN)
        finally:
            try:  # noqa: SIM105  contextlib would cost each fresh interpreter its import
                turn.release()
            except RuntimeError:
                pass  # it was never ours
        return True

    def _sync(self, log: Log) -> None:
        word = self._head.words[0]
        if number_of(word) != log.number:
            return
        try:
            os.fdatasync(log.fd)
        except OSError as error:
            self._doubtful = word
            raise self._failed(log, error.strerror) from error
        self._head.note_synced(word)

    def _failed(self, log: Log, reason: str | None) -> OutcomeUnknownError:
        return OutcomeUnknownError(
            url=self._url, reason=f"{log.path}, of {length_of(self._doubtful)} bytes, could not be synced: {reason}"
        )
