"""Compaction of a file store: when it pays, and that others write on while it is made.

Invariants, of a compaction that others write during:
    O1  it holds no lock that a write needs, but for a moment at its end
    O2  the new log says what the old one did, to each generation and deadline,
        whatever was written meanwhile and whatever the clocks say
    O3  a compactor that is killed leaves the old log or the new one, and what it
        leaves of the other holds nothing up
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

import sharedstate
from sharedstate_file import compaction, handle
from sharedstate_file.compaction import Draft

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sharedstate import Store


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file:{tmp_path}/store"


# --- When it pays -----------------------------------------------------------------


def test_opening_costs_what_lives_and_not_what_was(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 3,000 writes of 10 keys, what an opener reads is less than twice the floor of compaction."""
    monkeypatch.setattr(compaction, "FLOOR_BYTES", 4000)
    store = sharedstate.open(url)
    for number in range(3000):
        store[f"k{number % 10}"] = number

    figures = sharedstate.open(url).stats()
    assert figures["entries"] == 10
    assert figures["log_bytes"] < 8000
    assert figures["compactions"] > 10
    assert figures["generation"] >= 3000


def test_expired_entries_do_not_keep_the_log_from_shrinking(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries under ever new keys that have all expired count as dead."""
    monkeypatch.setattr(compaction, "FLOOR_BYTES", 4000)
    clock = [1e9]
    monkeypatch.setattr("sharedstate_file.backend._now", lambda: clock[0])
    monkeypatch.setattr("sharedstate_file.handle._now", lambda: clock[0])
    store = sharedstate.open(url)

    for number in range(1000):
        store.set(f"k{number}", number, ttl_s=10)
        clock[0] += 1

    figures = store.stats()
    assert figures["entries"] == 9
    assert figures["compactions"] > 2
    assert figures["log_bytes"] < 12_000


def test_generation_grows_across_compaction(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key deleted before a compaction and made again after it gets a greater generation."""
    monkeypatch.setattr(compaction, "FLOOR_BYTES", 100)
    store = sharedstate.open(url)
    store["gone"] = 1
    store["stays"] = 1
    first, stays = store.read("gone"), store.read("stays")
    del store["gone"]
    for number in range(50):
        store["filler"] = number

    store["gone"] = 2

    again = sharedstate.open(url).read("gone")
    assert store.stats()["compactions"] > 0
    assert first is not None
    assert again is not None
    assert again.generation > first.generation
    assert sharedstate.open(url).read("stays") == stays


@pytest.mark.parametrize("has_large", [False, True])
def test_who_compacted_knows_what_an_opener_reads(url: str, monkeypatch: pytest.MonkeyPatch, has_large: bool) -> None:
    """Its entries, generations and place in the log are those of a fresh handle, and no old log stays open."""
    monkeypatch.setattr(compaction, "FLOOR_BYTES", 50_000)
    clock = [1e9]
    monkeypatch.setattr("sharedstate_file.backend._now", lambda: clock[0])
    monkeypatch.setattr("sharedstate_file.handle._now", lambda: clock[0])
    store, other = sharedstate.open(url), sharedstate.open(url)
    store.update({"int": 1, "text": "x", "list": [1, (2.5, None)]})
    store.set("short", 1, ttl_s=5)
    store.set("long", 1, ttl_s=5000)
    if has_large:
        store["large"] = b"l" * 20_000
    clock[0] += 10

    while not store.stats()["compactions"]:
        store["filler"] = "f" * 1000
    store["after"] = [store.increment("int")]

    known, read = store._backend, sharedstate.open(url)._backend
    entries = {key: stored for key, stored in known._entries.items() if key != "large"}
    assert entries == {key: stored for key, stored in read._entries.items() if key != "large"}
    assert "short" not in entries
    assert (known._mark, known._seen) == (read._mark, read._seen)
    other["theirs"] = 1
    assert dict(store.items()) == dict(other.items()) == dict(sharedstate.open(url).items())
    store.check()
    opened = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.lexists(entry.path)]
    assert [path for path in opened if path.startswith(url[5:]) and path.endswith("(deleted)")] == []


# --- What others write meanwhile ---------------------------------------------------


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], times: int = 1) -> None:
    """Have `act` done when the draft is first synced, and after each of its copies, up to so often."""
    real, left = Draft.sync, [times]

    def sync(draft: Draft) -> None:
        real(draft)
        left[0] -= 1
        if left[0] >= 0:
            act()

    monkeypatch.setattr(Draft, "sync", sync)


def compact(store: Store) -> None:
    """Write until the store was compacted."""
    before = store.stats()["compactions"]
    while store.stats()["compactions"] == before:
        store["filler"] = "f" * 1000


