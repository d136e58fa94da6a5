"""`sharedstate.contrib.limits`: X1 to X5, with limits' own strategies, on every backend.

limits' tests are not in its wheel; what they ask of a storage stands here anew,
on a clock that is set by hand.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import limits
import pytest
from limits.aio import strategies as aio_strategies
from limits.errors import StorageError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter, SlidingWindowCounterRateLimiter

import sharedstate
from sharedstate.contrib.limits import AsyncSharedStateStorage, SharedStateStorage
from sharedstate.errors import CorruptError
from sharedstate.testing.conformance.support import run_together, until

if TYPE_CHECKING:
    from collections.abc import Callable

_NS = 1_000_000_000
_TEN = limits.RateLimitItemPerSecond(10, 2)
_STRATEGIES = [FixedWindowRateLimiter, MovingWindowRateLimiter, SlidingWindowCounterRateLimiter]


class Clock:
    """The time of one storage, set by hand."""

    def __init__(self, storage: SharedStateStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(storage, "_now_ns", lambda: int(self.now_s * _NS))


@pytest.fixture
def storage(any_url: str) -> SharedStateStorage:
    """A storage over a fresh store of each backend."""
    found = storage_from_string(f"sharedstate+{any_url}")
    assert isinstance(found, SharedStateStorage)
    return found


# --- What every strategy promises ---------------------------------------------------


@pytest.mark.parametrize("strategy", _STRATEGIES)
def test_a_limit_lets_in_its_amount(storage: SharedStateStorage, strategy: Any) -> None:
    """Hits are allowed up to the limit and counted down; others are not touched; `clear` forgets one."""
    limiter, limit = strategy(storage), limits.RateLimitItemPerHour(3)

    assert limiter.get_window_stats(limit, "a").remaining == 3
    assert [limiter.hit(limit, "a") for _ in range(2)] == [True, True]
    assert (limiter.test(limit, "a"), limiter.test(limit, "a", cost=2)) == (True, False)
    assert limiter.hit(limit, "a")
    assert not limiter.test(limit, "a")
    assert not limiter.hit(limit, "a")
    assert limiter.get_window_stats(limit, "a").remaining == 0
    assert limiter.hit(limit, "b")
    limiter.clear(limit, "a")
    assert limiter.get_window_stats(limit, "a").remaining == 3
    assert limiter.get_window_stats(limit, "b").remaining == 2


@pytest.mark.parametrize("strategy", _STRATEGIES)
def test_the_stats_are_in_times_of_day(storage: SharedStateStorage, strategy: Any) -> None:
    """Whatever clock the store has: the reset of a limit that was just begun is `expiry` from now."""
    import time

    limiter, limit = strategy(storage), limits.RateLimitItemPerHour(3)
    limiter.hit(limit, "a")

    assert abs(limiter.get_window_stats(limit, "a").reset_time - time.time() - 3600) < 5


@pytest.mark.parametrize("strategy", _STRATEGIES)
def test_a_hit_of_some_cost_counts_whole_or_not_at_all(storage: SharedStateStorage, strategy: Any) -> None:
    """More than the limit is refused; what fits is counted; a million hits at once are one number."""
    limiter = strategy(storage)

    assert not limiter.hit(_TEN, "a", cost=11)
    assert limiter.hit(_TEN, "b", cost=5)
    assert limiter.get_window_stats(_TEN, "b").remaining == 5
    assert not limiter.test(_TEN, "b", cost=6)
    assert not limiter.hit(_TEN, "b", cost=6)
    million = limits.RateLimitItemPerHour(1_000_000)
    assert limiter.hit(million)
    assert limiter.hit(million, cost=999_999 - 1)
    assert limiter.get_window_stats(million).remaining == 1


@pytest.mark.parametrize("strategy", _STRATEGIES)
def test_records_vanish(storage: SharedStateStorage, strategy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of 20 subjects (X5), of which limits' shortest window would take a second."""
    compare_and_set, increment = storage._store.compare_and_set, storage._store.increment
    monkeypatch.setattr(
        storage._store, "compare_and_set", lambda *arguments: compare_and_set(*arguments[:3], arguments[3] / 20)
    )
    monkeypatch.setattr(storage._store, "increment", lambda key, by, ttl_s: increment(key, by, ttl_s=ttl_s / 20))
    for number in range(20):
        strategy(storage).hit(limits.RateLimitItemPerSecond(5), str(number))
    assert len(storage._store) > 0

    until(lambda: len(storage._store) == 0)


