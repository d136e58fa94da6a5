"""The codec against msgpack as its oracle, against itself, and against hostile bytes."""

from __future__ import annotations

import datetime as dt
import struct
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sharedstate import _fallback, _native, values
from sharedstate.errors import CorruptError, ValueTypeError

ints = st.integers(-(2**63), 2**64 - 1) | st.integers(-40, 300)
floats = st.floats() | st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("=d", struct.pack("=Q", bits))[0])
texts = st.text(st.characters(exclude_categories=["Cs"]))
offsets = st.integers(-86_399_999_999, 86_399_999_999).map(lambda us: dt.timezone(dt.timedelta(microseconds=us)))
moments = st.datetimes(timezones=st.just(dt.UTC) | offsets)
keys = texts | ints
shared_scalars = st.none() | st.booleans() | ints | floats | texts | st.binary()
"""What msgpack and we both know."""


def containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(children) | st.dictionaries(keys, children)


shared_values = st.recursive(shared_scalars, containers, max_leaves=40)
all_values = st.recursive(
    shared_scalars | moments, lambda inner: containers(inner) | st.lists(inner).map(tuple), max_leaves=40
)


def is_same(one: Any, other: Any) -> bool:
    """Return whether both are the same value of the same types, floats to the bit, dicts in order."""
    if type(one) is not type(other):
        return False
    if type(one) is float:
        return struct.pack("=d", one) == struct.pack("=d", other)
    if type(one) is dict:
        return list(one) == list(other) and all(
            type(mine) is type(theirs) and is_same(one[mine], other[theirs])
            for mine, theirs in zip(one, other, strict=True)
        )
    if type(one) in {list, tuple}:
        return len(one) == len(other) and all(map(is_same, one, other))
    if type(one) is dt.datetime:
        return one == other and one.utcoffset() == other.utcoffset()
    return bool(one == other)


def oracle(value: Any) -> Any:
    """Return `value` with our two extensions spelt out in msgpack's own terms."""
    if type(value) is dict:
        return {key: oracle(element) for key, element in value.items()}
    if type(value) is list:
        return [oracle(element) for element in value]
    if type(value) is tuple:
        return msgpack.ExtType(1, msgpack.packb([oracle(element) for element in value], use_bin_type=True))
    if type(value) is dt.datetime:
        offset_us = value.utcoffset() // dt.timedelta(microseconds=1)
        local_us = (value.replace(tzinfo=None) - dt.datetime(1970, 1, 1)) // dt.timedelta(microseconds=1)  # noqa: DTZ001
        return msgpack.ExtType(2, struct.pack(">qq", local_us - offset_us, offset_us))
    return value


def outcome(codec: Any, encoded: bytes) -> tuple[str, Any]:
    """Return ("value", v), or ("corrupt", reason); let any other exception through."""
    try:
        return "value", codec.decode(encoded)
    except CorruptError as error:
        return "corrupt", error.reason


def assert_codecs_agree(encoded: bytes) -> None:
    """Native and fallback decode to the same value, or refuse in the same words."""
    kind, result = outcome(_native, encoded)
    other_kind, other_result = outcome(_fallback, encoded)

    assert kind == other_kind, (result, other_result)
    if kind == "corrupt":
        assert result == other_result
    else:
        # Through bytes, since float32 NaNs may differ in payload on their way up to double.
        assert repr(result) == repr(other_result)
        values.check(result)


@given(shared_values)
def test_bytes_are_those_of_msgpack(value: Any) -> None:
    """For the types that both know, the bytes are `msgpack.packb`'s."""
    assert _native.encode(value) == msgpack.packb(value, use_bin_type=True)


@given(all_values)
def test_extensions_are_packed_as_msgpack_packs_them(value: Any) -> None:
    """With tuples and datetimes as ExtType, the bytes are still msgpack's, and the fallback's."""
    encoded = _native.encode(value)

    assert encoded == msgpack.packb(oracle(value), use_bin_type=True)
    assert encoded == _fallback.encode(value)


@given(all_values)
def test_every_value_comes_back_as_itself(value: Any) -> None:
    """Decoding gives the same types, the same float bits and the same dict order, by either codec."""
    encoded = _native.encode(value)

    assert is_same(_native.decode(encoded), value)
    assert is_same(_fallback.decode(encoded), value)


foreign = st.sampled_from([{1}, 1j, 2**64, -(2**63) - 1, "\ud800", bytearray(), object, dt.datetime(2000, 1, 1)])  # noqa: DTZ001


@given(
    st.recursive(foreign | shared_scalars, lambda inner: containers(inner) | st.lists(inner).map(tuple), max_leaves=20)
)
def test_codecs_refuse_the_same_values_in_the_same_words(value: Any) -> None:
    """Native encodes what the fallback encodes; where one refuses, both do, with equal text."""
    verdicts = []
    for codec in (_native, _fallback):
        try:
            verdicts.append(codec.encode(value))
        except ValueTypeError as error:
            verdicts.append(str(error))

    assert verdicts[0] == verdicts[1]


@given(st.binary(max_size=64))
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\xca\x7f\x80\x00\x01")
def test_random_bytes_are_a_value_or_a_clean_error(encoded: bytes) -> None:
    """Any bytes decode to a value of the model or raise CorruptError, the same by either codec."""
    assert_codecs_agree(encoded)


@given(all_values, st.data())
def test_damaged_encodings_are_a_value_or_a_clean_error(value: Any, data: st.DataObject) -> None:
    """A valid encoding with some bytes overwritten, removed or inserted: a value or CorruptError, alike by both."""
    damaged = bytearray(_native.encode(value))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        patch = data.draw(
            st.binary(max_size=2) | st.sampled_from([b"\xc1", b"\xdd\xff\xff", b"\xdf", b"\xc9", b"\xd4\x01"])
        )
        damaged[at : at + data.draw(st.integers(0, 2))] = patch

    assert_codecs_agree(bytes(damaged))


@given(all_values)
def test_a_truncated_encoding_is_refused_at_every_length(value: Any) -> None:
    """No proper prefix of an encoding is one, and what follows one is refused too."""
    encoded = _native.encode(value)

    for length in range(len(encoded)):
        assert outcome(_native, encoded[:length])[0] == "corrupt"
    assert outcome(_native, encoded + b"\x00") == (
        "corrupt",
        f"malformed at byte {len(encoded)}: bytes follow the value",
    )


@pytest.mark.parametrize("depth", range(60, 70))
@pytest.mark.parametrize("level", [b"\x91", b"\x81\x00"], ids=["list", "dict"])
def test_hostile_depth_is_the_same_limit_for_both(level: bytes, depth: int) -> None:
    """Around depth 64, and far beyond what msgpack's own stack takes, both codecs agree."""
    assert_codecs_agree(level * depth + b"\xc0")
    assert_codecs_agree(level * (100 * depth) + b"\xc0")
