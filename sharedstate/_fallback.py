"""The codec where the C module is not built: the same bytes, the same errors.

Encoding checks the value first, by the code that explains the C codec's
failures, and then msgpack packs it.  Decoding has two readers: msgpack, which
is fast where its own C part loads, and `_Reader`, which is slow and knows our
rules to the byte.  What msgpack accepts without any doubt is the result;
anything else is `_Reader`'s to judge, so every verdict on malformed bytes is
one that the C codec, tested against it, gives too.

Relied on by `sharedstate.values` alone, which imports it only if it must.
"""

# msgpack has no types:
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownArgumentType=false

from __future__ import annotations

import struct
from typing import Any, NoReturn

import msgpack

_EXT_TUPLE = 1
_EXT_DATETIME = 2
_DATETIME_BYTES = 16
_MAX_DEPTH = 64


def encode(value: Any, /) -> bytes:
    """See `sharedstate.values.encode`."""
    from sharedstate.values import check

    check(value)
    return _pack(value)


def _pack(value: Any) -> bytes:
    # strict_types: a tuple is then no array, but left to _pack_extension.
    packed: Any = msgpack.packb(value, default=_pack_extension, strict_types=True, use_bin_type=True)
    return bytes(packed)


def _pack_extension(value: Any) -> msgpack.ExtType:
    from sharedstate.values import pack_datetime

    if type(value) is tuple:
        return msgpack.ExtType(_EXT_TUPLE, _pack(list(value)))
    payload = pack_datetime(value)
    assert payload is not None  # check() has refused naive ones
    return msgpack.ExtType(_EXT_DATETIME, payload)


def decode(encoded: bytes | bytearray | memoryview, /) -> Any:
    """See `sharedstate.values.decode`."""
    from sharedstate.errors import ValueTypeError
    from sharedstate.values import check

    octets = encoded if type(encoded) is bytes else bytes(memoryview(encoded))
    try:
        value = _unpack(octets)
        check(value)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException, ValueTypeError):
        return _Reader(octets).read_all()
    return value


class _DoubtError(ValueError):
    """Something that only `_Reader` may judge."""


def _unpack(octets: bytes) -> Any:
    return msgpack.unpackb(
        octets, ext_hook=_unpack_extension, object_pairs_hook=_unpack_dict, strict_map_key=False, raw=False
    )


