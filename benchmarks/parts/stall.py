"""Eight processes contend in one piece for a minute: how much worse than the usual operation is the worst?

Throughput hides a process that starves.  Here every operation of every process
counts, and the longest is told.  There are more processes than cores on most
machines: then the kernel alone takes a process off its core for several
milliseconds, also in the middle of an operation.  So the same is done once
without contention, each process on a key of its own: what is longer than there
comes from waiting for one another.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from benchmarks.guard import in_a_line
from benchmarks.parts.contenders import ours
from benchmarks.parts.contention import Contended, sum_up_races
from benchmarks.parts.crew import Crew

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.parts.room import Room

__all__ = ["STALLED", "Stall", "measure_stall"]

STALLED: Final = ("shm",)
QUARRELS: Final = ("hot", "disjoint")
_WORKERS: Final = 8
_BLOCK: Final = 8


class Stall(NamedTuple):
    """What eight processes did.  In JSON an object with these names.

    Attributes:
        quarrel: hot: all on one key; disjoint: each on its own.
        seconds: that they did so.
        p99_to_median: of single operations.
        longest_ns: of all of them.
        least_share: of the process that got the fewest operations, in terms of an equal share.
        lost: increments that are not in the store.
        failure: why there is nothing else, or "".
    """

    backend: str
    quarrel: str
    workers: int = _WORKERS
    seconds: float = 0.0
    per_second: float = 0.0
    p50_ns: int = 0
    p99_ns: int = 0
    p99_to_median: float = 0.0
    longest_ns: int = 0
    least_share: float = 0.0
    cpu_share: float = 0.0
    lost: int = 0
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it for `json.dump`."""
        return self._asdict()


def measure_stall(room: Room) -> Iterator[Stall]:
    """Let eight processes increment, with and without contention."""
    for backend in STALLED:
        for quarrel in QUARRELS if backend in room.backends else ():
            room.tell(f"stall: {backend}, {_WORKERS} processes for {room.plan.stall_s:g} s, {quarrel}")
            try:
                yield _measure(room, backend, quarrel)
            except Exception as error:  # noqa: BLE001  a failure is a row
                yield Stall(backend, quarrel, failure=in_a_line(error))


def _measure(room: Room, backend: str, quarrel: str) -> Stall:
    keys = ["hot" if quarrel == "hot" else f"worker-{worker}" for worker in range(_WORKERS)]
    with ExitStack() as stack:
        where = stack.enter_context(ours(backend)(room, f"stall-{quarrel}"))
        crew = stack.enter_context(Crew("processes", "benchmarks.parts.attach:store", where, _WORKERS))
        for worker, key in enumerate(keys):
            crew.do(worker, "plan", steps=[("increment", key)] * 1024)
        race = crew.race(_WORKERS, room.plan.stall_s, _BLOCK)
        lost = sum(run["told"] for run in race) - crew.call(0, "total", sorted(set(keys)))
    row = sum_up_races(Contended(quarrel, backend, "processes", _WORKERS, lost=lost), [race], room.plan.stall_s, [])
    return Stall(
        backend,
        quarrel,
        seconds=room.plan.stall_s,
        per_second=row.per_second,
        p50_ns=row.p50_ns,
        p99_ns=row.p99_ns,
        p99_to_median=row.p99_ns / max(row.p50_ns, 1),
        longest_ns=row.longest_ns,
        least_share=row.least_share,
        cpu_share=row.cpu_share,
        lost=lost,
    )
