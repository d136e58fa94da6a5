"""What becomes of each when many want the same: 1 to 16 workers, and four kinds of quarrel.

    hot       all increment one key
    mixed     100 keys, as often read as written; each tenth holds a record, whose two halves must agree
    disjoint  each increments keys of its own
    zipf      95 % reads, few keys much more often than most

Workers start together and run for a fixed time, a longer one if they are more
than the cores; what ends later does not count.  The numbers of workers take
turns, so that drift of the machine falls on all of them.  Every increment that a
worker was told of is looked for in the end (lost updates), and every record that
is read is looked at (torn reads): whoever loses is fast for nothing.
"""

from __future__ import annotations

import os
import random
from contextlib import ExitStack
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from benchmarks.guard import in_a_line
from benchmarks.measure import Interval, bootstrap_ratio, median
from benchmarks.parts.contenders import contenders
from benchmarks.parts.crew import KINDS, Crew

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.parts.contenders import Contender
    from benchmarks.parts.room import Room

__all__ = ["QUARRELS", "Contended", "contend", "measure_contention", "rate_of", "sum_up_races"]

QUARRELS: Final = ("hot", "mixed", "disjoint", "zipf")

_STEPS: Final = 4096  # that a worker runs through again and again
_MIXED_KEYS: Final = 100
_OWN_KEYS: Final = 64
_WARM_S: Final = 0.02
_FAST_NS: Final = 5000  # below that, the clock's own time matters
_BLOCK: Final = 8


class Contended(NamedTuple):
    """What so many workers did.  In JSON an object with these names, and `ratio_to_one` null or an interval.

    Attributes:
        quarrel: of `QUARRELS`.
        kind: of the workers.
        per_second: operations of all workers together, median of the races.
        ratio_to_one: throughput in terms of a single worker's, races paired by round.
        p50_ns: of single operations, with
        p99_ns: and
        longest_ns: the worst wait.
        least_share: operations of the worker that got the fewest, in terms of an equal share.
        cpu_share: of the time, how much the workers spent on a CPU, on average.
        lost: increments that were told to a worker and are not in the store.
        torn: records whose halves disagreed when they were read.
        rounds_per_second: `per_second` of each race.
        failure: why there is nothing else, or "".
    """

    quarrel: str
    contestant: str
    kind: str
    workers: int
    per_second: float = 0.0
    ratio_to_one: Interval | None = None
    p50_ns: int = 0
    p99_ns: int = 0
    longest_ns: int = 0
    least_share: float = 0.0
    cpu_share: float = 0.0
    lost: int = 0
    torn: int = 0
    rounds_per_second: tuple[float, ...] = ()
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it for `json.dump`."""
        return {**self._asdict(), "ratio_to_one": self.ratio_to_one and self.ratio_to_one._asdict()}


def measure_contention(room: Room) -> Iterator[Contended]:
    """Let everybody contend in every kind of worker that can share it."""
    for kind in reversed(KINDS):  # if time is short, it is enough for processes at least
        for contender in contenders(room, kind):
            if room.is_over():
                yield Contended("", contender.name, kind, 0, failure="left out: time is up")
                continue
            room.tell(f"contention: {contender.name}, {kind}")
            yield from contend(room, contender, kind)


def contend(room: Room, contender: Contender, kind: str) -> Iterator[Contended]:
    """Let one contestant contend in one kind of worker; a failure is its row."""
    quarrel = ""
    try:
        with ExitStack() as stack:
            where = stack.enter_context(contender.run(room, f"{contender.name}-{kind}"))
            crew = stack.enter_context(Crew(kind, contender.attach, where, max(room.plan.workers)))
            for quarrel in QUARRELS:
                yield from _run_quarrel(room, contender.name, kind, quarrel, crew)
    except Exception as error:  # noqa: BLE001  whatever a contestant does wrong, the others go on
        yield Contended(quarrel, contender.name, kind, 0, failure=in_a_line(error))


def _run_quarrel(room: Room, name: str, kind: str, quarrel: str, crew: Crew) -> list[Contended]:
    plan = room.plan
    told: int = 0
    counters, records = _keys(quarrel, crew.size, plan.zipf_keys)
    for step in ([("increment", key) for key in counters], [("write", key) for key in records]):
        if step:
            # One lap of them all, so that nobody meets an absent key.
            crew.do(0, "plan", steps=step)
            told += crew.do(0, "race", start_s=0.0, duration_s=0.0, block=len(step))["told"]
    for worker in range(crew.size):
        crew.do(worker, "plan", steps=_steps(quarrel, worker, plan.zipf_keys))
    warm_s = min(_WARM_S, plan.race_s)
    warm = crew.race(1, warm_s, 1)
    told += warm[0]["told"]
    block = _BLOCK if warm_s * 1e9 < _FAST_NS * warm[0]["done"] else 1
    seconds = {workers: _duration_s(plan.race_s, workers) for workers in plan.workers}
    races: dict[int, list[list[dict[str, Any]]]] = {workers: [] for workers in plan.workers}
    lost = dict.fromkeys(races, 0)
    in_store: int = crew.call(0, "total", counters)
    before = told - in_store
    for turn in range(plan.race_rounds):
        for workers in plan.workers if turn % 2 == 0 else plan.workers[::-1]:
            race = crew.race(workers, seconds[workers], block)
            races[workers].append(race)
            told += sum(run["told"] for run in race)
            in_store = crew.call(0, "total", counters)
            lost[workers] += told - in_store - before
            before = told - in_store
    one = [rate_of(race, seconds[plan.workers[0]]) for race in races[plan.workers[0]]]
    return [
        sum_up_races(Contended(quarrel, name, kind, workers, lost=lost[workers]), races[workers], seconds[workers], one)
        for workers in plan.workers
    ]


def _duration_s(race_s: float, workers: int) -> float:
    # As much of a core for each, however many there are.
    return race_s * max(1.0, workers / len(os.sched_getaffinity(0)))


def sum_up_races(row: Contended, races: list[list[dict[str, Any]]], duration_s: float, one: list[float]) -> Contended:
    """Fill a row in from what the workers of each race answered; `one`: a single worker's throughput, per race."""
    runs = [run for race in races for run in race]
    rates = [rate_of(race, duration_s) for race in races]
    singles: dict[int, int] = {}
    for run in runs:
        for time_ns, count in run["singles"].items():
            singles[time_ns] = singles.get(time_ns, 0) + count
    return row._replace(
        per_second=median(rates),
        ratio_to_one=bootstrap_ratio(rates, one) if len(one) == len(rates) else None,
        p50_ns=_percentile(singles, 50),
        p99_ns=_percentile(singles, 99),
        longest_ns=max(run["longest_ns"] for run in runs),
        least_share=_least_share(races),
        cpu_share=sum(run["cpu_ns"] for run in runs) / max(sum(run["wall_ns"] for run in runs), 1),
        torn=sum(run["torn"] for run in runs),
        rounds_per_second=tuple(round(rate, 1) for rate in rates),
    )


