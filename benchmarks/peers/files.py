"""One or many files, read and written by Python: shelve, dbm, cachelib."""

from __future__ import annotations

import os
import platform
import sys
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any, Final

from benchmarks.peers.base import Session, packing

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from benchmarks.peers.base import Place

__all__ = ["open_cachelib", "open_dbm", "open_shelve"]


# By default, which is all that dbm.open offers.
_DISK: Final = ", as dbm.sqlite3 waits for the disk with each write" if sys.version_info >= (3, 13) else ""


def open_shelve(place: Place) -> Generator[Session, None, None]:
    """The shelf of the standard library."""
    path = os.path.join(place.directory, "shelf")
    shelf: Any = import_module("shelve").open(path, "n")

    def increment(k: str) -> int:
        total: int = shelf[k] + 1
        shelf[k] = total
        return total

    verbs = {
        "get": shelf.get,
        "getitem": shelf,
        "set": shelf.__setitem__,
        "setitem": shelf,
        "delete": shelf.__delitem__,
        "increment_apart": increment,
        "items": shelf.items,
    }
    try:
        note = f"over {import_module('dbm').whichdb(path)}; by pickle; at most 300 keys{_DISK}"
        yield Session(verbs, platform.python_version(), note)
    finally:
        shelf.close()


def open_dbm(place: Place) -> Generator[Session, None, None]:
    """The best dbm that this Python has."""
    dbm: Any = import_module("dbm")
    path = os.path.join(place.directory, "table")
    table = dbm.open(path, "n")
    pack, unpack = packing(place.kind)

    def get(k: str) -> Any:
        found = table.get(k.encode())
        return None if found is None else unpack(found)

    def set_(k: str, v: Any) -> None:
        table[k.encode()] = pack(v)

    def delete(k: str) -> None:
        del table[k.encode()]

    def increment(k: str) -> int:
        key = k.encode()
        total: int = unpack(table[key]) + 1
        table[key] = pack(total)
        return total

    def items() -> Iterator[tuple[str, Any]]:
        for key in table.keys():  # noqa: SIM118  not every dbm can be iterated
            yield key.decode(), unpack(table[key])

    verbs = {"get": get, "set": set_, "delete": delete, "increment_apart": increment, "items": items}
    try:
        note = f"{dbm.whichdb(path)}; dicts as msgpack; at most 300 keys{_DISK}"
        yield Session(verbs, platform.python_version(), note)
    finally:
        table.close()


def open_cachelib(place: Place) -> Generator[Session, None, None]:
    """The file cache of cachelib, formerly of Werkzeug, that Flask-Caching and Flask-Session use."""
    # Without a threshold it neither counts nor evicts; 0 is also "never expires".
    cache: Any = import_module("cachelib").FileSystemCache(place.directory, threshold=0, default_timeout=0)

    def get_many(ks: list[str]) -> Any:
        return cache.get_dict(*ks)

    verbs = {
        "get": cache.get,
        "set": cache.set,
        "delete": cache.delete,
        "increment_apart": cache.inc,
        "get_many": get_many,
        "set_many": cache.set_many,
    }
    yield Session(verbs, metadata.version("cachelib"), "FileSystemCache(threshold=0): a file per key, by pickle")
