"""Which values can be stored, and the bytes that stand for them.

The value model: None, bool, int (-2**63 to 2**64 - 1), float, str, bytes, list,
tuple, dict (str or int keys) and aware datetime, nested to depth 64.  Exact
types only, and each comes back as itself; a subclass would not.

The bytes are msgpack's, in its shortest forms, so any msgpack library reads
them.  Two types need an extension: a tuple is type 1 around the array of its
items; a datetime is type 2, two big-endian 64-bit integers, microseconds since
1970 UTC and UTC offset in microseconds (a time zone's rules do not travel).

`encode` and `decode` are C where the C module is built, and else msgpack with
the same bytes and the same errors (`ACCELERATED` says which).  Imports neither
msgpack nor datetime unless it must: several CPythons crash after those imports
in isolated interpreters.

Relied on by every backend and by the C code, which calls `refuse`,
`raise_corrupt`, `pack_datetime` and `unpack_datetime` by name.
"""

from __future__ import annotations

from sharedstate.errors import CorruptError, KeyFormatError, ValueTypeError

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from datetime import datetime
    from typing import Any, Final, NoReturn, TypeAlias

    Value: TypeAlias = Any
else:
    Value = object
"""A value of the model; to a type checker, Any.

Not a union: list and dict are invariant, so a caller's `dict[str, int]` would
be no `Value`, and every result would need a cast before its first index.
"""

__all__ = ["ACCELERATED", "MAX_DEPTH", "MAX_KEY_BYTES", "Value", "check", "check_key", "decode", "encode"]

MAX_DEPTH: Final = 64
"""How many containers may lie within one another."""

MAX_KEY_BYTES: Final = 512

_MIN_INT: Final = -(2**63)
_MAX_INT: Final = 2**64 - 1
_MAX_LENGTH: Final = 2**32 - 1  # of a str, bytes or container, in msgpack

_PLAIN_TYPES: Final = (bool, int, float, str, bytes, list, tuple, dict)


def check(value: Value) -> None:
    """Return if `value` is within the value model.

    Raises:
        ValueTypeError: `path` names the first element that is not, counted
            from `value`.
    """
    _check(value, "value", 0)


def check_key_slowly(key: str, /) -> None:
    """Do what `check_key` does, in Python: the reference, and the fallback, and what explains a refusal."""
    if type(key) is str:
        if key.isascii():
            if 0 < len(key) <= MAX_KEY_BYTES:
                return
        elif len(key) <= MAX_KEY_BYTES and not _has_surrogate(key) and len(key.encode()) <= MAX_KEY_BYTES:
            return
    raise KeyFormatError(found=_describe_key(key))


def _describe_key(key: object) -> str:
    if type(key) is not str:
        return _type_name(type(key))
    if not key:
        return "an empty one"
    if _has_surrogate(key):
        return "a str with a lone surrogate"
    return f"one of {len(key.encode())} bytes"


# --- Finding the element at fault ---------------------------------------------


def _check(value: Any, path: str, depth: int) -> None:
    kind: type = type(value)  # pyright: ignore[reportUnknownVariableType]  the type of Any
    if value is None or kind is bool or kind is float:
        return
    if kind is int:
        _check_int(value, path)
    elif kind is str:
        _check_str(value, path)
    elif kind is bytes:
        _check_length(value, path)
    elif kind is list or kind is tuple:
        _check_sequence(value, path, depth)
    elif kind is dict:
        _check_dict(value, path, depth)
    elif _is_datetime(kind):
        _check_datetime(value, path)
    else:
        raise ValueTypeError(path=path, found=_type_name(kind), advice=_advice(kind))


def _check_sequence(items: list[Any] | tuple[Any, ...], path: str, depth: int) -> None:
    _check_container(items, path, depth)
    for index, element in enumerate(items):
        _check(element, f"{path}[{index}]", depth + 1)


def _check_dict(pairs: dict[Any, Any], path: str, depth: int) -> None:
    _check_container(pairs, path, depth)
    for key, element in pairs.items():
        element_path = f"{path}[{_abbreviated(key)}]"
        _check_dict_key(key, element_path)
        _check(element, element_path, depth + 1)


def _check_container(container: Any, path: str, depth: int) -> None:
    if depth == MAX_DEPTH:
        raise ValueTypeError(
            path=path,
            found=f"a {type(container).__name__} within {MAX_DEPTH} others",
            advice="Store its parts under keys of their own; a container that holds itself cannot be stored.",
        )
    _check_length(container, path)


def _check_datetime(moment: datetime, path: str) -> None:
    if moment.utcoffset() is None:
        raise ValueTypeError(
            path=path,
            found="a datetime without a time zone",
            advice="Make it aware, for instance with .astimezone() or .replace(tzinfo=timezone.utc).",
        )


