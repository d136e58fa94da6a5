"""The head: one mapped word that says which log is current, and how much of it counts.

A reader learns from it that nothing has changed, without a system call.  It is
derived from the log and never believed alone: a head that was last made true
before this boot, or that does not agree with itself, is made anew from the log.

Thread safety: the word is stored by whoever holds the writers' lock, and read
by anyone.  It is an aligned 64-bit store through a memoryview, so no reader
sees half of it.

Invariants:
    H1  word = log number << 36 | committed length; a word is never used twice
    H2  what the word counts is complete: it moves only after the bytes it counts
    H3  seal = the word's complement, stored after it: where they disagree, a
        writer died between the two, or a byte was damaged
    H4  the synced word is what `sync=disk` has brought to the disk; the doubtful
        number that of a log which the disk refused.  Each has a seal of its own,
        and anybody may store it, at any time (D1, D4, D5)
"""

from __future__ import annotations

import mmap
import os
from struct import Struct
from zlib import crc32

from sharedstate.backend import BELL_BYTES, Bell, open_private
from sharedstate.errors import UnavailableError

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

__all__ = [
    "ALL_ONES",
    "HEAD_BYTES",
    "LENGTH_MASK",
    "REMOVED",
    "VERSION",
    "Head",
    "length_of",
    "next_number",
    "number_of",
    "word_of",
]

# 28 bits of number and 36 of length rather than 20 and 44: a store that is
# written as fast as it can be compacts some six times a second, and would run
# through 20 bits in two days; this takes a year and a half, and then wraps.
_LENGTH_BITS: Final = 36
LENGTH_MASK: Final = 2**_LENGTH_BITS - 1  # also the greatest length of a log: 64 GiB
_LAST_NUMBER: Final = 2**28 - 2  # the last one of all is kept for REMOVED

REMOVED: Final = 2**64 - 1
"""The word of a store that was removed while handles were open."""

VERSION: Final = 1
HEAD_BYTES: Final = 4096  # a page: a full disk is met when it is made, not when it is mapped
_MAGIC: Final = b"SSHEAD\r\n"
_BEGINNING: Final = Struct("<8sI40s")
_CRC: Final = Struct("<I")
_WORDS: Final = slice(64, 80)  # a cache line of its own
_SYNCED: Final = slice(128, 144)  # likewise
_DOUBTFUL: Final = slice(192, 208)
_CHANGED_AT: Final = 256
_SYNC_ENDED_AT: Final = 320
ALL_ONES: Final = 2**64 - 1


def word_of(number: int, length: int) -> int:
    """Return the word for `length` committed bytes of log `number`."""
    return number << _LENGTH_BITS | length


def number_of(word: int) -> int:
    """Return the number of the log that is current."""
    return word >> _LENGTH_BITS


def length_of(word: int) -> int:
    """Return how many bytes of the log count."""
    return word & LENGTH_MASK


def next_number(number: int) -> int:
    """Return the number of the log after log `number`."""
    return number % _LAST_NUMBER + 1


def _beginning(boot: str) -> bytes:
    fields = _BEGINNING.pack(_MAGIC, VERSION, boot.encode())
    return fields + _CRC.pack(crc32(fields))


