"""`sharedstate.contrib.prometheus.StoreCollector`: G1 to G3, with prometheus_client's own text, on every backend."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import sharedstate
from sharedstate.contrib._prometheus_stats import FIGURES
from sharedstate.contrib.prometheus import StoreCollector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from sharedstate.store import Store


@pytest.fixture
def store(any_url: str) -> Iterator[Store]:
    """A store of each backend; the fixture of its URL has it open, too."""
    with sharedstate.open(any_url) as opened:
        yield opened


@pytest.fixture
def other(memory_url: str) -> Iterator[Store]:
    with sharedstate.open(memory_url) as opened:
        yield opened


def scrape(collector: StoreCollector) -> dict[str, Metric]:
    """The families that Prometheus gets, by name."""
    registry = CollectorRegistry()
    registry.register(collector)
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert len({family.name for family in families}) == len(families)
    return {family.name: family for family in families}


def value(families: dict[str, Metric], name: str, label: str) -> float | None:
    """The one sample of that name and store."""
    found = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and sample.labels["store"] == label
    ]
    assert len(found) < 2
    return found[0] if found else None


def test_figures_of_every_backend_are_told(store: Store) -> None:
    """Entries, sharers, held locks, the last generation; and that the store is up."""
    store.set_many({"a": 1, "b": "x"})
    with store.lock("held"), store.lock("free"):
        pass

    with store.lock("held"):
        families = scrape(StoreCollector(store.namespace("any"), name="s"))

    assert value(families, "sharedstate_up", "s") == 1
    assert value(families, "sharedstate_entries", "s") == 2
    assert value(families, "sharedstate_sharers", "s") == 2
    assert value(families, "sharedstate_locks_held", "s") == 1
    assert value(scrape(StoreCollector(store, name="s")), "sharedstate_locks_held", "s") == 0


def test_every_figure_of_ours_is_in_the_table(store: Store) -> None:
    """So each number has a help text of its own, and counters are counters."""
    numbers = {name for name, told in store.stats().items() if not isinstance(told, str)}

    families = scrape(StoreCollector(store))

    assert numbers <= FIGURES.keys()
    assert not [name for name in families if name.startswith("sharedstate_backend_")]
    for name in numbers:
        figure = FIGURES[name]
        assert families[f"sharedstate_{figure.name}"].type == figure.type


def test_counters_grow_and_end_in_total(other: Store) -> None:
    """A generation only grows, so it is a counter, and named as one."""
    collector = StoreCollector(other, name="s")
    before = value(scrape(collector), "sharedstate_generation_total", "s")

    other["k"] = 1

    after = value(scrape(collector), "sharedstate_generation_total", "s")
    assert before is not None
    assert after is not None
    assert after > before


def test_words_are_labels_of_an_info(store: Store) -> None:
    """Versions and the like, beside what every store has: backend, scope and durability."""
    families = scrape(StoreCollector(store, name="s"))

    labels = {**families["sharedstate_store_info"].samples[0].labels}
    words = {name: told for name, told in store.stats().items() if isinstance(told, str)}
    assert labels.items() >= words.items()
    assert labels["backend"] == store.url.partition(":")[0]
    assert labels["scope"] == store.capabilities.scope.name
    assert labels["durability"] == store.capabilities.durability.name


def test_a_strangers_figures_are_gauges(other: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that nobody knows, whatever they are called: none meets one of ours."""
    told = {"up": 7, "cache hits/s": 2.5, "ünits": 1, "entries": 3, "": 4, "ver sion": "1"}
    monkeypatch.setattr(other.backend, "stats", lambda: told)

    families = scrape(StoreCollector(other, name="s"))

    assert value(families, "sharedstate_up", "s") == 1
    assert value(families, "sharedstate_entries", "s") == 3
    assert value(families, "sharedstate_backend_up", "s") == 7
    assert value(families, "sharedstate_backend_cache_hits_s", "s") == 2.5
    assert value(families, "sharedstate_backend_n_nits", "s") == 1
    assert value(families, "sharedstate_backend_n", "s") == 4
    assert families["sharedstate_backend_up"].type == "gauge"
    assert families["sharedstate_store_info"].samples[0].labels["ver_sion"] == "1"


def test_a_store_that_cannot_be_asked_is_down(store: Store, other: Store) -> None:
    """It was closed: it has that sample and no other, and those of the next store are there."""
    collector = StoreCollector(store, name="closed")
    collector.add(other, name="open")
    store.close()

    families = scrape(collector)

    assert value(families, "sharedstate_up", "closed") == 0
    assert value(families, "sharedstate_up", "open") == 1
    samples = [sample for family in families.values() for sample in family.samples]
    assert len([sample for sample in samples if sample.labels["store"] == "closed"]) == 1


@pytest.mark.parametrize("verb", ["stats", "sharers", "locks"])
def test_whatever_a_backend_raises_is_no_end_of_the_scrape(
    other: Store, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """A stranger's backend may raise anything."""

    def fail(*_: Any) -> None:
        raise OSError("no answer")

    monkeypatch.setattr(other.backend, verb, fail)

    families = scrape(StoreCollector(other, name="s"))

    assert [name for name, family in families.items() if family.samples] == ["sharedstate_up"]
    assert value(families, "sharedstate_up", "s") == 0


def test_no_secret_is_told(other: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The label is the URL, with *** in the place of its password and its token."""
    monkeypatch.setattr(other.backend, "url", "redis://user:hunter2@host/jobs?token=hunter3")
    registry = CollectorRegistry()

    registry.register(StoreCollector(other))

    text = generate_latest(registry).decode()
    assert 'store="redis://user:***@host/jobs?token=***"' in text
    assert "hunter" not in text


def test_a_path_that_is_no_utf8_can_be_told(other: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux takes any bytes for a path, and the text of a scrape does not."""
    monkeypatch.setattr(other.backend, "url", "file:/tmp/\udcff")

    families = scrape(StoreCollector(other))

    assert families["sharedstate_up"].samples[0].labels["store"] == "file:/tmp/\\udcff"


def test_one_registry_has_one_collector(store: Store, other: Store) -> None:
    """A second one would repeat the metrics, so it is refused; as is a second store of one label."""
    registry = CollectorRegistry(support_collectors_without_names=True)
    collector = StoreCollector(store)
    registry.register(collector)

    with pytest.raises(ValueError, match="sharedstate_up"):
        registry.register(StoreCollector(other))
    with pytest.raises(ValueError, match="label"):
        collector.add(other, name=next(iter(collector._stores)))
    collector.add(other)
    assert generate_latest(registry).decode().count("# TYPE sharedstate_up ") == 1


def test_one_registry_can_be_asked_for_some(other: Store) -> None:
    """`?name[]=` of prometheus_client's applications: only these samples."""
    registry = CollectorRegistry()
    registry.register(StoreCollector(other))

    text = generate_latest(registry.restricted_registry(["sharedstate_entries"])).decode()

    assert [family.name for family in text_string_to_metric_families(text)] == ["sharedstate_entries"]


def test_the_page_has_the_table() -> None:
    """docs/observability.md names each metric with its type and text, and no other."""
    page = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    rows = re.findall(r"^\| `(sharedstate_\w+)` \| (\w+) \| (.+?) \|", page, re.MULTILINE)

    described = [metric for metric in StoreCollector.describe(None) if metric.type != "info"]  # type: ignore[arg-type]

    assert sorted(rows) == sorted(
        (metric.name + ("_total" if metric.type == "counter" else ""), metric.type, metric.documentation)
        for metric in described
    )
