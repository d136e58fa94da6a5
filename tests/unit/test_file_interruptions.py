"""The file backend when a signal handler, a finalizer or another thread comes in between two lines."""

from __future__ import annotations

import resource
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

import sharedstate
from sharedstate import (
    ClosedError,
    LockTimeoutError,
)
from sharedstate.testing.conformance.support import interrupt, interrupt_at
from sharedstate_file import compaction, handle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sharedstate.store import Store


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file:{tmp_path}/store"


def test_write_that_is_interrupted_leaves_nothing_held(tmp_path: Path) -> None:
    """W3: whichever line of a write an exception of a signal handler hits, the next write goes on at once."""
    store = sharedstate.open(f"file:{tmp_path}/store?timeout=0.5")

    interrupt(lambda: store.set("k", 1), times=500)

    store["k"] = "in the end"
    store.check()
    assert sharedstate.open(store.url)["k"] == "in the end"


@pytest.mark.parametrize("verb", ["set", "increment", "take", "keys", "read what another wrote"])
def test_verb_that_is_interrupted_at_any_call_leaves_nothing_held(tmp_path: Path, verb: str) -> None:
    """W3: what a signal handler raises there keeps no thread of this handle, and no other handle, from writing."""
    verbs: dict[str, Callable[[Store], Any]] = {
        "set": lambda store: store.set("k", 1),
        "increment": lambda store: store.increment("n"),
        "take": lambda store: store.pop("other"),
        "keys": list,
        "read what another wrote": lambda store: store["other"],
    }
    url = f"file:{tmp_path}/store?timeout=0.5"
    with sharedstate.open(url) as store, sharedstate.open(url) as other, ThreadPoolExecutor(1) as thread:
        for point in count(1):
            other["other"] = point
            if not interrupt_at(point, partial(verbs[verb], store)):
                break
            thread.submit(store.set, "k", point).result(timeout=10)
        assert point > 1
        store.check()


