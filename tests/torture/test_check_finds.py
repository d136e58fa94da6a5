"""check() names every planted damage, and never raises a false alarm while others write.

Invariants:
    C1  whatever structure of a backend is damaged, check() of a handle that was
        open before raises CorruptError and says which invariant, or where
    C2  while four writers do all that writers do, check() raises nothing
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

import sharedstate
from campaign import record, span_s
from checking import regions
from sharedstate import CorruptError, StateError, registry
from sharedstate.backend.urls import parse_url
from sharedstate.values import encode
from sharedstate_file.head import length_of, number_of, word_of
from sharedstate_file.index import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Plants = dict[str, tuple[str, "Callable[[Any, str], object]"]]
"""What is damaged: what check() must say of it, and how it is done to a store and its path."""


@contextmanager
def filled(scheme: str, directory: str) -> Iterator[tuple[Any, str]]:
    """Yield an open store with an entry of each kind, and the path that it lies at."""
    url = registry.find_plugin(parse_url(f"{scheme}:any")).temporary_url(directory)
    if scheme == "shm":
        url = url.partition("?")[0] + "?size=1MiB"
    name = url.partition("?")[0]
    path = f"/dev/shm/sharedstate-{name[6:]}.region" if scheme == "shm" else name.partition(":")[2]
    with sharedstate.open(url) as store:
        store["needle"] = 7
        store["text"] = "some text"
        store["list"] = [1, [2, 3]]
        store["large"] = b"x" * 20_000
        store.set("ttl", 1, ttl_s=1000)
        for i in range(100):
            store[f"k{i}"] = "y" * 30
        with store.lock("door"):
            pass
        store.check()
        yield store, path
    if scheme == "shm":  # without a look into it
        os.unlink(path)
        locks = path.replace(".region", ".locks")
        for file in os.listdir(locks):
            os.unlink(os.path.join(locks, file))
        os.rmdir(locks)


def missed(scheme: str, plants: Plants, directory: Path) -> list[str]:
    """Return what of the planted damage check() did not see, or did not name."""
    found: list[str] = []
    for number, (what, (said, plant)) in enumerate(plants.items()):
        place = directory / str(number)
        place.mkdir()
        with filled(scheme, str(place)) as (store, path):
            plant(store, path)
            try:
                store.check()
                found.append(f"{what}: not seen")
            except CorruptError as error:
                if said not in error.reason:
                    found.append(f"{what}: named {error.reason!r}, not {said!r}")
            except StateError as error:
                found.append(f"{what}: {type(error).__name__} {error}")
    return found


# --- What is planted ------------------------------------------------------------------


def _write(name: str, at: int, content: bytes) -> Callable[[Any, str], object]:
    def plant(_: Any, path: str) -> None:
        with open(path + name, "r+b") as file:
            file.seek(at)
            file.write(content)

    return plant


def _flip(name: str, at: int) -> Callable[[Any, str], object]:
    """Change a byte, whatever it is: a checksum may be anything."""

    def plant(_: Any, path: str) -> None:
        with open(path + name, "r+b") as file:
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ 0xFE]))

    return plant


def _frame(*operations: Any, skip: int = 0) -> Callable[[Any, str], object]:
    """Append a frame with a right checksum, and count it."""

    def plant(store: Any, _: str) -> None:
        backend = store._backend
        word, generation = backend._mark
        end = backend._log.append(encode([generation + skip, *operations]), length_of(word))
        backend._head.store(word_of(backend._log.number, end))

    return plant


def _replace_log(_: Any, path: str) -> None:
    with open(f"{path}/log-1", "rb") as file:
        content = file.read()
    os.unlink(f"{path}/log-1")
    with open(f"{path}/log-1", "wb") as file:
        file.write(content)


def _foreign_sharer(directory: str) -> Callable[[Any, str], object]:
    def plant(_: Any, path: str) -> None:
        name = os.path.join(path.removesuffix(".region") + directory, "f" * 32 + ".sharer")
        file = open(name, "wb")  # noqa: SIM115  held as long as the store
        file.write(b"nobody")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        _HELD.append(file)

    return plant


_HELD: Final[list[Any]] = []
_FOREIGN_LOCK: Final = "no lock record"
_FOREIGN_SHARER: Final = "no sharer's record"


def _known(key: str, **changed: Any) -> Callable[[Any, str], object]:
    def plant(store: Any, _: str) -> None:
        entries = store._backend._entries
        value, form, generation, expires_at, size = entries[key]
        entries[key] = (changed.get("value", value), form, changed.get("generation", generation), expires_at, size)

    return plant


FILE: Final[Plants] = {
    **{f"log header, byte {at}": ("log-1", _flip("/log-1", at)) for at in (0, 7, 12, 16, 24, 28)},
    "a frame's mark": ("offset 32", _write("/log-1", 32, b"\0\0\0\0")),
    "a frame's length": ("offset 32", _flip("/log-1", 36)),
    "a frame's checksum": ("offset 32", _flip("/log-1", 40)),
    "a frame's payload": ("offset 32", _flip("/log-1", 46)),
    "a large value": ("a damaged", _write("/log-1", 400, b"\xff" * 4)),
    "a log cut": ("the log ends here", lambda _, path: os.truncate(f"{path}/log-1", 1000)),
    "a log replaced": ("removed or replaced", _replace_log),
    "a log removed": ("removed or replaced", lambda _, path: os.unlink(f"{path}/log-1")),
    "a frame out of sequence": ("is due", _frame(["k", None, b"\x01"], skip=1)),
    "an operation of no kind": ("outside the grammar", _frame("nonsense")),
    "an operation of five parts": ("outside the grammar", _frame(["k", None, 1, 2, 3])),
    "a touch of what is not there": ("outside the grammar", _frame(["nobody", None])),
    "a put from the future": ("from the future", _frame(["k", None, 10**6, b"\x01"])),
    "a scalar that is none": ("outside the grammar", _frame(["k", None, b"\xc1"])),
    "a list that is none": ("the value of 'odd'", _frame(["odd", None, b"\x92\x01"])),
    "a head's seal": ("H3", _flip("/head", 72)),
    "a head's word beyond the log": ("log-1", lambda store, _: store._backend._head.store(store._backend._seen + 8)),
    "a head's beginning": ("H: ", _flip("/head", 20)),
    "another value in the index": ("B1", _known("needle", value=8)),
    "another generation in the index": ("B1", _known("list", generation=1)),
    "an entry not in the index": ("B1", lambda store, _: store._backend._entries.pop("text")),
    "an entry only in the index": ("B1", lambda s, _: s._backend._entries.update(more=s._backend._entries["text"])),
    "a foreign lock file": (_FOREIGN_LOCK, _write("/locks/door.lock", 0, b"nonsense\n" * 40)),
    "a foreign sharer": (_FOREIGN_SHARER, _foreign_sharer("/locks")),
}


def _sql(*statements: str) -> Callable[[Any, str], object]:
    def plant(_: Any, path: str) -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        for statement in statements:
            connection.execute(statement)
        connection.close()

    return plant


def _page(number: int) -> Callable[[Any, str], object]:
    """Overwrite a page, with the write-ahead log in the database before and nobody's cache in the way."""

    def plant(store: Any, path: str) -> None:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.close()
        with open(path, "r+b") as file:
            file.seek(4096 * (number - 1))
            file.write(b"\xa5" * 4096)
        store.backend.backend._pool.drain()

    return plant


