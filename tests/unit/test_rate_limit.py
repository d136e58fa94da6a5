"""RateLimit: W1 to W4 of `sharedstate.coordination.rate_limit`, on every backend."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from judges import judge_window

import sharedstate
from sharedstate.coordination import RateLimit
from sharedstate.errors import CorruptError, KeyFormatError, ValueTypeError
from sharedstate.testing.conformance.support import run_together, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from crew import Crew
    from sharedstate.store import Store

_NS = 1_000_000_000


class Clock:
    """The time of one RateLimit, set by hand."""

    def __init__(self, rate: RateLimit, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(rate, "_now_ns", lambda: int(self.now_s * _NS))


def _timed(store: Store, monkeypatch: pytest.MonkeyPatch, *arguments: Any, **options: Any) -> tuple[RateLimit, Clock]:
    rate = RateLimit(store, "r", *arguments, **options)
    return rate, Clock(rate, monkeypatch)


# --- Sliding window ------------------------------------------------------------------


def test_a_window_lets_in_its_limit(open_any: Callable[[], Store]) -> None:
    """Three hits are allowed and counted down; the fourth is told when to come again; others are not touched."""
    rate = RateLimit(open_any(), "login", 3, 3600)

    assert [rate.hit("a")[:2] for _ in range(3)] == [(True, 2), (True, 1), (True, 0)]

    refused = rate.hit("a")
    assert not refused
    assert refused.remaining == 0
    assert 3590 < refused.retry_after_s <= 3600
    assert rate.hit("b")
    assert rate.hit()
    assert rate.peek("b") == (True, 2, 0.0)
    assert not rate.peek("a")


def test_a_window_slides(open_any: Callable[[], Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each hit leaves the window `per_s` after it came, and lets one more in: not all at a window's end."""
    rate, clock = _timed(open_any(), monkeypatch, 2, 10)
    seen = []
    for now_s in (0.0, 6.0, 9.9, 10.0, 10.1, 15.9, 16.0, 26.0, 26.0, 26.0):
        clock.now_s = 1000 + now_s
        seen.append(rate.hit("a").allowed)

    assert seen == [True, True, False, True, False, False, True, True, True, False]


