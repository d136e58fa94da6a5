"""`sharedstate.contrib.prometheus`: X1 to X4, with prometheus_client's own metrics and text, on every backend."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest, metrics, values
from prometheus_client.parser import text_string_to_metric_families

import sharedstate
from redis_server import interpreters_for
from sharedstate.contrib import prometheus
from sharedstate.contrib.prometheus import SharedStateCollector, install
from sharedstate.errors import CorruptError, ScopeError
from sharedstate.probe.interpreters import ISOLATED, LEGACY, reason_unavailable, run_in_interpreter
from sharedstate.testing.conformance.support import fork_and_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MODES = sorted(Gauge._MULTIPROC_MODES)
_INTERPRETERS = [kind for kind in (LEGACY, ISOLATED) if not reason_unavailable(kind)]


@pytest.fixture(autouse=True)
def stock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """prometheus_client's own kind of value, which is there again after the test; and no child left."""
    monkeypatch.setattr(values, "ValueClass", values.MutexValue)
    monkeypatch.setattr(metrics, "_use_created", False)
    yield
    for child in list(Child.living):
        child.kill()


@pytest.fixture
def shared(shared_url: str) -> str:
    """The URL of an installed store that processes share."""
    install(shared_url)
    return shared_url


@pytest.fixture
def installed(any_url: str) -> str:
    """The URL of an installed store of each backend."""
    install(any_url)
    return any_url


class Child:
    """A forked process that runs `body`, and then lives until it is killed, at the test's end at the latest."""

    living: ClassVar[list[Child]] = []

    def __init__(self, body: Callable[[], object]) -> None:
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                body()
                os.write(writer, b"+")
                signal.pause()
            finally:
                os._exit(1)
        self.living.append(self)
        os.close(writer)
        assert os.read(reader, 1) == b"+"
        os.close(reader)

    def kill(self) -> None:
        self.living.remove(self)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def scrape(**options: Any) -> str:
    """What Prometheus gets, from a collector made just now."""
    registry = CollectorRegistry()
    SharedStateCollector(registry, **options)
    return generate_latest(registry).decode()


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The samples of a text by name and labels; none is there twice."""
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    by_labels = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in found}
    assert len(by_labels) == len(found)
    return by_labels


def value(text: str, name: str, **labels: str) -> float | None:
    return samples(text).get((name, frozenset(labels.items())))


def entries(url: str, prefix: str) -> list[str]:
    with sharedstate.open(url) as store:
        return [key for key in store if key.startswith(f"prometheus:{prefix}")]


# --- Counts (X1) -------------------------------------------------------------------------


def use_every_kind(registry: CollectorRegistry | None) -> None:
    """Metrics in the order of their names, with children in the order of their labels; gauges without pids."""
    counter = Counter("a_requests", "Requests", ["method", "code"], registry=registry)
    counter.labels("get", "200").inc()
    counter.labels("get", "404").inc(2.5)
    counter.labels(method="post", code="200").inc(0)
    Counter("b_untouched", "Nobody\ncounts \\ here", registry=registry)
    gauge = Gauge("c_level", "Level", ["of"], multiprocess_mode="livemax", registry=registry)
    gauge.labels("one").set(-1.5)
    gauge.labels("two").inc(3)
    gauge.labels("two").dec()
    histogram = Histogram("d_latency", "Latency", ["path"], namespace="site", unit="seconds", registry=registry)
    for amount in (0.004, 0.3, 0.3, 11, 0):
        histogram.labels("/").observe(amount)
    histogram.labels("/untouched")
    signed = Histogram("e_signed", "Below 0", ["of"], buckets=[-1, 0, 2], registry=registry)
    signed.labels("one").observe(-0.5)
    signed.labels("two").observe(9)
    Histogram("f_plain", "After it", buckets=[10, 9e9], registry=registry).observe(float("inf"))
    summary = Summary("g_size_bytes", "Size", registry=registry)
    summary.observe(512)
    summary.observe(1e30)


def test_the_text_is_prometheus_clients_own(installed: str) -> None:
    """The same increments in one process, in memory and in a store: the same text to the byte."""
    use_every_kind(None)
    assert installed

    values.ValueClass = values.MutexValue
    registry = CollectorRegistry()
    use_every_kind(registry)

    expected = generate_latest(registry).decode()
    # prometheus_client has the metrics in the order of their making, with the namespace that one has not in it.
    by_name = sorted(expected.split("# HELP ")[1:])
    with sharedstate.open(installed):
        assert scrape(url=installed) == "".join(f"# HELP {family}" for family in by_name)


def test_counts_of_four_processes_lose_nothing(
    shared: str, in_four_processes: Callable[[Callable[[], object]], None]
) -> None:
    """Made before the fork, counted after it: counter, histogram and summary have all 4 x 1000, read in the parent."""
    counter = Counter("requests", "", ["path"], registry=None)
    histogram = Histogram("latency", "", buckets=[1, 2], registry=None)
    summary = Summary("size", "", registry=None)

    def use() -> None:
        for number in range(1000):
            counter.labels("/").inc()
            histogram.observe(number % 4)
            summary.observe(0.5)

    in_four_processes(use)

    text = scrape()
    assert value(text, "requests_total", path="/") == 4000
    assert [value(text, "latency_bucket", le=bound) for bound in ("1.0", "2.0", "+Inf")] == [2000, 3000, 4000]
    assert (value(text, "latency_count"), value(text, "latency_sum")) == (4000, 6000)
    assert (value(text, "size_count"), value(text, "size_sum")) == (4000, 2000)
    assert counter.labels("/")._value.get() == 4000


def test_prometheus_clients_own_counts_stay_in_their_processes(
    in_four_processes: Callable[[Callable[[], object]], None],
) -> None:
    """Side by side: the same scene with its value in memory; so the test above can fail."""
    counter = Counter("requests", "", registry=None)

    in_four_processes(lambda: [counter.inc() for _ in range(250)])

    assert counter._value.get() == 0


@pytest.mark.parametrize("kind", _INTERPRETERS)
def test_counts_of_four_interpreters_lose_nothing(shared: str, kind: str) -> None:
    """4 sub-interpreters of this process, each with its own copy of the library; their gauges have a pid each."""
    if kind not in [each.value for each in interpreters_for(shared)]:
        pytest.skip("refused, as tests/redis/test_redis_interpreters.py shows")
    script = f"""