def _change(column: str, value: str) -> Callable[[Any, str], object]:
    return _sql(f"UPDATE entry SET {column} = {value} WHERE key = 'needle'")


SQLITE: Final[Plants] = {
    **{f"page {number}": ("", _page(number)) for number in (2, 3, 5, 6)},
    "a table's page": ("Q1", _page(5)),
    "no floor": ("Q2", _sql("DELETE FROM floor")),
    "two floors": ("Q2", _sql("INSERT INTO floor VALUES (1)")),
    "a floor below zero": ("Q2", _sql("UPDATE floor SET generation = -1")),
    "a floor that is text": ("Q2", _sql("UPDATE floor SET generation = 'x'")),
    "a key that is bytes": ("Q3", _change("key", "x'6b'")),
    "a key that is empty": ("Q3", _change("key", "''")),
    "a key that is too long": ("Q3", _change("key", "printf('%.600c', 'k')")),
    "no generation": ("Q3: 'needle'", _change("generation", "0")),
    "a generation that is text": ("Q3: 'needle'", _change("generation", "'x'")),
    "a blob that is no value": ("'needle'", _change("value", "x'c1'")),
    "a deadline that is text": ("Q5: 'needle'", _change("expires_at", "'x'")),
    "a deadline of the year 50,000": ("Q5: 'needle'", _change("expires_at", "1.6e12")),
    "another table": ("tables are not", _sql("CREATE TABLE other (x)")),
    "no trigger": ("tables are not", _sql("DROP TRIGGER raise_floor")),
    "another application": ("not a store", _sql("PRAGMA application_id=1")),
    "a foreign lock file": (_FOREIGN_LOCK, _write(".locks/door.lock", 0, b"nonsense\n" * 40)),
    "a foreign sharer": (_FOREIGN_SHARER, _foreign_sharer(".locks")),
}


