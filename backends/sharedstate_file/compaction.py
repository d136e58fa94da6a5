"""Leaving the dead behind: a new log that begins with what is live.

    1  write log-copy: a checkpoint of the entries as of one moment; sync it
    2  copy what was written to log-<n> meanwhile, until little is left; sync both
    3  copy the rest; sync both
    4  rename it to log-<n+1>; sync the directory
    5  end log-<n> with a frame that names log-<n+1>; sync it
    6  flip the head's word
    7  remove log-<n>

From step 3 on in the writers' section, where all others wait: for what little
there was left to copy, and for the syncs, but never for what is live.  One at a
time compacts, under a lock of its own.

Readers are never held up: they go on with log-<n>, which stays readable through
their descriptor, until they see the word flip.  Every step is synced whatever
`sync` says: a power loss may cost sync=os its latest writes, not the store.

Invariants:
    C1  a log with a number holds nothing that the log before it does not hold on
        the disk, until that one has ended: so log-<n> is synced before step 4
    C2  the end frame is synced by itself: alone on the disk, behind a hole, it
        would look like damage
Crash: up to step 5 the old log is the truth and the new one is dropped by whoever
compacts, or opens, next; from step 5 on the new one is, and the next writer flips
the word.
"""

from __future__ import annotations

import os

from sharedstate.values import decode, encode
from sharedstate_file.durability import sync_log
from sharedstate_file.head import length_of, next_number, word_of
from sharedstate_file.index import LOCATED_FROM, encoding_of
from sharedstate_file.log import LOG_HEADER_BYTES, Log
from sharedstate_file.place import remove_file

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final

    from sharedstate_file.head import Head
    from sharedstate_file.index import Entries
    from sharedstate_file.place import Place

__all__ = ["FLOOR_BYTES", "LITTLE_BYTES", "Draft", "due_at", "write_checkpoint"]

FLOOR_BYTES: Final = 2**18  # a store of few entries then opens in at most some 20 ms
"""Fewer dead bytes than this are left where they are."""

LITTLE_BYTES: Final = 2**16
"""As much is copied while others wait."""

_FRAME_BYTES: Final = 2**18


def due_at(length: int, live: int) -> int:
    """Return the length of log at which compaction may pay, if all that is written until then replaces something.

    It pays when more than `FLOOR_BYTES`, and more than what is live, is dead.
    """
    return length + max(live, FLOOR_BYTES) - max(length - live, 0)


def reached(point: str) -> None:
    """Do nothing; a test replaces it, to end the process at a named point."""


class Draft:
    """A log in the making, which is to go on from another one; needs the compactors' lock, or the writers'.

    Attributes:
        log: the new one.
        expired: of the keys that it left out at first, those that are not there by now.
        is_alike: whether an index of the old log, without `expired`, is one of the new
            log: not if that holds large values, which have a place in one of them.
    """

    def __init__(self, place: Place, path: str, entries: Entries, generation: int, now: float) -> None:
        """Write the checkpoint of `entries`, of that generation, to `path`; what expired by `now` stays behind.

        Raises:
            OSError: it is not made; nothing is left of it.
            StateError: likewise; no room, no descriptor, or a large value is damaged.
        """
        self._place = place
        self._path = path
        remove_file(path)  # of somebody who was killed
        try:
            self.log = Log.create(place.url, path, generation, place.mode)
            self._end, self._frames = write_checkpoint(self.log, entries, generation, now)
        except BaseException:
            remove_file(path)
            raise
        self.expired = {key for key, stored in entries.items() if stored[3] is not None and stored[3] <= now}
        self.is_alike = all(stored[4] <= LOCATED_FROM for stored in entries.values())

    def copy(self, old: Log, start: int, stop: int) -> None:
        """Copy the frames of the old log from `start` to `stop`."""
        for payload, _ in old.frames(start, stop):
            if len(payload) > LOCATED_FROM and any(
                len(operation) > 2 and len(operation[-1]) > LOCATED_FROM for operation in decode(payload)[1:]
            ):
                self.is_alike = False
            self._end = self.log.append(self._adapt(payload) if self.expired else payload, self._end)
            self._frames += 1

    def sync(self) -> None:
        """Have what it holds on the disk."""
        os.fsync(self.log.fd)

    def _adapt(self, payload: bytes) -> bytes:
        """Return the frame as it is right behind a checkpoint that lacks `expired`.

        Where the clock was set back, somebody touched an entry that had expired
        here: there is none to touch, and so it is deleted.
        """
        generation, *operations = decode(payload)
        for operation in operations:
            if operation[0] in self.expired:
                if len(operation) == 2:
                    del operation[1]
                    self.is_alike = False
                else:
                    self.expired.discard(operation[0])
        return encode([generation, *operations])

    def is_named(self) -> bool:
        """Return whether the draft's name still is this log's; ask inside the writers' section."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self.log.fd))
        except FileNotFoundError:
            return False

    def discard(self) -> None:
        """Remove the draft, unless it has a number by now."""
        if self.is_named():
            remove_file(self._path)

    def succeed(self, head: Head, old: Log, word: int, generation: int) -> int:
        """Go on with this log; needs the writers' lock, and all of the old one copied.

        Args:
            head: whose word is flipped.
            old: the current log.
            word: the head's.
            generation: the store's.

        Returns:
            The word that stands in the head now.

        Raises:
            OSError: nothing has changed.
        """
        place, end = self._place, length_of(word)
        number = next_number(old.number)
        try:
            sync_log(head, old)  # C1
            self.log.note_checkpoint(self._frames)
            self.sync()
            reached("draft written")
            os.rename(self._path, place.log(number))
            self.log.path, self.log.number = place.log(number), number
            place.sync_directory()
            reached("draft renamed")
        except BaseException:
            place.drop_logs(keep=old.number)
            raise
        try:
            old.append(encode([generation, number]), end)
            reached("old log ended")
            sync_log(head, old)
        except BaseException:
            # KeyboardInterrupt too.  And first the frame, then what it names: if
            # the cut fails, the next writer goes on with the new log.
            old.cut(end)
            os.fsync(old.fd)  # or a power loss might keep the frame, and not what it names; if it fails, both stay
            place.drop_logs(keep=old.number)
            raise
        heirs_word = word_of(number, self._end)
        head.store(heirs_word)
        head.note_synced(heirs_word)
        reached("head flipped")
        os.unlink(old.path)
        reached("old log removed")
        return heirs_word


def write_checkpoint(heir: Log, entries: Entries, generation: int, now: float) -> tuple[int, int]:
    """Begin a log with what of `entries` has not expired by `now`; return where that ends, and its number of frames."""
    end, frames = LOG_HEADER_BYTES, 0
    for operations in _batches(entries, now):
        end = heir.append(encode([generation, *operations]), end)
        frames += 1
    return end, frames


def _batches(entries: Entries, now: float) -> Iterator[list[list[Any]]]:
    batch: list[list[Any]] = []
    size = 0
    for key, stored in entries.items():
        _, _, generation, expires_at, length = stored
        if expires_at is not None and expires_at <= now:
            continue
        batch.append([key, expires_at, generation, encoding_of(stored)])
        size += len(key) + length
        if size >= _FRAME_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
