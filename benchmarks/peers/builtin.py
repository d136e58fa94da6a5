"""What Python brings: a dict behind a lock, and SQLite by hand."""

from __future__ import annotations

import os
import platform
from threading import Lock
from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import Session, packing

if TYPE_CHECKING:
    from collections.abc import Generator

    from benchmarks.peers.base import Place

__all__ = ["open_dict_lock", "open_dict_lock_bound", "open_sqlite3"]


def open_dict_lock(_place: Place) -> Generator[Session, None, None]:
    """A dict behind a `threading.Lock`, used as people write it."""
    lock = Lock()
    table: dict[str, Any] = {}
    generations: dict[str, int] = {}

    def get(k: str) -> Any:
        with lock:
            return table.get(k)

    def set_(k: str, v: Any) -> None:
        with lock:
            table[k] = v

    def increment(k: str) -> int:
        with lock:
            total: int = table.get(k, 0) + 1
            table[k] = total
            return total

    def compare_and_set(k: str, v: Any, expected: int) -> int:
        with lock:
            if generations.get(k, 0) != expected:
                raise ValueError(k)
            table[k] = v
            generations[k] = expected + 1
            return expected + 1

    def swap(k: str, j: str) -> None:
        with lock:
            table[k], table[j] = table[j], table[k]

    def generation(k: str) -> int:
        return generations.get(k, 0)

    verbs = {"get": get, "set": set_, "increment": increment, "compare_and_set": compare_and_set, "swap": swap}
    note = "threads of one interpreter only; hands out references, not copies"
    yield Session(verbs, platform.python_version(), note, generation)


def open_dict_lock_bound(_place: Place) -> Generator[Session, None, None]:
    """The same with the lock's bound methods, which cost half of what `with` costs."""
    lock = Lock()
    acquire, release = lock.acquire, lock.release
    table: dict[str, Any] = {}
    generations: dict[str, int] = {}

    def get(k: str) -> Any:
        acquire()
        try:
            return table.get(k)
        finally:
            release()

    def set_(k: str, v: Any) -> None:
        acquire()
        try:
            table[k] = v
        finally:
            release()

    def increment(k: str) -> int:
        acquire()
        try:
            total: int = table.get(k, 0) + 1
            table[k] = total
            return total
        finally:
            release()

    def compare_and_set(k: str, v: Any, expected: int) -> int:
        acquire()
        try:
            if generations.get(k, 0) != expected:
                raise ValueError(k)
            table[k] = v
            generations[k] = expected + 1
            return expected + 1
        finally:
            release()

    def swap(k: str, j: str) -> None:
        acquire()
        try:
            table[k], table[j] = table[j], table[k]
        finally:
            release()

    def generation(k: str) -> int:
        return generations.get(k, 0)

    verbs = {"get": get, "set": set_, "increment": increment, "compare_and_set": compare_and_set, "swap": swap}
    note = "acquire(), try, finally release() in place of `with`; else as dict+Lock"
    yield Session(verbs, platform.python_version(), note, generation)


def open_sqlite3(place: Place) -> Generator[Session, None, None]:  # noqa: C901  many functions, each of a line or two
    """SQLite, without anything between it and the caller."""
    import sqlite3

    connection = sqlite3.connect(os.path.join(place.directory, "raw.db"), isolation_level=None)
    # The same text each time is a prepared statement: the connection caches it.
    execute = connection.execute
    execute("PRAGMA journal_mode=WAL")
    execute("PRAGMA synchronous=NORMAL")
    # The faster of the two for each kind: a WITHOUT ROWID table halves the speed
    # of 1 KiB values, whose rows then overflow the pages of the only B-tree.
    without = "" if place.kind == "dict" else " WITHOUT ROWID"
    execute(f"CREATE TABLE entry (k TEXT PRIMARY KEY, v, g INTEGER NOT NULL DEFAULT 1){without}")
    # int and str are kept natively; a function that does nothing would cost them a call.
    pack, unpack = packing(place.kind)

    def get(k: str) -> Any:
        return execute("SELECT v FROM entry WHERE k=?", (k,)).fetchone()[0]

    def set_(k: str, v: Any) -> None:
        execute("INSERT INTO entry (k, v) VALUES (?, ?) ON CONFLICT (k) DO UPDATE SET v=excluded.v", (k, v))

    def get_packed(k: str) -> Any:
        return unpack(execute("SELECT v FROM entry WHERE k=?", (k,)).fetchone()[0])

    def set_packed(k: str, v: Any) -> None:
        execute("INSERT INTO entry (k, v) VALUES (?, ?) ON CONFLICT (k) DO UPDATE SET v=excluded.v", (k, pack(v)))

    def increment(k: str) -> Any:
        return execute("UPDATE entry SET v=v+1 WHERE k=? RETURNING v", (k,)).fetchone()[0]

    def compare_and_set(k: str, v: Any, expected: int) -> int:
        if execute("UPDATE entry SET v=?, g=g+1 WHERE k=? AND g=?", (v, k, expected)).rowcount != 1:
            raise ValueError(k)
        return expected + 1

    def compare_and_set_packed(k: str, v: Any, expected: int) -> int:
        return compare_and_set(k, pack(v), expected)

    def swap(k: str, j: str) -> None:
        execute("BEGIN IMMEDIATE")
        try:
            a, b = reader(k), reader(j)
            writer(k, b)
            writer(j, a)
        except BaseException:
            execute("ROLLBACK")
            raise
        execute("COMMIT")

    reader, writer, comparer = get, set_, compare_and_set
    if place.kind == "dict":
        reader, writer, comparer = get_packed, set_packed, compare_and_set_packed
    verbs = {"get": reader, "set": writer, "increment": increment, "compare_and_set": comparer, "swap": swap}

    def generation(key: str) -> int:
        return int(execute("SELECT g FROM entry WHERE k=?", (key,)).fetchone()[0])

    try:
        note = "WAL, synchronous=NORMAL, autocommit; dicts as msgpack"
        yield Session(verbs, sqlite3.sqlite_version, note, generation)
    finally:
        connection.close()
