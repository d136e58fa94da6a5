"""Claims about increment: what it adds up, what it keeps, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

import sharedstate
from sharedstate.testing.conformance.support import Claims, unchanged
from sharedstate.testing.same import is_same

if TYPE_CHECKING:
    from sharedstate.store import Store

__all__ = ["CountingClaims"]

_LEAST: Final = -(2**63)
_MOST: Final = 2**64 - 1

_SUMS: Final[list[tuple[Any, Any, Any]]] = [
    (1, 1, 2),
    (1, -3, -2),
    (0, 0, 0),
    (2**31 - 1, 1, 2**31),
    (2**32 - 1, 1, 2**32),
    (2**53, 1, 2**53 + 1),  # a float would lose it
    (2**63 - 1, 1, 2**63),
    (2**63, -1, 2**63 - 1),
    (_MOST - 1, 1, _MOST),
    (_MOST, -1, _MOST - 1),
    (_MOST, _LEAST, _MOST + _LEAST),
    (_LEAST, 1, _LEAST + 1),
    (_LEAST + 1, -1, _LEAST),
    (-1, 1, 0),
    (-1, 2**63, 2**63 - 1),
    (_LEAST, _MOST, _LEAST + _MOST),
    (1, 0.5, 1.5),
    (1.5, 1, 2.5),
    (1.5, -1.5, 0.0),
    (1, 1.0, 2.0),
    (0.1, 0.2, 0.1 + 0.2),
    (-0.0, -0.0, -0.0),
    (1e308, 1e308, float("inf")),
    (float("inf"), 1, float("inf")),
    (2**63, 0.5, 2**63 + 0.5),
]

_OVERFLOWS: Final = [(_MOST, 1), (_MOST, _MOST), (2**63, 2**63), (_LEAST, -1), (_LEAST, _LEAST)]


class CountingClaims(Claims):
    """Increment adds int and float as Python does, within 64 bits."""

    def test_counts_from_nothing(self, store: Store) -> None:
        """An absent key starts at `initial`, 0 by default, and each call returns the sum."""
        assert [store.increment("k") for _ in range(3)] == [1, 2, 3]
        assert store.increment("k", by=5) == 8
        assert store.increment("k", -10) == -2
        assert store.increment("from", by=5, initial=100) == 105
        assert store.increment("from", by=5, initial=100) == 110
        assert dict(store) == {"k": -2, "from": 110}

    @pytest.mark.parametrize(("number", "by", "total"), _SUMS)
    def test_sums_are_pythons(self, store: Store, number: Any, by: Any, total: Any) -> None:
        """Value and type of the sum are those of number + by, over the whole 64-bit range."""
        store["k"] = number

        returned = store.increment("k", by)

        assert is_same(returned, total)
        assert is_same(store["k"], total)
        assert is_same(store.increment("new", by, initial=number), total)
        assert is_same(store["new"], total)

    @pytest.mark.parametrize(("number", "by"), _OVERFLOWS)
    def test_sum_beyond_64_bits_is_refused(self, store: Store, number: Any, by: Any) -> None:
        """CounterOverflowError, an OverflowError, at both ends; the number stays."""
        store["k"] = number

        with unchanged(store, "k"), pytest.raises(sharedstate.CounterOverflowError) as caught:
            store.increment("k", by)
        with pytest.raises(sharedstate.CounterOverflowError):
            store.increment("new", by, number)

        assert isinstance(caught.value, OverflowError)
        assert "new" not in store

    @pytest.mark.parametrize("value", ["1", b"1", None, True, False, [1], (1,), {"a": 1}], ids=repr)
    def test_only_numbers_are_incremented(self, store: Store, value: Any) -> None:
        """ValueTypeError for a stored str, None, bool or container; it stays."""
        store["k"] = value

        with unchanged(store, "k"), pytest.raises(sharedstate.ValueTypeError):
            store.increment("k")

    @pytest.mark.parametrize("bad", ["1", None, True, 1j, [1], 2**64, -(2**63) - 1], ids=repr)
    def test_only_numbers_are_added(self, store: Store, bad: Any) -> None:
        """ValueTypeError for such a `by`, an int beyond 64 bits included; nothing is written."""
        store["k"] = 1

        with unchanged(store, "k"), pytest.raises(sharedstate.ValueTypeError):
            store.increment("k", bad)
        with pytest.raises(sharedstate.ValueTypeError):
            store.increment("new", bad)
        assert "new" not in store

    @pytest.mark.parametrize("bad", ["1", None, True, [1]], ids=repr)
    def test_only_numbers_are_counted_from(self, store: Store, bad: Any) -> None:
        """ValueTypeError for an `initial` that is no number and is needed; nothing is written."""
        with pytest.raises(sharedstate.ValueTypeError):
            store.increment("new", 1, bad)

        assert "new" not in store

    def test_a_counter_is_an_ordinary_value(self, store: Store) -> None:
        """What increment wrote, get, set, compare_and_set and a transaction understand, and the other way round."""
        store["k"] = 1
        store.increment("k")
        entry = store.read("k")
        assert entry is not None

        store.compare_and_set("k", entry.value + 1, entry.generation)
        store.increment("k")
        store.transact(lambda tx: tx.increment("k"))
        store.update_with("k", lambda value: value + 1)

        assert is_same(store["k"], 6)
