"""Claims about time: which verbs set, keep and end a deadline, and that the expired is absent to every verb."""

# ruff: noqa: PT012  what raises is the end of a transaction, after all that led to it

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

import sharedstate
from sharedstate import ABSENT
from sharedstate.backend.waiting import MAX_TTL_S, clock_s
from sharedstate.testing.conformance.support import SOON_S, Claims, unchanged, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate.store import Store

__all__ = ["ExpiryClaims"]

_LONG_S: Final = 1000.0
_LONGER_S: Final = 50_000.0
_SLACK_S: Final = 100.0
"""How late a claim may run on a stopped machine before it mistakes one time to live for another."""


def _expires_in(store: Store, key: str, ttl_s: float) -> bool:
    left_s = store.ttl(key)
    return left_s is not None and ttl_s - _SLACK_S < left_s <= ttl_s


def _let_expire(store: Store, key: str = "k", value: Any = "old") -> None:
    """Store `value` under `key`, and return once it has expired."""
    store.set(key, value, ttl_s=SOON_S)
    until(lambda: store.read(key) is None)


class ExpiryClaims(Claims):
    """From its deadline on, an entry is absent to every verb; until then it is there."""

    # --- Who sets a deadline --------------------------------------------------

    def test_no_deadline_unless_asked(self, store: Store) -> None:
        """An entry without ttl_s never expires: ttl() is None, and read has no expires_at."""
        store["k"] = 1
        entry = store.read("k")

        assert entry is not None
        assert entry.expires_at is None
        assert store.ttl("k") is None

    def test_ttl_of_an_absent_key(self, store: Store) -> None:
        """ttl() of what is not there raises KeyError: None would mean for ever."""
        with pytest.raises(KeyError):
            store.ttl("k")

    def test_every_creating_verb_takes_a_ttl(self, store: Store) -> None:
        """With ttl_s the new entry expires that long from now, whichever verb made it."""
        store.set("set", 1, ttl_s=_LONG_S)
        store.add("add", 1, ttl_s=_LONG_S)
        store.increment("increment", ttl_s=_LONG_S)
        store.compare_and_set("compare_and_set", 1, ABSENT, ttl_s=_LONG_S)
        store.update_with("update_with", lambda _: 1, ttl_s=_LONG_S)
        store.set_many({"set_many": 1}, ttl_s=_LONG_S)
        store.transact(lambda tx: tx.set("transaction", 1, ttl_s=_LONG_S))
        store["touch"] = 1
        store.touch("touch", _LONG_S)

        assert len(store) == 8
        assert all(_expires_in(store, key, _LONG_S) for key in store)

    def test_deadline_is_on_the_backends_clock(self, store: Store) -> None:
        """expires_at is seconds on the clock that capabilities name: now plus ttl_s."""
        before = clock_s(store.capabilities.clock)
        store.set("k", 1, ttl_s=_LONG_S)
        after = clock_s(store.capabilities.clock)

        entry = store.read("k")

        assert entry is not None
        assert entry.expires_at is not None
        assert before + _LONG_S - 0.01 <= entry.expires_at <= after + _LONG_S + 0.01

    @pytest.mark.parametrize("ttl_s", [1, 0.5 + MAX_TTL_S / 2, MAX_TTL_S], ids=str)
    def test_any_time_up_to_the_longest(self, store: Store, ttl_s: float) -> None:
        """An int or float from above 0 to MAX_TTL_S is a time to live, and ttl() gives it back less what has passed."""
        store.set("k", 1, ttl_s=ttl_s)

        left_s = store.ttl("k") if ttl_s > 1 else ttl_s

        assert left_s is not None
        assert ttl_s - _SLACK_S < left_s <= ttl_s

    @pytest.mark.parametrize("ttl_s", [0, -1, 0.0, -0.5, float("nan"), float("inf"), 2e9, "1", True, 10**400], ids=repr)
    def test_no_other_time_is_accepted(self, store: Store, ttl_s: Any) -> None:
        """Every verb that takes ttl_s raises ValueTypeError for what is none, and changes nothing."""
        store["k"] = 1

        for call in (
            lambda: store.set("k", 2, ttl_s),
            lambda: store.add("new", 2, ttl_s),
            lambda: store.increment("k", 1, 0, ttl_s),
            lambda: store.increment("new", 1, 0, ttl_s),
            lambda: store.compare_and_set("new", 2, ABSENT, ttl_s),
            lambda: store.update_with("k", lambda _: 2, None, ttl_s),
            lambda: store.set_many({"new": 2}, ttl_s),
            lambda: store.touch("k", ttl_s),
            lambda: store.transact(lambda tx: tx.set("k", 2, ttl_s)),
        ):
            with unchanged(store, "k"), pytest.raises(sharedstate.ValueTypeError):
                call()
        assert list(store) == ["k"]

    # --- Who keeps it, who ends it ----------------------------------------------

    @pytest.mark.parametrize("ttl_s", [None, _LONGER_S], ids=["for ever", "longer"])
    def test_touch_amid_a_change_holds(
        self, store: Store, open_another: Callable[[], Store], ttl_s: float | None
    ) -> None:
        """update_with, and increment in a transaction, keep the deadline of a touch that came after they had read."""
        other = open_another()

        def touch_and_add(value: int) -> int:
            other.touch("k", ttl_s)
            return value + 1

        def touch_and_increment(tx: Any) -> None:
            tx.increment("k")
            other.touch("k", ttl_s)

        changes: tuple[Callable[[], Any], ...] = (
            lambda: store.update_with("k", touch_and_add),
            lambda: store.transact(touch_and_increment),
        )
        for change in changes:
            store.set("k", 1, ttl_s=_LONG_S)
            change()
            assert store["k"] == 2
            assert store.ttl("k") is None if ttl_s is None else _expires_in(store, "k", ttl_s)

    def test_overwriting_ends_the_deadline(self, store: Store) -> None:
        """set, compare_and_set, set_many, [] and a transaction's set without ttl_s: the new value never expires."""
        keys = ("set", "[]", "set_many", "update", "compare_and_set", "transaction")
        store.set_many(dict.fromkeys(keys, 0), ttl_s=_LONG_S)
        entry = store.read("compare_and_set")
        assert entry is not None

        store.set("set", 1)
        store["[]"] = 1
        store.set_many({"set_many": 1})
        store.update(update=1)
        store.compare_and_set("compare_and_set", 1, entry.generation)
        store.transact(lambda tx: tx.set("transaction", 1))

        assert {key: store.ttl(key) for key in keys} == dict.fromkeys(keys)

    def test_overwriting_may_set_another(self, store: Store) -> None:
        """The ttl_s of the latest write counts, whether shorter or longer than the one before."""
        store.set("k", 1, ttl_s=_LONG_S)
        store.set("k", 1, ttl_s=_LONGER_S)
        assert _expires_in(store, "k", _LONGER_S)
        store.update_with("k", lambda value: value, ttl_s=_LONG_S)
        assert _expires_in(store, "k", _LONG_S)

    def test_increment_keeps_the_deadline(self, store: Store) -> None:
        """The ttl_s of increment counts only when it creates the key: a window starts at its first hit."""
        store.increment("window", ttl_s=_LONG_S)
        store.increment("window", ttl_s=_LONGER_S)
        store.increment("window")
        store["ever"] = 1
        store.increment("ever", ttl_s=_LONG_S)

        assert _expires_in(store, "window", _LONG_S)
        assert store.ttl("ever") is None
        assert store["window"] == 3

    def test_update_with_keeps_the_deadline(self, store: Store) -> None:
        """Without ttl_s, update_with leaves the time at which the entry expires, or that it never does."""
        store.set("k", 1, ttl_s=_LONG_S)
        store.set("ever", 1)

        store.update_with("k", lambda value: value + 1)
        store.update_with("ever", lambda value: value + 1)

        assert _expires_in(store, "k", _LONG_S)
        assert store.ttl("ever") is None

    def test_increment_in_a_transaction_keeps_the_deadline(self, store: Store) -> None:
        """tx.increment lets the entry expire as it did, also after another increment, but not after a set."""
        store.set_many(dict.fromkeys(("once", "twice", "after a set", "after a delete"), 1), ttl_s=_LONG_S)

        with store.transaction() as tx:
            tx.increment("once")
            tx.increment("twice")
            tx.increment("twice")
            tx["after a set"] = 5
            tx.increment("after a set")
            del tx["after a delete"]
            tx.increment("after a delete")

        assert dict(store) == {"once": 2, "twice": 3, "after a set": 6, "after a delete": 1}
        assert _expires_in(store, "once", _LONG_S)
        assert _expires_in(store, "twice", _LONG_S)
        assert store.ttl("after a set") is None
        assert store.ttl("after a delete") is None

    def test_touch_moves_or_ends_the_deadline(self, store: Store) -> None:
        """touch(k, s) lets it expire s seconds from now, touch(k, None) never; value and generation stay."""
        store.set("k", [1], ttl_s=_LONG_S)
        before = store.read("k")
        assert before is not None

        assert store.touch("k", _LONGER_S)
        assert _expires_in(store, "k", _LONGER_S)
        assert store.touch("k", None)
        assert store.read("k") == before._replace(expires_at=None)

    def test_deleting_ends_the_deadline(self, store: Store) -> None:
        """A key that is created again after a delete does not inherit the old entry's deadline."""
        store.set("k", 1, ttl_s=_LONG_S)

        store.delete("k")
        store.increment("k")

        assert store.ttl("k") is None

    # --- Absent to every verb ---------------------------------------------------

    def test_expired_is_absent_to_readers(self, store: Store, open_another: Callable[[], Store]) -> None:
        """get, read, [], in, ttl, get_many, len, iteration and the views do not see it, from any handle."""
        store["stays"] = 1
        _let_expire(store)

        for handle in (store, open_another()):
            assert handle.get("k", 7) == 7
            assert handle.read("k") is None
            assert "k" not in handle
            assert handle.get_many(["k", "stays"]) == {"stays": 1}
            assert len(handle) == 1
            assert list(handle) == ["stays"]
            assert list(handle.keys("k")) == []
            assert dict(handle.items()) == {"stays": 1}
            assert list(handle.values("k")) == []
            assert handle == {"stays": 1}
            with pytest.raises(KeyError):
                handle["k"]
            with pytest.raises(KeyError):
                handle.ttl("k")

    def test_expired_cannot_be_removed(self, store: Store) -> None:
        """delete, del, pop, popitem and delete_many find nothing there."""
        _let_expire(store)
        assert not store.delete("k")
        _let_expire(store)
        assert store.pop("k", 7) == 7
        _let_expire(store)
        assert store.delete_many(["k"]) == 0
        _let_expire(store)
        with pytest.raises(KeyError):
            store.popitem()
        with pytest.raises(KeyError):
            del store["k"]

    def test_expired_cannot_be_touched(self, store: Store) -> None:
        """Touch returns False: what has expired does not come back."""
        _let_expire(store)

        assert not store.touch("k", _LONG_S)
        assert not store.touch("k", None)
        assert store.read("k") is None

    def test_expired_makes_room(self, store: Store) -> None:
        """Add, setdefault, compare_and_set(ABSENT), increment and update_with start anew, with their own deadline."""
        _let_expire(store)
        assert store.add("k", "new")
        assert store.ttl("k") is None
        _let_expire(store)
        assert store.setdefault("k", "new") == "new"
        _let_expire(store)
        assert store.compare_and_set("k", "new", ABSENT) > ABSENT
        _let_expire(store, value=100)
        assert store.increment("k", ttl_s=_LONG_S) == 1
        assert _expires_in(store, "k", _LONG_S)
        _let_expire(store)
        assert store.update_with("k", lambda value: [value]) == [None]
        assert store.ttl("k") is None

    def test_expired_is_no_version(self, store: Store) -> None:
        """compare_and_set at the generation that has expired raises ConflictError that found ABSENT."""
        store["k"] = "old"
        entry = store.read("k")
        assert entry is not None
        store.touch("k", SOON_S)
        until(lambda: store.read("k") is None)

        with pytest.raises(sharedstate.ConflictError) as caught:
            store.compare_and_set("k", "new", entry.generation)

        assert caught.value.found == ABSENT
        assert store.read("k") is None

    def test_expired_is_absent_in_transactions(self, store: Store) -> None:
        """A transaction reads nothing there, may create it, and conflicts if it expired between read and commit."""
        _let_expire(store)
        with store.transaction() as tx:
            assert tx.get("k") is None
            assert "k" not in tx
            assert not tx.delete("k")
            assert tx.increment("k") == 1
        assert store.pop("k") == 1

        store["k"] = "old"
        with pytest.raises(sharedstate.ConflictError), store.transaction() as tx:
            assert tx["k"] == "old"
            store.touch("k", SOON_S)
            until(lambda: store.read("k") is None)
            tx["k"] = "new"
        assert store.read("k") is None

    def test_expiry_needs_no_visit(self, store: Store) -> None:
        """Entries that nobody touches again leave len, iteration and `clear` alone all the same."""
        store.set_many({f"k{i}": bytes(100) for i in range(100)}, ttl_s=SOON_S)
        store.set("last", 1, ttl_s=SOON_S)
        store["stays"] = 1

        until(lambda: store.read("last") is None)

        assert len(store) == 1
        assert list(store) == ["stays"]
        store.clear("k")
        assert dict(store) == {"stays": 1}

    def test_other_entries_outlive_it(self, store: Store) -> None:
        """An expiry takes only its own entry, even one of the same prefix and age."""
        store.set("k1", 1, ttl_s=_LONG_S)
        store.set("k11", 1)
        _let_expire(store)

        store.increment("k1")

        assert dict(store) == {"k1": 2, "k11": 1}
