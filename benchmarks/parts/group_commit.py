"""Writes that are on disk before they return: one writer and eight, against one fdatasync per write.

A disk takes as long to sync one write as to sync ten, so writers that come
together may share a sync.  The reference is one process that appends 64 bytes to
a file of its own and calls fdatasync, again and again; each round lets the
reference, one writer and eight writers run, in an order that turns.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from benchmarks.guard import in_a_line
from benchmarks.measure import Interval, bootstrap_ratio, median
from benchmarks.parts.contenders import FSYNC, ours
from benchmarks.parts.contention import rate_of
from benchmarks.parts.crew import Crew

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.parts.room import Room

__all__ = ["Synced", "measure_group_commit"]

SYNCED: Final = ("file", "sqlite")
_WRITERS: Final = (1, 8)


class Synced(NamedTuple):
    """So many writers whose every write is synced.  In JSON an object with these names, `ratio` null or an interval.

    Attributes:
        per_second: writes of all of them, median of the rounds.
        ratio: their throughput in terms of one process with one fdatasync per write.
        p99_ns: of one write.
        lost: increments that are not in the store.
        failure: why there is nothing else, or "".
    """

    contestant: str
    writers: int
    per_second: float = 0.0
    ratio: Interval | None = None
    p99_ns: int = 0
    lost: int = 0
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it for `json.dump`."""
        return {**self._asdict(), "ratio": self.ratio and self.ratio._asdict()}


def measure_group_commit(room: Room) -> Iterator[Synced]:
    """Let one process and eight write to each backend that can sync every write."""
    for backend in SYNCED:
        if backend in room.backends:
            room.tell(f"group-commit: {backend}, sync=disk")
            try:
                yield from _measure(room, backend)
            except Exception as error:  # noqa: BLE001  a failure is a row
                yield Synced(f"{backend}, sync=disk", 0, failure=in_a_line(error))


def _measure(room: Room, backend: str) -> list[Synced]:
    duration_s = min(5 * room.plan.race_s, 1.0)  # a sync takes milliseconds
    with ExitStack() as stack:
        reference = stack.enter_context(FSYNC.run(room, f"fdatasync-{backend}"))
        syncer = stack.enter_context(Crew("processes", FSYNC.attach, reference, 1))
        where = stack.enter_context(ours(backend, "sync=disk")(room, "commit"))
        crew = stack.enter_context(Crew("processes", "benchmarks.parts.attach:store", where, max(_WRITERS)))
        keys = [f"writer-{worker}" for worker in range(crew.size)]
        syncer.do(0, "plan", steps=[("increment", "")])
        for worker, key in enumerate(keys):
            crew.do(worker, "plan", steps=[("increment", key)])
        turns: list[tuple[Crew, int, list[list[dict[str, Any]]]]] = [(syncer, 1, [])]
        turns += [(crew, writers, []) for writers in _WRITERS]
        for turn in range(room.plan.sync_rounds):
            shift = turn % len(turns)
            for team, writers, races in turns[shift:] + turns[:shift]:
                races.append(team.race(writers, duration_s, 1))
        told = sum(run["told"] for team, _, races in turns if team is crew for race in races for run in race)
        lost = told - crew.call(0, "total", keys)
    rates = [[rate_of(race, duration_s) for race in races] for _, _, races in turns]
    return [
        Synced(
            f"{FSYNC.name}, beside {backend}" if team is syncer else f"{backend}, sync=disk",
            writers,
            median(per_second),
            bootstrap_ratio(per_second, rates[0]),
            _p99_ns(races),
            0 if team is syncer else lost,
        )
        for (team, writers, races), per_second in zip(turns, rates, strict=True)
    ]


def _p99_ns(races: list[list[dict[str, Any]]]) -> int:
    times = sorted(
        time_ns for race in races for run in race for time_ns, count in run["singles"].items() for _ in range(count)
    )
    return times[len(times) * 99 // 100]
