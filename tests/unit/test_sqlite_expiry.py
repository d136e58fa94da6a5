"""What expires while a verb waits, or while its row travels: sqlite:'s verbs agree on when that was."""

from __future__ import annotations

import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import sharedstate
from sharedstate import ABSENT, ConflictError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sharedstate.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with sharedstate.open(f"sqlite:{tmp_path}/state.db") as store:
        yield store
        store.check()


def _swap(store: Store) -> Any:
    try:
        return store.compare_and_set("k", 9, 1)
    except ConflictError as conflict:
        return conflict.found


_WAITING: dict[str, tuple[Callable[[Store], Any], Any, Any]] = {
    "add": (lambda store: store.add("k", 9), True, 9),
    "compare_and_set": (_swap, ABSENT, None),
    "delete": (lambda store: store.delete("k"), False, None),
    "delete_many": (lambda store: store.delete_many(["k"]), 0, None),
    "increment": (lambda store: store.increment("k"), 1, 1),
    "pop": (lambda store: store.pop("k", "none"), "none", None),
    "touch": (lambda store: store.touch("k", None), False, None),
}


@pytest.mark.parametrize("verb", _WAITING)
def test_write_that_waited_finds_what_has_expired_absent(store: Store, tmp_path: Path, verb: str) -> None:
    """An entry that others have seen expire, while this verb waited for the lock, does not come back by it."""
    call, answer, left = _WAITING[verb]
    store.set("k", 1, ttl_s=0.2)
    holder = sqlite3.connect(f"{tmp_path}/state.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    answers: list[Any] = []
    waiter = threading.Thread(target=lambda: answers.append(call(store)))

    waiter.start()
    with sharedstate.open(store.url) as other:
        while other.get("k") is not None:
            time.sleep(0.001)
    holder.execute("COMMIT")
    holder.close()
    waiter.join()

    assert answers == [answer]
    assert store.get("k") == left


@pytest.mark.parametrize("verb", ["get", "read"])
def test_reader_that_was_late_does_not_miss_a_touch(store: Store, verb: str) -> None:
    """An entry that is kept alive in time is there for a reader that had its row before that."""
    store.set("k", 1, ttl_s=0.2)
    entry = store.read("k")
    assert entry is not None
    backend: Any = store.backend.backend
    run = backend._run

    def run_late(*arguments: Any) -> Any:
        row = run(*arguments)
        backend._run = run
        assert store.touch("k", None)
        while time.time() <= entry.expires_at:
            time.sleep(0.001)
        return row

    backend._run = run_late
    found = getattr(store, verb)("k")

    assert found is not None
    assert (found if verb == "get" else found.value) == 1