# --- Windows ---------------------------------------------------------------------------


def test_no_moving_window_holds_more(storage: SharedStateStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over random arrivals, bursts and pauses no interval of `expiry` seconds holds more than the limit (X2)."""
    clock, dice, admitted = Clock(storage, monkeypatch), random.Random(1), []
    for _ in range(400):
        clock.now_s += dice.choice([0, 0, 0.1, 1.0, 3.0, 12.0])
        cost = dice.choice([1, 1, 2])
        if storage.acquire_entry("k", 4, 10, cost):
            admitted += [clock.now_s] * cost

    assert len(admitted) > 100
    for first in range(len(admitted) - 4):
        assert admitted[first + 4] - admitted[first] >= 10 - 1e-6


def test_a_moving_window_gives_back_each_hit_when_it_is_over(
    storage: SharedStateStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each hit leaves `expiry` after it came: not all at once, and what was refused leaves no trace."""
    clock, seen = Clock(storage, monkeypatch), []
    for now_s in (0.0, 6.0, 9.9, 10.0, 10.1, 15.9, 16.0, 26.0, 26.0, 26.0):
        clock.now_s = 1000 + now_s
        seen.append(storage.acquire_entry("k", 2, 10))

    assert seen == [True, True, False, True, False, False, True, True, True, False]
    assert storage.get_moving_window("k", 2, 10)[1] == 2


def test_a_sliding_window_weighs_the_one_before(storage: SharedStateStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 hits of the window before count 10, 5 in the middle of the next, and nothing two windows later (X3)."""
    clock = Clock(storage, monkeypatch)
    assert storage.acquire_sliding_window_entry("k", 10, 10, 10)

    clock.now_s = 1010.0
    assert storage.get_sliding_window("k", 10) == (10, 10.0, 0, 0.0)
    assert not storage.acquire_sliding_window_entry("k", 10, 10)
    clock.now_s = 1015.0
    assert storage.acquire_sliding_window_entry("k", 10, 10, 5)
    assert not storage.acquire_sliding_window_entry("k", 10, 10)
    assert storage.get_sliding_window("k", 10) == (10, 5.0, 5, 15.0)
    clock.now_s = 1040.0
    assert storage.get_sliding_window("k", 10) == (0, 0.0, 0, 0.0)
    assert storage.acquire_sliding_window_entry("k", 10, 10, 10)


def test_a_clock_set_back_lets_nobody_in_early_nor_keeps_him_out_long(
    storage: SharedStateStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set back by a day: what was counted counts as of now; after two times `expiry` there is room again."""
    clock = Clock(storage, monkeypatch)
    for verb in (storage.acquire_entry, storage.acquire_sliding_window_entry):
        clock.now_s = 100_000.0
        assert verb("k", 2, 10, 2)
        clock.now_s = 13_600.0
        assert not verb("k", 2, 10)
        clock.now_s += 20.1
        assert verb("k", 2, 10, 2)


# --- Many at a time ------------------------------------------------------------------


@pytest.mark.parametrize("strategy", _STRATEGIES)
def test_of_many_threads_exactly_the_limit_gets_in(storage: SharedStateStorage, strategy: Any) -> None:
    """8 threads hit 20 times each: 50 are allowed, no more and no less."""
    limiter, limit = strategy(storage), limits.RateLimitItemPerHour(50)

    counts = run_together(*(lambda: sum(limiter.hit(limit, "a") for _ in range(20)) for _ in range(8)))

    assert sum(counts) == 50


@pytest.mark.parametrize("strategy", _STRATEGIES)
def test_of_four_processes_exactly_the_limit_gets_in(
    shared_url: str, in_four_processes: Callable[[Callable[[], object]], None], strategy: Any
) -> None:
    """4 processes hit 40 times each: 50 are allowed, no more and no less."""
    limit = limits.RateLimitItemPerHour(50)

    def use() -> None:
        limiter = strategy(SharedStateStorage(shared_url))
        allowed = sum(limiter.hit(limit, "a") for _ in range(40))
        with sharedstate.open(shared_url) as store:
            store.increment("allowed", allowed)

    in_four_processes(use)

    with sharedstate.open(shared_url) as store:
        assert store["allowed"] == 50


def test_limits_memory_storage_lets_in_four_times_as_many(
    shared_url: str, in_four_processes: Callable[[Callable[[], object]], None]
) -> None:
    """Side by side: the same scene with limits' own default storage; so the test above can fail."""
    limit = limits.RateLimitItemPerHour(10)

    def use() -> None:
        limiter = FixedWindowRateLimiter(MemoryStorage())
        allowed = sum(limiter.hit(limit, "a") for _ in range(40))
        with sharedstate.open(shared_url) as store:
            store.increment("allowed", allowed)

    in_four_processes(use)

    with sharedstate.open(shared_url) as store:
        assert store["allowed"] == 40


@pytest.mark.parametrize("verb", ["acquire_entry", "acquire_sliding_window_entry"])
def test_a_rival_between_read_and_write_is_counted(
    storage: SharedStateStorage, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Overtaken between its read and its write, a hit is judged anew: it is not let in beside its rival."""
    acquire, now_ns = getattr(storage, verb), storage._now_ns
    rivals = [lambda: acquire("k", 1, 3600)]

    def be_overtaken() -> int:
        if rivals:
            assert rivals.pop()()
        return now_ns()

    monkeypatch.setattr(storage, "_now_ns", be_overtaken)

    assert not acquire("k", 1, 3600)
    assert not rivals


# --- The rest of a storage --------------------------------------------------------------


def test_reset_forgets_what_limits_counts_and_nothing_else(any_url: str) -> None:
    """It returns how many records it forgot, of all namespaces of limits."""
    storage = SharedStateStorage(any_url)
    with sharedstate.open(any_url) as store:
        store["theirs"] = 1
        for number in range(10):
            storage.incr(f"LIMITER/{number}", 60)
            storage.acquire_entry(f"OTHER/{number}", 1, 60)

        assert storage.reset() == 20
        assert dict(store) == {"theirs": 1}
    assert storage.check()


def test_long_keys_are_apart(storage: SharedStateStorage) -> None:
    """Subjects that differ at their end, after hundreds of bytes."""
    for end in ("a", "b"):
        assert storage.incr("k" * 600 + end, 60) == 1
        assert storage.acquire_entry("k" * 600 + end, 1, 60)


def test_what_is_no_record_is_refused(storage: SharedStateStorage) -> None:
    """Something else under a record's key is never taken for a count; limits' own error stands for it if asked for."""
    for value in (1, "1", [1], [1, 2, 3, 4], [1, "2"], {}):
        storage._store["sliding/k"] = value
        with pytest.raises(CorruptError, match="sliding/k"):
            storage.acquire_sliding_window_entry("k", 1, 60)
    storage._store["moving/k"] = [1]
    with pytest.raises(CorruptError, match="moving/k"):
        storage.get_moving_window("k", 1, 60)
    storage.wrap_exceptions = True
    with pytest.raises(StorageError):
        storage.acquire_entry("k", 1, 60)


def test_in_an_event_loop_it_is_the_same(any_url: str) -> None:
    """Each strategy of limits.aio, over what the synchronous storage sees too; 20 hits at a time."""
    storage = storage_from_string(f"async+sharedstate+{any_url}")
    assert isinstance(storage, AsyncSharedStateStorage)
    limit = limits.RateLimitItemPerHour(5)

    async def use() -> None:
        for strategy in (
            aio_strategies.FixedWindowRateLimiter,
            aio_strategies.MovingWindowRateLimiter,
            aio_strategies.SlidingWindowCounterRateLimiter,
        ):
            limiter, subject = strategy(storage), strategy.__name__
            assert sum(await asyncio.gather(*(limiter.hit(limit, subject) for _ in range(20)))) == 5
            assert not await limiter.test(limit, subject)
            assert (await limiter.get_window_stats(limit, subject)).remaining == 0
            await limiter.clear(limit, subject)
            assert await limiter.test(limit, subject)
            await limiter.hit(limit, subject)
        assert await storage.check()
        assert SharedStateStorage(any_url).get(limit.key_for("FixedWindowRateLimiter")) == 1
        assert await storage.reset() == 3

    asyncio.run(use())
