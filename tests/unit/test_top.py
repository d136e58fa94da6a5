"""What `sharedstate top` makes of what was counted (T1, T2 of `cli.measuring`), and how it is shown."""

from __future__ import annotations

import json
import os
import pty
import random
import select
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import sharedstate
from sharedstate.backend.activity import Activity, Sample
from sharedstate.cli.main import main
from sharedstate.cli.measuring import HotKeys, Look, measure
from sharedstate.testing.conformance.support import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sharedstate.store import Store


def _look(at_s: float, pages: list[Activity], **figures: int) -> Look:
    return Look(at_s, {"entries": 1, "bytes": 10, "capacity_bytes": 0, **figures}, pages, [], [])


# --- The model -----------------------------------------------------------------------


def test_rates_are_differences_by_time() -> None:
    """Of two pages together, and of the reads the part that hit (T1)."""
    before = _look(10.0, [Activity("a", 100, 50, 7)], evictions=3)
    after = _look(12.0, [Activity("a", 130, 60, 17), Activity("b", 0, 0, 4)], evictions=9)

    measured = measure(before, after)

    assert measured.rates is not None
    assert measured.rates == (20.0, 7.0, 15.0)
    assert measured.rates.operations == 27.0
    assert measured.rates.hit_rate == 0.75
    assert measured.evictions == 3.0
    assert not measured.of_server


def test_a_server_tells_for_all_of_its_stores() -> None:
    """Where no handle counts, the server's own figures are told, as its own; started anew, it is no negative rate."""
    before = _look(0.0, [], server_hits=10, server_misses=10, server_commands=100, evicted=0)
    after = _look(2.0, [], server_hits=14, server_misses=12, server_commands=120, evicted=0)

    measured = measure(before, after)
    again = measure(after, _look(3.0, [], server_hits=0, server_misses=0, server_commands=1, evicted=0))

    assert measured.rates == (3.0, 7.0, 2.0)
    assert measured.of_server
    assert again.rates == (0.0, 0.0, 0.0)


def test_a_backend_that_does_not_count_has_no_rates() -> None:
    """As a plug-in may: nothing is told, and not zero."""
    measured = measure(_look(0.0, []), _look(1.0, []))

    assert measured.rates is None
    assert measured.evictions is None


def _sample(number: int, kind: str, key: str) -> Sample:
    return Sample(number, kind, key, False)


def test_what_was_counted_before_the_first_look_is_nobodys() -> None:
    """Whoever looks has seen none of it."""
    keys = HotKeys()

    keys.look([Activity("a", 10**9, 0, 0, (_sample(1, "hit", "old"),))], 0.0)
    keys.look([Activity("a", 10**9, 0, 0, (_sample(1, "hit", "old"),))], 1.0)

    assert keys.hottest(10) == []


def test_calls_wait_for_a_sample() -> None:
    """A page of few calls has its say when the next sample is there: no call is dropped (T2)."""
    keys = HotKeys()
    keys.look([Activity("a", 0, 0, 0)], 0.0)
    keys.look([Activity("a", 9, 0, 0)], 1.0)
    keys.look([Activity("a", 12, 0, 4, (_sample(1, "hit", "k"),))], 2.0)

    (hot,) = keys.hottest(10)

    assert (hot.key, hot.reads, hot.writes, hot.share) == ("k", 6.0, 0.0, 1.0)


def test_numbers_of_samples_may_wrap() -> None:
    """After 2**32 of them the next one is 0, and newer."""
    keys = HotKeys()
    keys.look([Activity("a", 0, 0, 0, (_sample(2**32 - 1, "hit", "old"),))], 0.0)
    keys.look([Activity("a", 32, 0, 0, (_sample(2**32 - 1, "hit", "old"), _sample(3, "hit", "new")))], 1.0)

    assert [hot.key for hot in keys.hottest(10)] == ["new"]


