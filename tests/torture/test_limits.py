"""A process that runs into its limits: descriptors, memory, bytes of a file, names; and keys and values at ours.

Invariants:
    X1 to X4 of test_exhaustion.py
    X6  no descriptor is left behind, and nothing stays locked: another handle
        writes at once
    X7  an allocation that fails raises MemoryError (or the verb went on without
        it): the entry is old or new, never another, and the handle goes on
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

import sharedstate
from campaign import record, scale
from hardship.children import ChildFailedError, in_child
from hardship.kernel import limit, open_fds
from hardship.ledger import VERBS, Ledger, payload
from sharedstate import CapacityError, StateError
from sharedstate.backend.locks import FileLock
from sharedstate_file.backend import FileBackend
from sharedstate_file.log import FRAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SCHEMES = ["file", "sqlite", "shm"]


# --- Descriptors ---------------------------------------------------------------------


@contextmanager
def only(free: int) -> Iterator[None]:
    """Leave exactly so many descriptors to open."""
    taken, soft = set(open_fds()), 0
    while soft in taken or free:
        free -= soft not in taken
        soft += 1
    with limit(resource.RLIMIT_NOFILE, soft):
        yield


def _lock(store: sharedstate.Store) -> None:
    with store.lock("name", timeout_s=1):
        pass


def _join(url: str) -> None:
    with sharedstate.open(url) as other:
        other.join()
        other.sharers()


LOOKS: dict[str, Callable[[sharedstate.Store], object]] = {
    "open": lambda store: sharedstate.open(store.url).close(),
    "lock": _lock,
    "locks": lambda store: store.locks(),
    "sharers": lambda store: _join(store.url),
    "wait": lambda store: store.wait_for_change("k1", since=0, timeout_s=0),
    "stats": lambda store: store.stats(),
    "check": lambda store: store.check(),
    "read": lambda store: store.read("k1"),
}


def starve_of_descriptors(url: str, most: int) -> dict[str, int]:
    """Do each verb by a handle of its own with 0, 1, 2 ... descriptors left."""
    ledger = Ledger(sharedstate.open(url))
    ledger.do_all()
    first, looked = ledger.store, 0
    refused = 0
    before: list[int] = []
    for free in range(most):
        for verb in VERBS:
            with sharedstate.open(url) as ledger.store:
                ledger.do(verb, StateError, only(free))
                assert ledger.do(verb), "refused although there are descriptors again"
        for name, look in LOOKS.items():
            with sharedstate.open(url) as store:
                with only(free):
                    try:
                        look(store)
                    except StateError as error:
                        refused += 1
                        del error
                look(store)
                looked += 1
                assert store.increment("looks") == ledger.model.increment("looks"), name
        ledger.store = first
        ledger.audit_anew()
        gc.collect()
        now = open_fds()
        assert not before or len(now) == len(before), f"descriptors before {before}, and now {now}"
        before = now
    return {"tries": ledger.acknowledged + ledger.refused + looked, "refused": ledger.refused + refused}


@pytest.mark.parametrize("scheme", _SCHEMES)
def test_descriptors_that_run_out_at_each_open_of_each_verb(scheme: str, url_of) -> None:
    """X1, X2, X4, X6: each verb, and opening, locking, joining, waiting and checking, with few descriptors left."""
    url = url_of(scheme)

    found = in_child(lambda: starve_of_descriptors(url, 8))

    assert found["refused"]
    record("descriptors that run out", scheme, bad=0, **found)


def test_a_lock_that_leaks_its_descriptor_is_found(url_of, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a lock's release that closes nothing."""
    monkeypatch.setattr(FileLock, "_close", lambda lock, fd: None)
    url = url_of("file")

    with pytest.raises(ChildFailedError, match="descriptors before"):
        in_child(lambda: starve_of_descriptors(url, 3))


# --- Memory --------------------------------------------------------------------------


# CPython 3.13.0 itself crashes where it finds no memory for a closure: so the verbs that run no Python code.
_VERBS_IN_C = ("set", "set_large", "add", "increment", "touch", "set_many", "delete", "delete_many")


def fail_nth_allocation(url: str, most: int) -> dict[str, int]:
    """Do each verb with its n-th allocation failing, for each n."""
    import _testcapi

    ledger = Ledger(sharedstate.open(url))
    for _ in range(3):
        ledger.do_all()
    failed, number = 0, 100
    with sharedstate.open(url) as other:
        for at in range(most):
            for act in map(VERBS.__getitem__, _VERBS_IN_C):
                number += 1
                before = dict(ledger.store)
                try:
                    _testcapi.set_nomemory(at, at + 1)
                    try:
                        act(ledger.store, number)
                    finally:
                        _testcapi.remove_mem_hooks()
                except MemoryError:
                    failed += 1
                act(ledger.model, number)
                now, after = dict(ledger.store), dict(ledger.model)
                for key in now | after | before:
                    assert now.get(key) in (before.get(key), after.get(key)), (
                        f"{number} left {key!r} at {now.get(key)!r}"
                    )
                ledger.model.clear()
                ledger.model.update(now)
                other.increment("count")
                ledger.model.increment("count")
            ledger.audit(other)
    ledger.audit_anew()
    return {"allocations": number - 100, "failed": failed}


def test_memory_that_runs_out_at_each_allocation(url_of) -> None:
    """X2, X6, X7: whichever allocation of whichever verb fails, nothing is lost and nothing stays locked."""
    url = url_of("shm", "?timeout=2")

    found = in_child(lambda: fail_nth_allocation(url, scale(60, 400)))

    assert found["failed"]
    record("memory that runs out", "shm", bad=0, **found)


