"""Claims about handles: opening, the URL, closing, pickling, removing, figures."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest

import sharedstate
from sharedstate import ABSENT, Capabilities, Clock, Durability, Scope, Store, registry
from sharedstate.backend import parse_url
from sharedstate.testing.conformance import support
from sharedstate.testing.conformance.support import Claims, fork_and_run

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LifecycleClaims"]


class LifecycleClaims(Claims):
    """A handle opens, tells the truth about itself, and closes."""

    # --- Figures and facts ----------------------------------------------------

    def test_capabilities_are_facts(self, store: Store) -> None:
        """Each field has its type, the limits are positive, and the plug-in's own promise is no less."""
        facts = store.capabilities
        plugin = registry.find_plugin(parse_url(store.url)).CAPABILITIES

        assert type(facts) is Capabilities
        assert type(facts.scope) is Scope
        assert type(facts.durability) is Durability
        assert type(facts.clock) is Clock
        assert type(facts.max_value_bytes) is int
        assert facts.max_value_bytes >= 4096
        assert type(facts.max_transaction_keys) is int
        assert facts.max_transaction_keys >= 16
        assert type(facts.evicts) is bool
        assert facts.scope <= plugin.scope
        assert facts.durability <= plugin.durability

    def test_scope_is_what_it_says(self, store: Store) -> None:
        """A forked process that opens the URL sees this one's writes, and is seen, if and only if scope is HOST.

        Otherwise it is refused, unless it says that less is enough.
        """
        shares = store.capabilities.scope >= Scope.HOST
        store["parent"] = 1

        def be_child() -> Any:
            if not shares:
                with pytest.raises(sharedstate.ScopeError):
                    sharedstate.open(store.url)
            # Fork copies this process's memory: what was there before proves nothing.
            with sharedstate.open(store.url, allow_narrow=True) as own:
                own["child"] = 1
                until_parent_wrote = own.wait_for_change("late", ABSENT, support.PATIENCE_S if shares else 0.2)
                return until_parent_wrote != ABSENT

        result = fork_and_run(be_child)
        store["late"] = 1
        child_saw_parent = result()

        assert child_saw_parent == shares
        assert ("child" in store) == shares

    def test_stats_are_for_people(self, store: Store) -> None:
        """stats() has entries, bytes and capacity_bytes; entries counts what is there, bytes grows with it."""
        empty = store.stats()
        store.update(a=1, b=bytes(5000))

        stats = store.stats()

        assert empty["entries"] == 0
        assert stats["entries"] == 2
        assert int(stats["bytes"]) >= int(empty["bytes"])
        assert int(stats["capacity_bytes"]) >= 0
        assert all(type(name) is str and type(figure) in {int, float, str} for name, figure in stats.items())

    def test_check_accepts_what_is_sound(self, store: Store) -> None:
        """check() passes on an empty store, a filled one, and one with expired, removed, large and nan entries."""
        store.check()
        store.update({f"k{i}": [i] * i for i in range(100)})
        store.set("expires", 1, ttl_s=1e-6)
        store["large"] = bytes(100_000 if store.capabilities.max_value_bytes >= 200_000 else 1000)
        store["nan"] = float("nan")  # unequal to itself, and sound all the same
        store.delete_many([f"k{i}" for i in range(0, 100, 3)])

        store.check()
        store.clear()
        store.check()

    # --- The URL ----------------------------------------------------------------

    def test_url_opens_the_same_store(self, store: Store) -> None:
        """What store.url opens is the same store, with the same capabilities and the same URL."""
        store["k"] = 1

        with sharedstate.open(store.url) as other:
            assert other["k"] == 1
            assert other.url == store.url
            assert other.capabilities == store.capabilities
            other["k"] = 2
        assert store["k"] == 2

    def test_unknown_parameter_is_refused(self, store: Store) -> None:
        """A parameter that the plug-in does not know raises UrlError: a misspelt option never passes unnoticed."""
        separator = "&" if "?" in store.url else "?"

        with pytest.raises(sharedstate.UrlError, match="no_such_parameter"):
            sharedstate.open(f"{store.url}{separator}no_such_parameter=1")

    def test_needs_beyond_the_capabilities_are_refused(self, store: Store) -> None:
        """open() with a scope or durability beyond the store's raises ScopeError, unless allow_narrow is given."""
        facts = store.capabilities

        for scope in Scope:
            if scope > facts.scope:
                with pytest.raises(sharedstate.ScopeError):
                    sharedstate.open(store.url, scope=scope)
                sharedstate.open(store.url, scope=scope, allow_narrow=True).close()
            else:
                sharedstate.open(store.url, scope=scope).close()
        for durability in Durability:
            if durability > facts.durability:
                with pytest.raises(sharedstate.ScopeError):
                    sharedstate.open(store.url, durability=durability)
            else:
                sharedstate.open(store.url, durability=durability).close()

    # --- Closing ----------------------------------------------------------------

    def test_closing_keeps_what_is_stored(self, store: Store, open_another: Callable[[], Store]) -> None:
        """close() harms neither entries nor other handles, and the store can be opened again."""
        other = open_another()
        store["k"] = 1

        store.close()

        assert other["k"] == 1
        with sharedstate.open(store.url) as again:
            assert again["k"] == 1

    def test_entries_outlive_the_last_handle(self, url: str) -> None:
        """Where durability is BOOT or more, the store is found again after every handle was closed."""
        with sharedstate.open(url) as store:
            store["k"] = [1]
            durability = store.capabilities.durability
            generation = store.compare_and_set("g", 1, ABSENT)

        with sharedstate.open(url) as again:
            if durability >= Durability.BOOT:
                assert dict(again) == {"k": [1], "g": 1}
                assert again.compare_and_set("g", 2, generation) > generation
            again.check()
        sharedstate.remove(url)

    def test_closing_twice_is_no_error(self, store: Store) -> None:
        """close() may be called again, also by the `with` block."""
        with store:
            store.close()
        store.close()

    def test_every_verb_of_a_closed_store_says_so(self, store: Store) -> None:
        """ClosedError, a ValueError, from every verb; url and capabilities still answer."""
        url, namespace, calls = store.url, store.namespace("app"), _calls(store)
        store.close()

        for verb, call in calls.items():
            with pytest.raises(sharedstate.ClosedError):
                pytest.fail(f"{verb} returned {call()!r}")
        for verb, call in _calls(namespace).items():
            with pytest.raises(sharedstate.ClosedError):
                pytest.fail(f"{verb} of a namespace returned {call()!r}")
        assert store.url == url
        assert store.capabilities.max_value_bytes > 0
        assert issubclass(sharedstate.ClosedError, ValueError)

    # --- Travelling and ending ------------------------------------------------

    def test_pickling_carries_the_url(self, store: Store) -> None:
        """A pickled handle reopens the store on the other side; below scope PROCESS it raises ScopeError."""
        store["k"] = 1
        store.namespace("app")["k"] = 2

        if store.capabilities.scope >= Scope.PROCESS:
            with pickle.loads(pickle.dumps(store)) as copy, pickle.loads(pickle.dumps(store.namespace("app"))) as app:  # noqa: S301
                assert type(copy) is Store
                assert copy["k"] == 1
                assert app["k"] == 2
        else:
            with pytest.raises(sharedstate.ScopeError):
                pickle.dumps(store)

    def test_removed_store_is_gone(self, url: str) -> None:
        """remove() takes entries and locks with it; opening the URL makes a new, empty store."""
        with sharedstate.open(url) as store:
            store["k"] = 1
            with store.lock("l"):
                pass

        sharedstate.remove(url)

        with sharedstate.open(url) as again:
            assert len(again) == 0
            assert again.locks() == []
        sharedstate.remove(url)

    def test_removing_what_is_not_there(self, url: str) -> None:
        """remove() of a store that does not exist raises UnavailableError and makes none."""
        with pytest.raises(sharedstate.UnavailableError):
            sharedstate.remove(url)

    def test_handle_of_a_removed_store_writes_to_no_ghost(self, url: str) -> None:
        """A handle that is still open fails to write, rather than write where nobody else will read."""
        with sharedstate.open(url) as store:
            store["k"] = 1
            sharedstate.remove(url)

            with pytest.raises(sharedstate.UnavailableError):
                store["k"] = 2
            with pytest.raises(sharedstate.UnavailableError):
                store.increment("n")

    def test_discover_finds_it(self, store: Store) -> None:
        """The plug-in's discover() returns a list of URLs, each of which can be parsed."""
        plugin = registry.find_plugin(parse_url(store.url))

        found = plugin.discover()

        assert type(found) is list
        assert all(parse_url(url) for url in found)