def _in_region(plant: Callable[[regions.Region], None]) -> Callable[[Any, str], object]:
    return lambda _, path: plant(regions.Region(path))


def _lock_of_region(_: Any, path: str) -> None:
    _write("/door.lock", 0, b"nonsense\n" * 40)(_, path.replace(".region", ".locks"))


SHM: Final[Plants] = {
    **{what: (said, _in_region(plant)) for what, (said, plant) in regions.PLANTS.items()},
    "a foreign lock file": (_FOREIGN_LOCK, _lock_of_region),
    "a foreign sharer": (_FOREIGN_SHARER, _foreign_sharer(".locks")),
}


class _OddEntries:
    """Entries of `memory:` of which one is not as it should be: its rows cannot be reached from Python."""

    last = 5

    def __init__(self, row: tuple[Any, ...]) -> None:
        self._row = row

    def snapshot(self) -> list[tuple[Any, ...]]:
        return [self._row]


def _memory(row: tuple[Any, ...]) -> Callable[[Any, str], object]:
    def plant(store: Any, _: str) -> None:
        class Table:
            entries = _OddEntries(row)

        store._backend._open_table = lambda: Table

    return plant


MEMORY: Final[Plants] = {
    "no generation": ("M1: 'k'", _memory(("k", 1, False, 0, None))),
    "a generation from the future": ("M1: 'k'", _memory(("k", 1, False, 6, None))),
    "a container that is none": ("the value of 'k'", _memory(("k", b"\xc1", True, 5, None))),
}

ALL: Final = {"memory": MEMORY, "file": FILE, "sqlite": SQLITE, "shm": SHM}


@pytest.mark.parametrize("scheme", ALL)
def test_every_planted_damage_is_named(scheme: str, evidence: Path) -> None:
    """C1, of each structure that FORMAT.md knows."""
    plants = ALL[scheme]

    found = missed(scheme, plants, evidence)

    record("damage named by check()", scheme, bad=len(found), damages=len(plants))
    assert found == []


def _nothing(*_: Any) -> None:
    """Verify nothing."""


@pytest.mark.parametrize(
    ("scheme", "blinded"),
    [
        ("file", "sharedstate_file.backend.FileBackend._require_own_log"),
        ("file", "sharedstate_file.backend.entry_of"),
        ("sqlite", "sharedstate_sqlite.backend.check_row"),
        ("sqlite", "sharedstate_sqlite.schema.require"),
        ("shm", "sharedstate_shm.backend.LockDirectory.records"),
        ("memory", "sharedstate_memory.backend.decode"),
    ],
)
def test_a_check_that_looks_away_is_found(
    scheme: str, blinded: str, monkeypatch: pytest.MonkeyPatch, evidence: Path
) -> None:
    """Planted bugs: a part of check() does nothing; then something is missed."""
    monkeypatch.setattr(blinded, _nothing)

    assert missed(scheme, ALL[scheme], evidence)


