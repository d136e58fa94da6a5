"""What a Store adds to its backend: names, retries and refusals.  Its verbs are proved by the conformance suite."""

# ruff: noqa: PT012  what raises is the end of a transaction, after all that led to it

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

import sharedstate
from sharedstate import ABSENT, Durability, Entry, Scope, Store, registry
from sharedstate.testing.conformance.support import run_together

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sharedstate.backend import Backend


@pytest.fixture
def backend() -> Iterator[Backend]:
    url = f"memory:store-{uuid4()}"
    yield registry.connect(url)
    sharedstate.remove(url)


@pytest.fixture
def store(backend: Backend) -> Store:
    return Store(backend)


# --- The hot verbs ----------------------------------------------------------------


def test_hot_verbs_are_the_backends_own(store: Store, backend: Backend) -> None:
    """No frame stands between a root store's caller and the storage."""
    for verb in ("get", "set", "add", "delete", "increment", "read", "compare_and_set", "touch", "get_many"):
        assert getattr(store, verb) == getattr(backend, verb)


def test_subclass_of_a_backend_is_used(backend: Backend) -> None:
    """A verb that a backend overrides is the one that the store uses, also behind [] and `in`."""
    backend.get = lambda key, default=None: f"got {key}"  # type: ignore[method-assign]

    store = Store(backend)

    assert store["k"] == store.get("k") == "got k"
    assert "k" in store


# --- What other writers do meanwhile ------------------------------------------------


def test_setdefault_returns_what_it_stored(store: Store, backend: Backend) -> None:
    """A writer that comes right after the add does not change what setdefault returns: it took effect before."""
    add = backend.add

    def add_then_lose(key: str, value: Any, ttl_s: float | None = None) -> bool:
        added = add(key, value, ttl_s)
        backend.set(key, "later")
        return added

    store.add = add_then_lose  # type: ignore[method-assign]

    assert store.setdefault("k", [1]) == [1]
    assert store["k"] == "later"


def test_setdefault_looks_again(store: Store, backend: Backend) -> None:
    """If somebody else adds first and deletes again, setdefault stores after all."""
    attempts: list[str] = []

    def lose_once(key: str, value: Any, ttl_s: float | None = None) -> bool:
        attempts.append(key)
        return len(attempts) > 1 and backend.add(key, value, ttl_s)

    store.add = lose_once  # type: ignore[method-assign]

    assert store.setdefault("k", 1) == 1
    assert attempts == ["k", "k"]


def test_popitem_goes_on_to_what_came_meanwhile(store: Store, backend: Backend) -> None:
    """If every key it saw was taken by others, popitem looks again: KeyError means that the store was empty."""
    store["a"] = 1
    take = backend.take

    def lose_a(key: str) -> Entry | None:
        if key == "a":
            take("a")
            backend.set("b", 2)
        return take(key)

    backend.take = lose_a  # type: ignore[method-assign]

    assert store.popitem() == ("b", 2)


def test_update_with_does_not_outrun_its_expiry(store: Store) -> None:
    """An entry that expires within the function is absent when it is called again."""
    store.set("k", "old", ttl_s=0.01)
    seen: list[Any] = []

    def change(value: Any) -> Any:
        seen.append(value)
        while store.read("k") is not None:
            pass
        return "new"

    assert store.update_with("k", change, default="default") == "new"
    assert seen == ["old", "default"]
    assert store.ttl("k") is None


def test_transact_gives_up_only_after_the_timeout(store: Store) -> None:
    """A timeout of 0 still tries once."""
    assert store.transact(lambda tx: tx.increment("n"), timeout_s=0) == 1


def test_kept_deadline_does_not_move_with_the_bodys_time(store: Store) -> None:
    """tx.increment keeps the deadline that the entry had when it was read, however long the body takes."""
    store.set("k", 1, ttl_s=1000)
    before = store.ttl("k")

    with store.transaction() as tx:
        tx.increment("k")
        while store.ttl("k") == before or (store.ttl("k") or 0) > (before or 0) - 0.02:
            pass

    after = store.ttl("k")
    assert before is not None
    assert after is not None
    assert after < before - 0.015


# --- Watching -----------------------------------------------------------------------


def test_watch_begins_at_its_call(store: Store) -> None:
    """What changes between watch() and the first next() is yielded."""
    changes = store.watch(timeout_s=1)

    store["k"] = 1

    assert next(changes).key == "k"


def test_watch_is_not_kept_awake_by_others(store: Store) -> None:
    """Changes under other prefixes do not put off its end."""
    changes = store.watch("mine", timeout_s=0.1)
    ended: list[bool] = []

    def disturb() -> None:
        while not ended:
            store.increment("other")

    def watch() -> list[Any]:
        try:
            return list(changes)
        finally:
            ended.append(True)

    found, _ = run_together(watch, disturb)

    assert found == []


