"""The value model: what can be stored, what comes back, and what a refusal says."""

from __future__ import annotations

import collections
import datetime as dt
import enum
import math
import pickle
import struct
import subprocess
import sys
from typing import Any

import pytest

from sharedstate import _fallback, _native, values
from sharedstate.errors import CorruptError, KeyFormatError, StateError, ValueTypeError

UTC = dt.UTC
CODECS = pytest.mark.parametrize("codec", [_native, _fallback], ids=["native", "fallback"])


def nested(depth: int, kind: type[Any]) -> Any:
    """Return None within `depth` containers."""
    value: Any = None
    for _ in range(depth):
        value = {"k": value} if kind is dict else kind([value])
    return value


def test_the_c_codec_is_in_use_where_it_is_built() -> None:
    """`values.encode` and `decode` are the C functions themselves, with nothing in between."""
    assert values.ACCELERATED
    assert values.encode is _native.encode
    assert values.decode is _native.decode


# --- What comes back ----------------------------------------------------------

EDGES: list[Any] = [
    None, True, False, "", "a", "é", "\U0001f40d" * 9, "x" * 31, "x" * 32, "x" * 255, "x" * 256, "x" * 65536, "\0",
    b"", b"\xff" * 255, b"y" * 256, b"y" * 65536, [], (), {}, [()], ([],), {"a": ()},
    [0] * 15, [0] * 16, [0] * 65536, tuple(range(70_000)), dict.fromkeys(range(16)), dict.fromkeys(range(65536)),
    {0: "int", "0": "str"}, {-(2**63): 1, 2**64 - 1: 2},
    math.inf, -math.inf, 5e-324, 1.7976931348623157e308,
    *(sign * 2**power + step for power in (5, 7, 8, 15, 16, 31, 32, 62) for sign in (1, -1) for step in (-1, 0, 1)),
    2**63 - 1, 2**63, 2**64 - 1, -(2**63),
]  # fmt: skip


@CODECS
@pytest.mark.parametrize("value", EDGES, ids=lambda value: repr(value)[:30])
def test_a_value_comes_back_as_itself(codec: Any, value: Any) -> None:
    """Each type of the model, at each change of its encoded form, comes back equal and of the same type."""
    returned = codec.decode(codec.encode(value))

    assert returned == value
    assert repr(returned) == repr(value)


@CODECS
@pytest.mark.parametrize("bits", [0x7FF8000000000000, 0x7FF8DEADBEEF0001, 0xFFF8000000000000, 0x8000000000000000])
def test_a_float_keeps_every_bit(codec: Any, bits: int) -> None:
    """A NaN keeps its payload and sign, and -0.0 its sign."""
    number = struct.unpack(">d", struct.pack(">Q", bits))[0]

    returned = codec.decode(codec.encode(number))

    assert struct.unpack(">Q", struct.pack(">d", returned))[0] == bits


@CODECS
@pytest.mark.parametrize(
    "moment",
    [
        dt.datetime(1970, 1, 1, tzinfo=UTC),
        dt.datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=UTC),
        dt.datetime(1931, 5, 5, 5, 5, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=45))),
        dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=23, minutes=59))),
        dt.datetime.max.replace(tzinfo=dt.timezone(-dt.timedelta(hours=23, microseconds=1))),
    ],
    ids=str,
)
def test_a_datetime_comes_back_with_its_offset(codec: Any, moment: dt.datetime) -> None:
    """An aware datetime comes back equal to the microsecond, with the offset it had, also at the ends of the range."""
    returned = codec.decode(codec.encode(moment))

    assert returned == moment
    assert returned.utcoffset() == moment.utcoffset()
    assert returned.isoformat() == moment.isoformat()


def test_utc_comes_back_as_the_utc_singleton() -> None:
    """Offset 0 decodes to `datetime.timezone.utc`, so that `is` holds."""
    assert values.decode(values.encode(dt.datetime(2000, 1, 1, tzinfo=UTC))).tzinfo is UTC


