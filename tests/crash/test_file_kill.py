"""Writers of a file store that are killed with -9: at named points, at every byte, and at random."""

from __future__ import annotations

import os
import random
import signal
import traceback
from typing import TYPE_CHECKING, Any

import pytest

import sharedstate
import sharedstate_file.log as log_module
from sharedstate_file import compaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COMPACTION_POINTS = ["draft written", "draft renamed", "old log ended", "head flipped", "old log removed"]


def fork(body: Callable[[], None]) -> int:
    """Run `body` in a child; it exits with 0, or with 1 if it raised."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        body()
        status = 0
    except Exception:  # noqa: BLE001  the parent sees the status, the log the reason
        traceback.print_exc()
    finally:
        os._exit(status)


def end_of(pid: int) -> int:
    """Return a child's exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Acknowledgements:
    """What children say they have done, one number after another, until they die."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    def send(self, number: int) -> None:
        os.write(self._writer, number.to_bytes(8, "little"))

    def close_writer(self) -> None:
        os.close(self._writer)

    def __iter__(self) -> Iterator[int]:
        with os.fdopen(self._reader, "rb") as pipe:
            while message := pipe.read(8):
                yield int.from_bytes(message, "little")


@pytest.fixture
def small_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let compaction pay from 2,000 dead bytes on."""
    monkeypatch.setattr(compaction, "FLOOR_BYTES", 2000)


def write_until_killed(url: str, acknowledge: Callable[[int], None]) -> None:
    store = sharedstate.open(url)
    for number in range(1, 10_000):
        store.transact(lambda tx, number=number: tx.set("left", number) or tx.set("right", [number]))
        acknowledge(number)


@pytest.mark.parametrize("is_head_lost", [False, True])
@pytest.mark.parametrize("point", COMPACTION_POINTS)
@pytest.mark.usefixtures("small_floor")
def test_kill_between_the_steps_of_compaction_loses_nothing(tmp_path: Path, point: str, is_head_lost: bool) -> None:
    """Killed after any step, with or without its head, the store opens to all that was acknowledged."""
    url = f"file:{tmp_path}/store"
    reader = sharedstate.open(url)
    reader.set_many({"kept": "x" * 50_000, "small": (1, None), "ttl": 1}, ttl_s=3600)
    acknowledged = Acknowledgements()

    def body() -> None:
        compaction.reached = lambda reached: die() if reached == point else None
        compaction.FLOOR_BYTES = 2000
        write_until_killed(url, acknowledged.send)

    child = fork(body)
    acknowledged.close_writer()
    last = max(acknowledged)
    assert end_of(child) == -signal.SIGKILL
    if is_head_lost:
        os.unlink(tmp_path / "store" / "head")

    store = sharedstate.open(url)
    assert store["left"] in {last, last + 1}  # the one that set compaction off was written before it
    assert store["right"] == [store["left"]]
    assert (store["kept"], store["small"], store["ttl"]) == ("x" * 50_000, (1, None), 1)
    assert 3500 < (store.ttl("ttl") or 0) <= 3600
    if not is_head_lost:  # a handle whose head was removed under it has lost touch
        assert dict(reader.items()) == dict(store.items())
    store["next"] = "writer"
    store.check()
    assert len([name for name in os.listdir(tmp_path / "store") if name.startswith("log-")]) == 1


def test_kill_inside_a_write_leaves_it_whole_or_absent(tmp_path: Path) -> None:
    """A frame of which any number of bytes was written is cut by the next writer, or adopted if it is whole."""
    url = f"file:{tmp_path}/store"
    store = sharedstate.open(url)
    store.set_many({"a": 0, "b": [0]})
    real_write = os.pwrite

    for length in range(80):

        def body(length: int = length) -> None:
            def write_some_and_die(fd: int, frame: bytes, offset: int) -> int:
                real_write(fd, frame[:length], offset)
                die()
                return 0

            log_module.os = type("os", (), {**vars(os), "pwrite": staticmethod(write_some_and_die)})
            with sharedstate.open(url).transaction() as tx:
                tx["a"] = length + 1
                tx["b"] = [length + 1]

        before = store.get("a")
        assert end_of(fork(body)) == -signal.SIGKILL
        assert store.get("a") == before, "committed by nobody yet"
        store["next"] = length
        after = store["a"]
        assert after in {before, length + 1}
        assert store["b"] == [after]
        store.check()

    assert after == 80, "the longest of them was whole"


