"""The memory backend's own affairs; what it promises is proved by the conformance suite."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

import sharedstate
import sharedstate_memory
from sharedstate import CorruptError, registry
from sharedstate.testing.conformance.support import fork_and_run, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sharedstate_memory.backend import MemoryBackend


@pytest.fixture
def url() -> Iterator[str]:
    url = f"memory:unit-{uuid4()}"
    yield url
    sharedstate.remove(url)


@pytest.fixture
def backend(url: str) -> MemoryBackend:
    return registry.connect(url)  # type: ignore[return-value]  the plug-in of the scheme


def test_name_is_the_store(url: str) -> None:
    """Handles of one name share, with or without slashes; another name is another store; no name is `default`."""
    with sharedstate.open(url) as store, sharedstate.open(url.replace(":", "://")) as same:
        store["k"] = 1

        assert same["k"] == 1
        assert same.url == url
    with sharedstate.open(f"{url}-other") as other:
        assert len(other) == 0
    sharedstate.remove(f"{url}-other")
    assert registry.connect("memory:").url == "memory:default"
    sharedstate.remove("memory:default")


def test_discover_names_what_there_is(url: str, backend: MemoryBackend) -> None:
    """discover() lists this interpreter's stores until they are removed."""
    assert backend.url in sharedstate_memory.discover()

    sharedstate.open(f"{url}-other").close()
    sharedstate.remove(f"{url}-other")

    assert f"{url}-other" not in sharedstate_memory.discover()


@pytest.mark.parametrize("verb", ["set", "add", "increment", "compare_and_set", "touch"])
def test_expired_entries_do_not_pile_up(backend: MemoryBackend, verb: str) -> None:
    """Whichever verb gave them a deadline, the expired are dropped as new ones come: a rate limiter stays small."""
    for i in range(5000):
        key = f"k{i}"
        if verb == "set":
            backend.set(key, 1, 1e-6)
        elif verb == "add":
            backend.add(key, 1, 1e-6)
        elif verb == "increment":
            backend.increment(key, 1, 0, 1e-6)
        elif verb == "compare_and_set":
            backend.compare_and_set(key, 1, 0, 1e-6)
        else:
            backend.set(key, 1)
            backend.touch(key, 1e-6)

    backend.set("last", 1, 1e-6)
    until(lambda: backend.count() == 0)
    assert len(backend._entries) < 4000


def test_scalars_are_kept_as_they_are(backend: MemoryBackend) -> None:
    """What nobody can change is not encoded: the same object comes back."""
    text, blob = "x" * 1000, b"y" * 1000
    backend.set("text", text)
    backend.set("blob", blob)

    assert backend.get("text") is text
    assert backend.get("blob") is blob


def test_check_finds_a_broken_invariant(backend: MemoryBackend) -> None:
    """check() raises CorruptError, naming M1, for a generation from the future."""
    backend.set("k", 1)
    backend._table.last = 0  # type: ignore[union-attr]  white box

    with pytest.raises(CorruptError, match="M1"):
        backend.check()
    backend._table.last = 10  # type: ignore[union-attr]


def test_removed_store_is_another_than_the_next() -> None:
    """A handle of a removed store refuses writes and sees nothing, and the URL opens a new one."""
    name = f"memory:removed-{uuid4()}"
    with sharedstate.open(name) as store:
        store["k"] = 1
        sharedstate.remove(name)

        with pytest.raises(sharedstate.UnavailableError):
            store["k"] = 2
        with sharedstate.open(name) as again:
            assert len(again) == 0
            again["k"] = 3
        assert "k" not in store
    sharedstate.remove(name)


def test_child_of_a_fork_has_a_copy(url: str) -> None:
    """A forked child reads what was there, and what it writes, or locks, its parent never sees."""
    with sharedstate.open(url) as store:
        store["k"] = [1]
        with store.lock("l"):

            def be_child() -> tuple[object, bool]:
                store.update_with("k", lambda value: [*value, 2])
                return store["k"], store.lock("l").try_acquire()

            assert fork_and_run(be_child)() == ([1, 2], True)
            assert not store.lock("l").try_acquire()
        assert store["k"] == [1]