def test_a_refused_hit_costs_nothing(open_any: Callable[[], Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who goes on hitting is not kept out for longer, and writes nothing."""
    store = open_any()
    rate, clock = _timed(store, monkeypatch, 1, 10)
    rate.hit("a")
    (key,) = store
    generation = store.generation(key)
    for step in range(1, 10):
        clock.now_s = 1000.0 + step
        assert rate.hit("a").retry_after_s == 10 - step

    assert store.generation(key) == generation
    clock.now_s = 1010.0
    assert rate.hit("a")


@pytest.mark.parametrize("kind", ["sliding-window", "token-bucket"])
def test_what_is_told_as_retry_after_is_true(
    open_any: Callable[[], Store], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A hit just before is refused, one just then is allowed, at whatever moments the hits came."""
    rate, clock = _timed(open_any(), monkeypatch, 5, 7, kind=kind)
    dice = random.Random(1)
    for _ in range(200):
        clock.now_s += dice.random() * 2
        decision = rate.hit("a")
        if not decision:
            before = clock.now_s
            clock.now_s = before + decision.retry_after_s - 1e-5
            assert not rate.peek("a")
            clock.now_s = before + decision.retry_after_s + 1e-5
            assert rate.peek("a")
            clock.now_s = before


@pytest.mark.parametrize("kind", ["sliding-window", "token-bucket"])
def test_no_window_of_random_hits_holds_more(
    open_any: Callable[[], Store], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Over random arrivals, bursts and pauses, each limit keeps the bound that it states (W1, W2)."""
    rate, clock = _timed(open_any(), monkeypatch, 4, 10, kind=kind)
    dice, allowed = random.Random(2), []
    for _ in range(500):
        clock.now_s += dice.choice([0, 0, 0.1, 1.0, 3.0, 12.0])
        if rate.hit("a"):
            allowed.append(clock.now_s)

    assert len(allowed) > 100
    for first, begin in enumerate(allowed):
        for last in range(first, len(allowed)):
            count, span_s = last - first + 1, allowed[last] - begin
            if kind == "sliding-window":
                assert span_s >= 10 - 1e-6 or count <= 4
            else:
                assert count <= 4 + span_s * 4 / 10 + 1e-6


# --- Token bucket ----------------------------------------------------------------------


def test_a_bucket_lets_in_a_burst_and_then_an_even_pace(
    open_any: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 a minute with a burst of 3: three at once, then one a second; rested, three again."""
    rate, clock = _timed(open_any(), monkeypatch, 60, 60, kind="token-bucket", burst=3)

    assert [rate.hit("a")[:2] for _ in range(4)] == [(True, 2), (True, 1), (True, 0), (False, 0)]
    assert rate.hit("a").retry_after_s == 1.0
    for step in range(1, 5):
        clock.now_s = 1000.0 + step
        assert rate.hit("a")
        assert not rate.hit("a")
    clock.now_s = 2000.0
    assert [rate.hit("a").allowed for _ in range(4)] == [True, True, True, False]


# --- The clock ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sliding-window", "token-bucket"])
def test_a_clock_set_back_lets_nobody_in_early_nor_keeps_him_out_long(
    open_any: Callable[[], Store], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Set back by a day: what was counted counts as of now, so within `per_s` all is as before."""
    rate, clock = _timed(open_any(), monkeypatch, 2, 10, kind=kind)
    clock.now_s = 100_000.0
    assert [rate.hit("a").allowed for _ in range(3)] == [True, True, False]

    clock.now_s = 13_600.0
    refused = rate.hit("a")
    assert not refused
    assert 0 < refused.retry_after_s <= 10
    clock.now_s += refused.retry_after_s - 0.001
    assert not rate.hit("a")
    clock.now_s += 0.002
    assert rate.hit("a")


def test_the_clock_is_the_stores(open_any: Callable[[], Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """The boot clock in memory: and shm:, which ignores steps of the wall clock; that one in file: and sqlite:."""
    import time

    store = open_any()
    rate = RateLimit(store, "r", 1, 3600)
    clock = time.CLOCK_BOOTTIME if store.capabilities.clock.value == "boot" else time.CLOCK_REALTIME

    assert abs(rate._now_ns() - time.clock_gettime_ns(clock)) < _NS


@pytest.mark.parametrize("kind", ["sliding-window", "token-bucket"])
def test_hosts_whose_clocks_differ_share_one_limit(redis_url: str, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Of a store that several hosts share the clock is the server's: one that is ahead by an hour lets nobody in."""
    import time

    url = f"{redis_url}?name=unit-{uuid4()}"
    with sharedstate.open(url) as store:
        rate = RateLimit(store, "r", 2, 60, kind=kind)
        assert [rate.hit("a").allowed for _ in range(3)] == [True, True, False]
        with monkeypatch.context() as ahead:
            actual = time.time
            ahead.setattr(time, "time", lambda: actual() + 3600)
            assert not rate.hit("a")
    sharedstate.remove(url)


# --- Keys ----------------------------------------------------------------------------------


def test_subjects_vanish_from_the_store(open_any: Callable[[], Store]) -> None:
    """A subject's entry expires with its last hit: nothing is left of 20 subjects."""
    store = open_any()
    rates = [RateLimit(store, kind, 2, 0.05, kind=kind) for kind in ("sliding-window", "token-bucket")]
    for number in range(20):
        for rate in rates:
            rate.hit(str(number))

    until(lambda: len(store) == 0)


def test_names_and_subjects_are_apart(open_any: Callable[[], Store]) -> None:
    """No two pairs of name and subject share a count, whatever slashes they hold; `reset` forgets one."""
    store = open_any()
    pairs = [("a", "b/c"), ("a/b", "c"), ("a", ""), ("a", "*"), ("a", "/"), ("a/", ""), ("b", "b/c")]

    assert all(RateLimit(store, name, 1, 3600).hit(subject) for name, subject in pairs)
    assert not any(RateLimit(store, name, 1, 3600).hit(subject) for name, subject in pairs)
    RateLimit(store, "a", 1, 3600).reset("*")
    assert [RateLimit(store, name, 1, 3600).hit(subject).allowed for name, subject in pairs].count(True) == 1


def test_bad_input_is_refused(open_any: Callable[[], Store]) -> None:
    """Limits that make no sense, subjects that are none, values that are no count; nothing is written."""
    store = open_any()
    for arguments in ((0, 1), (-1, 1), (1.5, 1), (True, 1), (1, 0), (1, -1), (1, float("nan")), (1, "1"), (1, 1e10)):
        with pytest.raises(ValueTypeError):
            RateLimit(store, "r", *arguments)  # type: ignore[arg-type]
    for options in ({"kind": "leaky"}, {"burst": 2}, {"kind": "token-bucket", "burst": 0}):
        with pytest.raises(ValueTypeError):
            RateLimit(store, "r", 1, 1, **options)
    with pytest.raises(ValueTypeError):
        RateLimit(store, "r", 1, 1e9, kind="token-bucket", burst=2)
    for subject in (7, None, "a" * 600):
        with pytest.raises(KeyFormatError):
            RateLimit(store, "r", 1, 1).hit(subject)  # type: ignore[arg-type]
    assert len(store) == 0
    for value in (None, "1", {}, [1, "2"], 1.5):
        store["sharedstate:rate/r/a"] = value
        for kind in ("sliding-window", "token-bucket"):
            with pytest.raises(CorruptError, match="sharedstate:rate/r/a"):
                RateLimit(store, "r", 1, 1, kind=kind).hit("a")


# --- Many at a time ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sliding-window", "token-bucket"])
def test_of_many_threads_exactly_the_limit_gets_in(open_any: Callable[[], Store], kind: str) -> None:
    """8 threads over 8 handles hit 20 times each: 50 are allowed, no more and no less."""
    rates = [RateLimit(open_any(), "r", 50, 3600, kind=kind) for _ in range(8)]

    counts = run_together(*(lambda rate=rate: sum(rate.hit("a").allowed for _ in range(20)) for rate in rates))

    assert sum(counts) == 50


def _crowd(crew: Crew, bug: str = "", pause_s: float = 0.03) -> list[str]:
    options = {"limit": 10, "per_s": 0.2, "for_s": 2.0, "pause_s": pause_s, "bug": bug}
    for member in ("forked", "spawned") * 2:
        crew.start(member, "hit_for", "r", "a", options)
    crew.log.wait("ready", count=4)
    crew.log.tell("go")
    crew.wait()
    assert len(crew.log.find("allowed")) > 10
    return judge_window(crew.log.read(), 10, 0.2)


@pytest.mark.parametrize("pause_s", [0.0, 0.03])
def test_no_window_holds_more_among_processes(crew: Crew, pause_s: float) -> None:
    """4 processes hit, as fast as they can or at random, through 10 windows: no 11 hits within any 0.2 s."""
    assert _crowd(crew, pause_s=pause_s) == []


@pytest.mark.parametrize("bug", ["hits-without-comparing", "fixed-window"])
def test_the_judge_finds_the_bug(shm_crew: Crew, bug: str) -> None:
    """Planted: writing without comparing; windows that begin anew instead of sliding."""
    assert _crowd(shm_crew, bug, pause_s=0.0 if bug == "hits-without-comparing" else 0.03)