def test_an_entry_lost_for_want_of_memory_is_found(url_of, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a replacement that has removed the old entry when it finds no memory for the new one."""

    def careless(store: sharedstate.Store, number: int) -> None:
        try:
            store.set("k0", payload(number))
        except MemoryError:
            store.delete("k0")
            raise

    monkeypatch.setitem(VERBS, "set", careless)
    url = url_of("shm")
    with pytest.raises(ChildFailedError, match="left 'k0' at None"):
        in_child(lambda: fail_nth_allocation(url, 20))


@pytest.mark.parametrize("scheme", _SCHEMES)
def test_address_space_that_runs_out(scheme: str, url_of) -> None:
    """X2, X6, X7 with a limit of the kernel's own."""
    url = url_of(scheme)

    # In a fresh process: here earlier tests have left free memory and, with their threads, whole arenas.
    run = subprocess.run(
        [sys.executable, "-m", "hardship.address_space", url, str(scale(10, 64))],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["refused"]
    record("RLIMIT_AS", scheme, bad=0, **found)


# --- Bytes of a file -----------------------------------------------------------------


def end_at_every_byte(url: str) -> dict[str, int]:
    """Do each verb with the log's file limited to end at each byte of its frame."""
    ledger = Ledger(sharedstate.open(url))
    for _ in range(2):
        ledger.do_all()
    bytes_tried = 0
    for verb in VERBS:
        while True:
            end = int(ledger.store.stats()["log_bytes"])
            assert ledger.do(verb)
            length = int(ledger.store.stats()["log_bytes"]) - end
            if length:
                break
        for cut in sorted({*range(min(length, 3 * FRAME_BYTES)), *range(0, length, scale(97, 1)), length - 1}):
            end = int(ledger.store.stats()["log_bytes"])
            ledger.do(verb, under=limit(resource.RLIMIT_FSIZE, end + cut))
            bytes_tried += 1
        ledger.audit_anew()
        ledger.do_all()
    return {"bytes": bytes_tried, "refused": ledger.refused}


def test_a_frame_that_ends_at_every_byte_is_refused_whole(url_of) -> None:
    """X1, X2, X4: a short write of each length, by the limit on file sizes."""
    url = url_of("file")

    found = in_child(lambda: end_at_every_byte(url))

    assert found["refused"] > 100
    record("RLIMIT_FSIZE at every byte", "file", bad=0, **found)


def test_a_refused_frame_that_counts_is_found(url_of, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a write that swallows its CapacityError."""
    write = FileBackend._write

    def careless(backend: FileBackend, operations: list[Any]) -> None:
        with suppress(CapacityError):
            write(backend, operations)

    monkeypatch.setattr(FileBackend, "_write", careless)
    url = url_of("file")
    with pytest.raises(ChildFailedError, match="differ"):
        in_child(lambda: end_at_every_byte(url))


# --- Names, and our own limits ---------------------------------------------------------


def take_many_locks(store: sharedstate.Store, total: int) -> float:
    """Take and release locks of so many names; return how much longer the last fifth took than the second."""
    fifth = total // 5
    took = []
    for part in range(5):
        begun = time.process_time()
        for n in range(part * fifth, (part + 1) * fifth):
            lock = store.lock(f"name {n}")
            assert lock.acquire(0)
            lock.release()
        took.append(time.process_time() - begun)
    return took[4] / max(took[1], 1e-3)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("scheme", "full"), [("file", 1_000_000), ("shm", 200_000)])
def test_a_million_locks_leave_nothing_behind(scheme: str, full: int, url_of) -> None:
    """X6: no descriptor is left, and the last ones cost what the first did, within a factor of ten."""
    total = scale(5_000, full)
    with sharedstate.open(url_of(scheme)) as store:
        store["k"] = 1
        before = len(open_fds())

        growth = take_many_locks(store, total)

        assert len(open_fds()) == before
        assert growth < 10
        assert not any(held.held for held in store.locks())
        store.check()
    record("many named locks", scheme, bad=0, locks=total)


def _nested(depth: int) -> Any:
    value: Any = "core"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("scheme", [*_SCHEMES, "memory"])
def test_keys_and_values_at_the_limits_by_every_verb(scheme: str, url_of) -> None:
    """512 bytes of each width of UTF-8 and depth 64 go through every verb; one more is refused by every verb."""
    url = f"memory:{uuid4().hex}" if scheme == "memory" else url_of(scheme)
    deep = _nested(64)
    with sharedstate.open(url) as store:
        for character in ("a", "é", "€", "😀"):
            key = character * (512 // len(character.encode()))
            key += "a" * (512 - len(key.encode()))
            too_long = key + "a"
            for value in (deep, payload(1)):
                store[key] = value
                assert store.transact(lambda tx, key=key: tx[key]) == value
                assert store.compare_and_set(key, value, expected=store.read(key).generation)
                store.set_many({key: value})
                assert store.get_many([key]) == {key: value}
                assert store.pop(key) == value
                assert store.add(key, value)
                assert store.delete(key)
            assert store.increment(key) == 1
            with store.lock(key, timeout_s=1):
                assert store.touch(key, 100)
            for verb in (store.get, store.delete, store.increment, store.read, lambda k: store.set(k, 1), store.lock):
                with pytest.raises(sharedstate.KeyFormatError):
                    verb(too_long)
            with pytest.raises(sharedstate.ValueTypeError):
                store[key] = _nested(65)
            assert store[key] == 1
        store.check()
