"""What the project has set itself, held against what was measured.

Information, not a gate: a shared machine must not fail anybody's build.
`--strict` makes it one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from benchmarks.measure import Interval

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.results import Results

__all__ = ["PART_TARGETS", "TARGETS", "Judgement", "Target", "judge"]

Measured = Interval | float | None


class Target(NamedTuple):
    """A figure, and the bound it should keep.

    Attributes:
        text: what is compared with what.
        find: takes the figure from the results, None if it was not measured.
        bound: the figure should be at most, or at least, this.
        at_least: which of the two.
    """

    text: str
    find: Callable[[Results], Measured]
    bound: float
    at_least: bool = False


class Judgement(NamedTuple):
    """A target and what became of it."""

    target: Target
    measured: Measured

    def state(self) -> str:
        """Return "met", "not met" or "not measured"."""
        if self.measured is None:
            return "not measured"
        value = self.measured.median if isinstance(self.measured, Interval) else self.measured
        is_met = value >= self.target.bound if self.target.at_least else value <= self.target.bound
        return "met" if is_met else "not met"

    def is_certain(self) -> bool:
        """Return whether the whole interval lies on the same side of the bound."""
        if not isinstance(self.measured, Interval):
            return True
        return (self.measured.low >= self.target.bound) == (self.measured.high >= self.target.bound)

    def to_json(self) -> dict[str, Any]:
        """Return it for `json.dump`."""
        return {
            "target": self.target.text,
            "bound": self.target.bound,
            "at_least": self.target.at_least,
            "measured": self.measured._asdict() if isinstance(self.measured, Interval) else self.measured,
            "state": self.state(),
            "certain": self.is_certain(),
        }


def judge(results: Results) -> list[Judgement]:
    """Hold every target against `results`."""
    return [Judgement(target, target.find(results)) for target in TARGETS]


def _slower(workload: str, contestant: str, other: str) -> Callable[[Results], Measured]:
    return lambda results: results.ratio(workload, contestant, other)


def _faster(workload: str, contestant: str, other: str) -> Callable[[Results], Measured]:
    return lambda results: results.ratio(workload, other, contestant)


def _codec_in_isolation(verb: str) -> Callable[[Results], Measured]:
    return lambda results: results.codec_isolated.get(verb)


def _scaling(backend: str, crew: str, keys: int) -> Callable[[Results], Measured]:
    return lambda results: next(
        (item.ratio for item in results.scaling if (item.backend, item.crew, item.keys) == (backend, crew, keys)), None
    )


def _lost(results: Results) -> Measured:
    counted = [item.lost for item in results.scaling if not item.failure]
    return float(sum(map(abs, counted))) if counted else None


def _light_open(backend: str) -> Callable[[Results], Measured]:
    return lambda results: next((item.ratio for item in results.light_open if item.backend == backend), None)


def _forbidden(results: Results) -> Measured:
    opened = [item for item in results.light_open if item.backend and not item.failure]
    return float(sum(len(item.forbidden) for item in opened)) if opened else None


def _part(name: str, find: Callable[[Any], Measured], **fields: Any) -> Callable[[Results], Measured]:
    """Return what finds a figure in the row of a part that has these fields."""

    def look(results: Results) -> Measured:
        for row in results.parts.get(name, []):
            if not row.failure and all(getattr(row, field) == value for field, value in fields.items()):
                return find(row)
        return None

    return look


def _contended(contestant: str, quarrel: str, kind: str, workers: int) -> Callable[[Results], Measured]:
    return _part(
        "contention",
        lambda row: row.ratio_to_one,
        contestant=contestant,
        quarrel=quarrel,
        kind=kind,
        workers=workers,
    )


def _hot_throughput_to_lmdb(results: Results) -> Measured:
    rates = [
        _part("contention", lambda row: row.per_second, contestant=name, quarrel="hot", kind="processes", workers=2)(
            results
        )
        for name in ("shm", "LMDB")
    ]
    return rates[0] / rates[1] if isinstance(rates[0], float) and isinstance(rates[1], float) and rates[1] else None


def _defects_of_ours(results: Results) -> Measured:
    counted = [
        abs(row.lost) + row.torn
        for row in results.parts.get("contention", [])
        if not row.failure and row.contestant in {"memory", "file", "sqlite", "shm"}
    ]
    counted += [abs(row.lost) for name in ("stall", "group-commit", "crash") for row in results.parts.get(name, [])]
    return float(sum(counted)) if counted else None


PART_TARGETS: Final = (
    Target("ours: updates lost, records torn, acknowledged writes lost", _defects_of_ours, 0.0),
    Target("shm, one hot key, 2 processes / 1", _contended("shm", "hot", "processes", 2), 0.5, at_least=True),
    Target("shm / LMDB, one hot key, 2 processes", _hot_throughput_to_lmdb, 10.0, at_least=True),
    Target(
        "file sync=disk, 8 writers / one fdatasync per write",
        _part("group-commit", lambda row: row.ratio, contestant="file, sync=disk", writers=8),
        4.0,
        at_least=True,
    ),
    Target("shm, 8 processes: p99 / median", _part("stall", lambda row: row.p99_to_median, quarrel="hot"), 20.0),
    Target("shm, 8 processes: longest, ms", _part("stall", lambda row: row.longest_ns / 1e6, quarrel="hot"), 100.0),
    Target(
        "shm, get of 10^7 keys / 10^4",
        _part("growth", lambda row: row.get_ratio, contestant="shm", keys=10**7),
        2.5,
    ),
    Target(
        "shm, 10^7 keys: bytes per entry beyond key and value",
        _part("growth", lambda row: row.disk_overhead, contestant="shm", keys=10**7),
        96.0,
    ),
    Target(
        "file, open 10^6 entries after 10^7 writes, ms",
        _part("open-large", lambda row: row.first_get_ms, entries=10**6),
        1500.0,
    ),
    # Twice the entries, twice the time, and a quarter for what does not depend on them.
    Target(
        "file, open of n entries / n / 2, writes alike",
        _part("open-large", lambda row: row.ratio_to_half, entries=10**6),
        2.5,
    ),
    Target("shm, open beyond imports, ms", _part("open-again", lambda row: row.first_ms, backend="shm"), 1.0),
    Target("sqlite, open beyond imports, ms", _part("open-again", lambda row: row.first_ms, backend="sqlite"), 1.0),
)
"""Those of `parts.registry`."""

TARGETS: Final = (
    Target("shm get int / dict+Lock", _slower("get-int", "shm", "dict+Lock"), 0.5),
    Target("shm set int / dict+Lock", _slower("set-int", "shm", "dict+Lock"), 0.5),
    Target("shm increment int / dict+Lock", _slower("increment-int", "shm", "dict+Lock"), 0.5),
    Target("LMDB get int / shm", _faster("get-int", "shm", "LMDB"), 10.0, at_least=True),
    Target("LMDB set int / shm", _faster("set-int", "shm", "LMDB"), 25.0, at_least=True),
    Target("diskcache get int / shm", _faster("get-int", "shm", "diskcache"), 80.0, at_least=True),
    Target("redis get int / shm", _faster("get-int", "shm", "redis"), 400.0, at_least=True),
    Target("shm get 1 KiB dict / dict+codec", _slower("get-dict", "shm", "dict+codec"), 1.15),
    Target("shm set 1 KiB dict / dict+codec", _slower("set-dict", "shm", "dict+codec"), 1.15),
    Target("LMDB get 1 KiB dict / shm", _faster("get-dict", "shm", "LMDB"), 2.5, at_least=True),
    Target("LMDB set 1 KiB dict / shm", _faster("set-dict", "shm", "LMDB"), 2.5, at_least=True),
    Target("file get int / dict+Lock", _slower("get-int", "file", "dict+Lock"), 2.0),
    Target("file set int / raw sqlite3 upsert", _slower("set-int", "file", "raw sqlite3"), 0.6),
    Target("sqlite get int / raw sqlite3", _slower("get-int", "sqlite", "raw sqlite3"), 1.25),
    Target("sqlite set int / raw sqlite3", _slower("set-int", "sqlite", "raw sqlite3"), 1.25),
    Target("sqlite increment int / raw sqlite3", _slower("increment-int", "sqlite", "raw sqlite3"), 1.25),
    Target("diskcache get int / sqlite", _faster("get-int", "sqlite", "diskcache"), 2.0, at_least=True),
    Target("diskcache set int / sqlite", _faster("set-int", "sqlite", "diskcache"), 2.0, at_least=True),
    Target("redis: get int / redis-py", _slower("get-int", "sharedstate redis", "redis"), 1.1),
    Target(
        "redis: get 100 ints / a pipeline of redis-py",
        _slower("get_many-int", "sharedstate redis", "redis pipeline"),
        1.2,
    ),
    Target("memory get int / dict+Lock", _slower("get-int", "memory", "dict+Lock"), 0.7),
    Target("memory set int / dict+Lock", _slower("set-int", "memory", "dict+Lock"), 0.7),
    Target(
        "msgpack encode 1 KiB dict / ours", _faster("encode-dict", "sharedstate codec", "msgpack"), 1.5, at_least=True
    ),
    Target(
        "msgpack decode 1 KiB dict / ours", _faster("decode-dict", "sharedstate codec", "msgpack"), 1.5, at_least=True
    ),
    # "As fast" with a tenth for the noise of two interpreters.
    Target("codec encode, isolated / main interpreter", _codec_in_isolation("encode"), 1.1),
    Target("codec decode, isolated / main interpreter", _codec_in_isolation("decode"), 1.1),
    Target("shm, 2 processes / 1, a key each", _scaling("shm", "processes", 1), 1.9, at_least=True),
    Target("shm, 2 processes / 1, 64 keys each", _scaling("shm", "processes", 64), 1.9, at_least=True),
    Target("shm, 2 isolated interpreters / 1, a key each", _scaling("shm", "interpreters", 1), 1.9, at_least=True),
    Target("shm, 2 isolated interpreters / 1, 64 keys each", _scaling("shm", "interpreters", 64), 1.9, at_least=True),
    Target("updates lost while scaling", _lost, 0.0),
    Target("fresh interpreter: open shm / json, struct, threading", _light_open("shm"), 1.5),
    Target("forbidden modules that open loaded", _forbidden, 0.0),
    *PART_TARGETS,
)
