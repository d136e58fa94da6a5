"""What a get and a set cost on this machine: a run of a few seconds over each backend that works here.

The backends take turns of some milliseconds, beside a dict behind a
`threading.Lock`, so what else the machine does falls on all of them; medians of
the turns, the loop's own time subtracted.  It is the same operation as in the
shipped costs (`COSTS`): an int among 10,000 keys.  `python -m benchmarks`, in a
checkout, does it more carefully, and with everybody else's stores beside ours.
"""

from __future__ import annotations

import platform
import random
import tempfile
import threading
import time
from contextlib import ExitStack
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from sharedstate import registry
from sharedstate.backend.urls import parse_url
from sharedstate.calibration import Calibration
from sharedstate.errors import StateError, UnavailableError
from sharedstate.model import Costs
from sharedstate.opening import open_store, remove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["REFERENCE", "Measurement", "measure"]

REFERENCE: Final = "dict + Lock"
"""The name of what people would use if nothing had to be shared."""

_KEYS: Final = 10_000
_ROUNDS: Final = 15
_TURN_NS: Final = 4e6
_REST_S: Final = 0.0005  # so that each turn starts with a fresh time slice


class Measurement(NamedTuple):
    """What a run found.

    Attributes:
        costs: by scheme; the reference's under `REFERENCE`.
        failures: by scheme, why it could not be measured.
        date: of the run, year first.
        python: that ran it.
    """

    costs: dict[str, Costs]
    failures: dict[str, str]
    date: str
    python: str

    def calibration(self) -> Calibration:
        """Return what `sharedstate.calibration` keeps."""
        costs = {name: costs for name, costs in self.costs.items() if name != REFERENCE}
        return Calibration(costs, self.date, self.python)


def measure(directory: str | None = None, *, keys: int = _KEYS, rounds: int = _ROUNDS) -> Measurement:
    """Measure a get and a set of an int on each installed backend and on the reference.

    Args:
        directory: below which stores that live in files are made, and removed
            again; their costs are those of its file system.  None: tempfile's.
        keys: how many each store holds.
        rounds: turns of each verb of each backend.
    """
    names = [f"key:{index:06d}" for index in range(keys)]
    random.Random(1).shuffle(names)  # noqa: S311  an order, no secret
    lanes: dict[str, tuple[_Lane, _Lane]] = {}
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        for scheme in registry.named_schemes():
            try:
                store = stack.enter_context(_Temporary(stack, scheme, directory)).store
                lanes[scheme] = _make_lanes(names, store.get, store.set)
            except StateError as error:
                failures[scheme] = " ".join(str(error).split())
        lanes[REFERENCE] = _make_lanes(names, *_make_reference())
        idle = _Lane(_idle, None, names)
        turns = [idle, *(lane for pair in lanes.values() for lane in pair)]
        dice = random.Random(2)  # noqa: S311
        for number in range(-1, rounds):  # the first one only warms up
            for lane in dice.sample(turns, len(turns)):
                lane.take_turn(keep=number >= 0)
    loop_ns = idle.median_ns()
    costs = {
        name: Costs(max(get.median_ns() - loop_ns, 1.0), max(set_.median_ns() - loop_ns, 1.0))
        for name, (get, set_) in lanes.items()
    }
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return Measurement(costs, failures, time.strftime("%Y-%m-%d"), python)


class _Temporary:
    """A store of its own, removed at the end."""

    def __init__(self, stack: ExitStack, scheme: str, directory: str | None) -> None:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="sharedstate-bench-", dir=directory))
        plugin: Any = registry.find_plugin(parse_url(f"{scheme}:any"))
        if not hasattr(plugin, "temporary_url"):
            advice = "Give it that function, to have it measured."
            raise UnavailableError(url=f"{scheme}:", reason="its plug-in has no temporary_url()", advice=advice)
        self._url = plugin.temporary_url(place)
        self.store = open_store(self._url, allow_narrow=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()
        remove(self._url)


class _Lane:
    """One verb of one store, and the times of its turns."""

    def __init__(self, loop: Callable[[Any, Iterator[str]], None], call: Any, names: list[str]) -> None:
        self._loop = loop
        self._call = call
        self._names = cycle(names)
        self._count = 64
        self._turns_ns: list[float] = []
        while (taken_ns := self._run()) < _TURN_NS / 4:
            self._count *= 2
        self._count = max(16, round(self._count * _TURN_NS / taken_ns))

    def take_turn(self, *, keep: bool) -> None:
        """Run, and keep the time per operation."""
        time.sleep(_REST_S)
        taken_ns = self._run()
        if keep:
            self._turns_ns.append(taken_ns / self._count)

    def median_ns(self) -> float:
        """Return the median of the turns that were kept, the loop's time included."""
        return sorted(self._turns_ns)[len(self._turns_ns) // 2]

    def _run(self) -> int:
        some = islice(self._names, self._count)
        begin = time.perf_counter_ns()
        self._loop(self._call, some)
        return time.perf_counter_ns() - begin


def _make_lanes(names: list[str], get: Any, set_: Any) -> tuple[_Lane, _Lane]:
    for name in names:
        set_(name, 0)
    # Each pass over the keys writes other values: a database may skip a write that changes nothing.
    values = cycle(range(2, 1009))
    return _Lane(_get, get, names), _Lane(_set, (set_, values), names)


def _get(get: Any, names: Iterator[str]) -> None:
    for name in names:
        get(name)


def _set(call: Any, names: Iterator[str]) -> None:
    set_, values = call
    for name, value in zip(names, values, strict=False):
        set_(name, value)


def _idle(_call: Any, names: Iterator[str]) -> None:
    for _name in names:
        pass


def _make_reference() -> tuple[Any, Any]:
    entries: dict[str, int] = {}
    lock = threading.Lock()

    def get(name: str) -> int | None:
        with lock:
            return entries.get(name)

    def set_(name: str, value: int) -> None:
        with lock:
            entries[name] = value

    return get, set_
