"""How often one handle was asked, where no C module is built: `c/counts.h` in Python, C1 to C3 included."""

from __future__ import annotations

import mmap
import os
from _weakrefset import WeakSet
from random import randrange
from struct import pack_into

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["Counts"]

_PAGE_BYTES: Final = 4096
_SAMPLES: Final = 63
_SAMPLE_BYTES: Final = 64
_KEY_BYTES: Final = 54
_32_BITS: Final = 2**32 - 1


class Counts:
    """See `sharedstate._native.Counts`."""

    def __init__(self) -> None:
        self._own: Any = [0] * 4
        self._words = self._own
        self._page: Any = None
        self._until_sample = 1
        _living.add(self)

    @property
    def is_attached(self) -> bool:
        """Whether it counts in a page."""
        return self._words is not self._own

    def hit(self, key: str, /) -> None:
        """Count a question for an entry that was there."""
        self._count(0, key)

    def miss(self, key: str, /) -> None:
        """Count a question for an entry that was not there."""
        self._count(1, key)

    def wrote(self, key: str, /) -> None:
        """Count a change of an entry."""
        self._count(2, key)

    def wrote_many(self, number: int, /) -> None:
        """Count changes of entries."""
        self._words[2] += number

    def own(self) -> tuple[int, int, int]:
        """Return hits, misses and writes that no page has."""
        hits, misses, writes, _ = self._own
        return hits, misses, writes

    def attach(self, fd: int, offset: int, /) -> None:
        """Count in that page of a file."""
        skipped = offset % mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(fd, skipped + _PAGE_BYTES, offset=offset - skipped)
        self._page = memoryview(mapped)[skipped:]
        words = self._page.cast("Q")
        for at in range(3):
            words[at] += self._own[at]
            self._own[at] = 0
        self._words = words

    def detach(self) -> None:
        """Count in memory of its own."""
        self._words = self._own

    def _count(self, kind: int, key: str) -> None:
        words = self._words
        words[kind] += 1
        self._until_sample -= 1
        if self._until_sample <= 0:
            self._until_sample = randrange(1, 32)  # noqa: S311  no secret
            if words is not self._own:
                number = words[3] + 1
                text = key.encode()
                at = _SAMPLE_BYTES * (1 + number % _SAMPLES)
                pack_into(
                    "=BB54sI", self._page, at + 4, kind, min(len(text), 255), text[:_KEY_BYTES], number & _32_BITS
                )
                pack_into("=I", self._page, at, number & _32_BITS)
                words[3] = number

    def forget(self) -> None:
        """Begin anew, in a forked child."""
        self._own[:] = [0] * 4
        self._words = self._own


_living: WeakSet[Counts] = WeakSet()


def _forget_all() -> None:
    for each in list(_living):
        each.forget()


os.register_at_fork(after_in_child=_forget_all)
