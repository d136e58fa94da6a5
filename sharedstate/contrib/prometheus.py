"""Values for prometheus_client that all processes and interpreters count in together.

    import sharedstate.contrib.prometheus
    sharedstate.contrib.prometheus.install("shm://metrics?size=16MiB")  # before the first metric is made

    registry = CollectorRegistry(support_collectors_without_names=True)
    SharedStateCollector(registry)  # in any of them: reads what all have counted

    X1  Counters, summaries and histograms are one number for each sample, and each
        `inc` of it one `Store.increment`: none is lost, whoever dies.
    X2  Of a gauge each writer has a value of its own, which one sample is made of,
        or a sample each, as its `multiprocess_mode` says.  The writer is a handle's
        place among the store's sharers (`Store.join`): an interpreter of a process.
        A forked child is another one.
    X3  In a live mode the value of a writer that is gone is no sample any more.  In
        the other modes it stays; what is kept of the dead does not grow with their
        number, but in the mode `all`, where it does with that of their pids.
    X4  A scrape counts the value of a writer once, also while another scrape moves
        it to what is kept of the dead.

As entries, below the namespace:

    family/<metric>           type, help and mode
    series/<series>           of which metric, its sample's name and labels
    total/<series>            the number (X1); absent: 0
    gauge/<token>@<pid>/<series>  what a writer has set; in the modes `mostrecent`, [when, what]
    past/<pid>/<series>       what is kept of dead writers; the pid only in the mode `all`
    moved                     changes whenever a value moves from `gauge/` to `past/` (X4)

`StoreCollector`, which tells of a store itself, is in a module of its own.
"""

from __future__ import annotations

import json
import math
import warnings
from functools import partial, reduce

from prometheus_client import values
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import REGISTRY, Collector

from sharedstate.contrib._caching import fit_key, quote, store_of
from sharedstate.contrib._prometheus_stats import StoreCollector
from sharedstate.coordination.claims import corrupt, is_shaped, require_lasting
from sharedstate.model import MISSING, Owner
from sharedstate.values import MAX_KEY_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, Final

    from prometheus_client.registry import CollectorRegistry

    from sharedstate.store import Store
    from sharedstate.transactions import Transaction

__all__ = ["SharedStateCollector", "StoreCollector", "install"]

_NAME: Final = "prometheus"
_LONGEST_PREFIX: Final = 96  # bytes before the series in a key: "gauge/", a token and a pid
_FAMILY: Final = "family/"
_SERIES: Final = "series/"
_TOTAL: Final = "total/"
_GAUGE: Final = "gauge/"
_PAST: Final = "past/"
_MOVED: Final = "moved"
_FAMILY_SHAPE: Final[dict[str, tuple[type, ...]]] = {"type": (str,), "help": (str,), "mode": (str,)}
_SERIES_SHAPE: Final[dict[str, tuple[type, ...]]] = {"metric": (str,), "sample": (str,), "labels": (dict,)}


def install(url: str = "", *, name: str = _NAME) -> None:
    """Let every metric that this interpreter makes from now on count in a store.

    Args:
        url: of the store; "" for the one that `sharedstate.open()` chooses.
        name: of the part of the store that is theirs.

    Raises:
        ScopeError: the store does not reach as far as the deployment, or it evicts.
        StateError: it cannot be opened.
    """
    fresh = _Values(_part_of(url, name))
    if not isinstance(values.ValueClass, _Values):
        early = [str(metric) for metric in REGISTRY._collector_to_names if _has_values(metric)]  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        if early:
            warnings.warn(
                f"made before install(), so counted in this interpreter only: {', '.join(early)}",
                RuntimeWarning,
                stacklevel=2,
            )
    values.ValueClass = fresh  # pyright: ignore[reportAttributeAccessIssue]


def _has_values(collector: object) -> bool:
    metric: Any = collector
    # One with labels has its values in its children, which are made with `labels(...)`.
    return isinstance(collector, MetricWrapperBase) and bool(not metric._labelnames or metric._metrics)  # noqa: SLF001


