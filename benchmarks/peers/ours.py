"""Our own backends, through the public `Store`, and our codec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sharedstate
from benchmarks.peers.base import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from benchmarks.peers.base import Place

__all__ = ["BACKENDS", "open_codec", "open_dict_codec", "open_store", "opener", "url_of"]

_VERSION: Final = "source tree"

BACKENDS: Final = {
    "memory": "memory:bench-{token}-{kind}",
    "file": "file:{directory}/store",
    "sqlite": "sqlite:{directory}/store.db",
    "shm": "shm://bench-{token}-{kind}?size=256MiB",
}
"""The URL of each backend; whatever `sharedstate.open` understands may be added."""


def url_of(backend: str, place: Place) -> str:
    """Return the URL of the backend's store in that place."""
    return BACKENDS[backend].format(**place._asdict())


def opener(backend: str) -> Callable[[Place], Generator[Session, None, None]]:
    """Return what opens the backend of that name."""
    return lambda place: open_store(url_of(backend, place))


def open_store(url: str) -> Generator[Session, None, None]:
    """The store at `url`, which is removed at the end."""
    # `memory` is too narrow for a process that may start others, and it is not asked to be wider.
    store = sharedstate.open(url, allow_narrow=True)
    transaction = store.transaction

    def swap(k: str, j: str) -> None:
        with transaction() as tx:
            tx[k], tx[j] = tx[j], tx[k]

    def generation(key: str) -> int:
        entry = store.read(key)
        return sharedstate.ABSENT if entry is None else entry.generation

    try:
        verbs = {
            "get": store.get,
            "getitem": store,
            "set": store.set,
            "setitem": store,
            "delete": store.delete,
            "increment": store.increment,
            "compare_and_set": store.compare_and_set,
            "swap": swap,
            "items": store.items,
            "get_many": store.get_many,
            "set_many": store.set_many,
        }
        yield Session(verbs, _VERSION, generation=generation)
    finally:
        store.close()
        sharedstate.remove(url)


def open_dict_codec(_place: Place) -> Generator[Session, None, None]:
    """A dict of encodings: what any store that hands out copies pays, with the same keys and bytes as the others."""
    from sharedstate.values import decode, encode

    table: dict[str, bytes] = {}

    def get(k: str) -> Any:
        encoded = table.get(k)
        return None if encoded is None else decode(encoded)

    def set_(k: str, v: Any) -> None:
        table[k] = encode(v)

    yield Session({"get": get, "set": set_}, _VERSION, "no lock; the codec alone, on values as cold as the others'")


def open_codec(_place: Place) -> Generator[Session, None, None]:
    """`sharedstate.values`."""
    from sharedstate import values

    note = "the C codec" if values.ACCELERATED else "not built: msgpack in its place"
    yield Session({"encode": values.encode, "decode": values.decode}, _VERSION, note)
