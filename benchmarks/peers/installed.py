"""What people install: imported when opened, so that one which is missing is only left out."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import Session, packing

if TYPE_CHECKING:
    from collections.abc import Generator

    from benchmarks.peers.base import Place

__all__ = ["open_diskcache", "open_lmdb", "open_msgpack", "open_msgpack_packer"]


def open_lmdb(place: Place) -> Generator[Session, None, None]:
    """LMDB as fast as it goes without giving up its own integrity when a process dies."""
    lmdb: Any = import_module("lmdb")
    environment = lmdb.open(place.directory, map_size=2**30, sync=False, writemap=True)
    begin = environment.begin
    pack, unpack = packing(place.kind)

    def get(k: str) -> Any:
        with begin() as txn:
            return unpack(txn.get(k.encode()))

    def set_(k: str, v: Any) -> None:
        with begin(write=True) as txn:
            txn.put(k.encode(), pack(v))

    def increment(k: str) -> int:
        key = k.encode()
        with begin(write=True) as txn:
            total = unpack(txn.get(key)) + 1
            txn.put(key, pack(total))
            return int(total)

    def compare_and_set(k: str, v: Any, expected: int) -> int:
        # A generation of 8 bytes before the value, as one would have to keep it.
        key = b"g" + k.encode()
        with begin(write=True) as txn:
            found = txn.get(key)
            if (int.from_bytes(found[:8], "big") if found else 0) != expected:
                raise ValueError(k)
            txn.put(key, (expected + 1).to_bytes(8, "big") + pack(v))
            return expected + 1

    def swap(k: str, j: str) -> None:
        a, b = k.encode(), j.encode()
        with begin(write=True) as txn:
            first, second = unpack(txn.get(a)), unpack(txn.get(b))
            txn.put(a, pack(second))
            txn.put(b, pack(first))

    def generation(key: str) -> int:
        with begin() as txn:
            found = txn.get(b"g" + key.encode())
            return int.from_bytes(found[:8], "big") if found else 0

    verbs = {"get": get, "set": set_, "increment": increment, "compare_and_set": compare_and_set, "swap": swap}
    version = f"{metadata.version('lmdb')} (liblmdb {'.'.join(map(str, lmdb.version()))})"
    try:
        yield Session(verbs, version, "sync=False, writemap=True, a transaction per call; dicts as msgpack", generation)
    finally:
        environment.close()


def open_diskcache(place: Place) -> Generator[Session, None, None]:
    """diskcache, with its defaults."""
    diskcache: Any = import_module("diskcache")
    cache = diskcache.Cache(place.directory)
    transact = cache.transact

    def compare_and_set(k: str, v: Any, expected: int) -> int:
        key = f"g{k}"
        with transact():
            if cache.get(key, (0,))[0] != expected:
                raise ValueError(k)
            cache.set(key, (expected + 1, v))
            return expected + 1

    def swap(k: str, j: str) -> None:
        with transact():
            cache[k], cache[j] = cache[j], cache[k]

    def generation(key: str) -> int:
        return int(cache.get(f"g{key}", (0,))[0])

    verbs = {
        "get": cache.get,
        "getitem": cache,
        "set": cache.set,
        "setitem": cache,
        "increment": cache.incr,
        "compare_and_set": compare_and_set,
        "swap": swap,
    }
    try:
        yield Session(
            verbs,
            metadata.version("diskcache"),
            "Cache() with its default settings; dicts by pickle",
            generation,
        )
    finally:
        cache.close()


def open_msgpack(_place: Place) -> Generator[Session, None, None]:
    """The functions of msgpack; the module in the note tells whether they are C."""
    msgpack: Any = import_module("msgpack")
    note = f"packb, unpackb; {msgpack.Packer.__module__}"
    yield Session({"encode": msgpack.packb, "decode": msgpack.unpackb}, metadata.version("msgpack"), note)


def open_msgpack_packer(_place: Place) -> Generator[Session, None, None]:
    """A Packer of msgpack, made once: what packb does, less its making."""
    msgpack: Any = import_module("msgpack")
    note = "one Packer kept; unpackb is as cheap as unpacking gets"
    yield Session({"encode": msgpack.Packer().pack}, metadata.version("msgpack"), note)
