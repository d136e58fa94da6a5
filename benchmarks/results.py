"""What a run found out: plain figures, which report, targets and JSON read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from benchmarks.measure import Interval, bootstrap_ratio, median, percentile

if TYPE_CHECKING:
    from benchmarks.parts.light_open import LightOpen
    from benchmarks.parts.scaling import Scaling

__all__ = ["Contestant", "PartRow", "Results", "Row", "spread"]

_FEWEST_FOR_P99 = 200  # with fewer, the 99th percentile is little more than the worst one


class Contestant(NamedTuple):
    """Who took part, or why not."""

    name: str
    version: str = ""
    note: str = ""
    missing: str = ""


class Row(NamedTuple):
    """One contestant in one workload.

    Attributes:
        form: the call, as people write it; the others do the same in their own words.
        turns_ns: nanoseconds of one entry, per round that it took part in.
        singles_ns: of operations timed one by one, per entry.
        interrupted: turns that lost the core to other processes for a while.
        failure: why there are none, or not all, or "".
        every: it took part in every so many rounds, from the first on.
    """

    workload: str
    contestant: str
    form: str
    turns_ns: list[float]
    singles_ns: list[float]
    interrupted: int = 0
    failure: str = ""
    every: int = 1

    def median_ns(self) -> float | None:
        """Return the median over the rounds."""
        return median(self.turns_ns) if self.turns_ns and not self.failure else None

    def p99_ns(self) -> int | None:
        """Return the 99th percentile of the single operations, if there are enough."""
        return int(percentile(self.singles_ns, 99)) if len(self.singles_ns) >= _FEWEST_FOR_P99 else None

    def p50_ns(self) -> int | None:
        """Return the median of the single operations, if there are any."""
        return int(percentile(self.singles_ns, 50)) if self.singles_ns else None

    def max_ns(self) -> int | None:
        """Return the slowest of the single operations, if there are any."""
        return int(max(self.singles_ns)) if self.singles_ns else None

    def by_round(self) -> dict[int, float]:
        """Return `turns_ns` by the number of the round."""
        return {index * self.every: time for index, time in enumerate(self.turns_ns)}


class PartRow(Protocol):
    """What a part of `parts.registry` found out, one row of it; its class says what the JSON has."""

    def to_json(self) -> dict[str, Any]:
        """Return it for `json.dump`."""


class Results:
    """Everything that a run measured.

    Attributes:
        loop_ns: per workload, the loop's own time per operation, which is subtracted.
        clock_ns: per workload, a pair of clock readings, which is subtracted from singles.
        parts: per part of `parts.registry`, its rows.
        is_complete: nobody interrupted it.
    """

    def __init__(self, machine: dict[str, Any], settings: dict[str, Any]) -> None:
        self.machine = machine
        self.settings = settings
        self.contestants: dict[str, Contestant] = {}
        self.rows: list[Row] = []
        self.baselines: dict[str, str] = {}
        self.loop_ns: dict[str, float] = {}
        self.clock_ns: dict[str, float] = {}
        self.scaling: list[Scaling] = []
        self.light_open: list[LightOpen] = []
        self.codec_isolated: dict[str, Interval] = {}
        self.codec_failure = ""
        self.parts: dict[str, list[PartRow]] = {}
        self.noise: list[str] = []
        self.is_complete = True

    def row(self, workload: str, contestant: str) -> Row | None:
        """Return a row that has figures."""
        for row in self.rows:
            if (row.workload, row.contestant) == (workload, contestant) and row.turns_ns and not row.failure:
                return row
        return None

    def ratio(self, workload: str, contestant: str, other: str) -> Interval | None:
        """Return how much longer `contestant` takes than `other`, if both were measured."""
        above, below = self.row(workload, contestant), self.row(workload, other)
        if not (above and below):
            return None
        ours, theirs = above.by_round(), below.by_round()
        common = sorted(ours.keys() & theirs.keys())
        return bootstrap_ratio([ours[at] for at in common], [theirs[at] for at in common])

    def to_json(self) -> dict[str, Any]:
        """Return everything, for `json.dump`."""
        return {
            "format": 1,
            "machine": self.machine,
            "settings": self.settings,
            "noise": self.noise,
            "contestants": [contestant._asdict() for contestant in self.contestants.values()],
            "workloads": [self._workload_to_json(name) for name in self.baselines],
            "scaling": [_to_json(item) for item in self.scaling],
            "light_open": [_to_json(item) for item in self.light_open],
            "parts": {name: [row.to_json() for row in rows] for name, rows in self.parts.items()},
            "codec_isolated": {
                "ratio_to_main": {name: interval._asdict() for name, interval in self.codec_isolated.items()},
                "failure": self.codec_failure,
            },
        }

    def _workload_to_json(self, name: str) -> dict[str, Any]:
        baseline = self.baselines[name]
        rows: list[dict[str, Any]] = []
        for row in self.rows:
            if row.workload == name:
                ratio = self.ratio(name, row.contestant, baseline)
                rows.append(
                    {
                        "contestant": row.contestant,
                        "form": row.form,
                        "median_ns": row.median_ns(),
                        "p50_ns": row.p50_ns(),
                        "p99_ns": row.p99_ns(),
                        "max_ns": row.max_ns(),
                        "singles": len(row.singles_ns),
                        "ratio": ratio._asdict() if ratio else None,
                        "rounds_ns": [round(time, 2) for time in row.turns_ns],
                        "every": row.every,
                        "interrupted": row.interrupted,
                        "failure": row.failure,
                    }
                )
        return {
            "workload": name,
            "baseline": baseline,
            "loop_ns": self.loop_ns.get(name),
            "clock_ns": self.clock_ns.get(name),
            "rows": rows,
        }


def _to_json(item: Scaling | LightOpen) -> dict[str, Any]:
    fields: dict[str, Any] = item._asdict()
    return {name: value._asdict() if isinstance(value, Interval) else value for name, value in fields.items()}


def spread(turns_ns: list[float]) -> float:
    """Return how far the middle 80 % of the rounds lie apart, as a share of their median."""
    return (percentile(turns_ns, 90) - percentile(turns_ns, 10)) / median(turns_ns)