def _part_of(url: str, name: str) -> Store:
    store = store_of(url).namespace(quote(name))
    require_lasting(store, "metrics")
    return store


# --- Writing --------------------------------------------------------------------


class _Values:
    """What `prometheus_client.values.ValueClass` is called for: one sample's value, declared in the store."""

    _multiprocess = True

    def __init__(self, store: Store) -> None:
        self.store = store
        self._room = _room_of(store)
        self._declared: set[str] = set()

    def __call__(  # noqa: PLR0917  prometheus_client's own order
        self,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: Sequence[str],
        labelvalues: Sequence[str],
        help_text: str,
        multiprocess_mode: str = "",
        **_others: Any,
    ) -> _Total | _Gauge:
        labels = dict(zip(labelnames, labelvalues, strict=True))
        series = fit_key(name + json.dumps(labels, ensure_ascii=False, sort_keys=True), self._room)
        if metric_name not in self._declared:
            # Whatever was there: an earlier release may have had another help text.
            family = {"type": typ, "help": help_text, "mode": multiprocess_mode}
            self.store.set(_FAMILY + fit_key(metric_name, self._room), family)
            self._declared.add(metric_name)
        self.store.add(_SERIES + series, {"metric": metric_name, "sample": name, "labels": labels})
        if typ == "gauge":
            return _Gauge(self.store, series, is_dated=_kind_of(multiprocess_mode) == "mostrecent")
        return _Total(self.store, series)


class _Total:
    """A number that all add to (X1)."""

    __slots__ = ("_add", "_key", "_store")
    _multiprocess = True

    def __init__(self, store: Store, series: str) -> None:
        self._store = store
        self._key = _TOTAL + series
        # The backend's own verb with the whole key: no frame of ours between the caller and the storage.
        self._add = partial(store.backend.increment, store.prefix + self._key)

    def inc(self, amount: float) -> None:
        """Add `amount`, atomically."""
        self._add(float(amount), 0.0)

    def set(self, value: float, timestamp: float | None = None) -> None:  # noqa: ARG002  the interface's
        """Replace the number, for all."""
        self._store.set(self._key, float(value))

    def get(self) -> float:
        """Return what all have added."""
        return float(self._store.get(self._key, 0.0))

    def set_exemplar(self, exemplar: object) -> None:
        """Leave it out."""

    def get_exemplar(self) -> None:
        """Return None: there are no exemplars."""


class _Gauge:
    """A value of this writer's own (X2)."""

    __slots__ = ("_is_dated", "_place", "_series", "_store")
    _multiprocess = True

    def __init__(self, store: Store, series: str, *, is_dated: bool) -> None:
        self._store = store
        self._series = series
        self._is_dated = is_dated
        self._place = ("", "")  # the writer's token, and its key; replaced as one

    def _key(self) -> str:
        token = self._store.join()  # another one in a forked child
        place = self._place
        if place[0] != token:
            owner = Owner.current()
            pid = f"{owner.pid}:{owner.interpreter}" if owner.interpreter else str(owner.pid)
            place = self._place = (token, f"{_GAUGE}{token}@{pid}/{self._series}")
        return place[1]

    def inc(self, amount: float) -> None:
        """Add `amount` to this writer's value, which begins at 0."""
        self._store.increment(self._key(), float(amount), 0.0)

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Replace this writer's value."""
        self._store.set(self._key(), [float(timestamp or 0.0), float(value)] if self._is_dated else float(value))

    def get(self) -> float:
        """Return this writer's value; 0 if it has set none."""
        key = self._key()
        return _dated_number(self._store, key, self._store.get(key, 0.0))[1]

    def set_exemplar(self, exemplar: object) -> None:
        """Leave it out: gauges have none."""

    def get_exemplar(self) -> None:
        """Return None."""


# --- Reading --------------------------------------------------------------------


