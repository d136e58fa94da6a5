"""Claims about values: every type comes back as itself, and nothing else gets in."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

import sharedstate
from sharedstate.testing.conformance.support import Claims, unchanged
from sharedstate.testing.same import is_same
from sharedstate.values import MAX_DEPTH, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate.store import Store

__all__ = ["VALUES", "ValueClaims"]

_LARGEST_TRIED: Final = 64 * 2**20


def _nest(depth: int, innermost: Any, wrap: Callable[[Any], Any]) -> Any:
    value = innermost
    for _ in range(depth):
        value = wrap(value)
    return value


_INTS: Final = sorted(
    {
        sign * (2**bits) + off
        for bits in (0, 5, 7, 8, 15, 16, 31, 32, 53, 62, 63)
        for sign in (1, -1)
        for off in (-1, 0, 1)
    }
    - {-(2**63) - 1}
    | {2**64 - 1, 2**64 - 2}
)
_FLOATS: Final = [0.0, -0.0, 1.0, -1.5, 0.1, float("inf"), float("-inf"), float("nan"), 5e-324, 1.7976931348623157e308]
_TEXTS: Final = ["", "a", "1", "1.0", "null", "é", "日本語", "\U0001f600", "\0", "a\0b", "\n\r\t", "\ufeff", "\uffff"]
_LENGTHS: Final = [15, 16, 31, 32, 255, 256, 65535, 65536]
_INDIA: Final = timezone(timedelta(hours=5, minutes=30))
_MOMENTS: Final = [
    datetime(2026, 7, 1, 12, 0, 0, 123456, tzinfo=UTC),
    datetime(2026, 7, 1, 12, tzinfo=_INDIA),
    datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=timezone(timedelta(hours=-8))),
    datetime(1900, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=53, seconds=28))),
    datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
    datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=timezone(timedelta(hours=-12))),
]
_CONTAINERS: Final[list[Any]] = [
    [],
    (),
    {},
    [[], (), {}],
    ([], (), {}),
    [1, (2, [3, (4,)])],
    (1, [2, (3, [4])]),
    {"z": 1, "a": 2, "": 3, "m": {"y": [], "x": ()}},
    {0: "zero", -1: "minus", 2**64 - 1: "most", -(2**63): "least"},
    {1: "int", "1": "str"},
    [None, True, False, 1, 1.0, "1", b"1"],
    {"bool": True, "int": 1, "float": 1.0},
    [_MOMENTS[1], (_MOMENTS[2],), {"at": _MOMENTS[0]}],
    list(range(70)),
    tuple("x" for _ in range(70_000)),
    {f"key{i}": i for i in range(70)},
    _nest(MAX_DEPTH, 1, lambda value: [value]),
    _nest(MAX_DEPTH, "x", lambda value: (value,)),
    _nest(MAX_DEPTH, None, lambda value: {"k": value}),
]

VALUES: Final[list[Any]] = [
    None,
    True,
    False,
    *_INTS,
    *_FLOATS,
    *_TEXTS,
    *("x" * length for length in _LENGTHS),
    b"",
    bytes(range(256)),
    b"\xff\xfe",
    *(bytes(length) for length in _LENGTHS),
    *_MOMENTS,
    *_CONTAINERS,
]
"""Values at every boundary of the model and of its encoding."""


class _Colour(IntEnum):
    RED = 1


class _Point(NamedTuple):
    x: int


class _Text(str):
    __slots__ = ()


class _Unhelpful:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def _ring() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


_REFUSED: Final[dict[str, Any]] = {
    "object": object(),
    "no repr": _Unhelpful(),
    "class": int,
    "function": len,
    "set": {1},
    "frozenset": frozenset({1}),
    "complex": 1j,
    "bytearray": bytearray(b"x"),
    "memoryview": memoryview(b"x"),
    "range": range(3),
    "generator": iter(()),
    "Decimal": Decimal(1),
    "int too large": 2**64,
    "int too small": -(2**63) - 1,
    "IntEnum": _Colour.RED,
    "NamedTuple": _Point(1),
    "str subclass": _Text("x"),
    "OrderedDict": OrderedDict(a=1),
    "UserDict": UserDict(a=1),
    "lone surrogate": "\ud800",
    "naive datetime": datetime(2026, 1, 1),  # noqa: DTZ001  what is refused
    "date": date(2026, 1, 1),
    "timedelta": timedelta(1),
}

_WRAPS: Final[dict[str, Callable[[Any], Any]]] = {
    "list": lambda value: [value],
    "tuple": lambda value: (value,),
    "dict": lambda value: {"k": value},
}
_PATHS: Final[list[tuple[Any, str]]] = [
    ({1}, "value"),
    ([1, {1}], "value[1]"),
    ({"a": [1, 2, (3, {1})]}, 'value["a"][2][1]'),
    ({5: {1}}, "value[5]"),
    (({"x": [2**64]},), 'value[0]["x"][0]'),
]


class ValueClaims(Claims):
    """The value model: exact types, by value, and nothing else."""

    @pytest.mark.parametrize("index", range(len(VALUES)))
    def test_value_comes_back_as_itself(self, store: Store, open_another: Callable[[], Store], index: int) -> None:
        """Type, bits, order and offset survive, through get, read, pop, get_many and another handle.

        One that is larger than max_value_bytes raises CapacityError instead.
        """
        value = VALUES[index]
        if len(encode(value)) > store.capabilities.max_value_bytes:
            with pytest.raises(sharedstate.CapacityError):
                store["k"] = value
            return

        store["k"] = value
        entry = store.read("k")

        assert is_same(store["k"], value)
        assert entry is not None
        assert is_same(entry.value, value)
        assert is_same(store.get_many(["k"])["k"], value)
        assert is_same(open_another()["k"], value)
        assert is_same(store.pop("k"), value)

    def test_every_writing_verb_keeps_the_type(self, store: Store) -> None:
        """Add, setdefault, update, compare_and_set, update_with and a transaction store a tuple as a tuple."""
        value = (1, [True, 1.0], {"a": (b"", "")})

        store.add("add", value)
        store.setdefault("setdefault", value)
        store.update({"update": value})
        store.compare_and_set("compare_and_set", value, sharedstate.ABSENT)
        store.update_with("update_with", lambda _: value)
        with store.transaction() as tx:
            tx["transaction"] = value

        assert len(store) == 6
        assert all(is_same(found, value) for found in store.values())

    @pytest.mark.parametrize("name", _REFUSED)
    def test_anything_else_is_refused(self, store: Store, name: str) -> None:
        """ValueTypeError names the place, from every verb that writes, and nothing is written."""
        value = _REFUSED[name]
        store["k"] = "before"

        for refused, path in ((value, "value"), ([value], "value[0]"), ({"a": (1, value)}, 'value["a"][1]')):
            for verb in (
                lambda refused=refused: store.set("k", refused),
                lambda refused=refused: store.add("new", refused),
                lambda refused=refused: store.setdefault("new", refused),
                lambda refused=refused: store.update({"k": refused}),
                lambda refused=refused: store.compare_and_set("new", refused, sharedstate.ABSENT),
                lambda refused=refused: store.update_with("k", lambda _: refused),
            ):
                with unchanged(store, "k"), pytest.raises(sharedstate.ValueTypeError) as caught:
                    verb()
                assert caught.value.path == path
        assert dict(store) == {"k": "before"}

    @pytest.mark.parametrize(("value", "path"), _PATHS)
    def test_refusal_names_the_path(self, store: Store, value: Any, path: str) -> None:
        """The error says where in a nested value the offending element is, and is a TypeError."""
        with pytest.raises(sharedstate.ValueTypeError) as caught:
            store["k"] = value

        assert caught.value.path == path
        assert isinstance(caught.value, TypeError)
        assert "k" not in store

    @pytest.mark.parametrize("key", [True, 1.0, None, b"k", (1,), 2**64, "\ud800"], ids=ascii)
    def test_dict_keys_are_str_or_int(self, store: Store, key: Any) -> None:
        """A dict with another key is refused; it would come back changed, or not at all."""
        with pytest.raises(sharedstate.ValueTypeError) as caught:
            store["k"] = {"a": {key: 1}}

        assert 'value["a"]' in caught.value.path
        assert "k" not in store

    @pytest.mark.parametrize("kind", _WRAPS)
    def test_too_deep_is_refused(self, store: Store, kind: str) -> None:
        """One level more than MAX_DEPTH, and a container that holds itself, are refused; no recursion error."""
        wrap = _WRAPS[kind]

        with pytest.raises(sharedstate.ValueTypeError):
            store["k"] = _nest(MAX_DEPTH + 1, 1, wrap)
        with pytest.raises(sharedstate.ValueTypeError):
            store["k"] = wrap(_ring())
        with pytest.raises(sharedstate.ValueTypeError):
            store["k"] = _nest(100_000, 1, wrap)

        assert "k" not in store

    def test_what_goes_in_is_copied(self, store: Store) -> None:
        """Changing a value after storing it, by whatever verb, changes no store."""
        value: dict[str, Any] = {"list": [1, {"deep": [2]}]}

        store["set"] = value
        store.add("add", value)
        store.set_many({"set_many": value})
        store.compare_and_set("cas", value, sharedstate.ABSENT)
        store.setdefault("setdefault", value)
        store.update_with("update_with", lambda _: value)
        with store.transaction() as tx:
            tx["tx"] = value
            value["list"][1]["deep"].append("changed")
            value["more"] = "changed"

        assert len(store) == 7
        assert all(found == {"list": [1, {"deep": [2]}]} for found in store.values())

    def test_what_comes_out_is_the_callers(self, store: Store) -> None:
        """Changing what any verb returned changes neither the store nor what the next call returns."""
        store["k"] = {"list": [1]}
        entry = store.read("k")
        assert entry is not None

        for found in (
            store["k"],
            store.get("k"),
            entry.value,
            store.get_many(["k"])["k"],
            store.setdefault("k", 1),
            next(iter(store.values())),
            dict(store.items())["k"],
        ):
            found["list"].append("changed")

            assert store["k"] == {"list": [1]}

    def test_setdefault_returns_a_copy(self, store: Store) -> None:
        """Even the default that setdefault just stored is not the object it returns."""
        default: list[int] = []

        store.setdefault("k", default).append(1)

        assert default == []
        assert store["k"] == []

    def test_update_with_may_change_in_place(self, store: Store) -> None:
        """The function gets a copy of its own: it may change it and return it, or fail and change nothing."""
        store["k"] = [1]

        def fail(value: list[int]) -> None:
            value.append(99)
            raise RuntimeError

        assert store.update_with("k", lambda value: [*value, 2]) == [1, 2]
        with pytest.raises(RuntimeError):
            store.update_with("k", fail)
        assert store["k"] == [1, 2]

    @pytest.mark.parametrize("size", [1, 100, 1000, 4095, 4096, 16_384, 100_000, 1_000_000])
    def test_sizes(self, store: Store, size: int) -> None:
        """A value of any size within the limits comes back, and may be replaced by a larger or smaller one."""
        size = min(size, store.capabilities.max_value_bytes // 4)
        value = (b"0123456789abcdef" * (size // 16 + 1))[:size]

        store["k"] = value
        assert store["k"] == value
        store["k"] = value * 2
        assert store["k"] == value * 2
        store["k"] = value[: size // 2]
        assert store["k"] == value[: size // 2]
        assert len(store) == 1

    def test_largest_value(self, store: Store) -> None:
        """A value of max_value_bytes is stored whole; one byte more raises CapacityError and changes nothing.

        A limit beyond 64 MiB is believed, not tried.
        """
        limit = store.capabilities.max_value_bytes
        size = min(limit, _LARGEST_TRIED) - 5  # a bin 32 of msgpack has five bytes before its own
        assert len(encode(bytes(size))) == min(limit, _LARGEST_TRIED)
        largest = bytes(size)

        store["k"] = largest
        assert store["k"] == largest
        if limit <= _LARGEST_TRIED:
            with unchanged(store, "k"), pytest.raises(sharedstate.CapacityError):
                store["k"] = largest + b"x"
            with pytest.raises(sharedstate.CapacityError):
                store.add("new", largest + b"x")
            assert "new" not in store

    def test_full_store_loses_nothing(self, store: Store) -> None:
        """A bounded store that is full raises CapacityError and keeps every entry, or evicts and counts it.

        Once entries are deleted there is room again.  A `capacity_bytes` of 0
        says unbounded, and one beyond 64 MiB is believed, not tried.
        """
        capacity = int(store.stats()["capacity_bytes"])
        chunk = bytes(max(capacity // 64, 1))
        is_bounded = 0 < capacity <= _LARGEST_TRIED
        written = 0

        def fill() -> None:
            nonlocal written
            for i in range(200):
                store[f"k{i}"] = chunk
                written = i + 1

        if is_bounded and not store.capabilities.evicts:
            with pytest.raises(sharedstate.CapacityError):
                fill()
            assert 16 <= written <= 64
            assert len(store) == written
            assert all(value == chunk for value in store.values())
            assert store.delete_many([f"k{i}" for i in range(written)]) == written
            fill_again = {f"k{i}": chunk for i in range(written // 2)}
            store.set_many(fill_again)
            assert store == fill_again
        elif is_bounded:
            fill()
            assert len(store) < written == 200
            assert store.stats()["evicted"] == 200 - len(store)
        else:
            assert capacity == 0 or capacity > _LARGEST_TRIED
