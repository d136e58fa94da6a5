"""Claims about entries: generations, compare_and_set, add, update_with, touch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import sharedstate
from sharedstate import ABSENT, Entry
from sharedstate.testing.conformance.support import SOON_S, Claims, unchanged, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate.store import Store

__all__ = ["EntryClaims"]


def _generation(store: Store, key: str) -> int:
    entry = store.read(key)
    return ABSENT if entry is None else entry.generation


class EntryClaims(Claims):
    """A key's generation identifies a version of its value, and only grows."""

    def test_read_gives_value_generation_and_expiry(self, store: Store) -> None:
        """Read returns an Entry: the value, an int above ABSENT, and None for what never expires."""
        store["k"] = [1]

        entry = store.read("k")

        assert type(entry) is Entry
        assert entry.value == [1]
        assert type(entry.generation) is int
        assert ABSENT < entry.generation < 2**64
        assert entry.expires_at is None

    def test_generation_stays_while_nobody_writes(self, store: Store, open_another: Callable[[], Store]) -> None:
        """Reading, touching, and writing to another key leave it; another handle sees the same one."""
        store["k"] = 1
        before = _generation(store, "k")

        store.get("k")
        store.touch("k", 1000)
        store.touch("k", None)
        store["other"] = 1
        store.delete("other")

        assert _generation(store, "k") == before
        assert _generation(open_another(), "k") == before

    def test_generation_grows_with_every_write(self, store: Store) -> None:
        """Each verb that writes gives a greater one, also when the value is the same as before."""
        store["k"] = 1
        last = _generation(store, "k")

        for write in (
            lambda: store.set("k", 1),
            lambda: store.set("k", 1),
            lambda: store.increment("k", 0),
            lambda: store.compare_and_set("k", 1, _generation(store, "k")),
            lambda: store.update_with("k", lambda value: value),
            lambda: store.set_many({"k": 1}),
            lambda: store.transact(lambda tx: tx.set("k", 1)),
        ):
            write()

            assert _generation(store, "k") > last
            last = _generation(store, "k")

    def test_generation_grows_across_removal(self, store: Store) -> None:
        """A key that is created again has a greater generation than it ever had, however it was removed."""
        store["k"] = 1
        last = _generation(store, "k")

        for remove in (
            lambda: store.delete("k"),
            lambda: store.pop("k"),
            store.popitem,
            store.clear,
            lambda: store.clear("k"),
            lambda: store.delete_many(["k"]),
            lambda: store.transact(lambda tx: tx.delete("k")),
        ):
            remove()
            assert store.add("k", 1)

            assert _generation(store, "k") > last
            last = _generation(store, "k")

    def test_generation_grows_across_expiry(self, store: Store) -> None:
        """An entry that expired, and was created again by any verb, has a greater generation than before."""
        for create in (
            lambda: store.set("k", 1),
            lambda: store.add("k", 1),
            lambda: store.increment("k"),
            lambda: store.compare_and_set("k", 1, ABSENT),
        ):
            store.set("k", 0)
            last = _generation(store, "k")
            store.touch("k", SOON_S)
            until(lambda: store.read("k") is None)
            create()

            assert _generation(store, "k") > last

    def test_generation_grows_though_others_come_and_go(self, store: Store) -> None:
        """Deleting a key, then filling and clearing the store, does not bring back an earlier generation."""
        store["k"] = 1
        last = _generation(store, "k")
        store.delete("k")

        for _ in range(3):
            store.set_many({f"other-{i}": i for i in range(50)})
            store.clear()
        store["k"] = 1

        assert _generation(store, "k") > last

    def test_refused_write_leaves_the_generation(self, store: Store) -> None:
        """A write that raises, or an add that finds the key there, changes neither value nor generation."""
        store["k"] = "text"

        with unchanged(store, "k"):
            assert not store.add("k", 1)
        with unchanged(store, "k"), pytest.raises(sharedstate.ValueTypeError):
            store["k"] = object()
        with unchanged(store, "k"), pytest.raises(sharedstate.ValueTypeError):
            store.increment("k")
        with unchanged(store, "k"), pytest.raises(sharedstate.ConflictError):
            store.compare_and_set("k", 1, ABSENT)

    # --- compare_and_set, add -----------------------------------------------

    def test_compare_and_set_writes_at_the_expected_generation(self, store: Store) -> None:
        """It returns the new generation, which read then shows, greater than the expected one."""
        store["k"] = 1
        before = _generation(store, "k")

        after = store.compare_and_set("k", [2], expected=before)

        assert store.read("k") == Entry([2], after)
        assert after > before

    def test_compare_and_set_with_absent_creates(self, store: Store) -> None:
        """ABSENT as the expected generation means: only if the key is not there."""
        generation = store.compare_and_set("k", 1, expected=ABSENT)

        assert store.read("k") == Entry(1, generation)
        with pytest.raises(sharedstate.ConflictError):
            store.compare_and_set("k", 2, expected=ABSENT)
        store.delete("k")
        assert store.compare_and_set("k", 3, ABSENT) > generation

    def test_conflict_says_what_was_expected_and_found(self, store: Store) -> None:
        """ConflictError has key, expected and found (ABSENT where there is none), and nothing is written."""
        store["k"] = 1
        old = _generation(store, "k")
        store["k"] = 2
        new = _generation(store, "k")

        with unchanged(store, "k"), pytest.raises(sharedstate.ConflictError) as caught:
            store.compare_and_set("k", 3, expected=old)
        assert (caught.value.key, caught.value.expected, caught.value.found) == ("k", old, new)
        store.delete("k")
        with pytest.raises(sharedstate.ConflictError) as caught:
            store.compare_and_set("k", 3, expected=new)
        assert (caught.value.key, caught.value.expected, caught.value.found) == ("k", new, ABSENT)
        assert "k" not in store

    def test_compare_and_set_refuses_a_generation_that_came_back(self, store: Store) -> None:
        """A generation read before a delete and re-create with the same value is stale: no ABA."""
        store["k"] = "A"
        stale = _generation(store, "k")
        store["k"] = "B"
        store.delete("k")
        store["k"] = "A"

        with pytest.raises(sharedstate.ConflictError):
            store.compare_and_set("k", "C", expected=stale)

        assert store["k"] == "A"

    def test_add_only_creates(self, store: Store) -> None:
        """Add returns True and stores if the key is absent, else False and leaves it."""
        assert store.add("k", 1)
        assert not store.add("k", 2)
        assert store["k"] == 1
        store.delete("k")
        assert store.add("k", 3)
        assert store["k"] == 3

    # --- update_with, touch -------------------------------------------------

    def test_update_with_replaces_by_a_function_of_the_value(self, store: Store) -> None:
        """It returns the new value; an absent key gives the function the default, None if there is none."""
        store["k"] = 5

        assert store.update_with("k", lambda value: value * 2) == 10
        assert store.update_with("new", lambda value: [value]) == [None]
        assert store.update_with("list", lambda value: [*value, 1], default=[]) == [1]
        assert dict(store) == {"k": 10, "new": [None], "list": [1]}

    def test_update_with_tries_again_after_a_conflict(self, store: Store, open_another: Callable[[], Store]) -> None:
        """If another writer comes between, the function is called again with the newer value."""
        other, seen = open_another(), list[int]()
        store["k"] = 1

        def change(value: int) -> int:
            seen.append(value)
            if len(seen) < 3:
                other["k"] = value + 10
            return value + 1

        assert store.update_with("k", change) == 22
        assert seen == [1, 11, 21]
        assert store["k"] == 22

    def test_update_with_passes_on_the_functions_error(self, store: Store) -> None:
        """What the function raises comes out, and nothing is written."""
        store["k"] = 1

        with unchanged(store, "k"), pytest.raises(ZeroDivisionError):
            store.update_with("k", lambda value: value / 0)

    def test_touch_says_whether_the_key_is_there(self, store: Store) -> None:
        """Touch returns False for an absent key and creates nothing."""
        store["k"] = 1

        assert store.touch("k", 1000)
        assert store.touch("k", None)
        assert not store.touch("absent", 1000)
        assert not store.touch("absent", None)
        assert dict(store) == {"k": 1}