def test_the_extension_types_are_part_of_the_format() -> None:
    """A tuple is ext 1 around its array; a datetime is fixext16 2: instant and offset in microseconds."""
    moment = dt.datetime(1970, 1, 1, 1, 0, 0, 7, tzinfo=dt.timezone(dt.timedelta(hours=2)))

    assert values.encode((1, 2)) == b"\xc7\x03\x01\x92\x01\x02"
    assert values.encode(()) == b"\xd4\x01\x90"
    assert values.encode(moment) == b"\xd8\x02" + struct.pack(">qq", -3_600_000_000 + 7, 7_200_000_000)


@CODECS
@pytest.mark.parametrize("kind", [list, tuple, dict])
def test_nesting_reaches_depth_64_and_no_deeper(codec: Any, kind: type[Any]) -> None:
    """64 containers within one another can be stored; one more is refused, both ways."""
    deepest = nested(64, kind)

    assert codec.decode(codec.encode(deepest)) == deepest
    with pytest.raises(ValueTypeError, match="within 64 others"):
        codec.encode(nested(65, kind))
    if kind is list:
        with pytest.raises(CorruptError, match="byte 64: nested deeper"):
            codec.decode(b"\x91" * 65 + b"\xc0")


@CODECS
@pytest.mark.parametrize("make", [bytearray, memoryview])
def test_decoding_takes_any_bytes_like(codec: Any, make: Any) -> None:
    """Bytes, bytearray and memoryview decode alike; a str or an int is a TypeError."""
    assert codec.decode(make(codec.encode({"a": [1]}))) == {"a": [1]}
    for wrong in ("text", 5, None):
        with pytest.raises(TypeError):
            codec.decode(wrong)


# --- What is refused, and in which words ---------------------------------------


class Color(enum.IntEnum):
    RED = 1


class Name(str):
    __slots__ = ()


class Moment(dt.datetime):
    pass


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)

REFUSED: list[tuple[Any, str, str, str]] = [
    ({"a": [0, 1, 2, {1}]}, 'value["a"][3]', "a set", "list()"),
    ({7: (0, object())}, "value[7][1]", "an object", "None, bool, int"),
    (2**64, "value", "an int of 65 bits", "2**64 - 1"),
    ([-(2**63) - 1], "value[0]", "an int of 64 bits", "-2**63"),
    ("a\ud800b", "value", "a str with a lone surrogate", "bytes"),
    ([dt.datetime(2020, 1, 1)], "value[0]", "a datetime without a time zone", "aware"),  # noqa: DTZ001
    (dt.date(2020, 1, 1), "value", "a datetime.date", "aware datetime"),
    (Moment(2020, 1, 1, tzinfo=UTC), "value", f"a {__name__}.Moment", "plain datetime"),
    (Color.RED, "value", f"a {__name__}.Color", "int()"),
    ([Name("x")], "value[0]", f"a {__name__}.Name", "str()"),
    (collections.OrderedDict(), "value", "a collections.OrderedDict", "dict()"),
    (collections.Counter("a"), "value", "a collections.Counter", "dict()"),
    (bytearray(b"x"), "value", "a bytearray", "bytes()"),
    (frozenset(), "value", "a frozenset", "sorted()"),
    (1j, "value", "a complex", "Convert"),
    (print, "value", "a builtin_function_or_method", "Convert"),
    ({"a": {True: 1}}, 'the key of value["a"][True]', "a bool", "str or int"),
    ({None: 1}, "the key of value[None]", "None", "str or int"),
    ({(1, 2): 1}, "the key of value[<tuple>]", "a tuple", "str or int"),
    ({2**64: 1}, "the key of value[18446744073709551616]", "an int of 65 bits", "2**64 - 1"),
    ({10**5000: 1}, "the key of value[<int>]", "an int of 16610 bits", "2**64 - 1"),
    ({"\ud800": 1}, 'the key of value["\\ud800"]', "a str with a lone surrogate", "bytes"),
    ({Name("x"): 1}, "the key of value[<Name>]", f"a {__name__}.Name", "str or int"),
    ({"k" * 50: {1}}, 'value["' + "k" * 40 + '..."]', "a set", "list()"),
    (ENDLESS, "value" + "[0]" * 64, "a list within 64 others", "holds itself"),
]


