"""An entry as the server keeps it: `<generation> <deadline> <value>`.

The deadline is in milliseconds since 1970, and empty for never.  An int is
written in decimal digits, which the server's scripts can add to; any other value
is its msgpack encoding.  The two cannot be confused: what msgpack encodes
otherwise than as an int never begins with a digit or a minus sign.
"""

from __future__ import annotations

from sharedstate.errors import CapacityError, CorruptError
from sharedstate.model import Entry
from sharedstate.values import decode, encode
from sharedstate_redis.offer import MAX_VALUE_BYTES

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final, NoReturn

__all__ = [
    "HEADER_BYTES",
    "pack_value",
    "parse_entry",
    "parse_generation",
    "parse_value",
    "parse_values",
    "unpack_value",
]

HEADER_BYTES: Final = 40
"""More than a generation, a deadline and two spaces take."""

_DIGITS: Final = frozenset(b"0123456789-")
_LEAST: Final = -(2**63)
_MOST: Final = 2**64 - 1
_SURELY_FITS: Final = 19  # digits


def pack_value(url: str, value: Any) -> bytes:
    """Return the bytes of a value.

    Raises:
        ValueTypeError: it is outside the value model.
        CapacityError: it is larger than `MAX_VALUE_BYTES`.
    """
    if type(value) is int and _LEAST <= value <= _MOST:
        return b"%d" % value
    encoded = encode(value)
    if len(encoded) > MAX_VALUE_BYTES:
        raise CapacityError(
            url=url,
            reason=f"the value has {len(encoded)} bytes, the limit is {MAX_VALUE_BYTES}",
            advice="Keep it in a file and store its name, or split it.",
        )
    return encoded


def unpack_value(url: str, key: str, packed: bytes) -> Any:
    """Return the value of bytes.

    Raises:
        CorruptError: they are not what `pack_value` makes.
    """
    try:
        if packed[0] not in _DIGITS:
            return decode(packed)
        number = int(packed)
    except CorruptError as error:
        _refuse(url, key, f"holds a value that is {error.reason}", error)
    except (IndexError, ValueError) as error:
        _refuse(url, key, "holds no value", error)
    if not _LEAST <= number <= _MOST:
        _refuse(url, key, f"holds {number}, an int beyond 64 bits", None)
    return number


def parse_value(url: str, key: str, cell: bytes) -> Any:
    """Return the value in a cell."""
    try:
        _, _, packed = cell.split(b" ", 2)
    except ValueError as error:
        _refuse(url, key, "is no entry", error)
    return unpack_value(url, key, packed)


def parse_values(url: str, keys: Sequence[str], cells: Sequence[bytes | None]) -> dict[str, Any]:
    """Return the values in those cells that are there, by their keys; one frame for all of them."""
    values: dict[str, Any] = {}
    for key, cell in zip(keys, cells, strict=True):
        if cell is None:
            continue
        parts = cell.split(b" ", 2)
        if len(parts) == 3 and len(packed := parts[2]) < _SURELY_FITS and packed.isdigit():
            values[key] = int(packed)
        else:
            values[key] = parse_value(url, key, cell)
    return values


def parse_entry(url: str, key: str, cell: bytes) -> Entry:
    """Return what is in a cell."""
    try:
        generation, deadline, packed = cell.split(b" ", 2)
        expires_at = int(deadline) / 1000 if deadline else None
        number = int(generation)
    except ValueError as error:
        _refuse(url, key, "is no entry", error)
    return Entry(unpack_value(url, key, packed), number, expires_at)


def parse_generation(url: str, key: str, header: bytes) -> int:
    """Return the generation in a cell of which the first `HEADER_BYTES` are enough."""
    try:
        return int(header[: header.index(b" ")])
    except ValueError as error:
        _refuse(url, key, "is no entry", error)


def _refuse(url: str, key: str, reason: str, error: Exception | None) -> NoReturn:
    raise CorruptError(url=url, reason=f"R2: {key!r} {reason}") from error