class SharedStateCollector(Collector):
    """What all processes and interpreters have counted, for a registry of its own.

    Each metric has the samples that anybody declared, in the order of their labels.
    A gauge that nobody set has none.

    Args:
        registry: that it is to be registered with.
        url: of the store; None for the one that was installed.
        name: of the part of the store.

    Raises:
        ValueError: there is neither a URL nor an installed store.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, url: str | None = None, name: str = _NAME) -> None:
        installed: Any = values.ValueClass
        if url is not None:
            self._store = _part_of(url, name)
        elif isinstance(installed, _Values):
            self._store = installed.store
        else:
            raise ValueError("no store: call install() first, or give the URL of one")
        if registry is not None:
            registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Return nothing: what will be there is not known before."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now, each number of them read atomically; then tidy up after the dead (X3)."""
        series = self._records(_SERIES, _SERIES_SHAPE, "a series of prometheus_client")
        # After the series, each of which was declared after its metric.
        families = self._records(_FAMILY, _FAMILY_SHAPE, "a metric of prometheus_client")
        totals, room = _under(self._store, _TOTAL), _room_of(self._store)
        gauges = _Gauges(self._store)
        metrics: dict[str, Metric] = {}
        modes: dict[str, str] = {}
        for name, record in sorted(series.items(), key=lambda item: _order(item[1])):
            metric, sample, labels = record["metric"], record["sample"], record["labels"]
            family = families.get(fit_key(metric, room))
            if family is None:
                continue  # it was deleted by hand
            found = metrics.setdefault(metric, Metric(metric, family["help"], family["type"]))
            if family["type"] == "gauge":
                modes[name] = family["mode"]
                for pid, value in gauges.values(name, family["mode"]):
                    found.add_sample(sample, {**labels, **pid}, value)
            else:
                found.add_sample(sample, labels, _number(self._store, _TOTAL + name, totals.get(name, 0.0)))
        for metric in metrics.values():
            if metric.type == "histogram":
                _accumulate(metric)
        gauges.tidy_up(modes)
        return metrics.values()

    def _records(self, prefix: str, shape: Mapping[str, tuple[type, ...]], what: str) -> dict[str, Any]:
        records = _under(self._store, prefix)
        for key, record in records.items():
            if not is_shaped(record, shape):
                raise corrupt(self._store, prefix + key, what)
        return records


