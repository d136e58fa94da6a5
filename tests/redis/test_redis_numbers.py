"""Ints and floats that the server adds are what Python would have made of them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import sharedstate
from sharedstate.backend import add_numbers
from sharedstate.errors import StateError
from sharedstate_redis.cells import pack_value, unpack_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sharedstate import Store

_EDGES = [
    sign * (base + step)
    for base in (0, 2**31, 2**53, 2**63, 2**64, 10**10, 10**19)
    for step in (-1, 0, 1)
    for sign in (1, -1)
]
_INTS = st.integers(-(2**63), 2**64 - 1) | st.sampled_from([edge for edge in _EDGES if -(2**63) <= edge < 2**64])
_FLOATS = st.floats() | st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("=d", struct.pack("=Q", bits))[0])
_NUMBERS = _INTS | _FLOATS


@pytest.fixture(scope="module")
def store(redis_url: str) -> Iterator[Store]:
    """One store for all examples."""
    with sharedstate.open(f"{redis_url}?name=numbers") as store:
        yield store
    sharedstate.remove(f"{redis_url}?name=numbers")


def _outcome(add: Any) -> Any:
    try:
        total = add()
    except StateError as error:
        return type(error)
    return _exactly(total)


def _exactly(number: Any) -> Any:
    if type(number) is float:
        return "float", "nan" if number != number else struct.pack("=d", number)  # noqa: PLR0124
    return type(number).__name__, number


@given(_NUMBERS, _NUMBERS)
@example(2**64 - 1, -(2**63))
@example(-(2**63), 2**64 - 1)
@example(-(10**10), -(10**10))
@example(-5, 5)
@example(-0.0, 0)
def test_sums_are_pythons(store: Store, number: Any, by: Any) -> None:
    """Value, type and refusal of each sum, and what is there afterwards: floats to the bit."""
    store["k"] = number

    assert _outcome(lambda: store.increment("k", by)) == (expected := _outcome(lambda: add_numbers("k", number, by)))

    assert _exactly(store["k"]) == (_exactly(number) if isinstance(expected, type) else expected)
    store.delete("new")
    assert _outcome(lambda: store.increment("new", by, initial=number)) == expected


_values = st.recursive(
    st.none() | st.booleans() | _NUMBERS | st.text(st.characters(exclude_categories=["Cs"])) | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner) | st.lists(inner).map(tuple),
    max_leaves=10,
)


@given(_values)
def test_a_number_is_told_from_any_other_value(value: Any) -> None:
    """What begins with a digit or a minus sign is an int, and an int always does."""
    packed = pack_value("redis:test", value)

    assert (packed[0] in b"0123456789-") == (type(value) is int)
    assert repr(unpack_value("redis:test", "k", packed)) == repr(value)
