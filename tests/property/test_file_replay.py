"""A frame replayed in C does what `parse` and `apply` do, or is left to them."""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st

from sharedstate.errors import CorruptError
from sharedstate.testing.same import is_same
from sharedstate.values import encode
from sharedstate_file import index
from sharedstate_file._replay import replay

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text("abé€", max_size=40)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text("ab", max_size=2), SCALARS, max_size=3)
ENCODED = VALUES.map(encode) | st.sampled_from([0, 254, 255, 16383, 16384, 16385]).map(lambda n: encode(b"x" * n))
KEYS = st.sampled_from(["a", "b", "é", "k" * 31, "k" * 32, "k" * 255, "k" * 256, "k" * 512, "k" * 513, ""])
DEADLINES = st.none() | st.floats()
OPERATIONS = (
    st.tuples(KEYS)
    | st.tuples(KEYS, DEADLINES)
    | st.tuples(KEYS, DEADLINES, ENCODED)
    | st.tuples(KEYS, DEADLINES, st.integers(0, 300), ENCODED)
).map(list)
GENERATIONS = st.sampled_from([0, 1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**62])


class NamelessLog(NamedTuple):
    """What `parse` and `apply` need of a log."""

    path: str = "log-1"

    def damaged(self, offset: int, what: str) -> CorruptError:
        return CorruptError(url="file:/store", reason=f"{self.path}, offset {offset}: {what}")


LOG: Any = NamelessLog()
START: dict[str, Any] = {"a": (1, 0, 1, None, 1), "b": (b"\x90", 1, 2, 5.0, 1)}


def in_python(payload: bytes, generation: int) -> tuple[dict[str, Any], int]:
    entries = START.copy()
    operations, after = index.parse(payload, generation, LOG, len(payload))
    index.apply(entries, operations, generation, LOG, len(payload))
    return entries, after


def check(payload: bytes, generation: int) -> int:
    entries = START.copy()
    after = replay(entries, payload, generation)
    if after >= 0:
        expected, expected_after = in_python(payload, generation)
        assert after == expected_after
        assert is_same(entries, expected)
        assert list(entries) == list(expected)
    else:
        # What it did of the frame does not show once Python has done all of it.
        try:
            expected, _ = in_python(payload, generation)
        except CorruptError:
            return after
        operations, _ = index.parse(payload, generation, LOG, len(payload))
        index.apply(entries, operations, generation, LOG, len(payload))
        assert is_same(entries, expected)
    return after


@given(GENERATIONS, st.lists(OPERATIONS, max_size=20))
def test_replaying_is_parsing_and_applying(generation: int, operations: list[list[Any]]) -> None:
    check(encode([generation, *operations]), generation)


@given(GENERATIONS, st.lists(st.tuples(KEYS, DEADLINES, VALUES.map(encode)).map(list), min_size=1, max_size=20))
def test_puts_are_replayed_in_c(generation: int, operations: list[list[Any]]) -> None:
    """Or the speed would be gone without a test that says so."""
    operations = [operation for operation in operations if 0 < len(operation[0]) <= 512]
    assert check(encode([generation, *operations]), generation) == generation + len(operations)


@given(st.data(), st.lists(OPERATIONS, min_size=1, max_size=4))
def test_changed_bytes_are_read_as_python_reads_them(data: st.DataObject, operations: list[list[Any]]) -> None:
    payload = bytearray(encode([7, *operations]))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(payload), 7)


@given(st.binary(max_size=40))
@example(b"")
@example(b"\x90")
@example(b"\xc1\x02\x07\x91\xa1a")
@example(b"\x00\x07")
@example(b"\x92\x07\x91\xa1a\x00")
@example(b"\x92\x07\x91\xd9\x01a")
@example(b"\x92\x07\x93\xa1a\xc0\xc5\x00\x01\x01")
@example(b"\x92\xcc\x07\x91\xa1a")
@example(b"\x92\x07\x93\xa1a\xc0\xc4\xff\x01")
@example(b"\xdd\xff\xff\xff\xff\x07\x91\xa1a")
@example(b"\x92\x07\x91\xa2\xff\xff")
@example(b"\x92\x07\x93\xa1a\xc0\xc4\x01\xc1")
def test_any_bytes_are_read_as_python_reads_them(payload: bytes) -> None:
    check(payload, 7)
