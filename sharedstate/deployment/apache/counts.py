"""Numbers that are exact where the server makes them so, and a range where it does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["NONE", "Range", "exactly", "total"]


@dataclass(frozen=True, slots=True)
class Range:
    """From `low` to `high`, both included; `high` None: nothing bounds it."""

    low: int
    high: int | None

    @property
    def is_exact(self) -> bool:
        """Whether only one number is left."""
        return self.low == self.high

    def __contains__(self, number: int) -> bool:
        return self.low <= number and (self.high is None or number <= self.high)

    def __add__(self, other: Range) -> Range:
        high = None if self.high is None or other.high is None else self.high + other.high
        return Range(self.low + other.low, high)

    def __mul__(self, other: Range) -> Range:
        if 0 in {self.high, other.high}:
            return NONE
        high = None if self.high is None or other.high is None else self.high * other.high
        return Range(self.low * other.low, high)

    def __or__(self, other: Range) -> Range:
        """Return the range that holds both."""
        high = None if self.high is None or other.high is None else max(self.high, other.high)
        return Range(min(self.low, other.low), high)

    def __str__(self) -> str:
        if self.is_exact:
            return str(self.low)
        return f"{self.low} or more" if self.high is None else f"{self.low} to {self.high}"


def exactly(number: int) -> Range:
    """Return the range of one number."""
    return Range(number, number)


def total(ranges: Iterable[Range]) -> Range:
    """Return the sum."""
    return sum(ranges, NONE)


NONE: Final = exactly(0)