def _unpack_dict(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    unpacked = dict(pairs)
    if len(unpacked) != len(pairs):  # one key twice, or 1 and True
        raise _DoubtError
    return unpacked


def _unpack_extension(code: int, payload: bytes) -> Any:
    from sharedstate.values import unpack_datetime

    if code == _EXT_TUPLE:
        items = _unpack(payload)
        if type(items) is list:
            return tuple(items)
    elif code == _EXT_DATETIME and len(payload) == _DATETIME_BYTES:
        moment = unpack_datetime(*struct.unpack(">qq", payload))
        if moment is not None:
            return moment
    raise _DoubtError


# --- The slow reader ------------------------------------------------------------

# First byte -> struct format of the number after it, which is the value itself ...
_SCALARS = {
    0xCA: ">f", 0xCB: ">d",
    0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
    0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip
# ... or a length or count, with the kind of what follows.
_LENGTHS = {
    0xC4: (">B", "bytes"), 0xC5: (">H", "bytes"), 0xC6: (">I", "bytes"),
    0xC7: (">B", "ext"), 0xC8: (">H", "ext"), 0xC9: (">I", "ext"),
    0xD9: (">B", "str"), 0xDA: (">H", "str"), 0xDB: (">I", "str"),
    0xDC: (">H", "list"), 0xDD: (">I", "list"),
    0xDE: (">H", "dict"), 0xDF: (">I", "dict"),
}  # fmt: skip
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_FIXED_EXT_BYTES = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}


class _Reader:
    """Reads one value, or says at which byte, and why, the bytes are none.

    The twin of `struct decoder` in c/codec.c: the same fields, order of checks
    and words.
    """

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._at = 0
        self._end = len(octets)
        self._due = 0  # elements that open containers still expect, each at least one byte

    def read_all(self) -> Any:
        value = self._read(0)
        if self._at != self._end:
            self._refuse(self._at, "bytes follow the value")
        return value

    def _refuse(self, at: int, reason: str) -> NoReturn:
        from sharedstate.values import raise_corrupt

        raise_corrupt(at, reason)

    def _left(self) -> int:
        return self._end - self._at

    def _take(self, head: int, count: int) -> bytes:
        if count > self._left():
            self._refuse(head, "truncated")
        taken = self._octets[self._at : self._at + count]
        self._at += count
        return taken

    def _number(self, head: int, form: str) -> Any:
        return struct.unpack(form, self._take(head, struct.calcsize(form)))[0]

    def _read(self, depth: int) -> Any:
        head = self._at
        first = self._take(head, 1)[0]
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 0x100
        if first < 0x90:
            return self._read_sized("dict", head, first & 15, depth)
        if first < 0xA0:
            return self._read_sized("list", head, first & 15, depth)
        if first < 0xC0:
            return self._read_sized("str", head, first & 31, depth)
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first in _SCALARS:
            return self._number(head, _SCALARS[first])
        if first in _FIXED_EXT_BYTES:
            return self._read_sized("ext", head, _FIXED_EXT_BYTES[first], depth)
        if first in _LENGTHS:
            form, kind = _LENGTHS[first]
            return self._read_sized(kind, head, self._number(head, form), depth)
        return self._refuse(head, "0xc1 is no type")

    def _read_sized(self, kind: str, head: int, count: int, depth: int) -> Any:
        if kind == "bytes":
            return self._take(head, count)
        if kind == "str":
            return self._read_str(head, count)
        if kind == "list":
            return self._read_list(head, count, depth)
        if kind == "dict":
            return self._read_dict(head, count, depth)
        return self._read_extension(head, count, depth)

    def _read_str(self, head: int, count: int) -> str:
        try:
            return self._take(head, count).decode()
        except UnicodeDecodeError:
            self._refuse(head, "a str that is not UTF-8")

    def _enter(self, head: int, count: int, depth: int) -> None:
        if depth == _MAX_DEPTH:
            self._refuse(head, "nested deeper than 64 containers")
        if count > self._left() - self._due:
            self._refuse(head, "truncated")
        self._due += count

    def _read_list(self, head: int, count: int, depth: int) -> list[Any]:
        self._enter(head, count, depth)
        items: list[Any] = []
        for _ in range(count):
            self._due -= 1
            items.append(self._read(depth + 1))
        return items

    def _read_dict(self, head: int, count: int, depth: int) -> dict[Any, Any]:
        self._enter(head, 2 * count, depth)
        pairs: dict[Any, Any] = {}
        for _ in range(count):
            self._due -= 1
            key = self._read_key()
            self._due -= 1
            pairs[key] = self._read(depth + 1)
        if len(pairs) != count:
            self._refuse(head, "a dict with one key twice")
        return pairs

    def _read_key(self) -> Any:
        if not self._left():
            self._refuse(self._at, "truncated")
        first = self._octets[self._at]
        is_int = first < 0x80 or first >= 0xE0 or 0xCC <= first <= 0xD3
        is_str = 0xA0 <= first < 0xC0 or 0xD9 <= first <= 0xDB
        if not (is_int or is_str):
            self._refuse(self._at, "a dict key that is neither str nor int")
        return self._read(0)

    def _read_extension(self, head: int, count: int, depth: int) -> Any:
        if count + 1 > self._left():
            self._refuse(head, "truncated")
        code = self._take(head, 1)[0]
        if code == _EXT_TUPLE:
            return self._read_tuple(head, count, depth)
        if code == _EXT_DATETIME:
            return self._read_datetime(head, count)
        return self._refuse(head, "unknown extension type")

    def _read_tuple(self, head: int, count: int, depth: int) -> tuple[Any, ...]:
        first = self._octets[self._at] if count else 0
        operand = {0xDC: 2, 0xDD: 4}.get(first, 0)
        if not (0x90 <= first < 0xA0 or (operand and count > operand)):
            self._refuse(head, "a tuple that is not exactly one array")
        outer = self._end, self._due
        self._end, self._due = self._at + count, 0
        self._at += 1
        length = int.from_bytes(self._take(head, operand), "big") if operand else first & 15
        items = tuple(self._read_list(head, length, depth))
        if self._at != self._end:
            self._refuse(head, "a tuple that is not exactly one array")
        self._end, self._due = outer
        return items

    def _read_datetime(self, head: int, count: int) -> Any:
        from sharedstate.values import unpack_datetime

        payload = self._take(head, count)
        moment = unpack_datetime(*struct.unpack(">qq", payload)) if count == _DATETIME_BYTES else None
        if moment is None:
            self._refuse(head, "a datetime out of range")
        return moment
