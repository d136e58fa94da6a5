"""The memory backend's own affairs; what it promises is proved by the conformance suite.

With its entries in C and in Python; test_memory_entries.py looks at those alone.
"""

from __future__ import annotations

import gc
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

import sharedstate
import sharedstate_memory
from sharedstate import CorruptError, registry
from sharedstate.model import DELETE, Put
from sharedstate.testing.conformance.support import fork_and_run, interrupt, interrupt_at, until
from sharedstate_memory import _entries
from sharedstate_memory import backend as plugin
from sharedstate_memory import entries as in_python

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sharedstate_memory.backend import MemoryBackend


@pytest.fixture(params=[_entries, in_python], ids=["c", "python"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(plugin, "Entries", request.param.Entries)
    monkeypatch.setattr(plugin, "Handle", request.param.Handle)
    return request.param


@pytest.fixture
def url(implementation: Any) -> Iterator[str]:
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
    assert len(backend._entries().snapshot()) < 4000


def test_dropping_the_expired_spares_the_living(backend: MemoryBackend) -> None:
    """Whatever else expires around them: without a deadline, or with one that has not come."""
    for i in range(5000):
        backend.set(f"forever{i % 100}", i)
        backend.set(f"later{i % 100}", i, 1000)
        backend.set(f"k{i}", 1, 1e-6)

    until(lambda: backend.count() == 200)
    assert len(backend._entries().snapshot()) < 4000
    assert backend.get("forever99") == backend.get("later99") == 4999


def test_scalars_are_kept_as_they_are(backend: MemoryBackend) -> None:
    """What nobody can change is not encoded: the same object comes back."""
    text, blob = "x" * 1000, b"y" * 1000
    backend.set("text", text)
    backend.set("blob", blob)

    assert backend.get("text") is text
    assert backend.get("blob") is blob


def test_check_finds_a_broken_invariant(backend: MemoryBackend) -> None:
    """check() raises CorruptError, naming M1, for a generation from the future."""

    class Planted(in_python.Entries):
        def snapshot(self) -> list[tuple[str, Any, bool, int, float | None]]:
            return [("k", 1, False, self.last + 1, None)]

    backend._table.entries = Planted()  # type: ignore[union-attr]  white box

    with pytest.raises(CorruptError, match="M1"):
        backend.check()


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


def test_child_of_a_fork_may_take_the_locks_of_a_removed_store() -> None:
    """Who held them is not in the child, also where neither the store nor a handle is left in the parent."""
    name = f"memory:removed-{uuid4()}"
    backend = registry.connect(name)
    with ThreadPoolExecutor(1) as other:
        holder, lock = backend.lock("l"), backend.lock("l")
        other.submit(holder.acquire).result(timeout=10)
        assert not lock.try_acquire()
        sharedstate.remove(name)
        del backend

        assert fork_and_run(lock.try_acquire)()
        assert not lock.try_acquire()


@pytest.mark.parametrize("implementation", [in_python], ids=["python"], indirect=True)  # those in C have no lock
def test_fork_holds_removed_stores_too(implementation: Any) -> None:
    """No thread is inside of one as its handles are copied: the child would wait for it for ever."""
    name = f"memory:removed-{uuid4()}"
    backend: Any = registry.connect(name)
    sharedstate.remove(name)
    lock = backend._table.entries._lock

    with ThreadPoolExecutor(1) as other:
        plugin._before_fork()
        is_free_within = other.submit(lock.acquire, False).result(timeout=10)
        plugin._after_fork_in_parent()
        is_free_after = other.submit(lock.acquire, False).result(timeout=10)

    assert (is_free_within, is_free_after) == (False, True)


def test_signal_handler_may_open_a_store_amid_a_forks_hooks(backend: MemoryBackend) -> None:
    """Nor may what it forks itself hold anything for ever: afterwards every thread opens and writes."""
    opened: list[str] = []

    class Interrupted(in_python.Entries):
        def hold(self) -> None:
            opened.append(plugin.temporary_url(""))
            registry.connect(opened[-1]).set("k", 1)
            if len(opened) == 1:
                plugin._before_fork()
                plugin._after_fork_in_parent()
            super().hold()

        def let_go(self) -> None:
            opened.append(plugin.temporary_url(""))
            registry.connect(opened[-1]).set("k", 1)
            super().let_go()

    entries = backend._entries()
    backend._table.entries = Interrupted()  # type: ignore[union-attr]  white box
    plugin._before_fork()
    plugin._after_fork_in_parent()
    backend._table.entries = entries  # type: ignore[union-attr]

    with ThreadPoolExecutor(1) as other:
        for url in opened:
            other.submit(lambda url=url: registry.connect(url).set("k", 2)).result(timeout=10)
            sharedstate.remove(url)
    assert len(opened) == 4


# --- Signal handlers and finalizers (M4) ----------------------------------------------


VERBS: dict[str, Any] = {
    "set": lambda backend: backend.set("k", "outer", 1000),
    "increment": lambda backend: backend.increment("n"),
    "touch": lambda backend: backend.touch("k", 1000),
    "take": lambda backend: backend.take("k"),
    "commit": lambda backend: backend.commit({"k": Put("outer"), "other": DELETE}),
    "keys": lambda backend: backend.keys(),
    "stats": lambda backend: backend.stats(),
    "lock": lambda backend: backend.lock("l"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_write_may_come_between_any_two_lines_of_its_own_threads_verb(backend: MemoryBackend, verb: str) -> None:
    """As a signal handler's or a finalizer's: nothing hangs or is lost, and generations go on growing.

    Between two lines of Python, that is; a verb that is one call of C has none.
    """
    hits = calls = due = newest = 0

    def trace(frame: Any, _event: str, _argument: Any) -> None:
        nonlocal hits, calls, newest
        if "sharedstate_memory" not in frame.f_code.co_filename:
            return
        calls += 1  # Python runs handlers where a function begins, among other places
        if calls == due:
            sys.settrace(None)
            before = backend.read("k")
            backend.commit({"k": Put("inner")})
            backend.increment("n")
            hits += 1
            after = backend.read("k")
            assert after is not None
            assert before is None or after.generation > before.generation
            newest = backend.change_token()

    done: list[int] = []

    def body() -> None:
        nonlocal calls, due
        for due in range(1, 21):
            backend.set("k", "start")
            calls = 0
            sys.settrace(trace)
            try:
                VERBS[verb](backend)
            finally:
                sys.settrace(None)
            assert backend.change_token() >= newest
            done.append(due)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(timeout=20)

    assert not thread.is_alive()
    assert len(done) == 20
    assert hits or verb in {"set", "increment"}
    assert backend.get("n", 0) == hits + (20 if verb == "increment" else 0)
    backend.check()


def test_finalizers_may_write(backend: MemoryBackend) -> None:
    """Whenever the garbage collector runs one, also inside a write: every death is counted, and nothing hangs."""

    class Mortal:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            backend.increment("deaths")

    def live() -> None:
        for i in range(3000):
            Mortal()
            backend.increment("births")
            backend.set(f"k{i % 500}", i, 1e-6)

    thresholds = gc.get_threshold()
    gc.set_threshold(2)
    try:
        thread = threading.Thread(target=live, daemon=True)
        thread.start()
        thread.join(timeout=30)
    finally:
        gc.set_threshold(*thresholds)
    assert not thread.is_alive()
    gc.collect()

    assert backend.get("births") == backend.get("deaths") == 3000


def test_write_that_is_interrupted_leaves_nothing_held(backend: MemoryBackend) -> None:
    """Whichever line of a write an exception of a signal handler hits, the next write of any thread goes on."""
    interrupt(lambda: backend.set("k", 1), times=500)

    thread = threading.Thread(target=backend.set, args=("k", 2), daemon=True)
    thread.start()
    thread.join(timeout=10)

    assert backend.get("k") == 2


@pytest.mark.parametrize("verb", [*VERBS, "change_token", "connect", "close"])
def test_verb_that_is_interrupted_at_any_call_leaves_nothing_held(backend: MemoryBackend, verb: str) -> None:
    """What a signal handler raises there keeps no other thread from writing."""
    with ThreadPoolExecutor(1) as other:
        for point in count(1):
            handle = registry.connect(backend.url)
            body = {
                "change_token": handle.change_token,
                "connect": lambda: registry.connect(backend.url),
                "close": handle.close,
            }.get(verb) or partial(VERBS[verb], handle)

            if not interrupt_at(point, body):
                break
            backend.check()
            other.submit(backend.set, "k", point).result(timeout=10)
            other.submit(registry.connect, backend.url).result(timeout=10)
    assert point > 1
    backend.check()


def test_lock_that_is_interrupted_is_held_by_nobody_for_ever(backend: MemoryBackend) -> None:
    """Whichever line of a turn an exception of a signal handler hits, the object can be released, or acquired again."""
    lock = backend.lock("l", timeout_s=1)

    def turn() -> None:
        if not lock.is_held():
            lock.acquire()
        lock.release()

    interrupt(turn, times=500)

    turn()
    assert backend.lock("l").try_acquire()