@pytest.mark.parametrize("point", ["draft written", "draft renamed", "old log ended"])
def test_compaction_that_is_interrupted_costs_nothing(url: str, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """After KeyboardInterrupt amid a compaction the store goes on, for this handle and for the next."""

    def interrupt_there(reached: str) -> None:
        if reached == point:
            raise KeyboardInterrupt

    monkeypatch.setattr(compaction, "FLOOR_BYTES", 1000)
    store = sharedstate.open(url)
    with monkeypatch.context() as patched:
        patched.setattr(compaction, "reached", interrupt_there)
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012  at whichever write compacts
            for i in range(1000):
                store["k"] = i
    last = store["k"]

    store["other"] = 1

    store.check()
    assert dict(sharedstate.open(url)) == {"k": last, "other": 1}


def test_write_is_done_although_the_compaction_it_came_to_could_not_be(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a descriptor to spare, say: reported as refused, it would be done again."""
    monkeypatch.setattr(compaction, "FLOOR_BYTES", 1000)
    monkeypatch.setattr(handle, "FLOOR_BYTES", 1000)
    store = sharedstate.open(url)
    store["k"] = 0  # the first write looks for what others left, and may be refused
    backend: Any = store._backend
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (backend._log.fd + 1, limits[1]))
    try:
        for i in range(1, 300):
            assert store.increment("k") == i
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert store.stats()["compactions_failed"]
    store.check()
    assert sharedstate.open(url)["k"] == 299


@pytest.mark.parametrize("frame", [1, 2, 3])
def test_catching_up_that_is_interrupted_goes_on_where_it_was(
    url: str, monkeypatch: pytest.MonkeyPatch, frame: int
) -> None:
    """B2: no frame is applied after a later one was, since a touch cannot be once its key is deleted."""
    store, other = sharedstate.open(url), sharedstate.open(url)
    store["k"] = 1
    assert other["k"] == 1
    store.touch("k", 1000)
    del store["k"]
    store["last"] = 1
    follow = handle.follow
    calls: list[Any] = []

    def interrupt_there(*arguments: Any) -> int:
        generation = follow(*arguments)
        calls.append(arguments)
        if len(calls) == frame:
            raise KeyboardInterrupt
        return generation

    monkeypatch.setattr(handle, "follow", interrupt_there)
    with pytest.raises(KeyboardInterrupt):
        other.get("k")

    assert dict(other) == {"last": 1}
    other.check()


@pytest.mark.parametrize("frame", [1, 2, 3])
def test_read_amid_a_catch_up_of_its_own_thread_reads_the_newest(
    url: str, monkeypatch: pytest.MonkeyPatch, frame: int
) -> None:
    """B4: a finalizer or signal handler gets the newest value, and what comes after it none that is older."""
    store, other = sharedstate.open(url), sharedstate.open(url)
    store["k"] = 0
    assert other["k"] == 0
    for i in (1, 2, 3):
        store["k"] = i
    follow = handle.follow
    calls: list[Any] = []
    seen: list[Any] = []

    def read_there(*arguments: Any) -> int:
        calls.append(arguments)
        ours = len(calls)
        if ours == frame:
            seen.append(other["k"])
        generation = follow(*arguments)
        if seen:
            seen.append(other["k"])
        return generation

    monkeypatch.setattr(handle, "follow", read_there)
    seen.append(other["k"])

    assert len(calls) >= frame
    assert set(seen) == {3}
    other.check()


def test_write_amid_a_write_of_its_own_thread_is_refused_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finalizer or signal handler cannot wait for the thread that it interrupted; and may close the handle."""
    store = sharedstate.open(url)
    append = handle.Log.append
    caught: list[LockTimeoutError] = []

    def write_there(log: Any, payload: bytes, end: int) -> int:
        with pytest.raises(LockTimeoutError, match="that this one interrupted") as refused:
            store["nested"] = 1
        caught.append(refused.value)
        store.close()
        return append(log, payload, end)

    monkeypatch.setattr(handle.Log, "append", write_there)
    store["k"] = 1

    assert [error.timeout_s for error in caught] == [0]
    with pytest.raises(ClosedError):
        store["k"] = 2
    monkeypatch.undo()
    again = sharedstate.open(url)
    again["k"] += 1
    assert dict(again) == {"k": 2}


def test_close_amid_a_write_that_compacts_loses_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler may close the handle just before its own thread's write comes to compact."""
    with sharedstate.open(url) as first:
        for number in range(400):
            first[f"k{number % 20}"] = str(number) * 400
        expected = dict(first)
    store = sharedstate.open(url)
    append = handle.Log.append

    def close_there(log: Any, payload: bytes, end: int) -> int:
        store.close()
        return append(log, payload, end)

    monkeypatch.setattr(handle.Log, "append", close_there)
    monkeypatch.setattr(handle, "due_at", lambda *_: 0)  # compaction is due with the first write
    store["last"] = 1
    monkeypatch.undo()

    assert dict(sharedstate.open(url)) == {**expected, "last": 1}


@pytest.mark.parametrize("where", ["number_of", "follow"])
def test_read_that_interrupts_a_catch_up_of_its_own_thread(
    url: str, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """At whatever call a signal handler reads: the outer one applies nothing twice, and a write goes to the end."""
    ours, theirs = sharedstate.open(url), sharedstate.open(url)
    theirs.update({"j": 1, "k": 1})
    assert ours["k"] == 1
    theirs["j"] = 2
    theirs.touch("k", 50)
    del theirs["k"]
    original = getattr(handle, where)
    seen: list[Any] = []

    def read_there(*arguments: Any) -> Any:
        if not seen:
            seen.append("reading")
            seen.append((ours["j"], ours.get("k")))
        return original(*arguments)

    monkeypatch.setattr(handle, where, read_there)
    assert (ours["j"], ours.get("k")) == (2, None)
    monkeypatch.undo()

    assert seen == ["reading", (2, None)]
    ours["end"] = 1
    theirs["end"] += 1
    assert dict(ours) == dict(theirs) == dict(sharedstate.open(url)) == {"j": 2, "end": 2}
    ours.check()


def test_read_in_another_thread_learns_of_the_close(url: str) -> None:
    """A read that had found its word when the handle was closed says so; it does not call the key absent."""
    store = sharedstate.open(url)
    store["k"] = 1
    backend = store._backend
    words = backend._words
    store.close()
    backend._words = words  # as a thread had them that was held up between two lines

    for verb in (backend.get, backend.read):
        with pytest.raises(ClosedError):
            verb("k")
    with pytest.raises(ClosedError):
        backend.keys()
