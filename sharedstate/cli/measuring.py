"""What a store's handles do in a second, from looks at what they have counted: the model of `sharedstate top`.

Nobody who counts is asked anything: a look reads the pages of `backend.counters`.

    T1  A rate is a difference of counters by the time between two looks, so it is
        exact for whoever has a page, whatever else runs.
    T2  What a key gets is an estimate: a page's calls since the last look, shared
        out among those of its samples that are new since then.  Before there was
        one they wait, so that no call is dropped and a quiet page has its say.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sharedstate.backend.activity import Activity
    from sharedstate.model import LockRecord, Sharer
    from sharedstate.store import Store

__all__ = ["HotKey", "HotKeys", "Look", "Measured", "Rates", "SharerRates", "measure"]

_WINDOW_S: Final = 10.0
_WRAP: Final = 2**32


class Look(NamedTuple):
    """A store at one moment.

    Attributes:
        at_s: on the monotonic clock.
        figures: of `Store.stats`.
        pages: what was counted; empty where the backend does not count.
        sharers: who has it open, without who looks.
        locks: those that are held.
    """

    at_s: float
    figures: dict[str, int | float | str]
    pages: Sequence[Activity]
    sharers: Sequence[Sharer]
    locks: Sequence[LockRecord]

    @classmethod
    def at(cls, store: Store) -> Look:
        """Look at a store."""
        sharers = [sharer for sharer in store.sharers() if sharer.owner.pid != os.getpid()]
        locks = sorted((record for record in store.locks() if record.held), key=lambda record: record.acquired_at)
        return cls(time.monotonic(), store.stats(), store.backend.activity(), sharers, locks)


class Rates(NamedTuple):
    """Calls in a second.

    Attributes:
        reads: questions for one entry.
        writes: changes of entries.
        hits: reads that found the entry.
    """

    reads: float
    writes: float
    hits: float

    @property
    def operations(self) -> float:
        """Reads and writes."""
        return self.reads + self.writes

    @property
    def hit_rate(self) -> float | None:
        """The part of the reads that found the entry, None if there was no read."""
        return self.hits / self.reads if self.reads else None


class SharerRates(NamedTuple):
    """One sharer, and what it does; None if it is not known."""

    sharer: Sharer
    rates: Rates | None


class HotKey(NamedTuple):
    """A key, and an estimate of what it gets.

    Attributes:
        key: its first 54 bytes.
        is_cut: whether it is longer.
        reads: in a second.
        writes: in a second.
        share: of all operations that were seen.
    """

    key: str
    is_cut: bool
    reads: float
    writes: float
    share: float


class Measured(NamedTuple):
    """What happened between two looks.

    Attributes:
        seconds: between the two.
        rates: of all together.
        of_server: whether those are the whole server's, of which the store is one.
        evictions: in a second; None where nothing is ever evicted.
        sharers: each with its rates, the busiest first.
        latest: the later look.
    """

    seconds: float
    rates: Rates | None
    of_server: bool
    evictions: float | None
    sharers: Sequence[SharerRates]
    latest: Look


def measure(before: Look, after: Look) -> Measured:
    """Return what happened between two looks at one store."""
    seconds = max(after.at_s - before.at_s, 1e-9)
    of_pages = _of_pages(before.pages, after.pages, seconds)
    rates = _total(of_pages) if after.pages else _of_server(before.figures, after.figures, seconds)
    by_token = {page.token: each for page, each in zip(after.pages, of_pages, strict=True) if page.token}
    sharers = [SharerRates(sharer, by_token.get(sharer.token)) for sharer in after.sharers]
    sharers.sort(key=lambda each: -each.rates.operations if each.rates else 1.0)
    evictions = next((_rate(before, after, name) for name in ("evictions", "evicted") if name in after.figures), None)
    return Measured(seconds, rates, rates is not None and not after.pages, evictions, sharers, after)


def _rate(before: Look, after: Look, name: str) -> float:
    return _difference(before.figures, after.figures, name) / max(after.at_s - before.at_s, 1e-9)


def _difference(before: dict[str, Any], after: dict[str, Any], name: str) -> float:
    return max(float(after.get(name, 0)) - float(before.get(name, 0)), 0.0)  # less, if the server was started anew


def _of_pages(before: Sequence[Activity], after: Sequence[Activity], seconds: float) -> list[Rates]:
    found: list[Rates] = []
    for number, page in enumerate(after):
        hits, misses, writes = before[number][1:4] if number < len(before) else (0, 0, 0)
        found.append(
            Rates(
                (page.hits - hits + page.misses - misses) / seconds,
                (page.writes - writes) / seconds,
                (page.hits - hits) / seconds,
            )
        )
    return found


def _total(rates: Sequence[Rates]) -> Rates:
    return Rates(*(sum(each[at] for each in rates) for at in range(3)))


def _of_server(before: dict[str, Any], after: dict[str, Any], seconds: float) -> Rates | None:
    if "server_commands" not in after:
        return None
    hits, misses, commands = (
        _difference(before, after, f"server_{name}") / seconds for name in ("hits", "misses", "commands")
    )
    return Rates(hits + misses, max(commands - hits - misses, 0.0), hits)


class HotKeys:
    """Which keys the calls of the last seconds were for (T2)."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, int, int]] = {}  # by page: its latest sample, reads and writes
        self._waiting: Counter[tuple[int, bool]] = Counter()  # by page, and whether they are writes
        self._found: deque[tuple[float, float, Counter[tuple[str, bool, bool]]]] = deque()

    def look(self, pages: Sequence[Activity], at_s: float) -> None:
        """Take in what is new."""
        found: Counter[tuple[str, bool, bool]] = Counter()
        for number, page in enumerate(pages):
            self._take_in(number, page, found)
        since_s = self._found[-1][1] if self._found else at_s
        self._found.append((since_s, at_s, found))
        while self._found[0][1] < at_s - _WINDOW_S:
            self._found.popleft()

    def _take_in(self, number: int, page: Activity, found: Counter[tuple[str, bool, bool]]) -> None:
        reads, writes = page.hits + page.misses, page.writes
        is_known = number in self._seen
        latest, reads_before, writes_before = self._seen.get(number, (0, reads, writes))
        news = [sample for sample in page.samples if 0 < (sample.number - latest) % _WRAP < _WRAP // 2]
        latest = max(news, key=lambda sample: (sample.number - latest) % _WRAP).number if news else latest
        self._seen[number] = latest, reads, writes
        if not is_known:
            return  # what it has counted before is nothing that we saw
        for is_write, calls in ((False, reads - reads_before), (True, writes - writes_before)):
            of_kind = [sample for sample in news if (sample.kind == "write") is is_write]
            self._waiting[number, is_write] += calls
            if of_kind:
                each = self._waiting.pop((number, is_write)) / len(of_kind)
                for sample in of_kind:
                    found[sample.key, sample.is_cut, is_write] += each  # type: ignore[assignment]

    def hottest(self, most: int) -> list[HotKey]:
        """Return the keys with the most calls, at most so many."""
        if not self._found:
            return []
        total: Counter[tuple[str, bool, bool]] = Counter()
        for _, _, found in self._found:
            total.update(found)
        seconds = max(self._found[-1][1] - self._found[0][0], 1e-9)
        every = max(sum(total.values()), 1e-9)
        keys = {(key, is_cut) for key, is_cut, _ in total}
        hot = [
            HotKey(key, is_cut, reads / seconds, writes / seconds, (reads + writes) / every)
            for key, is_cut in keys
            for reads, writes in [(total[key, is_cut, False], total[key, is_cut, True])]
        ]
        return sorted(hot, key=lambda each: (-each.share, each.key))[:most]