def rate_of(race: list[dict[str, Any]], duration_s: float) -> float:
    """Return the operations per second that all workers of a race did in its time; never 0, to divide by it."""
    return max(sum(run["done"] for run in race), 1) / duration_s


def _least_share(races: list[list[dict[str, Any]]]) -> float:
    # Over all rounds: in a short race a worker may not even have had its first time slice.
    done = [sum(runs) for runs in zip(*([run["done"] for run in race] for race in races), strict=True)]
    return min(done) * len(done) / max(sum(done), 1)


def _percentile(histogram: dict[int, int], percent: int) -> int:
    times = sorted(histogram)
    reached = list(accumulate(histogram[time_ns] for time_ns in times))
    return next(
        (time_ns for time_ns, count in zip(times, reached, strict=True) if count * 100 >= percent * reached[-1]), 0
    )


# --- Who does what to which key ----------------------------------------------


def _keys(quarrel: str, workers: int, zipf_keys: int) -> tuple[list[str], list[str]]:
    """Return the counters and the records of a quarrel."""
    if quarrel == "hot":
        return ["hot"], []
    if quarrel == "mixed":
        names = [f"mixed:{number}" for number in range(_MIXED_KEYS)]
        return [name for name in names if not _is_record(name)], [name for name in names if _is_record(name)]
    if quarrel == "zipf":
        return [f"zipf:{number}" for number in range(zipf_keys)], []
    return [key for worker in range(workers) for key in _own_keys(worker)], []


def _own_keys(worker: int) -> list[str]:
    return [f"worker-{worker}:{number}" for number in range(_OWN_KEYS)]


def _is_record(name: str) -> bool:
    return name.endswith("7")


def _steps(quarrel: str, worker: int, zipf_keys: int) -> list[tuple[str, str]]:
    """Return what a worker does, in turn: verb and key."""
    dice = random.Random(worker)
    if quarrel == "hot":
        return [("increment", "hot")] * _STEPS
    if quarrel == "disjoint":
        return [("increment", key) for key in _own_keys(worker)] * (_STEPS // _OWN_KEYS)
    if quarrel == "mixed":
        names = [f"mixed:{dice.randrange(_MIXED_KEYS)}" for _ in range(_STEPS)]
        reads = [dice.random() < 0.5 for _ in names]
        verbs = {(False, False): "increment", (False, True): "get", (True, False): "write", (True, True): "read"}
        return [(verbs[_is_record(name), is_read], name) for name, is_read in zip(names, reads, strict=True)]
    numbers = range(zipf_keys)
    drawn = dice.choices(numbers, weights=[1 / (number + 1) for number in numbers], k=_STEPS)
    return [("get" if dice.random() < 0.95 else "increment", f"zipf:{number}") for number in drawn]
