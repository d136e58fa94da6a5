"""When two values are the same: `1 == True == 1.0` and `nan != nan` are no help to a test."""

from __future__ import annotations

from struct import pack
from typing import Any

__all__ = ["is_same"]


def is_same(left: Any, right: Any) -> bool:
    """Return whether two values are the same to the bit, types, order and NaNs included."""
    if type(left) is not type(right):
        return False
    if type(left) is float:
        return pack("d", left) == pack("d", right)
    if type(left) is dict:
        return is_same(_items(left), _items(right))
    if type(left) in {list, tuple}:
        return len(left) == len(right) and all(map(is_same, left, right))
    if hasattr(left, "utcoffset"):
        return bool(left == right and left.utcoffset() == right.utcoffset())
    return bool(left == right)


def _items(mapping: Any) -> list[Any]:
    return list(mapping.items())