import sys
sys.path[:] = {sys.path!r}
from sharedstate.contrib.prometheus import install
install({shared!r})
from prometheus_client import Counter, Gauge
Gauge("set", "", multiprocess_mode="all").set(1)
Gauge("open", "", multiprocess_mode="liveall").set(1)
counter = Counter("requests", "")
for _ in range(250):
    counter.inc()
"""
    failures: list[str] = []
    threads = [
        threading.Thread(target=lambda: failures.append(run_in_interpreter(kind, script)), daemon=True)
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == [""] * 4
    text = scrape()
    assert value(text, "requests_total") == 1000
    pids = [dict(labels)["pid"] for name, labels in samples(text) if name == "set"]
    assert len(pids) == 4
    assert all(pid.startswith(f"{os.getpid()}:") for pid in pids)
    assert not [name for name, _ in samples(text) if name == "open"]


def test_a_killed_writers_counts_stay(shared: str) -> None:
    """`kill -9` between two counts: what was counted is there, and others go on from it."""
    counter = Counter("requests", "", registry=None)
    Child(lambda: counter.inc(5)).kill()

    assert value(scrape(), "requests_total") == 5
    counter.inc()
    assert value(scrape(), "requests_total") == 6


def test_a_histogram_is_whole_while_others_observe(shared: str) -> None:
    """In each of 30 scrapes no bucket is above the next, the last is the count, and no number falls."""
    histogram = Histogram("latency", "", buckets=[1, 2], registry=None)

    def observe() -> None:
        for number in range(1500):
            histogram.observe(number % 3)

    results, seen = [fork_and_run(observe) for _ in range(2)], []
    for _ in range(30):
        text = scrape()
        buckets = [value(text, "latency_bucket", le=bound) or 0.0 for bound in ("1.0", "2.0", "+Inf")]
        assert buckets == sorted(buckets)
        assert value(text, "latency_count") == buckets[-1]
        seen.append(buckets)
    for result in results:
        result()

    for column in range(3):
        assert [buckets[column] for buckets in seen] == sorted(buckets[column] for buckets in seen)
    assert value(scrape(), "latency_count") == 3000


def test_a_reset_is_for_all(shared: str) -> None:
    """A counter that a child sets back begins at 0 for its parent too."""
    counter = Counter("requests", "", registry=None)
    counter.inc(5)

    fork_and_run(lambda: counter._value.set(0))()

    assert value(scrape(), "requests_total") == 0


# --- Gauges (X2, X3, X4) -----------------------------------------------------------------

_SET = (5.0, -3.0, 2.0)  # by one child after the other
_WHILE_ALL_LIVE = {"min": [-3.0], "max": [5.0], "sum": [4.0], "mostrecent": [2.0], "all": [-3.0, 2.0, 5.0]}
_WITHOUT_THE_FIRST = {"min": [-3.0], "max": [2.0], "sum": [-1.0], "mostrecent": [2.0], "all": [-3.0, 2.0]}


@pytest.mark.parametrize("mode", _MODES)
def test_a_gauge_is_made_of_its_writers_values(shared: str, mode: str) -> None:
    """Three children set it and are killed one by one: a live mode forgets them, and the others never do."""
    gauge, kind = Gauge("level", "", multiprocess_mode=mode, registry=None), mode.removeprefix("live")  # type: ignore[arg-type]
    assert not samples(scrape())
    children = [Child(lambda level=level: gauge.set(level)) for level in _SET]  # type: ignore[misc]

    def found() -> list[float]:
        return sorted(samples(scrape()).values())

    assert found() == _WHILE_ALL_LIVE[kind]
    children[0].kill()
    for _ in range(2):  # the second scrape finds the dead in order
        assert found() == (_WITHOUT_THE_FIRST if mode.startswith("live") else _WHILE_ALL_LIVE)[kind]
    for child in children[1:]:
        child.kill()
    for _ in range(2):
        assert found() == ([] if mode.startswith("live") else _WHILE_ALL_LIVE[kind])
    assert entries(shared, "gauge/") == []


def test_each_writer_has_its_own_pid(shared: str) -> None:
    """Made and set before the fork, and set again after it: parent and child have a value each."""
    gauge = Gauge("level", "", ["of"], multiprocess_mode="liveall", registry=None)
    gauge.labels("one").inc(1)
    seen = fork_and_run(lambda: (gauge.labels("one")._value.get(), os.getpid()))
    child = Child(lambda: gauge.labels("one").inc(10))

    text = scrape()
    child.kill()

    assert seen()[0] == 0
    assert samples(text) == {
        ("level", frozenset({("of", "one"), ("pid", str(pid))})): level
        for pid, level in ((os.getpid(), 1), (child.pid, 10))
    }
    assert gauge.labels("one")._value.get() == 1


def test_two_writers_of_one_pid_are_told_apart(installed: str) -> None:
    """As in two containers: another handle is another writer, and no sample comes twice."""
    gauge = Gauge("level", "", multiprocess_mode="liveall", registry=None)
    gauge.set(1)
    with sharedstate.open(installed) as other:
        prometheus._Gauge(other.namespace("prometheus"), "level{}", is_dated=False).set(2)

        text = scrape()

    assert sorted(samples(text).values()) == [1, 2]
    assert samples(scrape()) == {("level", frozenset({("pid", str(os.getpid()))})): 1}


def test_the_dead_take_no_room(shared: str) -> None:
    """After 6 writers that died one after the other there is one value, their sum, as after one of them."""
    gauge = Gauge("done", "", multiprocess_mode="sum", registry=None)
    for _ in range(6):
        Child(lambda: gauge.inc(1.5)).kill()
        scrape()

    assert entries(shared, "gauge/") == []
    assert len(entries(shared, "past/")) == 1
    assert value(scrape(), "done") == 9


def test_a_dead_writers_value_counts_once_while_another_scrape_moves_it(
    shared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rival's scrape comes between the two looks: the value is in neither of them, or in both."""
    gauge, under = Gauge("done", "", multiprocess_mode="sum", registry=None), prometheus._under
    Child(lambda: gauge.inc(4)).kill()
    rivals: list[Callable[[], object]] = [scrape]

    def be_overtaken(store: Any, prefix: str) -> dict[str, Any]:
        found = under(store, prefix)
        if prefix in {"past/", "gauge/"} and rivals:
            rivals.pop()()
        return found

    monkeypatch.setattr(prometheus, "_under", be_overtaken)

    assert value(scrape(), "done") == 4
    assert not rivals