def _order(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """By metric, its labels' values, the sample, and the bounds of buckets: as prometheus_client has them."""
    labels = record["labels"]
    others = [value for label, value in labels.items() if label != "le"]
    return record["metric"], others, record["sample"], _bound(labels)


def _bound(labels: Mapping[str, str]) -> float:
    return float(labels.get("le", "inf"))


def _accumulate(metric: Metric) -> None:
    """Make of a histogram's buckets, in their order, what is below each bound, and their count."""
    samples, metric.samples = metric.samples, []
    below, is_signed = 0.0, False
    for name, labels, value, *_ in samples:
        if name.endswith("_bucket"):
            is_signed = is_signed or _bound(labels) < 0
            below += value
            metric.add_sample(name, labels, below)
            if _bound(labels) == math.inf:
                others = {label: text for label, text in labels.items() if label != "le"}
                metric.add_sample(f"{metric.name}_count", others, below)
                below = 0.0
        elif not is_signed:  # a sum that may fall is none to Prometheus
            metric.add_sample(name, labels, value)
        is_signed = is_signed and name.endswith("_bucket")


class _Gauges:
    """The values of all writers, read at one instant as far as moves go (X4)."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[str, dict[str, tuple[float, float]]] = {}  # by series, then pid
        self._living: dict[str, dict[str, tuple[float, float]]] = {}
        self._dead: dict[str, dict[str, tuple[float, float]]] = {}  # by series, then token and pid
        while True:
            moved = store.generation(_MOVED)
            kept, written = _under(store, _PAST), _under(store, _GAUGE)
            if store.generation(_MOVED) == moved:
                break
        for key, stored in kept.items():
            pid, _, series = key.partition("/")
            self._kept.setdefault(series, {})[pid] = _dated_number(store, _PAST + key, stored)
        present: dict[str, bool] = {}
        for key, stored in sorted(written.items()):
            writer, _, series = key.partition("/")
            token = writer.partition("@")[0]
            if token not in present:
                present[token] = store.is_present(token)
            found = self._living if present[token] else self._dead
            found.setdefault(series, {})[writer] = _dated_number(store, _GAUGE + key, stored)

    def values(self, series: str, mode: str) -> list[tuple[dict[str, str], float]]:
        """Return the values of a series, each with the label that tells its writer, if it is his alone."""
        written = dict(self._living.get(series, {}))
        if not mode.startswith("live"):
            written = {**self._dead.get(series, {}), **written}
        kept = {} if mode.startswith("live") else self._kept.get(series, {})
        kind = _kind_of(mode)
        if kind != "all":
            dated = [*kept.values(), *written.values()]
            return [({}, reduce(_MERGED[kind], dated)[1])] if dated else []
        of_pid = dict(kept)
        living = self._living.get(series, {})
        for writer, value in written.items():
            token, _, pid = writer.partition("@")
            # Two that live have one pid if they are in two containers.
            is_shared = writer in living and sum(other.partition("@")[2] == pid for other in living) > 1
            of_pid[f"{pid}@{token}" if is_shared else pid] = value
        return [({"pid": pid}, value) for pid, (_, value) in sorted(of_pid.items())]

    def tidy_up(self, modes: Mapping[str, str]) -> None:
        """Move the values of the dead to what is kept, or forget them in a live mode (X3)."""
        for series, written in self._dead.items():
            mode = modes.get(series, "")
            for writer in written if mode else ():
                key = f"{_GAUGE}{writer}/{series}"
                if mode.startswith("live"):
                    self._store.delete(key)
                else:
                    pid = writer.partition("@")[2] if mode == "all" else ""
                    self._store.transact(partial(self._move, key, f"{_PAST}{pid}/{series}", _kind_of(mode)))

    def _move(self, key: str, to: str, kind: str, transaction: Transaction) -> None:
        last = transaction.get(key, MISSING)
        if last is MISSING:
            return  # another scrape was here
        kept = transaction.get(to, MISSING)
        if kept is not MISSING:
            merged = _MERGED[kind](_dated_number(self._store, to, kept), _dated_number(self._store, key, last))
            last = list(merged)
        transaction.delete(key)
        transaction.set(to, last)
        transaction.set(_MOVED, True)


def _by_value(pair: tuple[float, float]) -> float:
    return pair[1]


_MERGED: Final[dict[str, Callable[[tuple[float, float], tuple[float, float]], tuple[float, float]]]] = {
    "all": lambda _, last: last,
    "sum": lambda one, other: (0.0, one[1] + other[1]),
    "min": lambda one, other: min(one, other, key=_by_value),
    "max": lambda one, other: max(one, other, key=_by_value),
    "mostrecent": max,
}
"""What becomes of two values, each with the time at which it was set, by the kind of the gauge's mode."""


def _kind_of(mode: str) -> str:
    return mode.removeprefix("live")


def _room_of(store: Store) -> int:
    return MAX_KEY_BYTES - len(store.prefix.encode()) - _LONGEST_PREFIX


def _under(store: Store, prefix: str) -> dict[str, Any]:
    """Return what is stored below `prefix`, without it."""
    return {key.removeprefix(prefix): value for key, value in store.get_many(store.keys(prefix)).items()}


def _number(store: Store, key: str, stored: Any) -> float:
    if type(stored) not in {int, float}:
        raise corrupt(store, key, "a number of prometheus_client")
    return float(stored)


def _dated_number(store: Store, key: str, stored: Any) -> tuple[float, float]:
    """Return when and what: a gauge's mode may have changed from one release to the next."""
    if type(stored) is not list:
        return 0.0, _number(store, key, stored)
    pair: list[Any] = stored  # pyright: ignore[reportUnknownVariableType]
    if len(pair) != 2:
        raise corrupt(store, key, "a number of prometheus_client")
    return _number(store, key, pair[0]), _number(store, key, pair[1])
