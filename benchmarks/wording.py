"""Figures in words, the same in the terminal, on the page and in the README."""

from __future__ import annotations

from typing import Final

__all__ = ["bounds", "bytes_of", "duration", "factor", "rate"]

_DURATIONS: Final = (("s", 1e9), ("ms", 1e6), ("µs", 1e3))


def duration(nanoseconds: float) -> str:
    """Return a time with three digits, or two below 10 ns: 165 ns, 1.60 µs, 27.5 ms."""
    for unit, size in _DURATIONS:
        if nanoseconds >= 0.9995 * size:
            return f"{_three(nanoseconds / size)} {unit}"
    return f"{nanoseconds:.0f} ns" if nanoseconds >= 9.95 else f"{nanoseconds:.1f} ns"


def rate(per_second: float) -> str:
    """Return a rate: 17.3 M/s, 940 k/s."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if per_second >= 0.9995 * size:
            return f"{_three(per_second / size)} {unit}/s"
    return f"{per_second:.3g}/s"


def bytes_of(count: float) -> str:
    """Return a size: 96 B, 1.5 KiB."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{_three(count / size)} {unit}"
    return f"{count:.3g} B"


def factor(ratio: float) -> str:
    """Return how many times: 0.24, 1.5, 12, 1,240."""
    if ratio >= 9.95:
        return f"{ratio:,.0f}"
    return f"{ratio:.2g}" if ratio < 0.0995 else f"{ratio:.2f}" if ratio < 0.995 else f"{ratio:.1f}"


def bounds(low: float, high: float) -> str:
    """Return an interval."""
    return f"{low:.2f} - {high:.2f}"


def _three(number: float) -> str:
    return f"{number:,.0f}" if number >= 99.95 else f"{number:#.3g}"