def agree(*stores: Store) -> None:
    """Require that all, and a new handle, know the same, to the generation and the deadline."""
    with sharedstate.open(stores[0].url) as opened:
        due = {key: opened.read(key) for key in opened}
    for store in stores:
        assert {key: store.read(key) for key in store} == due
        store.check()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let compaction pay from 20,000 dead bytes on, and copy but 100 while others wait."""
    for module in (compaction, handle):
        monkeypatch.setattr(module, "FLOOR_BYTES", 20_000)
    monkeypatch.setattr(handle, "LITTLE_BYTES", 100)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("size", [10, 3_000, 20_000], ids=["small", "of pages", "large"])
def test_others_write_on_while_a_compaction_is_made(url: str, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """O1, O2: every verb of another handle, at once and not after a while, several times over."""
    store, other = sharedstate.open(url), sharedstate.open(f"{url}?timeout=0.01")
    store.update({"stays": 1, "goes": 1, "n": 1, "touched": 1, "list": [1], "a": 0, "b": 0})
    turn = 0

    def write() -> None:
        nonlocal turn
        turn += 1
        other.set(f"new {turn}", "x" * size, ttl_s=1000)
        other.delete("goes")
        other["goes"] = turn
        other.increment("n")
        other.touch("touched", 1000 + turn)
        other.update({"list": [turn, "y" * size]})
        with other.transaction() as tx:
            tx["a"], tx["b"] = turn, -turn

    with monkeypatch.context() as patched:
        meanwhile(patched, write, times=3)
        compact(store)

    assert turn == 3
    assert store.stats()["compactions_failed"] == 0
    assert (store["n"], store["goes"], store["a"], store["new 3"]) == (4, 3, 3, "x" * size)
    agree(store, other)
    store["after"] = other["more"] = 1
    agree(store, other)


@pytest.mark.usefixtures("small")
def test_two_that_would_compact_do_not_meet(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one comes upon it amid the first one's, leaves it, and loses nothing."""
    store, other = sharedstate.open(url), sharedstate.open(url)

    def write_much() -> None:
        for number in range(60):
            other["theirs"] = f"{number}" * 1000

    with monkeypatch.context() as patched:
        meanwhile(patched, write_much)
        compact(store)

    assert other["theirs"] == "59" * 1000
    assert other.stats()["compactions_failed"] == store.stats()["compactions_failed"] == 0
    assert sum(name.startswith("log-") for name in os.listdir(url[5:])) == 1
    agree(store, other)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("verb", ["touch", "set", "delete", "touch and increment"])
def test_what_had_expired_for_the_compactor_only(url: str, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """O2: the clock is set back amid the compaction, so others touch what its checkpoint lacks: all know the same."""
    clock = [1e9]
    for module in ("backend", "handle"):
        monkeypatch.setattr(f"sharedstate_file.{module}._now", lambda: clock[0])
    store, other = sharedstate.open(url), sharedstate.open(url)
    store.set("k", 1, ttl_s=10)
    store.set("gone", 1, ttl_s=10)
    clock[0] += 100

    def set_back() -> None:
        clock[0] -= 100
        if verb.startswith("touch"):
            other.touch("k", 1000)
        if verb == "touch and increment":
            other.increment("k")
        elif verb == "set":
            other.set("k", 2, ttl_s=1000)
        elif verb == "delete":
            other.delete("k")

    with monkeypatch.context() as patched:
        meanwhile(patched, set_back)
        compact(store)

    agree(store, other)
    assert ("k" in store) == (verb in {"set", "touch and increment"})
    store["k"] = other.increment("n")
    agree(store, other)


@pytest.mark.usefixtures("small")
def test_a_store_removed_amid_a_compaction_stays_removed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made in the place of what was removed."""
    store = sharedstate.open(url)
    with monkeypatch.context() as patched:
        meanwhile(patched, lambda: sharedstate.remove(url))
        with pytest.raises(sharedstate.UnavailableError):
            compact(store)

    assert not os.path.exists(url[5:])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("is_head_lost", [False, True])
@pytest.mark.parametrize("point", ["copying", "draft written", "draft renamed", "old log ended", "head flipped"])
def test_killed_with_what_others_wrote_meanwhile(url: str, point: str, is_head_lost: bool) -> None:
    """O3: whatever was copied, the store opens to all of it, and the next compaction comes to an end."""
    store = sharedstate.open(url)
    store["n"] = 0
    child = os.fork()
    if child == 0:
        patch = pytest.MonkeyPatch()
        other = sharedstate.open(url)

        def write() -> None:
            for _ in range(30):
                other.increment("n")
            if point == "copying":
                os.kill(os.getpid(), signal.SIGKILL)

        def die(reached: str) -> None:
            if reached == point:
                os.kill(os.getpid(), signal.SIGKILL)

        meanwhile(patch, write)
        patch.setattr(compaction, "reached", die)
        compact(sharedstate.open(url))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    if is_head_lost:
        store.close()
        os.unlink(f"{url[5:]}/head")
        store = sharedstate.open(url)

    assert store["n"] == 30
    store["filler"] = 1
    assert sum(name.startswith("log-") for name in os.listdir(url[5:])) == 1
    compact(store)
    assert store["n"] == 30
    agree(store)