@CODECS
@pytest.mark.parametrize(
    ("value", "path", "found", "advice"), REFUSED, ids=[f"{row[2]} {i}" for i, row in enumerate(REFUSED)]
)
def test_a_refusal_names_the_path_the_finding_and_the_way_out(
    codec: Any, value: Any, path: str, found: str, advice: str
) -> None:
    """Anything outside the model raises a ValueTypeError, also a TypeError, that survives pickling."""
    with pytest.raises(ValueTypeError) as caught:
        codec.encode(value)

    error = caught.value
    assert (error.path, error.found) == (path, found)
    assert advice in error.advice
    assert isinstance(error, TypeError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    with pytest.raises(ValueTypeError, match="nothing was written"):
        values.check(value)


def test_a_value_that_changes_under_the_encoder_is_refused_and_harmless() -> None:
    """A tzinfo whose code empties the list being encoded ends in ValueTypeError, not in a crash."""
    value: list[Any] = []

    class Emptying(dt.tzinfo):
        def utcoffset(self, _: dt.datetime | None) -> dt.timedelta:
            value.clear()
            return dt.timedelta(0)

    value += [[dt.datetime(2020, 1, 1, tzinfo=Emptying())], "rest"]

    with pytest.raises(ValueTypeError, match="changing"):
        values.encode(value)


@CODECS
def test_an_error_in_a_tzinfo_reaches_the_caller(codec: Any) -> None:
    """What a datetime's own tzinfo raises is not ours to swallow."""

    class Broken(dt.tzinfo):
        def utcoffset(self, _: dt.datetime | None) -> dt.timedelta:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        codec.encode([dt.datetime(2020, 1, 1, tzinfo=Broken())])


# --- Malformed bytes --------------------------------------------------------------

MALFORMED: list[tuple[bytes, int, str]] = [
    (b"", 0, "truncated"),
    (b"\xc1", 0, "0xc1 is no type"),
    (b"\x01\x02", 1, "bytes follow the value"),
    (b"\x92\x01", 0, "truncated"),
    (b"\xa5abc", 0, "truncated"),
    (b"\xcd\x00", 0, "truncated"),
    (b"\xdd\xff\xff\xff\xff", 0, "truncated"),
    (b"\xdf\xff\xff\xff\xff" + b"\xc0" * 99, 0, "truncated"),
    (b"\xdb\xff\xff\xff\xff", 0, "truncated"),
    (b"\xc6\xff\xff\xff\xff", 0, "truncated"),
    (b"\xc9\xff\xff\xff\xff\x01", 0, "truncated"),
    (b"\x91\xa1\xff", 1, "a str that is not UTF-8"),
    (b"\xa3\xed\xa0\x80", 0, "a str that is not UTF-8"),
    (b"\x81\xc0\x01", 1, "a dict key that is neither str nor int"),
    (b"\x81\xc3\x01", 1, "a dict key that is neither str nor int"),
    (b"\x81\xcb\x00\x00\x00\x00\x00\x00\x00\x00\x01", 1, "a dict key that is neither str nor int"),
    (b"\x81\x90\x01", 1, "a dict key that is neither str nor int"),
    (b"\x82\xa1a\x01\xa1a\x02", 0, "a dict with one key twice"),
    (b"\x82\x01\x01\xcc\x01\x02", 0, "a dict with one key twice"),
    (b"\xd4\x07\x00", 0, "unknown extension type"),
    (b"\xd6\xff\x00\x00\x00\x00", 0, "unknown extension type"),
    (b"\xd4\x01\x01", 0, "a tuple that is not exactly one array"),
    (b"\xd5\x01\x90\x90", 0, "a tuple that is not exactly one array"),
    (b"\xc7\x00\x01", 0, "a tuple that is not exactly one array"),
    (b"\xd4\x01\xdc", 0, "a tuple that is not exactly one array"),
    (b"\xd4\x01\x91\x05", 0, "truncated"),
    (b"\xd4\x02\x00", 0, "a datetime out of range"),
    (b"\xd8\x02" + b"\x7f" + b"\xff" * 15, 0, "a datetime out of range"),
    (b"\xd8\x02" + struct.pack(">qq", 0, 86_400_000_000), 0, "a datetime out of range"),
    (b"\xd8\x02" + struct.pack(">qq", -(2**63), -(2**63)), 0, "a datetime out of range"),
]


@CODECS
@pytest.mark.parametrize(("encoded", "offset", "reason"), MALFORMED, ids=lambda field: repr(field)[:40])
def test_malformed_bytes_are_named_to_the_byte(codec: Any, encoded: bytes, offset: int, reason: str) -> None:
    """Bytes that are not exactly one value raise a CorruptError with the offset of the element at fault."""
    with pytest.raises(CorruptError) as caught:
        codec.decode(encoded)

    assert caught.value.reason == f"malformed at byte {offset}: {reason}"


@CODECS
def test_nested_absurd_lengths_reserve_nothing(codec: Any) -> None:
    """64 levels that each claim all the bytes left are refused at the second, not after 64 times the memory."""
    filler = b"\xc0" * 100_000
    hostile = (b"\xdd" + (90_000).to_bytes(4, "big")) * 60 + filler

    with pytest.raises(CorruptError, match="byte 5: truncated"):
        codec.decode(hostile)


# --- Keys -----------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["k", "x" * 512, "é" * 256, "\U0001f40d" * 128, "\0", " "])
def test_a_key_is_a_str_of_1_to_512_bytes(key: str) -> None:
    """Bytes of UTF-8 count, not characters."""
    values.check_key(key)


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("", "an empty one"),
        ("x" * 513, "one of 513 bytes"),
        ("é" * 257, "one of 514 bytes"),
        ("\ud800", "a str with a lone surrogate"),
        ("\ud800" * 600, "a str with a lone surrogate"),
        (b"k", "a bytes"),
        (None, "None"),
        (5, "an int"),
        (Name("k"), f"a {__name__}.Name"),
    ],
    ids=lambda field: repr(field)[:20],
)
def test_any_other_key_is_refused(key: Any, found: str) -> None:
    """A KeyFormatError says what was found instead."""
    with pytest.raises(KeyFormatError) as caught:
        values.check_key(key)

    assert caught.value.found == found
    assert isinstance(caught.value, StateError)


# --- Weight -----------------------------------------------------------------------------


def run_python(script: str) -> str:
    """Return what a fresh Python prints when it runs `script`."""
    return subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60).stdout


def test_plain_values_import_nothing_heavy() -> None:
    """Encoding and decoding without a datetime loads neither datetime, msgpack nor struct, and not the fallback."""
    script = (
        "import sys\nbefore = set(sys.modules)\nfrom sharedstate import values\n"
        "values.decode(values.encode({'a': [1, (2.5, b'x')]}))\n"
        "print(sorted({'datetime', 'msgpack', 'struct', 'sharedstate._fallback'} & (set(sys.modules) - before)))"
    )

    assert run_python(script) == "[]\n"


def test_without_the_c_module_the_bytes_are_the_same() -> None:
    """With `_native` missing, values falls back on msgpack, says so, and encodes alike."""
    value = {"a": [1, (2.5, b"x"), None], "b": {7: "é"}}
    script = (
        "import sys\nsys.modules['sharedstate._native'] = None\nfrom sharedstate import values\n"
        f"value = {value!r}\n"
        "print(values.ACCELERATED, values.encode(value).hex(), values.decode(values.encode(value)) == value)"
    )

    assert run_python(script) == f"False {values.encode(value).hex()} True\n"
