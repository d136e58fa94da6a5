"""Claims about namespaces: a view of a part of the store that is a store itself."""

# ruff: noqa: PT012  what raises is the end of a transaction, after all that led to it

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import sharedstate
from sharedstate.testing.conformance.support import Claims
from sharedstate.values import MAX_KEY_BYTES

if TYPE_CHECKING:
    from sharedstate.store import Store

__all__ = ["NamespaceClaims"]


class NamespaceClaims(Claims):
    """A namespace's entries and locks are those of the store whose names start with `<name>:`."""

    def test_keys_do_not_meet(self, store: Store) -> None:
        """The same key in two namespaces and in the store are three entries."""
        one, two = store.namespace("one"), store.namespace("two")

        store["k"], one["k"], two["k"] = 0, 1, 2
        one.increment("k", 10)
        two.delete("k")

        assert store["k"] == 0
        assert one["k"] == 11
        assert "k" not in two
        assert dict(store) == {"k": 0, "one:k": 11}

    def test_a_namespace_sees_only_its_own(self, store: Store) -> None:
        """Len, iteration, views, prefixes and popitem know its keys alone, without their prefix."""
        one = store.namespace("one")
        store.update({"k": 0, "one": 0, "onez": 0, "two:k": 0})

        one.update(a=1, ab=2, b=3)

        assert dict(one) == {"a": 1, "ab": 2, "b": 3}
        assert len(one) == 3
        assert dict(one.items("a")) == {"a": 1, "ab": 2}
        assert dict(one.popitem() for _ in range(3)) == {"a": 1, "ab": 2, "b": 3}
        with pytest.raises(KeyError):
            one.popitem()
        assert len(store) == 4

    def test_clear_stays_inside(self, store: Store) -> None:
        """clear() and clear(prefix) of a namespace remove nothing of others, nor of one whose name starts alike."""
        one, longer = store.namespace("one"), store.namespace("one1")
        store["k"] = longer["k"] = one["a"] = one["b"] = 1

        one.clear("a")
        assert dict(one) == {"b": 1}
        one.clear()

        assert dict(store) == {"k": 1, "one1:k": 1}

    def test_they_nest(self, store: Store) -> None:
        """A namespace of a namespace is one whose prefix is both names."""
        inner = store.namespace("a").namespace("b")

        inner["k"] = 1

        assert dict(store) == {"a:b:k": 1}
        assert dict(store.namespace("a")) == {"b:k": 1}
        assert dict(inner) == {"k": 1}

    def test_every_verb_is_inside(self, store: Store) -> None:
        """No verb of a namespace reads or writes the store's key of the same name."""
        one = store.namespace("one")
        store.update(dict.fromkeys("abcdefghijk", "outside"))
        before = dict(store)

        one.set("a", 1)
        assert one.add("b", 1)
        assert one.setdefault("c", 1) == 1
        assert one.increment("d") == 1
        one.compare_and_set("e", 1, sharedstate.ABSENT)
        one.update_with("f", lambda value: value or 1)
        one.set_many({"g": 1})
        one.transact(lambda tx: tx.set("h", tx.get("i", 1)))
        assert not one.delete("j")
        assert one.pop("j", None) is None
        assert one.delete_many(["j", "k"]) == 0
        assert not one.touch("k", None)
        assert one.get_many(["a", "k"]) == {"a": 1}
        assert one.read("k") is None
        assert one.wait_for_change("k", sharedstate.ABSENT, 0) == sharedstate.ABSENT

        assert dict(one) == dict.fromkeys("abcdefgh", 1)
        assert {key: value for key, value in store.items() if ":" not in key} == before

    def test_transactions_are_inside(self, store: Store) -> None:
        """A transaction of a namespace reads and writes its keys, and conflicts on them."""
        one = store.namespace("one")
        store["k"] = one["k"] = 1

        with one.transaction() as tx:
            tx["k"] += 10
            store["k"] = 99  # not what it read
        with pytest.raises(sharedstate.ConflictError), one.transaction() as tx:
            tx["k"] += 10
            store["one:k"] = 50

        assert dict(store) == {"k": 99, "one:k": 50}

    def test_locks_do_not_meet(self, store: Store) -> None:
        """Locks of one name in two namespaces are two locks; locks() shows a namespace its own."""
        one, two = store.namespace("one"), store.namespace("two")

        with one.lock("l", timeout_s=0), two.lock("l", timeout_s=0), store.lock("l", timeout_s=0):
            with pytest.raises(sharedstate.LockTimeoutError):
                store.lock("one:l", timeout_s=0).acquire()
            assert [record.name for record in one.locks()] == ["l"]
            assert sorted(record.name for record in store.locks()) == ["l", "one:l", "two:l"]

    def test_watching_is_inside(self, store: Store) -> None:
        """Watch of a namespace yields its own keys, without their prefix."""
        one = store.namespace("one")
        changes = one.watch(timeout_s=30)

        store["k"] = one["a"] = 1

        assert next(changes).key == "a"

    @pytest.mark.parametrize("name", ["", "a:b", ":", None, 1, b"a"], ids=repr)
    def test_names_without_a_colon(self, store: Store, name: Any) -> None:
        """The name is a str, not empty and without a colon, so that no two namespaces overlap unseen."""
        with pytest.raises(sharedstate.KeyFormatError):
            store.namespace(name)

    def test_the_whole_key_counts(self, store: Store) -> None:
        """The limit of 512 bytes is on prefix and key together."""
        one = store.namespace("one")
        longest = "x" * (MAX_KEY_BYTES - len("one:"))

        one[longest] = 1

        assert dict(one) == {longest: 1}
        with pytest.raises(sharedstate.KeyFormatError):
            one[longest + "x"] = 1
        with pytest.raises(sharedstate.KeyFormatError), one.transaction() as tx:
            tx[longest + "x"] = 1