# --- A busy store -------------------------------------------------------------------------

WRITER: Final = """
import random, sys, time
import sharedstate

def write(store, seed, seconds):
    dice, end = random.Random(seed), time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(20):
            key = f"k{dice.randrange(200)}"
            verb = dice.randrange(8)
            if verb < 3:
                store[key] = dice.choice([1, "text", [1, 2], b"x" * dice.randrange(3000), "y" * 20_000])
            elif verb == 3:
                store.set(key, 1, ttl_s=dice.random() / 100)
            elif verb == 4:
                store.delete(key)
            elif verb == 5:
                store.increment("n")
            elif verb == 6:
                store.update({f"k{dice.randrange(200)}": [seed] for _ in range(9)})
            else:
                try:
                    with store.transaction() as tx:
                        tx["a"], tx["b"] = tx.get("b", 0), tx.get("n", 0)
                except sharedstate.ConflictError:
                    pass
        with store.lock("door", timeout_s=60):
            pass

if __name__ == "__main__":
    with sharedstate.open(sys.argv[1]) as store:
        write(store, int(sys.argv[2]), float(sys.argv[3]))
"""


def alarms(url: str, seconds: float, check: Callable[[Any], None]) -> tuple[int, list[str]]:
    """Check a store that four writers are at; return how often, and what was said to be wrong."""
    found: list[str] = []
    checks = 0
    with sharedstate.open(url) as store:
        token = store._backend.change_token()
        if url.startswith("memory:"):
            scope: dict[str, Any] = {"__name__": "writer"}
            exec(WRITER, scope)  # our own program, which the others run as one
            threads = [threading.Thread(target=scope["write"], args=(store, seed, seconds)) for seed in range(4)]
            for thread in threads:
                thread.start()
            end = threads
        else:
            arguments = [sys.executable, "-c", WRITER, url]
            end = [subprocess.Popen([*arguments, str(seed), str(seconds)], stderr=subprocess.PIPE) for seed in range(4)]
        assert store._backend.wait(token, 60)  # a process takes a while to begin
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                check(store)
            except CorruptError as error:
                found.append(str(error))
            checks += 1
        for writer in end:
            if isinstance(writer, threading.Thread):
                writer.join()
            else:
                errors = writer.communicate()[1]
                found += [] if writer.returncode == 0 else [errors.decode()]
        store.check()
    return checks, found


@pytest.mark.parametrize("scheme", ALL)
def test_a_busy_store_raises_no_alarm(scheme: str, evidence: Path) -> None:
    """C2."""
    url = registry.find_plugin(parse_url(f"{scheme}:any")).temporary_url(str(evidence))
    seconds = span_s(2, 0.02)
    patient = url if scheme in {"memory", "shm"} else f"{url}?timeout=60"  # how long one waits is not judged here

    try:
        checks, found = alarms(patient, seconds, lambda store: store.check())
    finally:
        sharedstate.remove(url)

    record("check() of a busy store", scheme, bad=len(found), checks=checks, seconds=seconds)
    assert found == []
    assert checks > 1


def test_a_check_that_races_is_found(evidence: Path) -> None:
    """Planted bug: the log as far as it goes by now, compared with what was known when the lock was free again."""

    def check(store: Any) -> None:
        backend = store._backend
        log, word, generation, _ = backend._writers.run(backend._begin_check)
        patience = time.monotonic() + 1
        while backend._words[0] == word and time.monotonic() < patience:
            time.sleep(0)
        now = backend._words[0]
        if number_of(now) == log.number and load(log, length_of(now))[1] != generation:
            raise CorruptError(url=store.url, reason="B1")

    _, found = alarms(f"file:{evidence}/store", 1, check)

    assert found
