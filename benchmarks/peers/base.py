"""What a peer is: a name, and a generator that opens it and yields its verbs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

__all__ = ["Peer", "Place", "Session", "packing"]


class Place(NamedTuple):
    """Where a contestant keeps its entries.

    Attributes:
        directory: its own, empty, removed after the run.
        token: unlike any other of this machine, for names that are not paths.
        kind: of the values it will hold (`workloads.KINDS`).
    """

    directory: str
    token: str
    kind: str


def _no_generation(_key: str) -> int:
    return 0


class Session(NamedTuple):
    """An open contestant.

    Attributes:
        verbs: by name: get(k), set(k, v), getitem and setitem (the mapping),
            increment(k), compare_and_set(k, v, generation) -> generation,
            swap(k, j): both read and both written as one.
        version: of what is measured.
        note: what a reader must know to judge the figures.
        generation: returns a key's generation, for compare_and_set.
    """

    verbs: Mapping[str, Any]
    version: str
    note: str = ""
    generation: Callable[[str], int] = _no_generation


class Peer(NamedTuple):
    """One contestant.

    Attributes:
        name: its row.
        open: a generator that yields one Session, and cleans up when it is closed.
        family: the workloads it takes part in.
    """

    name: str
    open: Callable[[Place], Generator[Session, None, None]]
    family: str = "store"


def packing(kind: str) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    """Return the cheapest pair of functions between values of `kind` and bytes; all are C."""
    if kind == "int":
        from struct import Struct

        return Struct(">Q").pack, int.from_bytes
    if kind == "str":
        return str.encode, bytes.decode
    msgpack: Any = import_module("msgpack")
    return msgpack.packb, msgpack.unpackb
