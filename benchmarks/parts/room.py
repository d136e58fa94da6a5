"""What every part is given: where it may work, how much it should do, and whom to tell."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import sharedstate
from benchmarks.guard import attempt
from benchmarks.peers import Place, url_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

__all__ = ["PLANS", "ROOT", "PartsPlan", "Room"]

ROOT: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""Where children are started, so that they find this package."""


class PartsPlan(NamedTuple):
    """How much the parts do.

    Attributes:
        limit_s: after that much time a part only finishes what it has begun.
        workers: how many contend, in turn; the first is 1.
        race_rounds: races of each of those numbers, in turns.
        race_s: of one race, if there are no more workers than cores.
        zipf_keys: of the read-mostly workload.
        waits: hand-overs of a lock, and writes that a watcher waits for.
        opens: of an existing store, in one process.
        fresh: of an existing store, each in a process of its own.
        live: entries of the store whose opening is timed; a second one has half of them.
        writes: to that store, before.
        sizes: to which stores grow.
        growth_draws: calls per turn there.
        growth_rounds: turns.
        growth_s: no further step of growth begins if the store took that long so far.
        sync_rounds: races of the writers whose every write is synced.
        crashes: of each backend.
        stall_s: how long eight processes contend in one piece.
    """

    limit_s: float
    workers: tuple[int, ...]
    race_rounds: int
    race_s: float
    zipf_keys: int
    waits: int
    opens: int
    fresh: int
    live: int
    writes: int
    sizes: tuple[int, ...]
    growth_draws: int
    growth_rounds: int
    growth_s: float
    sync_rounds: int
    crashes: int
    stall_s: float


PLANS: Final = {
    "full": PartsPlan(
        limit_s=1e9,
        workers=(1, 2, 4, 8, 16),
        race_rounds=5,
        race_s=0.3,
        zipf_keys=10_000,
        waits=300,
        opens=50,
        fresh=11,
        live=10**6,
        writes=10**7,
        sizes=(10**3, 10**4, 10**5, 10**6, 10**7),
        growth_draws=20_000,
        growth_rounds=15,
        growth_s=120.0,
        sync_rounds=10,
        crashes=20,
        stall_s=60.0,
    ),
    "quick": PartsPlan(
        limit_s=120.0,
        workers=(1, 2, 8),
        race_rounds=2,
        race_s=0.04,
        zipf_keys=1000,
        waits=40,
        opens=20,
        fresh=3,
        live=10**4,
        writes=10**5,
        sizes=(10**3, 10**4, 10**5),
        growth_draws=2000,
        growth_rounds=7,
        growth_s=10.0,
        sync_rounds=3,
        crashes=2,
        stall_s=3.0,
    ),
    "smoke": PartsPlan(
        limit_s=1e9,
        workers=(1, 2),
        race_rounds=1,
        race_s=0.005,
        zipf_keys=20,
        waits=3,
        opens=2,
        fresh=1,
        live=100,
        writes=1000,
        sizes=(100, 1000),
        growth_draws=50,
        growth_rounds=2,
        growth_s=5.0,
        sync_rounds=1,
        crashes=1,
        stall_s=0.02,
    ),
}
"""By the name of the run's size."""


class Room(NamedTuple):
    """Where a part may work.

    Attributes:
        directory: the run's own, removed at its end.
        token: unlike any other of this machine, for names that are not paths.
        backends: those of ours that take part.
        plan: how much to do.
        tell: takes a line of progress.
        until: in monotonic seconds, when time is up.
    """

    directory: str
    token: str
    backends: Sequence[str]
    plan: PartsPlan
    tell: Callable[[str], None]
    until: float

    def is_over(self) -> bool:
        """Return whether time is up."""
        return time.monotonic() > self.until

    def make_place(self, purpose: str) -> Place:
        """Make a directory for what `purpose` names, which no other part may use."""
        place = Place(os.path.join(self.directory, purpose.replace(" ", "-")), self.token, purpose.replace(" ", "-"))
        os.mkdir(place.directory)
        return place

    @contextmanager
    def store(self, backend: str, purpose: str, options: str = "") -> Generator[str, None, None]:
        """Create a store of ours, yield its URL, and remove it; `options` are parameters of the URL."""
        url = url_of(backend, self.make_place(f"{backend}-{purpose}"))
        url = f"{url.partition('?')[0]}?{options}" if options else url
        if backend == "memory":
            # It lives in the worker's process and ends with it.
            yield url
            return
        sharedstate.open(url).close()
        try:
            yield url
        finally:
            attempt(sharedstate.remove, url)