def _check_int(number: int, path: str) -> None:
    if not _MIN_INT <= number <= _MAX_INT:
        raise ValueTypeError(
            path=path,
            found=f"an int of {number.bit_length()} bits",
            advice="The range is -2**63 to 2**64 - 1; store a larger one as str.",
        )


def _check_str(text: str, path: str) -> None:
    if _has_surrogate(text):
        raise ValueTypeError(
            path=path,
            found="a str with a lone surrogate",
            advice="UTF-8 cannot hold it; store os.fsencode() of a file name, or bytes.",
        )
    _check_length(text, path)


def _check_length(sized: Any, path: str) -> None:
    # A str of n characters has at most 4 n bytes: the encoding is made only if it could matter.
    if len(sized) > _MAX_LENGTH // 4:
        length = len(sized.encode()) if type(sized) is str else len(sized)
        if length > _MAX_LENGTH:
            raise ValueTypeError(
                path=path, found=f"a {type(sized).__name__} of length {length}", advice="The limit is 2**32 - 1."
            )


def _check_dict_key(key: object, path: str) -> None:
    if type(key) is str:
        _check_str(key, f"the key of {path}")
    elif type(key) is int:
        _check_int(key, f"the key of {path}")
    else:
        raise ValueTypeError(
            path=f"the key of {path}", found=_type_name(type(key)), advice="The keys of a dict are str or int."
        )


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _is_datetime(kind: type) -> bool:
    return kind.__module__ == "datetime" and kind.__qualname__ == "datetime"


def _type_name(kind: type) -> str:
    if kind is type(None):
        return "None"
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _advice(kind: type) -> str:
    for plain in _PLAIN_TYPES:
        if issubclass(kind, plain):
            return f"Convert it with {plain.__name__}(), which is what would come back."
    if any(_is_datetime(base) for base in kind.__mro__):
        return "Convert it to a plain datetime, which is what would come back."
    if issubclass(kind, (set, frozenset)):
        return "Convert it with list() or sorted()."
    if issubclass(kind, (bytearray, memoryview)):
        return "Convert it with bytes()."
    return "Convert it to None, bool, int, float, str, bytes, list, tuple, dict or an aware datetime."


def _abbreviated(key: object) -> str:
    """Return the repr of a dict key, if it is short and its own code need not run."""
    if type(key) is str:
        text = key.encode(errors="backslashreplace").decode()
        return '"' + (text if len(text) <= 40 else f"{text[:40]}...") + '"'
    is_small_int = type(key) is int and key.bit_length() < 128  # repr() refuses ints of thousands of digits
    if is_small_int or type(key) in {bool, float, bytes, type(None)}:
        text = repr(key)
        return text if len(text) <= 44 else f"{text[:40]}..."
    return f"<{type(key).__qualname__}>"


# --- Called by the codec ---------------------------------------------------------


def refuse(value: Any) -> NoReturn:
    """Raise the ValueTypeError that says why `value` could not be encoded."""
    check(value)
    raise ValueTypeError(path="value", found="of over 4 GiB when encoded, or changing while it was being encoded")


def raise_corrupt(offset: int, reason: str) -> NoReturn:
    """Raise the CorruptError for malformed bytes; a caller that knows their origin names it instead."""
    raise CorruptError(url="encoded value", reason=f"malformed at byte {offset}: {reason}")


def pack_datetime(moment: datetime) -> bytes | None:
    """Return the payload of extension type 2, or None for a naive datetime."""
    from datetime import datetime, timedelta

    offset = moment.utcoffset()
    if offset is None:
        return None
    microsecond = timedelta(microseconds=1)
    # In local time and not by astimezone(): the UTC of year 1 may be in year 0, which datetime lacks.
    local = (moment.replace(tzinfo=None) - datetime(1970, 1, 1)) // microsecond  # noqa: DTZ001  local on purpose
    offset_us = offset // microsecond
    return (local - offset_us).to_bytes(8, "big", signed=True) + offset_us.to_bytes(8, "big", signed=True)


def unpack_datetime(instant_us: int, offset_us: int) -> datetime | None:
    """Return the datetime of a payload, or None if it is out of datetime's range."""
    from datetime import UTC, datetime, timedelta, timezone

    try:
        zone = timezone(timedelta(microseconds=offset_us)) if offset_us else UTC
        return datetime(1970, 1, 1, tzinfo=zone) + timedelta(microseconds=instant_us + offset_us)
    except (OverflowError, ValueError):
        return None


# --- The codec ---------------------------------------------------------------------

try:
    from sharedstate._native import check_key, decode, encode

    _is_native = True
except ImportError:
    from sharedstate._fallback import decode, encode

    check_key = check_key_slowly
    _is_native = False

ACCELERATED: Final = _is_native
"""Whether the codec is C."""
