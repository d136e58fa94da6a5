"""Claims about the mapping: what a Store has in common with a dict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sharedstate.testing.conformance.support import Claims

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate.store import Store

__all__ = ["MappingClaims"]

_PREFIXES = ("a", "a%", "a_", "a*", "a?", "a[", "A", "é", "日", "\U0010ffff", "\x7f", "a\n", "a\0")
"""Among them what SQL's LIKE and GLOB, regular expressions and byte ranges would take for something else."""


class MappingClaims(Claims):
    """A Store is a MutableMapping whose keys are str."""

    def test_what_was_set_is_there(self, store: Store) -> None:
        """After s[k] = v, s[k] and s.get(k) are v, k is in s, and its length is 1."""
        store["k"] = "v"

        assert store["k"] == "v"
        assert store.get("k") == "v"
        assert "k" in store
        assert len(store) == 1

    def test_absent_key_has_no_value(self, store: Store) -> None:
        """s[k] raises KeyError, get gives its default, read gives None, `in` is False."""
        with pytest.raises(KeyError):
            store["k"]

        assert store.get("k") is None
        assert store.get("k", 7) == 7
        assert store.read("k") is None
        assert "k" not in store
        assert len(store) == 0

    def test_none_is_a_value(self, store: Store) -> None:
        """A stored None is there: get does not return its default, add refuses, setdefault keeps it."""
        store["k"] = None

        assert store.get("k", 7) is None
        assert "k" in store
        assert not store.add("k", 7)
        assert store.setdefault("k", 7) is None

    @pytest.mark.parametrize("value", [0, "", b"", [], {}, (), False, 0.0])
    def test_false_values_are_values(self, store: Store, value: Any) -> None:
        """What is false in a condition is stored like anything else."""
        store["k"] = value

        assert store["k"] == value
        assert "k" in store
        assert not store.add("k", 7)
        assert store.delete("k")

    def test_setting_replaces_value_and_type(self, store: Store) -> None:
        """The latest of several values of several types is the one that is there."""
        for value in (1, "text", [1, 2], 2.5, None, b"bytes", {"a": 1}):
            store["k"] = value

            assert store["k"] == value
        assert len(store) == 1

    def test_deletion_removes(self, store: Store) -> None:
        """After del s[k] the key is absent; a second del raises KeyError; delete() says whether it was there."""
        store["k"] = 1
        del store["k"]

        assert "k" not in store
        with pytest.raises(KeyError):
            del store["k"]
        assert not store.delete("k")
        store["k"] = 2
        assert store.delete("k")
        assert list(store) == []

    def test_setdefault_stores_once(self, store: Store) -> None:
        """Setdefault stores the default of an absent key, and returns what is there."""
        assert store.setdefault("k", [1]) == [1]
        assert store.setdefault("k", [2]) == [1]
        assert store["k"] == [1]
        assert store.setdefault("none") is None
        assert "none" in store

    def test_pop_removes_and_returns(self, store: Store) -> None:
        """Pop returns the value once; then its default, or KeyError."""
        store["k"] = {"a": 1}

        assert store.pop("k") == {"a": 1}
        assert store.pop("k", 7) == 7
        assert store.pop("k", None) is None
        with pytest.raises(KeyError):
            store.pop("k")

    def test_popitem_empties_the_store(self, store: Store) -> None:
        """Popitem hands out every item once, then raises KeyError."""
        expected = {f"k{i}": i for i in range(5)}
        store.update(expected)

        popped = dict(store.popitem() for _ in expected)

        assert popped == expected
        with pytest.raises(KeyError):
            store.popitem()

    def test_update_takes_what_dict_takes(self, store: Store) -> None:
        """Update stores mappings, pairs and keywords; keywords win."""
        store.update({"a": 1, "b": 1})
        store.update([("b", 2), ("c", 2)], c=3, d=3)
        store.update(e=4)
        store.update()

        assert dict(store) == {"a": 1, "b": 2, "c": 3, "d": 3, "e": 4}

    def test_iteration_gives_each_key_once(self, store: Store) -> None:
        """Iterating over a thousand keys gives each of them once, and len agrees."""
        expected = [f"key-{i}" for i in range(1000)]
        store.set_many(dict.fromkeys(expected, 0))

        found = list(store)

        assert sorted(found) == sorted(expected)
        assert len(store) == 1000

    def test_iteration_survives_changes(self, store: Store) -> None:
        """Keys, values and items go on while entries come and go; what stays comes exactly once."""
        store.update({f"k{i}": i for i in range(6)})

        for view in (store, store.keys(), store.values(), store.items()):
            walk = iter(view)
            next(walk)
            store.update({f"k{i}": i for i in range(6)})
            store.delete_many(["k1", "k3"])
            store["new"] = "new"
            rest = [item for item in walk if item not in ("new", ("new", "new"))]

            assert len(rest) in {3, 4, 5}
            assert len(set(rest)) == len(rest)
            store.delete("new")
            store.update({f"k{i}": i for i in range(6)})

    def test_views_are_live(self, store: Store) -> None:
        """A view taken before a change shows the change."""
        keys, values, items = store.keys(), store.values(), store.items()

        store.update(a=1, b=[2])

        assert set(keys) == {"a", "b"}
        assert sorted(map(str, values)) == ["1", "[2]"]
        assert dict(items) == {"a": 1, "b": [2]}
        assert len(keys) == len(values) == len(items) == 2

    def test_views_are_sets_where_dict_views_are(self, store: Store) -> None:
        """Views of keys and items know membership and set algebra; values know membership."""
        store.update(a=1, b=[2])

        assert "a" in store.keys()  # noqa: SIM118  the view is what is tested
        assert "c" not in store.keys()  # noqa: SIM118
        assert ("b", [2]) in store.items()
        assert ("b", [3]) not in store.items()
        assert ("c", 1) not in store.items()
        assert [2] in store.values()
        assert [3] not in store.values()
        assert store.keys() & {"a", "c"} == {"a"}
        assert store.keys() | {"c"} == {"a", "b", "c"}
        assert store.keys() - {"a"} == {"b"}
        assert store.keys() == {"a", "b"}
        assert store.items(prefix="a") == {("a", 1)}

    @pytest.mark.parametrize("prefix", _PREFIXES, ids=ascii)
    def test_views_under_a_prefix(self, store: Store, prefix: str) -> None:
        """keys, values and items with a prefix show the keys that start with it, as str.startswith says."""
        every = {key: key for one in _PREFIXES for key in (one, f"{one}z", f"z{one}", f"{one}{one}")}
        store.update(every)
        expected = {key for key in every if key.startswith(prefix)}

        assert set(store.keys(prefix)) == expected
        assert sorted(store.values(prefix)) == sorted(expected)
        assert dict(store.items(prefix=prefix)) == {key: key for key in expected}
        assert len(store.keys(prefix)) == len(expected)
        assert f"z{prefix}" not in store.keys(prefix)
        assert (f"z{prefix}", f"z{prefix}") not in store.items(prefix)

    def test_equality_is_of_items(self, store: Store, open_another: Callable[[], Store]) -> None:
        """A store equals any mapping with equal items, another handle included."""
        store.update(a=1, b=[2])

        assert store == {"a": 1, "b": [2]}
        assert store != {"a": 1}
        assert store != {"a": 1, "b": (2,)}
        assert store == open_another()

    def test_clear_removes_all_or_a_prefix(self, store: Store) -> None:
        """clear(prefix) removes the keys that start with it; clear() all; on an empty store it is no error."""
        store.update({"a1": 1, "a2": 2, "a%": 3, "b1": 4})

        store.clear("a%")
        assert set(store) == {"a1", "a2", "b1"}
        store.clear("a")
        assert set(store) == {"b1"}
        store.clear()
        store.clear()
        assert set(store) == set()

    def test_another_handle_sees_it_at_once(self, store: Store, open_another: Callable[[], Store]) -> None:
        """What one handle wrote or removed, the next call through another one sees."""
        other = open_another()

        for writer, reader in ((store, other), (other, store)) * 3:
            for i in range(3):
                writer["k"] = i
                assert reader["k"] == i
                assert list(reader) == ["k"]
            assert writer.delete("k")
            assert "k" not in reader
            assert len(reader) == 0

    def test_get_many_gives_what_is_there(self, store: Store) -> None:
        """get_many gives the values of the present ones among its keys, None included; any iterable will do."""
        store.update(a=1, b=None)

        found = store.get_many(key for key in ("a", "b", "c", "a"))

        assert found == {"a": 1, "b": None}
        assert store.get_many([]) == {}

    def test_set_many_stores_all(self, store: Store) -> None:
        """set_many stores each item, over what is there; of nothing it is no error."""
        store["a"] = 0

        store.set_many({"a": 1, "b": [2]})
        store.set_many({})

        assert dict(store) == {"a": 1, "b": [2]}

    def test_delete_many_counts_what_was_there(self, store: Store) -> None:
        """delete_many removes its keys and counts each that was there once."""
        store.update(a=1, b=2, c=3)

        assert store.delete_many(key for key in ("a", "b", "a", "x")) == 2
        assert store.delete_many([]) == 0
        assert dict(store) == {"c": 3}