def _calls(store: Store) -> dict[str, Callable[[], Any]]:
    """Return a call of each verb."""
    return {
        "get": lambda: store.get("k"),
        "read": lambda: store.read("k"),
        "get_many": lambda: store.get_many(["k"]),
        "[]": lambda: store["k"],
        "in": lambda: "k" in store,
        "ttl": lambda: store.ttl("k"),
        "set": lambda: store.set("k", 1),
        "[] =": lambda: store.__setitem__("k", 1),
        "add": lambda: store.add("k", 1),
        "setdefault": lambda: store.setdefault("k", 1),
        "increment": lambda: store.increment("k"),
        "compare_and_set": lambda: store.compare_and_set("k", 1, ABSENT),
        "update_with": lambda: store.update_with("k", lambda _: 1),
        "set_many": lambda: store.set_many({"k": 1}),
        "update": lambda: store.update(k=1),
        "touch": lambda: store.touch("k", 10),
        "delete": lambda: store.delete("k"),
        "del": lambda: store.__delitem__("k"),
        "delete_many": lambda: store.delete_many(["k"]),
        "pop": lambda: store.pop("k", None),
        "popitem": store.popitem,
        "clear": store.clear,
        "len": lambda: len(store),
        "iteration": lambda: list(store),
        "items": lambda: list(store.items()),
        "transact": lambda: store.transact(lambda tx: tx.set("k", 1)),
        "transaction": lambda: store.transact(lambda tx: tx.get("k")),
        "wait_for_change": lambda: store.wait_for_change("k", ABSENT, 0),
        "watch": lambda: next(store.watch(timeout_s=0)),
        "lock": lambda: store.lock("l").acquire(0),
        "locks": store.locks,
        "stats": store.stats,
        "check": store.check,
    }
