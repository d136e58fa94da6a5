"""What a peer is: a name, and a generator that opens it and yields its verbs."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from benchmarks.measure import Lane
    from benchmarks.workloads import Form, Workload

__all__ = ["Host", "Peer", "Place", "Session", "packing"]


class Place(NamedTuple):
    """Where a contestant keeps its entries.

    Attributes:
        directory: its own, empty, removed after the run.
        token: unlike any other of this machine, for names that are not paths.
        kind: of the values it will hold (`workloads.KINDS`).
        keys: how many of them it will hold; half as many more for a while.
        value_bytes: about as large as one of them is when encoded.
    """

    directory: str
    token: str
    kind: str
    keys: int = 10_000
    value_bytes: int = 2048


def _no_generation(_key: str) -> int:
    return 0


class Host(Protocol):
    """Where a contestant runs that can be used from inside a server only."""

    def fill(self, keys: int) -> None:
        """Store that many keys, as `run` does it with the others."""
        ...

    def make_lane(self, name: str, workload: Workload, form: Form) -> Lane:
        """Return what takes the turns: there, with the keys that `fill` stored."""
        ...


class Session(NamedTuple):
    """An open contestant.

    Attributes:
        verbs: by name, those that it has:
            get(k), None if there is none; set(k, v); delete(k);
            getitem and setitem (the mapping itself);
            increment(k), as one; or increment_apart(k), where another writer may come between;
            compare_and_set(k, v, generation) -> generation;
            swap(k, j): both read and both written as one;
            items() -> every key with its value, as an iterable;
            get_many(list of k), set_many(dict): if they are more than a loop, or its own.
        version: of what is measured.
        note: what a reader must know to judge the figures.
        generation: returns a key's generation, for compare_and_set.
        host: where the verbs run, if that is not here; `verbs` then only names them.
    """

    verbs: Mapping[str, Any]
    version: str
    note: str = ""
    generation: Callable[[str], int] = _no_generation
    host: Host | None = None


class Peer(NamedTuple):
    """One contestant.

    Attributes:
        name: its row.
        open: a generator that yields one Session, and cleans up when it is closed.
        family: the workloads it takes part in.
        most_keys: it holds no more; for those whose every call looks at all of them.
    """

    name: str
    open: Callable[[Place], Generator[Session, None, None]]
    family: str = "store"
    most_keys: int = sys.maxsize


def packing(kind: str) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    """Return the cheapest pair of functions between values of `kind` and bytes; all are C."""
    if kind == "int":
        from struct import Struct

        return Struct(">Q").pack, int.from_bytes
    if kind == "str":
        return str.encode, bytes.decode
    if kind != "dict":
        return bytes, bytes  # of bytes: themselves
    msgpack: Any = import_module("msgpack")
    return msgpack.packb, msgpack.unpackb
