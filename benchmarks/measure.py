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
Where ten calls would overrun a turn there is one call per `for`; the loop is
nothing beside it.

What a turn changes for good, as a new key or a deleted one, is undone after it,
untimed, so that each turn finds what the one before it found.  A lane whose turns
take too long for the plan takes part in every second, fourth... round only.

p99 comes from operations timed one by one; a pair of clock readings costs as
much as a fast operation, so its own median is measured, stated and subtracted.
"""

from __future__ import annotations

import gc
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, cycle, islice
from resource import RUSAGE_THREAD, getrusage
from time import perf_counter, perf_counter_ns, sleep
from typing import Any, Final, NamedTuple

__all__ = ["Interval", "Lane", "Plan", "Undo", "bootstrap_ratio", "median", "percentile", "race"]

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
        keys: how many keys each store holds at most.
        lane_s: a lane that needs longer leaves rounds out,
        fewest: but takes part in so many.
        store_bytes: how much each store holds at most, but four keys.
    """

    rounds: int
    sample_ms: float
    singles: int
    keys: int
    lane_s: float = 10.0
    fewest: int = 10
    store_bytes: int = 2**24

    def count_keys(self, value_bytes: int) -> int:
        """Return how many values of that size a store holds."""
        return min(self.keys, max(4, self.store_bytes // value_bytes))


class Undo(NamedTuple):
    """How to take back what an operation did.

    Attributes:
        call: bound to `call` in the statement.
        statement: as that of the lane, with the same variables.
    """

    call: Any
    statement: str


# --- Loops -------------------------------------------------------------------


@lru_cache
def build_loop(statement: str, variables: tuple[str, ...], unrolled: int = UNROLLED) -> Loop:
    """Return a function that runs `statement` for every operation and returns the nanoseconds it took.

    Args:
        statement: with `{k}` and the like where the operation's variables stand;
            `consume` there runs through an iterable.
        variables: their names; `unrolled` operations at a time are unpacked into locals.
        unrolled: operations in each chunk that the loop is given.
    """
    names = [{name: f"{name}{index}" for name in variables} for index in range(unrolled)]
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
    namespace: dict[str, Any] = {"now": perf_counter_ns, "consume": deque[Any](maxlen=0).extend}
    exec(compile(source, "<benchmark loop>", "exec"), namespace)
    return namespace["loop"]


# --- Lanes -------------------------------------------------------------------


class Lane:
    """One contestant in one workload: its call, its place among the keys, its times.

    Attributes:
        turns_ns: per round that it took part in, the time of one entry.
        singles_ns: operations timed one by one, per entry, the clock's own time subtracted.
        failure: why it stopped, or "".
        interrupted: turns whose every try lost the core to others for a while.
        every: it takes part in every so many rounds, from the first on.
        entries: how many entries one operation concerns.
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
        undo: Undo | None = None,
        entries: int = 1,
    ) -> None:
        """Make a lane.

        Args:
            name: its row.
            call: bound to `call` in the statement.
            statement: see `build_loop`.
            variables: see `build_loop`.
            operations: are repeated; with `undo` no two of them may concern the same key.
            generations: bound to `generations` in the statement.
            undo: applied to all operations of a turn, after it and untimed.
            entries: see the attribute.
        """
        self.name = name
        self.turns_ns: list[float] = []
        self.singles_ns: list[float] = []
        self.failure = ""
        self.interrupted = 0
        self.every = 1
        self.entries = entries
        self._call = call
        self._generations = {} if generations is None else generations
        self._undo = undo
        self._statement = statement
        self._variables = variables
        # With undo an operation must not come twice before it is taken back.
        missing = 0 if undo else max(0, UNROLLED - len(operations))
        self._all = [*operations, *islice(cycle(operations), missing)]
        self._singles_loop = build_singles(statement, variables)
        # Each turn goes on where the last one stopped, so slow lanes see all keys too.
        self._operations: Iterator[Operation] = cycle(self._all)
        self._undo_single = build_loop(undo.statement, variables, 1) if undo else None
        self._unroll(1)

    def _unroll(self, unrolled: int) -> None:
        chunks = _join(self._all, unrolled)
        self._unrolled = unrolled
        self._loop = build_loop(self._statement, self._variables, unrolled)
        self._undo_loop = build_loop(self._undo.statement, self._variables, unrolled) if self._undo else None
        self._chunks: Iterator[Operation] = cycle(chunks)
        self._most_chunks = len(chunks) if self._undo else sys.maxsize
        self._chunks_per_turn = 1

    def calibrate(self, target_ns: float) -> None:
        """Find how many operations fill a turn; warms the lane up as well."""
        self._run(1)  # the first one may connect, allocate, compile
        chunks, elapsed = 1, self._run(1)
        if elapsed * UNROLLED < target_ns and len(self._all) >= UNROLLED:
            self._unroll(UNROLLED)
            elapsed = self._run(1)
        while elapsed < target_ns / 4 and chunks < self._most_chunks:
            chunks = min(2 * chunks, self._most_chunks)
            elapsed = self._run(chunks)
        self._chunks_per_turn = min(self._most_chunks, max(1, round(chunks * target_ns / max(elapsed, 1))))

    def take_turn(self, singles: int, target_ns: float, times: list[float]) -> None:
        """Run one turn and append the nanoseconds per operation, its loop included, to `times`."""
        sleep(_REST_S)
        self._run(self._chunks_per_turn // 3)  # the others have had the caches meanwhile
        tries: list[int] = []
        while len(tries) < _MOST_TRIES:
            before = getrusage(RUSAGE_THREAD).ru_nivcsw
            tries.append(self._run(self._chunks_per_turn))
            # What overruns its turn would be interrupted each time, and costs too much to repeat.
            if getrusage(RUSAGE_THREAD).ru_nivcsw == before or tries[-1] > 2 * target_ns:
                elapsed = tries[-1]
                break
        else:
            elapsed = min(tries)
            self.interrupted += 1
        operations = self._chunks_per_turn * self._unrolled
        per_operation = elapsed / operations
        times.append(per_operation)
        if operations == 1:
            self.singles_ns.append(elapsed)  # it was timed by itself
            return
        fitting = min(singles, int(target_ns * _SINGLES_SHARE / max(per_operation, 1.0)) + 1, len(self._all))
        chosen = list(islice(self._operations, fitting))
        self._singles_loop(chosen, self._call, self._generations, self.singles_ns.append)
        if self._undo and self._undo_single:
            self._undo_single(chosen, self._undo.call, self._generations)

    def _run(self, chunks: int) -> int:
        if not (self._undo and self._undo_loop):
            return self._loop(islice(self._chunks, chunks), self._call, self._generations)
        chosen = list(islice(self._chunks, chunks))
        elapsed = self._loop(chosen, self._call, self._generations)
        self._undo_loop(chosen, self._undo.call, self._generations)
        return elapsed


def _join(operations: Sequence[Operation], unrolled: int) -> list[Operation]:
    whole = len(operations) - len(operations) % unrolled
    return [tuple(chain.from_iterable(operations[at : at + unrolled])) for at in range(0, whole, unrolled)]


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
                if lane.failure or turn % lane.every:
                    continue
                began = perf_counter()
                lane.failure = attempt(lane.take_turn, plan.singles, target_ns, gross[lane])
                if turn < 0:
                    lane.every = _choose_rounds((perf_counter() - began) * plan.rounds, plan)
            if turn < 0:
                for lane in everyone:
                    gross[lane].clear()
                    lane.singles_ns.clear()
                    lane.interrupted = 0
    finally:
        gc.enable()
    loop_ns, clock_ns = median(gross[idle]), median(idle.singles_ns)
    idle.turns_ns = gross[idle]
    for lane in everyone:
        if lane is not idle and not lane.failure:
            lane.turns_ns = [max(time - loop_ns, 0.1) / lane.entries for time in gross[lane]]
            lane.singles_ns = [max(time - clock_ns, 0) / lane.entries for time in lane.singles_ns]


def _choose_rounds(seconds: float, plan: Plan) -> int:
    """Return in every how many rounds a lane takes part that would need `seconds` for all of them."""
    every = 1
    while seconds / every > plan.lane_s and len(range(0, plan.rounds, 2 * every)) >= plan.fewest:
        every *= 2
    return every


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