def test_old_calls_are_forgotten() -> None:
    """What was hot more than ten seconds ago is not."""
    keys = HotKeys()
    keys.look([Activity("a", 0, 0, 0)], 0.0)
    keys.look([Activity("a", 1000, 0, 0, (_sample(1, "hit", "then"),))], 1.0)
    keys.look([Activity("a", 1010, 0, 0, (_sample(2, "hit", "now"),))], 12.0)

    assert [hot.key for hot in keys.hottest(10)] == ["now"]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["hit", "miss", "write"])), max_size=300),
    st.integers(1, 40),
)
def test_the_estimates_add_up(calls: list[tuple[str, str]], every: int) -> None:
    """Whatever was called and however seldom it was looked at: no more calls than there were, and none is negative."""
    keys = HotKeys()
    counted = {"hit": 0, "miss": 0, "write": 0}
    samples: list[Sample] = []
    keys.look([Activity("t", 0, 0, 0)], 0.0)
    for number, (key, kind) in enumerate(calls, 1):
        counted[kind] += 1
        if number % 7 == 0:
            samples = [*samples[-62:], _sample(number // 7, kind, key)]
        if number % every == 0:
            keys.look([Activity("t", *counted.values(), tuple(samples))], number / 100)
    hottest = keys.hottest(10)

    told = sum(hot.reads + hot.writes for hot in hottest) * max(len(calls) // every * every, 1) / 100
    assert told <= len(calls) + 1e-6
    assert all(hot.reads >= 0 and hot.writes >= 0 and hot.share <= 1 + 1e-9 for hot in hottest)


# --- The command ------------------------------------------------------------------------


class _Load:
    """A store that is used: three quarters of the calls are for one key."""

    def __init__(self, url: str) -> None:
        self.store = sharedstate.open(url)
        self.store.set("hot", 1)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        cold = random.Random(1)
        while not self._is_over.is_set():
            for _ in range(3):
                self.store.get("hot")
            self.store.set(f"cold {cold.randrange(200)}", 1)

    def end(self) -> None:
        self._is_over.set()
        self._thread.join()
        self.store.close()


@pytest.fixture
def used(shm_url: str) -> Iterator[Store]:
    load = _Load(shm_url)
    yield load.store
    load.end()


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sharedstate", "top", *arguments]


def _run(*arguments: str) -> str:
    return subprocess.run(_command(*arguments), check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout


def test_json_tells_who_does_what(used: Store) -> None:
    """A line: rates that agree, the hot key first, this process as the one that does all of it, and its lock."""
    with used.lock("mine"):
        (line,) = _run(used.url, "--json", "--once", "--interval", "0.5").splitlines()

    told: dict[str, Any] = json.loads(line)
    assert told["url"] == used.url
    assert told["operations_per_s"] == pytest.approx(told["reads_per_s"] + told["writes_per_s"])
    assert told["reads_per_s"] == pytest.approx(3 * told["writes_per_s"], rel=0.05)
    assert told["hit_rate"] == 1.0
    assert told["hottest"][0]["key"] == "hot"
    assert 0.6 < told["hottest"][0]["share"] < 0.9
    busiest = told["sharers"][0]
    assert busiest["owner"]["pid"] == os.getpid()
    assert busiest["operations_per_s"] == pytest.approx(told["operations_per_s"])
    assert [lock["name"] for lock in told["locks"]] == ["mine"]
    assert told["entries"] > 1
    assert told["evictions_per_s"] == 0


def test_a_pipe_gets_one_measurement_as_text(used: Store) -> None:
    """Without a terminal nothing is redrawn: it prints once, in plain characters, and ends."""
    told = _run(used.url, "--interval", "0.3")

    assert "\x1b" not in told
    assert "hot " in told
    assert "100.0 % hits" in told
    assert f" {os.getpid()} " in told
    assert "no lock is held" in told


def test_keys_cannot_steer_the_terminal(shm_url: str) -> None:
    """What a key holds is anybody's: an escape is shown as text."""
    with sharedstate.open(shm_url) as store:
        over = threading.Event()

        def ask() -> None:
            while not over.is_set():
                store.get("\x1b]0;owned\x07\n")

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            told = _run(shm_url, "--interval", "0.3")
        finally:
            over.set()
            thread.join()

    assert r"\x1b]0;owned\x07\n" in told
    assert "\x1b" not in told


def _read_until(fd: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        ready, _, _ = select.select([fd], [], [], PATIENCE_S)
        assert ready, f"no {wanted!r} in {seen!r}"
        try:
            more = os.read(fd, 65536)
        except OSError:  # the other end was closed
            more = b""
        assert more, f"no {wanted!r} in {seen!r}"
        seen += more
    return seen


@pytest.mark.parametrize("end", ["q", "Ctrl-C"])
def test_a_terminal_shows_it_until_somebody_ends_it(used: Store, end: str) -> None:
    """It redraws on a screen of its own, which it leaves as it was, and exits with 0."""
    ours, theirs = pty.openpty()
    heeding = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # whoever runs the tests may not
    )
    process = subprocess.Popen(
        [sys.executable, "-c", f"{heeding}; import sharedstate.cli as cli; cli.main()", *("top", used.url)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    try:
        os.close(theirs)
        seen = _read_until(ours, b"hottest keys")
        assert b"\x1b[?1049h" in seen
        if end == "q":
            os.write(ours, b"q")
        else:
            process.send_signal(signal.SIGINT)
        _read_until(ours, b"\x1b[?1049l")
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_store_that_is_not_there_is_told(tmp_path: Path) -> None:
    """None is made, and the status is 1."""
    url = f"sqlite:{tmp_path}/none.db"

    result = CliRunner().invoke(main, ["top", url])

    assert result.exit_code == 1
    assert "there is no such store" in result.output
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("interval", ["0", "-1", "soon", "99999"])
def test_an_interval_is_a_number_of_seconds(shm_url: str, interval: str) -> None:
    """0.1 to 3600."""
    result = CliRunner().invoke(main, ["top", shm_url, "--interval", interval])

    assert result.exit_code == 2
    assert "--interval" in result.output


@pytest.mark.parametrize("scheme", ["file", "sqlite", "shm"])
def test_it_shows_every_store_that_processes_share(scheme: str, tmp_path: Path) -> None:
    """Rates where handles count, and a screen for each."""
    url = sharedstate.registry.find_plugin(sharedstate.registry.parse_url(f"{scheme}:any")).temporary_url(str(tmp_path))
    load = _Load(url)
    try:
        told = json.loads(_run(url, "--json", "--once", "--interval", "0.3"))
        text = _run(url, "--interval", "0.3")
    finally:
        load.end()
        sharedstate.remove(url)

    assert told["operations_per_s"] > 0
    assert "operations/s" in text


def test_redis_tells_for_the_whole_server(redis_url: str) -> None:
    """Its rates are labelled so, and its keys have none."""
    url = f"{redis_url}?name=top"
    load = _Load(url)
    try:
        told = json.loads(_run(url, "--json", "--once", "--interval", "0.3"))
        text = _run(url, "--interval", "0.3")
    finally:
        load.end()
        sharedstate.remove(url)

    assert told["of_server"]
    assert told["operations_per_s"] > 0
    assert told["hottest"] == []
    assert "of the whole server" in text
