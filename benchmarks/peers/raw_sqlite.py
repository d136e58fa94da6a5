"""SQLite by hand: what a library around it has to be held against."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import Session, packing

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    from benchmarks.peers.base import Place

__all__ = ["open_sqlite3"]


def open_sqlite3(place: Place) -> Generator[Session, None, None]:  # noqa: C901, PLR0915  many small functions
    """SQLite, without anything between it and the caller."""
    import sqlite3

    connection = sqlite3.connect(os.path.join(place.directory, "raw.db"), isolation_level=None)
    # The same text each time is a prepared statement: the connection caches it.
    execute = connection.execute
    execute("PRAGMA journal_mode=WAL")
    execute("PRAGMA synchronous=NORMAL")
    # The faster of the two for each kind: a WITHOUT ROWID table halves the speed
    # of 1 KiB values and more, whose rows then overflow the pages of the only B-tree.
    without = " WITHOUT ROWID" if place.kind in {"int", "str"} else ""
    execute(f"CREATE TABLE entry (k TEXT PRIMARY KEY, v, g INTEGER NOT NULL DEFAULT 1){without}")
    # int, str and bytes are kept natively; a function that does nothing would cost them a call.
    pack, unpack = packing(place.kind)

    upsert = "INSERT INTO entry (k, v) VALUES (?, ?) ON CONFLICT (k) DO UPDATE SET v=excluded.v"

    def get(k: str) -> Any:
        row = execute("SELECT v FROM entry WHERE k=?", (k,)).fetchone()
        return None if row is None else row[0]

    def set_(k: str, v: Any) -> None:
        execute(upsert, (k, v))

    def get_packed(k: str) -> Any:
        row = execute("SELECT v FROM entry WHERE k=?", (k,)).fetchone()
        return None if row is None else unpack(row[0])

    def set_packed(k: str, v: Any) -> None:
        execute(upsert, (k, pack(v)))

    def delete(k: str) -> bool:
        return bool(execute("DELETE FROM entry WHERE k=?", (k,)).rowcount)

    def items() -> Iterable[tuple[str, Any]]:
        return execute("SELECT k, v FROM entry").fetchall()

    def items_packed() -> Iterable[tuple[str, Any]]:
        return [(k, unpack(v)) for k, v in execute("SELECT k, v FROM entry")]

    def get_many(ks: Sequence[str]) -> dict[str, Any]:
        marks = ",".join("?" * len(ks))
        return dict(execute(f"SELECT k, v FROM entry WHERE k IN ({marks})", ks).fetchall())

    def get_many_packed(ks: Sequence[str]) -> dict[str, Any]:
        return {k: unpack(v) for k, v in get_many(ks).items()}

    def set_many(values: Mapping[str, Any]) -> None:
        execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(upsert, values.items())
        except BaseException:
            execute("ROLLBACK")
            raise
        execute("COMMIT")

    def set_many_packed(values: Mapping[str, Any]) -> None:
        set_many({k: pack(v) for k, v in values.items()})

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

    packed = place.kind == "dict"
    reader, writer = (get_packed, set_packed) if packed else (get, set_)
    verbs = {
        "get": reader,
        "set": writer,
        "delete": delete,
        "increment": increment,
        "compare_and_set": compare_and_set_packed if packed else compare_and_set,
        "swap": swap,
        "items": items_packed if packed else items,
        "get_many": get_many_packed if packed else get_many,
        "set_many": set_many_packed if packed else set_many,
    }

    def generation(key: str) -> int:
        return int(execute("SELECT g FROM entry WHERE k=?", (key,)).fetchone()[0])

    try:
        note = "WAL, synchronous=NORMAL, autocommit; dicts as msgpack"
        yield Session(verbs, sqlite3.sqlite_version, note, generation)
    finally:
        connection.close()
