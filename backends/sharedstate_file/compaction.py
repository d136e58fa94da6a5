"""Leaving the dead behind: a new log that begins with what is live.

    1  write log-draft: a checkpoint of the entries that have not expired; sync it
    2  rename it to log-<n+1>; sync the directory, and log-<n>
    3  end log-<n> with a frame that names log-<n+1>; sync it
    4  flip the head's word
    5  remove log-<n>

Readers are never held up: they go on with log-<n>, which stays readable through
their descriptor, until they see the word flip.  Every step is synced whatever
`sync` says: a power loss may cost sync=os its latest writes, not the store.

The first sync of log-<n> is for what was written to it and waits for its own:
the end frame alone on the disk, behind a hole, would look like damage.

Crash: up to step 3 the old log is the truth and the next writer drops the new
one; from step 3 on the new one is, and the next writer flips the word.
"""

from __future__ import annotations

import os

from sharedstate.values import encode
from sharedstate_file.durability import sync_log
from sharedstate_file.head import length_of, next_number, word_of
from sharedstate_file.index import encoding_of
from sharedstate_file.log import LOG_HEADER_BYTES, Log

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final

    from sharedstate_file.head import Head
    from sharedstate_file.index import Entries
    from sharedstate_file.place import Place

__all__ = ["FLOOR_BYTES", "compact", "due_at", "write_checkpoint"]

FLOOR_BYTES: Final = 2**18  # a store of few entries then opens in at most some 20 ms
"""Fewer dead bytes than this are left where they are."""

_FRAME_BYTES: Final = 2**18


def due_at(length: int, live: int) -> int:
    """Return the length of log at which compaction may pay, if all that is written until then replaces something.

    It pays when more than `FLOOR_BYTES`, and more than what is live, is dead.
    """
    return length + max(live, FLOOR_BYTES) - max(length - live, 0)


def reached(point: str) -> None:
    """Do nothing; a test replaces it, to end the process at a named point."""


def compact(
    place: Place, head: Head, log: Log, *, word: int, generation: int, entries: Entries, now: float
) -> tuple[Log, int]:
    """Go on with a new log; needs the writers' lock, and everything applied.

    Args:
        place: of the store.
        head: whose word is flipped.
        log: the current one.
        word: the head's.
        generation: the store's.
        entries: of the store.
        now: what expired by then stays behind.

    Returns:
        The new log, and the word that stands in the head: up to there it says
        what `entries` do, but for what had expired.

    Raises:
        OSError: nothing has changed; half-made files are gone.
        StateError: likewise; no room, no descriptor, or a large value is damaged.
    """
    end = length_of(word)
    number = next_number(log.number)
    place.drop_logs(keep=log.number)
    try:
        heir = Log.create(place.url, place.draft, generation + 1, place.mode)
        length = write_checkpoint(heir, entries, generation + 1, now)
        os.fsync(heir.fd)
        reached("draft written")
        os.rename(place.draft, place.log(number))
        heir.path, heir.number = place.log(number), number
        place.sync_directory()
        sync_log(head, log)
        reached("draft renamed")
    except BaseException:
        place.drop_logs(keep=log.number)
        raise
    try:
        log.append(encode([generation, number]), end)
        reached("old log ended")
        sync_log(head, log)
    except BaseException:
        # KeyboardInterrupt too.  And first the frame, then what it names: if
        # the cut fails, the next writer goes on with the new log.
        log.cut(end)
        os.fsync(log.fd)  # or a power loss might keep the frame, and not what it names; if it fails, both stay
        place.drop_logs(keep=log.number)
        raise
    heirs_word = word_of(number, length)
    head.store(heirs_word)
    head.note_synced(heirs_word)
    reached("head flipped")
    os.unlink(log.path)
    reached("old log removed")
    return heir, heirs_word


def write_checkpoint(heir: Log, entries: Entries, generation: int, now: float) -> int:
    """Begin a log with what of `entries` has not expired by `now`; return where it ends."""
    end, frames = LOG_HEADER_BYTES, 0
    for operations in _batches(entries, now):
        end = heir.append(encode([generation, *operations]), end)
        frames += 1
    heir.note_checkpoint(frames)
    return end


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
