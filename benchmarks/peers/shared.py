"""What shares Python objects between processes: a manager's server, or shared memory used from Python.

multiprocessing is imported when it is used: a process that has it may start others,
which is a reason for `sharedstate.open` to refuse a store of one process.
"""

from __future__ import annotations

import platform
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import Session, packing
from benchmarks.workloads import KINDS, make_keys

if TYPE_CHECKING:
    from collections.abc import Generator

    from benchmarks.peers.base import Place

__all__ = ["open_manager", "open_shareable_list", "open_shared_memory_dict", "open_ultradict"]


def open_manager(_place: Place) -> Generator[Session, None, None]:
    """A dict in a server process, reached by proxies."""
    import multiprocessing

    # Not forked: this process holds open databases, which must not be taken along.
    manager: Any = multiprocessing.get_context("spawn").Manager()
    table, lock = manager.dict(), manager.Lock()

    def increment(k: str) -> int:
        with lock:
            total: int = table[k] + 1
            table[k] = total
            return total

    def swap(k: str, j: str) -> None:
        with lock:
            table[k], table[j] = table[j], table[k]

    verbs = {
        "get": table.get,
        "getitem": table,
        "set": table.__setitem__,
        "setitem": table,
        "delete": table.__delitem__,
        "increment": increment,
        "swap": swap,
        "items": table.items,
        "set_many": table.update,
    }
    try:
        note = "a server process; atomic only as far as everyone uses its Lock(), which has no owner that could die"
        yield Session(verbs, platform.python_version(), note)
    finally:
        manager.shutdown()


def open_shareable_list(place: Place) -> Generator[Session, None, None]:
    """A list of fixed places in shared memory; the caller keeps which key is where."""
    from multiprocessing.shared_memory import ShareableList

    pool = KINDS[place.kind].pool
    pack, unpack = packing(place.kind)
    is_packed = place.kind == "dict"
    # A place never grows, so each is made for the largest value.
    largest = max(map(pack, pool), key=len) if is_packed else max(pool, key=len) if place.kind != "int" else 0
    index = {key: number for number, key in enumerate(make_keys(place.keys))}
    shared: Any = ShareableList([largest] * place.keys)

    def get(k: str) -> Any:
        return shared[index[k]]

    def set_(k: str, v: Any) -> None:
        shared[index[k]] = v

    def get_packed(k: str) -> Any:
        return unpack(shared[index[k]])

    def set_packed(k: str, v: Any) -> None:
        shared[index[k]] = pack(v)

    def increment(k: str) -> int:
        total: int = shared[index[k]] + 1
        shared[index[k]] = total
        return total

    verbs = {"get": get_packed, "set": set_packed} if is_packed else {"get": get, "set": set_}
    try:
        note = "no keys (a dict of the caller's has the places), no lock, so reads may be torn; dicts as msgpack"
        yield Session({**verbs, "increment_apart": increment}, platform.python_version(), note)
    finally:
        shared.shm.close()
        shared.shm.unlink()


def open_ultradict(place: Place) -> Generator[Session, None, None]:
    """A dict in each process, kept equal by a stream of pickled changes in shared memory."""
    from multiprocessing import resource_tracker

    # Its import replaces the tracker's functions for the whole process, which
    # would take the other users of shared memory off the tracker as well.
    former = resource_tracker.register, resource_tracker.unregister, dict(vars(resource_tracker)["_CLEANUP_FUNCS"])
    try:
        ultradict: Any = import_module("UltraDict")
    finally:
        resource_tracker.register, resource_tracker.unregister = former[:2]
        vars(resource_tracker)["_CLEANUP_FUNCS"].update(former[2])
    name = f"ud-{place.token}-{place.kind}"
    # Room for as many changes as there are keys; then all of it is written out anew.
    size = 2**16 + 2 * place.keys * (place.value_bytes + 64)
    table = ultradict.UltraDict(name=name, create=True, buffer_size=size, shared_lock=True)
    lock = table.lock

    def increment(k: str) -> int:
        with lock:
            total: int = table[k] + 1
            table[k] = total
            return total

    def swap(k: str, j: str) -> None:
        with lock:
            table[k], table[j] = table[j], table[k]

    verbs = {
        "get": table.get,
        "getitem": table,
        "set": table.__setitem__,
        "setitem": table,
        "delete": table.__delitem__,
        "increment": increment,
        "swap": swap,
        "items": table.items,
    }
    try:
        note = "shared_lock=True; a get hands out a reference to this process's copy; by pickle"
        yield Session(verbs, metadata.version("UltraDict"), note)
    finally:
        table.close(unlink=True)


def open_shared_memory_dict(place: Place) -> Generator[Session, None, None]:
    """A whole dict, pickled into shared memory."""
    module: Any = import_module("shared_memory_dict")
    # Each get copies all of it, so there is no more than is needed.
    size = 2**14 + 2 * place.keys * (place.value_bytes + 64)
    table = module.SharedMemoryDict(name=f"{place.token}-{place.kind}", size=size)

    def increment(k: str) -> int:
        total: int = table[k] + 1
        table[k] = total
        return total

    verbs = {
        "get": table.get,
        "getitem": table,
        "set": table.__setitem__,
        "setitem": table,
        "delete": table.__delitem__,
        "increment_apart": increment,
        "items": table.items,
        "set_many": table.update,
    }
    try:
        note = "at most 100 keys, as each call copies and unpickles all of them; its lock does not span its writes"
        yield Session(verbs, metadata.version("shared-memory-dict"), note)
    finally:
        table.shm.unlink()
        table.cleanup()
