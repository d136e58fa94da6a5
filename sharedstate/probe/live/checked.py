"""Checks of single values that arrived: each returns the value, or raises TypeError."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["as_list", "as_number", "as_text", "as_texts", "as_whole", "clean"]

_LONGEST_TEXT: Final = 4000


def clean(text: str) -> str:
    """Return `text` without what a terminal would obey, and not longer than anyone would read."""
    shown = (char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)
    return "".join(shown)[:_LONGEST_TEXT]


def as_text(value: Any) -> str:
    """Return a str, cleaned."""
    if type(value) is not str:
        raise TypeError
    return clean(value)


def as_texts(value: Any) -> dict[str, str]:
    """Return a dict of str."""
    _require(dict, value)
    return {as_text(name): as_text(text) for name, text in value.items()}


def as_list(value: Any) -> list[Any]:
    """Return a list of anything."""
    _require(list, value)
    return list(value)


def as_whole(value: Any) -> int:
    """Return an int of 64 bits."""
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise TypeError
    return value


def as_number(value: Any) -> float:
    """Return a number that can be reckoned with."""
    if type(value) not in {int, float} or not -1e12 < value < 1e12:
        raise TypeError
    return float(value)


def _require(kind: type, value: Any) -> None:
    if type(value) is not kind:
        raise TypeError
