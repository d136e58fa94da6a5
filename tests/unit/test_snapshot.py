"""Snapshot: N1 and N2 of `sharedstate.coordination.snapshot`, on every backend."""

from __future__ import annotations

import datetime as dt
from types import MappingProxyType
from typing import TYPE_CHECKING

import plants
import pytest

from sharedstate.coordination import Snapshot
from sharedstate.errors import ClosedError
from sharedstate.testing.conformance.support import run_together, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate.store import Store


def test_the_value_is_that_of_the_key(open_any: Callable[[], Store]) -> None:
    """The default while the key is absent, then what is there, also after it was deleted and written again."""
    store, other = open_any(), open_any()
    snapshot = Snapshot(store, "config", default={"retries": 1})
    assert snapshot.value == {"retries": 1}

    other["config"] = {"retries": 2}
    assert snapshot.value["retries"] == 2
    other["config"] = None
    assert snapshot.value is None
    del other["config"]
    assert snapshot.value == {"retries": 1}
    other["config"] = {"retries": 2}
    assert snapshot.value == {"retries": 2}


def test_it_is_decoded_once_for_each_change(open_any: Callable[[], Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """1000 reads of one version are one object, and read the value once."""
    store = open_any()
    store["config"] = {"hosts": ["a", "b"]}
    snapshot, reads = Snapshot(store, "config"), []
    read = store.read
    monkeypatch.setattr(store, "read", lambda key: reads.append(key) or read(key))

    values = {id(snapshot.value) for _ in range(1000)}
    assert len(values) == len(reads) == 1
    store["config"] = {"hosts": ["a", "b"]}
    assert snapshot.value == {"hosts": ("a", "b")}
    assert len(reads) == 2


def test_nobody_can_change_it(open_any: Callable[[], Store]) -> None:
    """Mappings are proxies, lists are tuples, all the way down; other values are as they were."""
    store = open_any()
    moment = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    default = {"a": [1, {"b": [b"c", (None, [moment, 1.5])]}], 2: "x"}
    store["config"] = default
    for value in (Snapshot(store, "config").value, Snapshot(store, "absent", default).value):
        assert type(value) is MappingProxyType
        assert value == {"a": (1, MappingProxyType({"b": (b"c", (None, (moment, 1.5)))})), 2: "x"}
        for change in (
            lambda value=value: value.__setitem__("a", 1),
            lambda value=value: value["a"].append(1),
            lambda value=value: value["a"][1].update(b=1),
        ):
            with pytest.raises((TypeError, AttributeError)):
                change()
    default["a"].append(2)
    assert len(Snapshot(store, "absent", default={"a": []}).value["a"]) == 0


def test_an_expired_value_is_gone(open_any: Callable[[], Store]) -> None:
    """From its deadline on the default is read again, though no write came."""
    store = open_any()
    store.set("config", 1, ttl_s=0.05)
    snapshot = Snapshot(store, "config", default=0)
    until(lambda: snapshot.value == 0)


def test_a_closed_store_says_so(open_any: Callable[[], Store]) -> None:
    """No value is handed out that could be stale."""
    store = open_any()
    store["config"] = 1
    snapshot = Snapshot(store, "config")
    assert snapshot.value == 1
    store.close()
    with pytest.raises(ClosedError):
        _ = snapshot.value


def _is_ever_stale(store: Store, writer: Store) -> bool:
    """Write numbers, and after each ask two threads that share a Snapshot for what they see."""
    snapshot, stale = Snapshot(store, "n", default=0), []

    def check(number: int) -> None:
        if snapshot.value < number:
            stale.append(number)

    for number in range(1, 50):
        writer["n"] = number
        run_together(*[lambda number=number: check(number)] * 2)
    return bool(stale)


def test_a_complete_write_is_seen_by_the_next_read(open_any: Callable[[], Store]) -> None:
    """50 writes by another handle, each followed by two readers at once: none sees an older one (N1)."""
    assert not _is_ever_stale(open_any(), open_any())


def test_the_judge_finds_the_bug(open_any: Callable[[], Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: refreshed each second instead of when it changed.  Then a reader sees an older value."""
    monkeypatch.setattr(Snapshot, "value", Snapshot.value)
    plants.plant("snapshot-by-time")
    assert _is_ever_stale(open_any(), open_any())