class Head:
    """One mapping of a store's head.

    Attributes:
        words: the word and its seal.
        changed: rung after each change of the word.
        sync_ended: rung when somebody has tried to sync.
    """

    __slots__ = ("_doubtful", "_map", "_synced", "changed", "sync_ended", "words")

    def __init__(self, mapped: mmap.mmap) -> None:
        self._map = mapped
        self.words = memoryview(mapped)[_WORDS].cast("Q")
        self._synced = memoryview(mapped)[_SYNCED].cast("Q")
        self._doubtful = memoryview(mapped)[_DOUBTFUL].cast("Q")
        self.changed = Bell(memoryview(mapped)[_CHANGED_AT : _CHANGED_AT + BELL_BYTES])
        self.sync_ended = Bell(memoryview(mapped)[_SYNC_ENDED_AT : _SYNC_ENDED_AT + BELL_BYTES])

    @classmethod
    def open(cls, url: str, path: str) -> Head | None:
        """Map the head; None if there is none, or it is too short to be one.

        Raises:
            UnavailableError: it is of another version of the format.
            StoreAccessError: it is not ours.
        """
        try:
            fd = open_private(url, path, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            if os.fstat(fd).st_size < HEAD_BYTES:
                return None
            head = cls(mmap.mmap(fd, HEAD_BYTES))
        finally:
            os.close(fd)
        head.require_version(url)
        return head

    @classmethod
    def make(cls, url: str, path: str, mode: int) -> Head:
        """Make the file, or as much of it as is missing, and map it.

        Mended in place and never replaced: other handles have it mapped.
        """
        fd = open_private(url, path, os.O_RDWR | os.O_CREAT, mode)
        try:
            os.posix_fallocate(fd, 0, HEAD_BYTES)
            return cls(mmap.mmap(fd, HEAD_BYTES))
        finally:
            os.close(fd)

    def require_version(self, url: str) -> None:
        """Refuse a head of another version; one that is damaged is not of another version."""
        fields = self._map[: _BEGINNING.size]
        magic, version, _ = _BEGINNING.unpack(fields)
        intact = self._map[_BEGINNING.size : _BEGINNING.size + _CRC.size] == _CRC.pack(crc32(fields))
        if magic == _MAGIC and intact and version != VERSION:
            raise UnavailableError(
                url=url,
                reason=f"it is of version {version} of the file format, and this library reads version {VERSION}",
                advice="Use the version of sharedstate that wrote it, or copy its entries over with that one.",
            )

    def is_true(self, boot: str) -> bool:
        """Return whether the word may be believed: made true in this boot, and agreeing with its seal."""
        beginning = _beginning(boot)
        return self._map[: len(beginning)] == beginning and self.is_sealed()

    def is_sealed(self) -> bool:
        """Return whether the word agrees with its seal."""
        return self.words[0] ^ self.words[1] == ALL_ONES

    def store(self, word: int) -> None:
        """Publish `word`; needs the writers' lock."""
        words = self.words
        words[0] = word
        words[1] = word ^ ALL_ONES
        self.changed.ring()

    def end(self) -> None:
        """Say that the store was removed, also after a power loss; needs the writers' lock."""
        self.store(REMOVED)
        self._map.flush()

    def synced(self) -> int:
        """Return the word up to which the log is known to be on disk; 0 if it is not known."""
        word, seal = self._synced
        return word if word ^ seal == ALL_ONES else 0

    def note_synced(self, word: int) -> None:
        """Say that the log is on disk up to what `word` counts."""
        self._synced[0] = word
        self._synced[1] = word ^ ALL_ONES

    def is_doubtful(self, number: int) -> bool:
        """Return whether a sync of log `number` failed, so that none of it is known to be on disk any more."""
        found, seal = self._doubtful
        return found == number and found ^ seal == ALL_ONES

    def doubt(self, number: int) -> None:
        """Say that a sync of log `number` failed."""
        self._doubtful[0] = number
        self._doubtful[1] = number ^ ALL_ONES

    def distrust(self) -> None:
        """Have the next opener derive it from the logs, as after a reboot."""
        self._map[: len(_MAGIC)] = bytes(len(_MAGIC))

    def make_true(self, boot: str, word: int) -> None:
        """Publish `word` as derived from the log in this boot; needs the writers' lock."""
        self.note_synced(0)  # a log that was cut may grow past what was synced of it
        beginning = _beginning(boot)
        if self._map[: len(beginning)] != beginning:
            self.doubt(0)  # what was read after a reboot is on the disk; before one, it may be in the cache only
        self.store(word)
        self._map[: len(beginning)] = beginning
        self._map.flush()
