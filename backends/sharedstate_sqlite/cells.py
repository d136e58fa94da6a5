"""A value as SQLite keeps it: natively where SQLite has that very type, else as a BLOB of its msgpack encoding.

None is NULL, int INTEGER, float REAL, str TEXT.  A BLOB is everything else, and
also an int above 2**63 - 1; nan, inf and -0.0, which SQLite would change or other
tools misread; and a str with NUL, at which C programs would end it.
"""

from __future__ import annotations

from sharedstate.errors import CapacityError, CorruptError, KeyFormatError
from sharedstate.model import ABSENT
from sharedstate.values import check_key, decode, encode
from sharedstate_sqlite.offer import MAX_VALUE_BYTES

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["MAX_INTEGER", "MIN_INTEGER", "bounds_of", "check_row", "is_integer_or_float", "pack", "unpack"]

MIN_INTEGER: Final = -(2**63)
MAX_INTEGER: Final = 2**63 - 1
_SURELY_SMALL: Final = MAX_VALUE_BYTES // 4


def pack(url: str, value: Any) -> Any:
    """Return what to bind for `value`.

    Raises:
        ValueTypeError: it is outside the value model.
        CapacityError: it is larger than `MAX_VALUE_BYTES`.
    """
    kind = type(value)  # pyright: ignore[reportUnknownVariableType]  of whatever the caller has
    if kind is int:
        if MIN_INTEGER <= value <= MAX_INTEGER:
            return value
    elif kind is str:
        if value.isascii() and len(value) < _SURELY_SMALL and "\0" not in value:
            return value
    elif kind is float:
        # Infinity less itself is NaN, which equals nothing.
        if value - value == 0.0 and (value != 0.0 or str(value) == "0.0"):
            return value
    elif value is None:
        return None
    encoded = encode(value)
    if len(encoded) > MAX_VALUE_BYTES:
        raise CapacityError(
            url=url,
            reason=f"the value has {len(encoded)} bytes, the limit is {MAX_VALUE_BYTES}",
            advice="Keep it in a file and store its name, or split it.",
        )
    return value if kind is str and "\0" not in value else encoded


def unpack(url: str, key: str, cell: Any) -> Any:
    """Return the value of what was read.

    Raises:
        CorruptError: a BLOB that is no encoded value.
    """
    if type(cell) is not bytes:
        return cell
    try:
        return decode(cell)
    except CorruptError as error:
        raise CorruptError(url=url, reason=f"the value of {key!r} is {error.reason}") from error


def check_row(url: str, key: Any, cell: Any, generation: Any, expires_at: Any) -> None:
    """Verify Q3 to Q5 of one row.

    Raises:
        CorruptError: it breaks one of them.
    """
    if type(key) is not str:
        raise CorruptError(url=url, reason=f"Q3: {key!r} is a key")
    try:
        check_key(key)
    except KeyFormatError as error:
        raise CorruptError(url=url, reason=f"Q3: {error}") from error
    if type(generation) is not int or generation <= ABSENT:
        raise CorruptError(url=url, reason=f"Q3: {key!r} is at generation {generation!r}")
    try:
        unpack(url, key, cell)
    except CorruptError as error:
        raise CorruptError(url=url, reason=f"Q4: {error.reason}") from error
    if expires_at is not None and not (type(expires_at) is float and 0 < expires_at < 1e12):
        raise CorruptError(url=url, reason=f"Q5: {key!r} expires at {expires_at!r}")


def bounds_of(by: Any) -> tuple[int, int] | None:
    """Return between which integers `by` can be added in 64 bits, None if SQLite cannot add it."""
    if type(by) is int:
        if MIN_INTEGER <= by <= MAX_INTEGER:
            return (MIN_INTEGER, MAX_INTEGER - by) if by >= 0 else (MIN_INTEGER - by, MAX_INTEGER)
    elif type(by) is float and by - by == 0.0:
        return MIN_INTEGER, MAX_INTEGER
    return None


def is_integer_or_float(number: Any) -> bool:
    """Return whether SQLite has a type for `number`, a float or an int."""
    return type(number) is float or MIN_INTEGER <= number <= MAX_INTEGER
