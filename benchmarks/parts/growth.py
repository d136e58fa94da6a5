"""What more keys cost: ns per operation, opening, memory and disk, from a thousand to ten million.

Each store grows step by step, in a process of its own.  Its times are taken in
turns with those of a second store, in a second process, which stays at the
small size: so the ratio tells what size costs, and nothing about the hour.

Footprint is what an entry takes beyond its key (12 bytes) and its value (an int
of 5 bytes, encoded): pages in use for shm, blocks of the directory for what
lies on a disk, and memory of the process that has it open, for all.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from benchmarks.guard import in_a_line
from benchmarks.measure import Interval, bootstrap_ratio, median
from benchmarks.parts.contenders import ours
from benchmarks.parts.crew import Crew
from benchmarks.parts.opening import open_in_fresh_process
from benchmarks.parts.worker import make_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.parts.room import Room

__all__ = ["Grown", "measure_growth"]

PAYLOAD_BYTES: Final = 12 + 5
_SMALL: Final = 10_000
_EACH: Final = 1000
_PATIENCE_S: Final = 1800.0
_BYTES_PER_KEY: Final = 192  # of room, where it must be said beforehand


class Grown(NamedTuple):
    """One store at one size.  In JSON an object with these names, the ratios null or intervals.

    Attributes:
        keys: in the store.
        fill_ns: of one new key, in batches of 1000.
        get_ns: of a `get` of a key drawn at random, median of the turns.
        set_ns: of a `set` likewise.
        get_ratio: `get_ns` in terms of that of the store that stayed small (10,000 keys), in the same turns.
        set_ratio: likewise.
        open_ms: `open` and one `get` in a fresh process; 0 if there is no such thing.
        memory_overhead: bytes per entry of the process's own memory, beyond key and value.
        disk_overhead: bytes per entry on disk, or in shared memory, beyond key and value.
        failure: why there is nothing else, or "".
    """

    contestant: str
    keys: int
    fill_ns: float = 0.0
    get_ns: float = 0.0
    set_ns: float = 0.0
    get_ratio: Interval | None = None
    set_ratio: Interval | None = None
    open_ms: float = 0.0
    memory_overhead: float = 0.0
    disk_overhead: float = 0.0
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it for `json.dump`."""
        ratios = {name: ratio and ratio._asdict() for name, ratio in self._ratios().items()}
        return {**self._asdict(), **ratios}

    def _ratios(self) -> dict[str, Interval | None]:
        return {"get_ratio": self.get_ratio, "set_ratio": self.set_ratio}


def measure_growth(room: Room) -> Iterator[Grown]:
    """Let each of our backends grow, and LMDB."""
    for name in (*room.backends, "LMDB"):
        keys = 0
        try:
            for row in _grow(room, name):
                keys = row.keys
                yield row
        except Exception as error:  # noqa: BLE001  a failure is a row
            larger = [size for size in room.plan.sizes if size > keys]
            yield Grown(name, larger[0] if larger else keys, failure=in_a_line(error))


def _grow(room: Room, name: str) -> Iterator[Grown]:
    plan = room.plan
    small = min(_SMALL, plan.sizes[-1])
    with ExitStack() as stack:
        where, crew = _open(room, stack, name, "large", plan.sizes[-1])
        _, other = _open(room, stack, name, "small", small)
        other.do(0, "fill", first=0, count=small, each=_EACH, patience_s=_PATIENCE_S)
        own_memory = crew.do(0, "memory")
        keys, spent_s = 0, 0.0
        for size in plan.sizes:
            expected_s = spent_s / keys * size if keys else 0.0
            if room.is_over() or expected_s > plan.growth_s:
                reason = "time is up" if room.is_over() else f"filling it would take about {expected_s:.0f} s"
                yield Grown(name, size, failure=f"left out: {reason}")
                return
            room.tell(f"growth: {name}, {size} keys")
            filled_s = crew.do(0, "fill", first=keys, count=size - keys, each=_EACH, patience_s=_PATIENCE_S)
            fill_ns = filled_s / (size - keys) * 1e9
            keys, spent_s = size, spent_s + filled_s
            memory = crew.do(0, "memory") - own_memory
            disk = _footprint(name, where, crew)
            times = {verb: _take_turns(room, crew, other, verb, keys=size, small=small) for verb in ("get", "set")}
            opened = (
                0.0 if name in {"memory", "LMDB"} else open_in_fresh_process(where, make_key(size - 1)).got_ns / 1e6
            )
            yield Grown(
                name,
                size,
                fill_ns,
                median(times["get"][0]),
                median(times["set"][0]),
                bootstrap_ratio(*times["get"]),
                bootstrap_ratio(*times["set"]),
                opened,
                _overhead(memory, size, PAYLOAD_BYTES if name == "memory" else 0),
                _overhead(disk, size, PAYLOAD_BYTES),
            )


def _overhead(size: float, keys: int, payload: int) -> float:
    # A few keys may fit into what there was room for before.
    return max(size / keys - payload, 0.0)


def _open(room: Room, stack: ExitStack, name: str, which: str, keys: int) -> tuple[str, Crew]:
    capacity = max(64 * 2**20, keys * _BYTES_PER_KEY)
    options = f"size={capacity}" if name == "shm" else ""
    if name == "LMDB":
        where = f"{room.make_place(f'growth-LMDB-{which}').directory}?{2 * capacity}"
        return where, stack.enter_context(Crew("processes", "benchmarks.parts.attach:lmdb", where, 1))
    where = stack.enter_context(ours(name, options)(room, f"growth-{which}"))
    return where, stack.enter_context(Crew("processes", "benchmarks.parts.attach:store", where, 1))


def _take_turns(
    room: Room, crew: Crew, other: Crew, verb: str, *, keys: int, small: int
) -> tuple[list[float], list[float]]:
    """Return the nanoseconds per operation of the large and of the small store, in turns."""
    large_ns: list[float] = []
    small_ns: list[float] = []
    for turn in range(-1, room.plan.growth_rounds):  # the first one warms up and does not count
        pairs = [(crew, keys, large_ns), (other, small, small_ns)]
        for team, count, times in pairs if turn % 2 else pairs[::-1]:
            draws = room.plan.growth_draws
            time_ns = team.do(0, "loop", verb=verb, keys=count, draws=draws, seed=turn + 1, patience_s=_PATIENCE_S)
            if turn >= 0:
                times.append(time_ns)
    return large_ns, small_ns


def _footprint(name: str, where: str, crew: Crew) -> int:
    """Return the bytes on disk or in shared memory, 0 if there is neither."""
    if name == "memory":
        return 0
    if name == "shm":
        footprint: int = crew.call(0, "footprint", patience_s=_PATIENCE_S)
        return footprint
    path = where.partition("?")[0].removeprefix("file:").removeprefix("sqlite:")
    directory = path if os.path.isdir(path) else os.path.dirname(path)
    return sum(
        os.lstat(os.path.join(parent, file)).st_blocks * 512
        for parent, _, files in os.walk(directory)
        for file in files
    )
