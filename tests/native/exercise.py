"""Go once through every C module: the codec, memory's entries, the file log's replay, the shared-memory table.

Run under valgrind by `make memcheck`, so it is short: a verb takes fifty times as long there.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import TYPE_CHECKING, Any

import sharedstate
from sharedstate import StateError, _native
from sharedstate_file import _replay
from sharedstate_memory import _entries
from sharedstate_shm import _core

if TYPE_CHECKING:
    from sharedstate import Store

VALUES: list[Any] = [
    *(None, True, 0, -1, 2**64 - 1, -(2**63), 0.5, "", "é" * 40, b"x" * 3000, "x" * 9000),
    *([1, [2, {"a": (3, "b")}]], {f"key-{i}": [i] for i in range(40)}, tuple(range(300))),
]
MODULES = (_native, _entries, _replay, _core)


def exercise_codec() -> None:
    """Encode and decode; then everything that is refused, and each encoding cut at each byte."""
    for value in VALUES:
        encoded = _native.encode(value)
        assert _native.decode(encoded) == value
        for length in range(min(len(encoded), 60)):
            with contextlib.suppress(StateError):
                _native.decode(encoded[:length])
    for foreign in (object(), {1}, 2**64, "\ud800", [[object()]]):
        with contextlib.suppress(StateError):
            _native.encode(foreign)


def exercise_store(store: Store) -> None:
    """Call each verb, also those that fail."""
    for i, value in enumerate(VALUES):
        store[f"key-{i}"] = value
        assert store[f"key-{i}"] == value
        store.set(f"key-{i}", i, ttl_s=1000)
        store.increment("n")
    store.update({"a": 1, "b": [2]})
    with store.transaction() as tx:
        tx["a"], tx["c"] = tx["a"] + 1, "c"
    for wrong in (lambda: store.increment("b"), lambda: store["absent"], lambda: store.set("", 1)):
        with contextlib.suppress(StateError, KeyError):
            wrong()
    assert store.add("n", 1) is False
    assert len(store) == len(list(store))
    for key in list(store):
        del store[key]
    store.clear()
    store.check()


def main() -> None:
    """Exercise all of it."""
    assert all(module.__file__ and module.__file__.endswith(".so") for module in MODULES)
    exercise_codec()
    with tempfile.TemporaryDirectory() as directory:
        shared = f"shm://exercise-{os.getpid()}"
        urls = (
            "memory:exercise",
            f"file:{directory}/state",
            f"{shared}?size=1MiB",
            f"{shared}-evicting?size=1MiB&full=evict",
        )
        for url in urls:
            for _ in range(2):  # the second time it is opened, and a log replayed
                with sharedstate.open(url, allow_narrow=True) as store:
                    exercise_store(store)
                    store["left"] = VALUES
            sharedstate.remove(url)


main()
