"""The page in which the hands keep what was acknowledged to them; the kernel keeps it when they die.

A file, mapped by every interpreter, of 64-bit words.  A lane is the place of
one hand: its next one goes on from where the killed one left off.  Each word of
a lane is written by the lane's living hand only, with one store, so a kill
leaves the old or the new number.
"""

from __future__ import annotations

import mmap
import os

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

__all__ = ["LANES", "LOCKS", "OPERATIONS", "SEATS", "VALUES", "Lane", "Page"]

SEATS: Final = 4
"""Processes at a time."""
LANES: Final = 2 * SEATS
"""Lane 2n is the main interpreter of seat n, lane 2n+1 its sub-interpreter."""
LOCKS: Final = 3
VALUES: Final = 8
"""Self-checking values of each lane."""

OPERATIONS: Final = (
    "opening",
    "transfer",
    "audit",
    "hit",
    "receipt",
    "write",
    "read",
    "guard",
    "expire",
    "watch",
    "ring",
    "surge",
    "reopen",
    "compact",
)
"""What a hand can be at; `compact` stands for a compaction within another one."""

_LANE_WORDS: Final = 64
_HEAD_WORDS: Final = 64
_BEGAN, _OPERATION, _LONGEST, _PID, _HITS, _RECEIPTS, _MOVED, _RINGS, _CONFLICTS = range(9)
_COUNTS: Final = 10  # of each operation
_VERSIONS: Final = 26  # of each value
_GENERATIONS: Final = 34  # of each value
_ENTRIES: Final = 42  # into each lock
_HOLDER, _TOKEN, _TALLY = (index * LOCKS for index in range(3))  # in the head, of each lock


class Page:
    """The mapped file.  `words` may be read by anyone at any time."""

    def __init__(self, path: str) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            size = 8 * (_HEAD_WORDS + LANES * _LANE_WORDS)
            if os.fstat(fd).st_size < size:
                os.ftruncate(fd, size)
            self.words = memoryview(mmap.mmap(fd, size)).cast("Q")
        finally:
            os.close(fd)
        self.holders = self.words[
            _HOLDER : _HOLDER + LOCKS
        ]  # who is in the store's lock of that number: his pid << 8 | lane; 0: nobody
        self.tokens = self.words[_TOKEN : _TOKEN + LOCKS]  # guarded likewise
        self.tallies = self.words[_TALLY : _TALLY + LOCKS]  # guarded likewise
        self.lanes = [Lane(self, number) for number in range(LANES)]

    def total(self, word: str) -> int:
        """Return the sum over all lanes of a word, by its name in `Lane`."""
        return sum(getattr(lane, word) for lane in self.lanes)


def _word(index: int) -> property:
    def read(lane: Lane) -> int:
        return lane.words[index]

    def write(lane: Lane, number: int) -> None:
        lane.words[index] = number

    return property(read, write)


class Lane:
    """One lane's words."""

    began_ns = _word(_BEGAN)  # on the monotonic clock; 0: between two operations
    operation = _word(_OPERATION)
    longest_ns = _word(_LONGEST)  # the longest operation that came to its end
    pid = _word(_PID)
    hits = _word(_HITS)  # acknowledged, as all below
    receipts = _word(_RECEIPTS)
    moved = _word(_MOVED)
    rings = _word(_RINGS)
    conflicts = _word(_CONFLICTS)  # transactions that lost a race

    def __init__(self, page: Page, number: int) -> None:
        self.number = number
        start = _HEAD_WORDS + number * _LANE_WORDS
        self.words = page.words[start : start + _LANE_WORDS]
        self.counts = self.words[_COUNTS : _COUNTS + len(OPERATIONS)]
        self.versions = self.words[_VERSIONS : _VERSIONS + VALUES]
        self.generations = self.words[_GENERATIONS : _GENERATIONS + VALUES]
        self.entries = self.words[_ENTRIES : _ENTRIES + LOCKS]
