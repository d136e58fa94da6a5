"""What people install: imported when opened, so that one which is missing is only left out."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import Session, packing

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping

    from benchmarks.peers.base import Place

__all__ = ["open_diskcache", "open_fanout_cache", "open_lmdb", "open_msgpack", "open_msgpack_packer"]


def open_lmdb(place: Place) -> Generator[Session, None, None]:  # noqa: C901  many functions, each of a line or two
    """LMDB as fast as it goes without giving up its own integrity when a process dies."""
    lmdb: Any = import_module("lmdb")
    environment = lmdb.open(place.directory, map_size=2**30, sync=False, writemap=True)
    begin = environment.begin
    pack, unpack = packing(place.kind)

    def get(k: str) -> Any:
        with begin() as txn:
            found = txn.get(k.encode())
        return None if found is None else unpack(found)

    def set_(k: str, v: Any) -> None:
        with begin(write=True) as txn:
            txn.put(k.encode(), pack(v))

    def delete(k: str) -> bool:
        with begin(write=True) as txn:
            return bool(txn.delete(k.encode()))

    def items() -> Iterator[tuple[str, Any]]:
        with begin() as txn:
            for key, value in txn.cursor():
                yield key.decode(), unpack(value)

    def get_many(ks: Iterable[str]) -> dict[str, Any]:
        with begin() as txn, txn.cursor() as cursor:
            return {key.decode(): unpack(value) for key, value in cursor.getmulti([k.encode() for k in ks])}

    def set_many(values: Mapping[str, Any]) -> None:
        with begin(write=True) as txn, txn.cursor() as cursor:
            cursor.putmulti([(k.encode(), pack(v)) for k, v in values.items()])

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

    verbs = {
        "get": get,
        "set": set_,
        "delete": delete,
        "increment": increment,
        "compare_and_set": compare_and_set,
        "swap": swap,
        "items": items,
        "get_many": get_many,
        "set_many": set_many,
    }
    version = f"{metadata.version('lmdb')} (liblmdb {'.'.join(map(str, lmdb.version()))})"
    try:
        yield Session(verbs, version, "sync=False, writemap=True, a transaction per call; dicts as msgpack", generation)
    finally:
        environment.close()


def open_diskcache(place: Place) -> Generator[Session, None, None]:
    """diskcache, with its defaults."""
    diskcache: Any = import_module("diskcache")
    yield from _use_diskcache(diskcache.Cache(place.directory), "Cache() with its default settings; dicts by pickle")


def open_fanout_cache(place: Place) -> Generator[Session, None, None]:
    """The same over several databases, so that writers meet less often."""
    diskcache: Any = import_module("diskcache")
    note = "FanoutCache(): 8 shards, a transaction locks them all; dicts by pickle"
    yield from _use_diskcache(diskcache.FanoutCache(place.directory), note)


def _use_diskcache(cache: Any, note: str) -> Generator[Session, None, None]:
    transact = cache.transact

    def items() -> Iterator[tuple[str, Any]]:
        for key in cache:
            yield key, cache[key]

    def get_many(ks: Iterable[str]) -> dict[str, Any]:
        with transact():
            return {k: cache[k] for k in ks}

    def set_many(values: Mapping[str, Any]) -> None:
        with transact():
            for k, v in values.items():
                cache[k] = v

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
        "delete": cache.delete,
        "increment": cache.incr,
        "compare_and_set": compare_and_set,
        "swap": swap,
        "items": items,
        "get_many": get_many,
        "set_many": set_many,
    }
    try:
        yield Session(verbs, metadata.version("diskcache"), note, generation)
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
