"""What a store says of itself, for a scrape of prometheus_client: `sharedstate.contrib.prometheus.StoreCollector`.

G1  A figure that only grows is a counter and every other one a gauge, as one
    table says; a number that the table does not have is a gauge of its own name.
G2  A store that cannot be asked is down, and takes nothing from the others' scrape.
G3  No sample names a secret of a URL.
"""

from __future__ import annotations

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sharedstate._light import NamedTuple
from sharedstate.errors import redact

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

    from sharedstate.store import Store

__all__ = ["FIGURES", "StoreCollector"]

_PREFIX: Final = "sharedstate_"
_STRANGERS: Final = "backend_"
"""What the names of those numbers begin with that the table does not have: they meet none of ours."""

_COUNTER: Final = "counter"
_GAUGE: Final = "gauge"


class _Figure(NamedTuple):
    """How one number is told.

    Attributes:
        name: without what all of ours begin with, and without "_total".
        type: Prometheus's.
        help: what it says.
    """

    name: str
    type: str
    help: str

    def metric(self) -> Metric:
        """Return the metric, without a sample."""
        return Metric(_PREFIX + self.name, self.help, self.type)


_UP: Final = _Figure("up", _GAUGE, "Whether the store could be asked")
_SHARERS: Final = _Figure("sharers", _GAUGE, "Handles that have the store open just now")
_LOCKS_HELD: Final = _Figure("locks_held", _GAUGE, "Locks that somebody holds just now")
_INFO: Final = _Figure("store", "info", "What the store is, in words")

FIGURES: Final = {
    "bytes": _Figure("bytes", _GAUGE, "What the entries take, as the backend counts it"),
    "capacity_bytes": _Figure("capacity_bytes", _GAUGE, "What there is room for; 0: no limit of the store's own"),
    "clients": _Figure("clients", _GAUGE, "Connections to the server, of all its stores"),
    "committed_bytes": _Figure("committed_bytes", _GAUGE, "Memory of the file system that the region takes"),
    "compactions": _Figure("compactions", _COUNTER, "How often the log was compacted"),
    "compactions_failed": _Figure("compactions_failed", _COUNTER, "Compactions that failed in this process"),
    "dead_bytes": _Figure("dead_bytes", _GAUGE, "What a compaction of the log would free"),
    "entries": _Figure("entries", _GAUGE, "Entries that are there"),
    "evicted": _Figure("evicted", _COUNTER, "Entries that were evicted for room"),
    "evictions": _Figure("evicted", _COUNTER, "Entries that were evicted for room"),
    "expiring": _Figure("expiring", _GAUGE, "Stored entries that have a deadline"),
    "generation": _Figure("generation", _COUNTER, "The last generation that an entry was given"),
    "hits": _Figure("hits", _COUNTER, "Questions for one entry that found it"),
    "log_bytes": _Figure("log_bytes", _GAUGE, "The length of the log"),
    "log_number": _Figure("log_number", _GAUGE, "Which log is the current one"),
    "misses": _Figure("misses", _COUNTER, "Questions for one entry that did not find it"),
    "page_count": _Figure("page_count", _GAUGE, "Pages of the database file"),
    "purged": _Figure("purged", _COUNTER, "Expired entries that were removed"),
    "recoveries": _Figure("recoveries", _COUNTER, "Holders that died amid a change and were cleaned up after"),
    "server_commands": _Figure("server_commands", _COUNTER, "Commands that the server has done, of all its clients"),
    "server_hits": _Figure("server_hits", _COUNTER, "Look-ups of a key that found it, of all the server's clients"),
    "server_misses": _Figure("server_misses", _COUNTER, "Look-ups of a key that did not, of all the server's clients"),
    "slots": _Figure("slots", _GAUGE, "Places for entries in the tables as they are"),
    "stored_entries": _Figure("stored_entries", _GAUGE, "Entries that are stored, expired ones among them"),
    "stripes": _Figure("stripes", _GAUGE, "Stripes of the region"),
    "sweeps": _Figure("sweeps", _COUNTER, "Sweeps of a stripe, for blocks that the dead have left"),
    "wal_bytes": _Figure("wal_bytes", _GAUGE, "The length of the write-ahead log"),
    "writes": _Figure("writes", _COUNTER, "Changes of an entry; of a commit each"),
}
"""By the name in `Store.stats()` (G1)."""


class StoreCollector(Collector):
    """The figures of one store or several, as they are at each scrape.

        REGISTRY.register(StoreCollector(sharedstate.open("shm://app")))

    The label `store` tells them apart.  A store has its figures as a whole,
    whatever namespace is given.  Further stores of one registry are added to its
    collector, for a metric is there once.

    Args:
        store: stays open, and the caller's to close.
        name: the label; "" for the store's URL, without its secrets.
    """

    def __init__(self, store: Store, *, name: str = "") -> None:
        self._stores: dict[str, Store] = {}
        self.add(store, name=name)

    def add(self, store: Store, *, name: str = "") -> None:
        """Tell of another store, too.

        Raises:
            ValueError: there is one with that label.
        """
        label = _printable(name or redact(store.url))
        if self._stores.setdefault(label, store) is not store:
            raise ValueError(f"two stores with the label {label!r}: give one of them another name")

    def describe(self) -> Iterable[Metric]:
        """Return the metrics that are known before a scrape, without asking a store."""
        return [figure.metric() for figure in dict.fromkeys((_UP, _SHARERS, _LOCKS_HELD, *FIGURES.values(), _INFO))]

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now; of a store that cannot be asked only that it is down (G2)."""
        metrics: dict[str, Metric] = {}
        for label, store in list(self._stores.items()):
            words: dict[str, str] = {}
            try:
                found, words = _ask(store)
            except Exception:  # noqa: BLE001  whatever a backend raises, the others are still to be told
                found = {_UP: 0.0}
            for figure, number in found.items():
                metric = metrics.setdefault(figure.name, figure.metric())
                metric.add_sample(metric.name + ("_total" if figure.type == _COUNTER else ""), {"store": label}, number)
            if words:
                metric = metrics.setdefault(_INFO.name, _INFO.metric())
                metric.add_sample(f"{metric.name}_info", {**words, "store": label}, 1.0)
        return metrics.values()


def _ask(store: Store) -> tuple[dict[_Figure, float], dict[str, str]]:
    """Return a store's figures, and what it is in words."""
    stats = store.stats()
    found = {
        _UP: 1.0,
        _SHARERS: float(len(store.sharers())),
        _LOCKS_HELD: float(sum(record.held for record in store.backend.locks())),
    }
    words: dict[str, str] = {}
    for name, told in stats.items():
        if isinstance(told, str):
            words[_name_of(name)] = _printable(redact(told))
        else:
            stranger = _Figure(_STRANGERS + _name_of(name), _GAUGE, "As the backend tells it")
            found[FIGURES.get(name, stranger)] = float(told)
    given = store.capabilities
    scheme = store.url.partition(":")[0]
    return found, {**words, "backend": scheme, "scope": given.scope.name, "durability": given.durability.name}


def _name_of(text: str) -> str:
    """Return `text` as a name can be: of ASCII letters, digits and underscores."""
    name = "".join(each if each.isascii() and each.isalnum() else "_" for each in text)
    return f"n{name}" if not name or name[0] in "_0123456789" else name


def _printable(text: str) -> str:
    # A path may hold bytes that are no UTF-8, and the text of a scrape may not.
    return text.encode(errors="backslashreplace").decode()
