"""What opening a store costs, beyond imports, and by its size and its past.

Each time in a fresh process, which has opened another store of the kind before:
so what an interpreter loads once is not counted (`light_open` counts that).
`open` alone may leave work for later, so the first `get` is timed as well.

The log of the file backend grows with every write.  Opening should cost what
the live entries cost, whatever was written before: so of two stores with the
same number of writes, one has half of the other's entries.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from benchmarks.guard import in_a_line
from benchmarks.measure import Interval, bootstrap_ratio, median
from benchmarks.parts.contenders import ours
from benchmarks.parts.crew import Crew

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.parts.room import Room

__all__ = ["Opened", "Times", "measure_open_again", "measure_open_large", "open_in_fresh_process"]

_EACH: Final = 1000
_PATIENCE_S: Final = 1200.0


class Opened(NamedTuple):
    """What opening an existing store took.  In JSON an object with these names, `ratio_to_half` null or an interval.

    Attributes:
        entries: in the store.
        writes: to it, before.
        first_ms: `open` in a fresh process, median.
        first_get_ms: `open` and one `get` there.
        cpu_ms: processor time of `first_get_ms`, which a busy machine disturbs less.
        again_ms: `open` in a process that opened the same store before; 0 if not measured.
        ratio_to_half: `first_get_ms` in terms of that of a store with half as many entries after as many writes.
        failure: why there is nothing else, or "".
    """

    backend: str
    entries: int
    writes: int
    first_ms: float = 0.0
    first_get_ms: float = 0.0
    cpu_ms: float = 0.0
    again_ms: float = 0.0
    ratio_to_half: Interval | None = None
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it for `json.dump`."""
        return {**self._asdict(), "ratio_to_half": self.ratio_to_half and self.ratio_to_half._asdict()}


class Times(NamedTuple):
    """Of one opening, in nanoseconds: of `open`, up to the end of a `get`, and on a processor until then."""

    opened_ns: int
    got_ns: int
    cpu_ns: int


def open_in_fresh_process(where: str, key: str, patience_s: float = _PATIENCE_S) -> Times:
    """Open the store, and get a key, in a process of its own."""
    with Crew("processes", "benchmarks.parts.attach:reader", where, 1) as crew:
        return Times(*crew.call(0, "open_and_get", key, patience_s=patience_s)[:3])


def _middle_ms(times: list[Times]) -> tuple[float, float, float]:
    opened, got, cpu = (median(column) / 1e6 for column in zip(*times, strict=True))
    return opened, got, cpu


def measure_open_again(room: Room) -> Iterator[Opened]:
    """Open a small store of each backend that reaches beyond one process."""
    for backend in room.backends:
        if backend == "memory":
            continue  # a fresh process has no store to open
        room.tell(f"open: {backend}")
        try:
            with ExitStack() as stack:
                where = stack.enter_context(ours(backend)(room, "open"))
                crew = stack.enter_context(Crew("processes", "benchmarks.parts.attach:store", where, 1))
                crew.do(0, "fill", first=0, count=_EACH, each=_EACH)
                again = crew.call(0, "reopen", room.plan.opens)
                fresh = [open_in_fresh_process(where, "key:00000000") for _ in range(room.plan.fresh)]
            yield Opened(backend, _EACH, _EACH, *_middle_ms(fresh), again_ms=median(again) / 1e6)
        except Exception as error:  # noqa: BLE001  a failure is a row
            yield Opened(backend, 0, 0, failure=in_a_line(error))


def measure_open_large(room: Room) -> Iterator[Opened]:
    """Open a file store of many entries after ten times as many writes, and one of half as many, in turns."""
    plan = room.plan
    if "file" not in room.backends:
        return
    try:
        with ExitStack() as stack:
            urls: list[str] = []
            for live in (plan.live, plan.live // 2):
                room.tell(f"open: file, {live} entries after {plan.writes} writes")
                urls.append(stack.enter_context(ours("file")(room, f"open-{live}")))
                with Crew("processes", "benchmarks.parts.attach:store", urls[-1], 1) as crew:
                    crew.do(0, "rewrite", keys=live, writes=plan.writes, each=_EACH, patience_s=_PATIENCE_S)
            rounds = [[open_in_fresh_process(url, "key:00000001") for url in urls] for _ in range(plan.fresh)]
        whole, half = ([pair[which] for pair in rounds] for which in (0, 1))
        ratio = bootstrap_ratio([times.got_ns for times in whole], [times.got_ns for times in half])
        yield Opened("file", plan.live, plan.writes, *_middle_ms(whole), ratio_to_half=ratio)
        yield Opened("file", plan.live // 2, plan.writes, *_middle_ms(half))
    except Exception as error:  # noqa: BLE001  likewise
        yield Opened("file", plan.live, plan.writes, failure=in_a_line(error))