def test_closing_wakes_who_waits(store: Store) -> None:
    """A thread that waits through a handle which another one closes gets ClosedError, not eternity."""

    def wait() -> str:
        try:
            store.wait_for_change("k", ABSENT, timeout_s=30)
        except sharedstate.ClosedError:
            return "closed"
        return "waited on"

    waited, _ = run_together(wait, store.close)

    assert waited == "closed"


# --- Names and travelling -------------------------------------------------------------


def test_repr_names_url_and_namespace(store: Store) -> None:
    """A store says in a debugger which one it is."""
    assert repr(store) == f"<Store {store.url}>"
    assert repr(store.namespace("app")) == f"<Store {store.url} namespace 'app:'>"


def test_memory_store_does_not_travel(store: Store) -> None:
    """Pickling or copying a memory store raises ScopeError, whose advice names URLs that would do."""
    for travel in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(sharedstate.ScopeError) as caught:
            travel(store)

        assert "shm:" in caught.value.advice


def test_conflict_in_a_namespace_names_the_namespaces_key(store: Store) -> None:
    """The error's key can be used in the namespace that raised it."""
    app = store.namespace("app")
    app["k"] = 1

    with pytest.raises(sharedstate.ConflictError) as caught:
        app.compare_and_set("k", 2, ABSENT)
    assert caught.value.key == "k"
    with pytest.raises(sharedstate.ConflictError) as caught, app.transaction() as tx:
        tx["k"] += 1
        app["k"] = 5
    assert caught.value.key == "k"


def test_closing_a_namespace_closes_the_backend(store: Store) -> None:
    """A namespace shares the handle: closing one closes both."""
    store.namespace("app").close()

    with pytest.raises(sharedstate.ClosedError):
        store.get("k")


def test_store_is_not_hashable(store: Store) -> None:
    """Like any mapping that compares by its items."""
    with pytest.raises(TypeError):
        hash(store)


# --- Opening --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nosuch:x", "Installed here"),
        ("memry:x", "Did you mean memory:"),
        ("no scheme at all", "starts with a scheme"),
        ("", "starts with a scheme"),
        ("memory:x?sizee=1", "unknown parameter 'sizee'"),
        ("memory:a/b", "holds a slash"),
    ],
)
def test_open_says_what_is_wrong_with_a_url(url: str, said: str) -> None:
    """UrlError quotes the URL, says what is wrong, and what would be right."""
    with pytest.raises(sharedstate.UrlError) as caught:
        sharedstate.open(url)

    assert said in str(caught.value)
    assert caught.value.url == url


def test_broken_plugin_is_not_an_unknown_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in that is there but cannot be imported raises BackendMissingError with the cause."""
    (tmp_path / "sharedstate_brokenplugin.py").write_text("import a_module_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(sharedstate.BackendMissingError, match="a_module_that_is_missing"):
        sharedstate.open("brokenplugin:x")
    assert "shm" in registry.every_scheme()  # the broken one is passed over
    assert "brokenplugin" not in registry.every_scheme()


def test_refusal_suggests_what_would_do() -> None:
    """ScopeError says what is needed, what is given, and which URL would do."""
    with pytest.raises(sharedstate.ScopeError) as caught:
        sharedstate.open("memory:x", scope=Scope.HOST)

    error = caught.value
    assert error.needed.startswith("scope HOST")
    assert error.given.startswith("scope INTERPRETER")
    assert "'shm://x'" in error.advice
    assert "memory:" not in error.advice


def test_refusal_names_schemes_where_no_store_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """What suffices but has no place here is named by its scheme, so that its user can give one."""
    monkeypatch.setattr("sharedstate.registry.named_schemes", list)

    with pytest.raises(sharedstate.ScopeError) as caught:
        sharedstate.open("memory:x", durability=Durability.DISK)

    assert "file: or redis: or sqlite:" in caught.value.advice


def test_broken_plugin_spoils_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheme that cannot be imported is not suggested, and does not replace the error."""
    (tmp_path / "sharedstate_brokenplugin.py").write_text("import a_module_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(sharedstate.ScopeError):
        sharedstate.open("memory:x", durability=Durability.DISK)


def test_commit_inside_the_block_is_not_repeated_at_its_end() -> None:
    """After tx.commit() the end of the block writes nothing again, whatever others wrote in between."""
    with sharedstate.open("memory:commit-once") as store:
        with store.transaction() as tx:
            tx["k"] = "ours"
            tx.commit()
            store["k"] = "theirs"

        assert store["k"] == "theirs"