def test_two_scrapes_move_a_dead_writers_value_once(shared: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have found it dead; the later finds it moved."""
    gauge = Gauge("done", "", multiprocess_mode="sum", registry=None)
    Child(lambda: gauge.inc(4)).kill()
    store = values.ValueClass.store  # type: ignore[attr-defined]
    one, other = prometheus._Gauges(store), prometheus._Gauges(store)

    one.tidy_up({"done{}": "sum"})
    other.tidy_up({"done{}": "sum"})

    assert value(scrape(), "done") == 4


def test_a_gauge_whose_mode_changed_can_be_read(shared: str) -> None:
    """From one release to the next: what was dated, and what was not, is still a number."""
    old = Gauge("level", "", multiprocess_mode="mostrecent", registry=None)
    Child(lambda: old.set(4)).kill()
    scrape()
    install(shared)
    new = Gauge("level", "", multiprocess_mode="max", registry=None)
    Child(lambda: new.set(3)).kill()

    assert value(scrape(), "level") == 4
    assert value(scrape(), "level") == 4


# --- Labels -------------------------------------------------------------------------------


def test_odd_labels_come_back(installed: str) -> None:
    """Quotes, line ends, what the keys are made of, other scripts and long texts; no two meet."""
    odd = ["", '"', "\\", "a\nb", "/", '{"x": "y"}', "@:%", "\0", "ä한🎉", "é" * 400 + "1", "é" * 400 + "2"]
    counter = Counter("requests", "", ["a", "b"], registry=None)
    gauge = Gauge("level", "", ["a"], multiprocess_mode="max", registry=None)
    for number, label in enumerate(odd, 1):
        counter.labels(label, "x").inc(number)
        counter.labels("x", label).inc(number)
        gauge.labels(label).set(number)

    text = scrape()

    assert len(samples(text)) == 3 * len(odd)
    for number, label in enumerate(odd, 1):
        assert value(text, "requests_total", a=label, b="x") == number
        assert value(text, "requests_total", a="x", b=label) == number
        assert value(text, "level", a=label) == number


# --- Installing ---------------------------------------------------------------------------


def test_whoever_comes_too_early_is_told(memory_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has values before `install` is named in a warning: not what gets them later, and nothing at a second one."""
    registry = CollectorRegistry()
    monkeypatch.setattr(prometheus, "REGISTRY", registry)
    Counter("early", "", registry=registry)
    Counter("parent", "", ["path"], registry=registry).labels("/").inc()
    childless = Counter("childless", "", ["path"], registry=registry)

    with pytest.warns(RuntimeWarning) as told:
        install(memory_url)
    assert str(told[0].message).endswith(": counter:early, counter:parent")
    Counter("later", "", registry=registry)
    install(memory_url)
    childless.labels("/").inc()
    assert value(scrape(), "childless_total", path="/") == 1


def test_a_store_that_forgets_is_refused() -> None:
    """Where entries are evicted, counts would be."""
    url = f"shm://prometheus-evicting-{os.getpid()}?size=4MiB&full=evict"
    try:
        with pytest.raises(ScopeError, match="evict"):
            install(url)
    finally:
        sharedstate.remove(url)


def test_a_collector_needs_a_store(installed: str) -> None:
    """The installed one, or that of a URL, as in a process that only exports; and else it says so."""
    Counter("requests", "", registry=None).inc()
    assert value(scrape(), "requests_total") == 1
    values.ValueClass = values.MutexValue

    assert value(scrape(url=installed), "requests_total") == 1
    with pytest.raises(ValueError, match="install"):
        scrape()


def test_the_store_may_serve_others(installed: str) -> None:
    """Two names have a count each, and what else is in the store is no sample and stays."""
    with sharedstate.open(installed) as store:
        store["total/requests_total{}"] = 7
        store["theirs"] = "x"
        Counter("requests", "", registry=None).inc(1)
        install(installed, name="a:b")
        Counter("requests", "", registry=None).inc(2)

        assert value(scrape(url=installed), "requests_total") == 1
        assert value(scrape(), "requests_total") == 2
        assert (store["total/requests_total{}"], store["theirs"]) == (7, "x")


def test_one_registry_can_be_asked_for_some(installed: str) -> None:
    """`?name[]=` of prometheus_client's applications: only these samples; and our collector clashes with no other."""
    for name in ("one", "two"):
        Counter(name, "", registry=None).inc()
    registry = CollectorRegistry(auto_describe=True, support_collectors_without_names=True)
    Counter("two", "", registry=registry)
    SharedStateCollector(registry)
    assert installed

    text = generate_latest(registry.restricted_registry(["one_total"])).decode()

    assert samples(text) == {("one_total", frozenset()): 1}


@pytest.mark.parametrize("key", ["series/x", "family/x", "total/requests_total{}", "past//level{}"])
def test_what_is_no_record_is_refused(installed: str, key: str) -> None:
    """Something else under a record's key is never taken for a number or a name."""
    Counter("requests", "", registry=None).inc()
    Gauge("level", "", multiprocess_mode="max", registry=None).set(1)
    with sharedstate.open(installed) as store:
        for planted in ("x", [1], {"type": 1}, [1.0, "x"]):
            store[f"prometheus:{key}"] = planted
            with pytest.raises(CorruptError, match=key.partition("{")[0]):
                scrape()
