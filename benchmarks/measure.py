"""How a call is timed, and how two of them are compared.

The machine drifts by a factor of two from minute to minute, so only what ran
side by side is compared: in each round every lane (one contestant in one
workload) takes one short turn, in an order drawn anew, and a ratio is formed
within the round.  Medians over rounds; intervals by bootstrap over rounds.

Each turn starts from a short sleep and a third that is not timed, and one during
which the kernel took our core away is repeated.  Otherwise, on a busy machine, a
lane that comes after one that waits for a disk has a fresh time slice and looks
twice as fast as the next; and the quickest lanes would mostly show cold caches.

The loops are generated, so that all lanes run the very same bytecode around
their call: one `for` per ten calls, the call and its arguments in locals.  What
that loop costs without a call is measured in the same rounds and subtracted.

p99 comes from operations timed one by one; a pair of clock readings costs as
much as a fast operation, so its own median is measured, stated and subtracted.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, cycle, islice
from resource import RUSAGE_THREAD, getrusage
from time import perf_counter_ns, sleep
from typing import Any, Final, NamedTuple

__all__ = ["Interval", "Lane", "Plan", "bootstrap_ratio", "median", "percentile", "race"]

Operation = tuple[Any, ...]
Loop = Callable[[Iterable[Operation], Any, dict[str, int]], int]
SinglesLoop = Callable[[Iterable[Operation], Any, dict[str, int], Callable[[int], None]], None]

UNROLLED: Final = 10
_SINGLES_SHARE: Final = 0.5  # of a sample's time may go to operations timed one by one
_RESAMPLES: Final = 500
_REST_S: Final = 0.0005
_MOST_TRIES: Final = 3


class Plan(NamedTuple):
    """How much to measure.

    Attributes:
        rounds: turns of each lane.
        sample_ms: what a turn should take; loops are calibrated to it.
        singles: operations timed one by one, per turn, if they fit into half a turn.
        keys: how many keys each store holds.
    """

    rounds: int
    sample_ms: float
    singles: int
    keys: int


# --- Loops -------------------------------------------------------------------


@lru_cache
def build_loop(statement: str, variables: tuple[str, ...]) -> Loop:
    """Return a function that runs `statement` for every operation and returns the nanoseconds it took.

    Args:
        statement: with `{k}` and the like where the operation's variables stand.
        variables: their names; ten operations at a time are unpacked into locals.
    """
    names = [{name: f"{name}{index}" for name in variables} for index in range(UNROLLED)]
    unpacked = ", ".join(chain.from_iterable(group.values() for group in names))
    body = "\n".join(f"        {statement.format(**group)}" for group in names)
    source = (
        "def loop(chunks, call, generations):\n"
        "    begin = now()\n"
        f"    for {unpacked}, in chunks:\n{body}\n"
        "    return now() - begin\n"
    )
    loop: Loop = _compile(source)
    return loop


@lru_cache
def build_singles(statement: str, variables: tuple[str, ...]) -> SinglesLoop:
    """Return a function that times every operation by itself and hands each time to `keep`."""
    call = statement.format(**{name: name for name in variables})
    source = (
        "def loop(operations, call, generations, keep, now=now):\n"
        f"    for {', '.join(variables)}, in operations:\n"
        "        begin = now()\n"
        f"        {call}\n"
        "        keep(now() - begin)\n"
    )
    loop: SinglesLoop = _compile(source)
    return loop


def _compile(source: str) -> Any:
    namespace: dict[str, Any] = {"now": perf_counter_ns}
    exec(compile(source, "<benchmark loop>", "exec"), namespace)
    return namespace["loop"]


# --- Lanes -------------------------------------------------------------------


class Lane:
    """One contestant in one workload: its call, its place among the keys, its times.

    Attributes:
        turns_ns: per round, the time of one operation.
        singles_ns: operations timed one by one, the clock's own time subtracted.
        failure: why it stopped, or "".
        interrupted: turns whose every try lost the core to others for a while.
    """

    def __init__(
        self,
        name: str,
        call: Any,
        *,
        statement: str,
        variables: tuple[str, ...],
        operations: Sequence[Operation],
        generations: dict[str, int] | None = None,
    ) -> None:
        self.name = name
        self.turns_ns: list[float] = []
        self.singles_ns: list[int] = []
        self.failure = ""
        self.interrupted = 0
        self._call = call
        self._generations = {} if generations is None else generations
        self._loop = build_loop(statement, variables)
        self._singles_loop = build_singles(statement, variables)
        # Each turn goes on where the last one stopped, so slow lanes see all keys too.
        self._chunks: Iterator[Operation] = cycle(_join(operations))
        self._operations: Iterator[Operation] = cycle(operations)
        self._chunks_per_turn = 1

    def calibrate(self, target_ns: float) -> None:
        """Find how many operations fill a turn; warms the lane up as well."""
        chunks = 1
        while True:
            elapsed = self._run(chunks)
            if elapsed >= target_ns / 4:
                break
            chunks *= 2
        self._chunks_per_turn = max(1, round(chunks * target_ns / elapsed))

    def take_turn(self, singles: int, target_ns: float, times: list[float]) -> None:
        """Run one turn and append the nanoseconds per operation, its loop included, to `times`."""
        sleep(_REST_S)
        self._run(self._chunks_per_turn // 3)  # the others have had the caches meanwhile
        tries: list[int] = []
        while len(tries) < _MOST_TRIES:
            before = getrusage(RUSAGE_THREAD).ru_nivcsw
            tries.append(self._run(self._chunks_per_turn))
            if getrusage(RUSAGE_THREAD).ru_nivcsw == before:
                elapsed = tries[-1]
                break
        else:
            elapsed = min(tries)
            self.interrupted += 1
        per_operation = elapsed / (self._chunks_per_turn * UNROLLED)
        fitting = min(singles, int(target_ns * _SINGLES_SHARE / max(per_operation, 1.0)) + 1)
        self._singles_loop(islice(self._operations, fitting), self._call, self._generations, self.singles_ns.append)
        times.append(per_operation)

    def _run(self, chunks: int) -> int:
        return self._loop(islice(self._chunks, chunks), self._call, self._generations)


def _join(operations: Sequence[Operation]) -> list[Operation]:
    whole = len(operations) - len(operations) % UNROLLED
    return [tuple(chain.from_iterable(operations[at : at + UNROLLED])) for at in range(0, whole, UNROLLED)]


def race(lanes: Sequence[Lane], idle: Lane, plan: Plan, attempt: Callable[..., str]) -> None:
    """Let all lanes take turns for `plan.rounds` rounds, after one that does not count.

    Args:
        lanes: their `turns_ns` and `singles_ns` are filled, loop and clock subtracted.
        idle: the same loop without a call; its times are what is subtracted.
        plan: how much to measure.
        attempt: calls its first argument with the others; returns why that
            failed, which ends the lane, or "".
    """
    target_ns = plan.sample_ms * 1e6
    for lane in (idle, *lanes):
        lane.failure = attempt(lane.calibrate, target_ns)
    everyone = [lane for lane in (idle, *lanes) if not lane.failure]
    gross: dict[Lane, list[float]] = {lane: [] for lane in everyone}
    # A collection would hit whichever lane is running; nothing here makes cycles.
    gc.collect()
    gc.disable()
    try:
        order = random.Random(len(everyone))  # seeded: reruns differ by the machine only
        for turn in range(-1, plan.rounds):
            for lane in order.sample(everyone, len(everyone)):
                if not lane.failure:
                    lane.failure = attempt(lane.take_turn, plan.singles, target_ns, gross[lane])
            if turn < 0:
                for lane in everyone:
                    gross[lane].clear()
                    lane.singles_ns.clear()
                    lane.interrupted = 0
    finally:
        gc.enable()
    idle.turns_ns = gross[idle]
    loop_ns = median(idle.turns_ns)
    clock_ns = int(median(idle.singles_ns))
    for lane in everyone:
        if lane is not idle and not lane.failure:
            lane.turns_ns = [max(time - loop_ns, 0.1) for time in gross[lane]]
            lane.singles_ns = [max(time - clock_ns, 0) for time in lane.singles_ns]


# --- Figures -----------------------------------------------------------------


class Interval(NamedTuple):
    """A median and the bounds between which 95 % of its bootstrap resamples lie."""

    median: float
    low: float
    high: float


def median(numbers: Sequence[float]) -> float:
    """Return the middle of `numbers`, the mean of the two middle ones if they are even."""
    ordered = sorted(numbers)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def percentile(numbers: Sequence[float], percent: float) -> float:
    """Return the smallest of `numbers` that `percent` of them do not exceed."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, max(0, -int(-len(ordered) * percent // 100) - 1))]


def bootstrap_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """Return the median of the rounds' ratios, with its interval.

    Args:
        numerators: one per round.
        denominators: of the same rounds.
    """
    ratios = [above / below for above, below in zip(numerators, denominators, strict=True)]
    dice = random.Random(len(ratios))  # seeded: the same samples give the same report
    medians = sorted(median(dice.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES))
    return Interval(median(ratios), medians[round(_RESAMPLES * 0.025)], medians[round(_RESAMPLES * 0.975) - 1])
