"""Claims about waiting: who waits for a change learns of it, and nobody waits longer than asked."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from sharedstate import ABSENT, Change
from sharedstate.testing.conformance.support import PATIENCE_S, SOON_S, Claims, run_together

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate.store import Store

__all__ = ["WaitingClaims"]


def _generation(store: Store, key: str) -> int:
    entry = store.read(key)
    return ABSENT if entry is None else entry.generation


class WaitingClaims(Claims):
    """wait_for_change and watch."""

    def test_a_change_that_happened_is_returned_at_once(self, store: Store) -> None:
        """If the key is already at another generation, wait_for_change returns that, whatever the timeout."""
        store["k"] = 1
        before = _generation(store, "k")
        store["k"] = 2

        assert store.wait_for_change("k", since=before) == _generation(store, "k")
        assert store.wait_for_change("k", since=before, timeout_s=0) == _generation(store, "k")
        assert store.wait_for_change("absent", since=before) == ABSENT

    def test_nothing_changed_in_time(self, store: Store) -> None:
        """After timeout_s, and not before, it returns `since`; another key's changes do not count."""
        store["k"] = 1
        since = _generation(store, "k")
        began = time.monotonic()

        store["other"] = 1
        found = store.wait_for_change("k", since, timeout_s=0.05)

        assert found == since
        assert time.monotonic() - began >= 0.05
        assert store.wait_for_change("absent", ABSENT, timeout_s=0.01) == ABSENT

    def test_every_kind_of_write_wakes(self, store: Store, open_another: Callable[[], Store]) -> None:
        """A waiting thread returns the new generation after another handle set, changed, or removed the key."""
        other = open_another()
        writes: list[Callable[[], object]] = [
            lambda: other.set("k", 1),
            lambda: other.increment("k"),
            lambda: other.update_with("k", lambda value: value),
            lambda: other.transact(lambda tx: tx.set("k", 5)),
            lambda: other.delete("k"),
            lambda: other.add("k", 1),
            lambda: other.pop("k"),
            lambda: other.set_many({"k": 1}),
            other.clear,
        ]

        for write in writes:
            since = _generation(store, "k")
            wait = partial(store.wait_for_change, "k", since, timeout_s=PATIENCE_S)
            found, _ = run_together(wait, write)

            assert found == _generation(store, "k") != since

    def test_expiry_wakes(self, store: Store) -> None:
        """A key that expires while somebody waits for its change is seen as gone."""
        store.set("k", 1, ttl_s=SOON_S)
        since = _generation(store, "k")

        assert store.wait_for_change("k", since or 1, timeout_s=PATIENCE_S) == ABSENT

    def test_touch_brings_the_expiry_forward(self, store: Store, open_another: Callable[[], Store]) -> None:
        """Who waits for a key that would never expire learns that it now does, and sees it go."""
        other = open_another()
        store["k"] = 1
        since = _generation(store, "k")

        found, _ = run_together(
            lambda: store.wait_for_change("k", since, timeout_s=PATIENCE_S), lambda: other.touch("k", SOON_S)
        )

        assert found == ABSENT

    def test_waiting_blocks_nobody(self, store: Store) -> None:
        """While threads wait through a handle, others go on using it."""
        store["done"] = 0
        since = _generation(store, "done")

        def work() -> None:
            for i in range(100):
                store[f"k{i}"] = i
            store["done"] = 1

        waits = [lambda: store.wait_for_change("done", since, timeout_s=PATIENCE_S)] * 3
        *found, _ = run_together(*waits, work)

        assert found == [_generation(store, "done")] * 3

    def test_watch_yields_what_changes_from_now_on(self, store: Store, open_another: Callable[[], Store]) -> None:
        """What was there before the call is not yielded; each later change is, with its entry, None if removed."""
        other = open_another()
        store.update(a1=1, a2=2)
        changes = store.watch("a", timeout_s=PATIENCE_S)

        other["b"] = 1
        other["a1"] = 10
        assert next(changes) == Change("a1", store.read("a1"))
        other.delete("a2")
        assert next(changes) == Change("a2", None)
        other["a3"] = [3]
        assert next(changes) == Change("a3", store.read("a3"))

    def test_watch_yields_the_newest(self, store: Store) -> None:
        """A key that changed several times is yielded once, with its newest entry; each key's turn comes."""
        changes = store.watch(timeout_s=0.01)

        for i in range(10):
            store.update(a=i, b=-i)
        store["gone before anybody looked"] = 1
        store.delete("gone before anybody looked")

        assert {change.key: change.entry and change.entry.value for change in changes} == {"a": 9, "b": -9}

    def test_watch_ends_after_a_quiet_time(self, store: Store) -> None:
        """With timeout_s it ends after that long without a change under its prefix."""
        changes = store.watch("a", timeout_s=0.02)
        store["b"] = 1

        assert list(changes) == []

    def test_watch_sees_expiry(self, store: Store) -> None:
        """A key that expires is yielded as gone, though nobody wrote."""
        store.set("k", 1, ttl_s=SOON_S)
        changes = store.watch(timeout_s=PATIENCE_S)
        store["other"] = 1

        seen = [next(changes), next(changes)]

        assert {change.key: change.entry is None for change in seen} == {"k": True, "other": False}

    def test_watch_is_woken(self, store: Store, open_another: Callable[[], Store]) -> None:
        """A thread that waits in watch gets another thread's change."""
        other = open_another()
        changes = store.watch(timeout_s=PATIENCE_S)

        change, _ = run_together(lambda: next(changes), lambda: other.set("k", [1]))

        assert change == Change("k", store.read("k"))