def test_kill_between_the_word_and_its_seal_costs_the_next_opener_a_scan(tmp_path: Path) -> None:
    """A head whose word and seal disagree is made anew from the log; open handles never notice."""
    url = f"file:{tmp_path}/store"
    store = sharedstate.open(url)

    def body() -> None:
        own = sharedstate.open(url)

        class Words:
            def __init__(self, words: Any) -> None:
                self.words = words

            def __setitem__(self, index: int, word: int) -> None:
                if index == 1:
                    die()
                self.words[index] = word

        own._backend._head.words = Words(own._backend._head.words)
        own["a"] = "written"

    assert end_of(fork(body)) == -signal.SIGKILL

    assert not store._backend._head.is_sealed()
    assert store["a"] == "written"
    assert sharedstate.open(url)["a"] == "written"
    assert store._backend._head.is_sealed()
    store.check()


@pytest.mark.parametrize("sync", ["os", "disk"])
def test_killed_writers_keep_all_that_they_acknowledged(tmp_path: Path, sync: str) -> None:
    """In each of 12 rounds 3 writers are killed amid their writes: none is behind its last acknowledgement."""
    url = f"file:{tmp_path}/store?sync={sync}"
    dice = random.Random(20261123)
    store = sharedstate.open(url)
    expected = dict.fromkeys(range(3), 0)  # the newest acknowledgement of each
    unfinished = dict.fromkeys(range(3), 0)  # increments beyond it that went unacknowledged

    for _ in range(12):
        acknowledged = Acknowledgements()

        def body(writer: int, acknowledged: Acknowledgements = acknowledged) -> None:
            compaction.FLOOR_BYTES = 5000
            own = sharedstate.open(url)
            while True:
                number = own.increment(f"n{writer}")
                own.set(f"v{writer}", {"of": number, "pad": "x" * (number % 300)})
                acknowledged.send(number * 3 + writer)

        children = [fork(lambda writer=writer: body(writer)) for writer in range(3)]
        acknowledged.close_writer()
        countdown = dice.randrange(3, 200)
        for message in acknowledged:
            number, writer = divmod(message, 3)
            expected[writer] = number
            countdown -= 1
            if countdown == 0:
                for child in children:
                    os.kill(child, signal.SIGKILL)
        for child in children:
            assert end_of(child) == -signal.SIGKILL

        store.increment("round")
        store.check()
        for writer, number in expected.items():
            counted = store.get(f"n{writer}", 0)
            assert number <= counted <= number + unfinished[writer] + 1
            assert number <= store.get(f"v{writer}", {"of": 0})["of"] <= counted
            unfinished[writer] = counted - number


@pytest.mark.usefixtures("small_floor")
def test_no_increment_is_lost_between_four_processes_and_many_compactions(tmp_path: Path) -> None:
    """4 processes of 500 increments end at 2000, each total handed out once, while the log is compacted."""
    url = f"file:{tmp_path}/store"
    store = sharedstate.open(url)
    totals = Acknowledgements()

    def body() -> None:
        own = sharedstate.open(url)
        for _ in range(500):
            totals.send(int(own.increment("n")))

    children = [fork(body) for _ in range(4)]
    totals.close_writer()
    seen = sorted(totals)

    assert [end_of(child) for child in children] == [0] * 4
    assert seen == list(range(1, 2001))
    assert store["n"] == 2000
    assert store.stats()["compactions"] > 5
    store.check()


@pytest.mark.usefixtures("small_floor")
def test_readers_go_on_through_compactions(tmp_path: Path) -> None:
    """Over 30 compactions a reader of another process sees whole values only, never an older one after a newer."""
    url = f"file:{tmp_path}/store"
    reader = sharedstate.open(url)
    reader.set_many({"pair": [0, 0], "large": "0" * 20_000})

    def body() -> None:
        compaction.FLOOR_BYTES = 2000
        own = sharedstate.open(url)
        number = 0
        while own.stats()["compactions"] < 30:
            number += 1
            own["pair"] = [number, number]
            if number % 50 == 0:
                own["large"] = str(number % 10) * 20_000
        own["done"] = True

    child = fork(body)
    newest = 0
    while "done" not in reader:
        left, right = reader["pair"]
        assert left == right
        assert left >= newest
        newest = left
        assert len(set(reader["large"])) == 1

    assert end_of(child) == 0
    assert reader.stats()["compactions"] >= 30
    reader.check()
