"""Leaks of which each must be found, made in one handle or one interpreter."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any, Final

import sharedstate
from leaks.calls import SHARED

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["INTERPRETER_PLANTS", "PLANTS", "plant"]


def plant(name: str, store: sharedstate.Store) -> None:
    """Have the handle leak as the plant of that name does; "": not at all."""
    if name:
        PLANTS[name](store)


def _cache(store: sharedstate.Store) -> None:
    """Every read leaves an item in a cache."""
    get, cache = store.get, dict[int, Any]()

    def get_and_keep(key: str, default: Any = None) -> Any:
        found = cache[len(cache)] = get(key, default)
        return found

    store.get = get_and_keep  # type: ignore[method-assign]


def _block(store: sharedstate.Store) -> None:
    """Every increment loses a block of the C library's, of which Python knows nothing."""
    increment, malloc = store.increment, ctypes.CDLL(None).malloc

    def increment_and_lose(*arguments: Any) -> Any:
        malloc(16)
        return increment(*arguments)

    store.increment = increment_and_lose  # type: ignore[method-assign]


def _reference(store: sharedstate.Store) -> None:
    """A conflict keeps a reference to the key, as a C function does that forgets one on its error path."""
    compare_and_set = store.compare_and_set

    def compare_and_keep(*arguments: Any) -> int:
        try:
            return compare_and_set(*arguments)
        except sharedstate.ConflictError:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(SHARED[0]))
            raise

    store.compare_and_set = compare_and_keep  # type: ignore[method-assign]


def _descriptor(store: sharedstate.Store) -> None:
    """A lock that is not got keeps a descriptor."""
    lock = store.lock

    def lock_and_keep(name: str, timeout_s: float | None = None) -> Any:
        if name == "held":
            os.dup(0)
        return lock(name, timeout_s)

    store.lock = lock_and_keep  # type: ignore[method-assign]


def _entry(store: sharedstate.Store) -> None:
    """A transaction leaves an entry behind."""
    transact = store.transact

    def transact_and_leave(body: Any) -> Any:
        store.set(f"left {len(store)}", 1)
        return transact(body)

    store.transact = transact_and_leave  # type: ignore[method-assign, assignment]


PLANTS: Final[dict[str, Callable[[sharedstate.Store], None]]] = {
    "block": _block,
    "cache": _cache,
    "descriptor": _descriptor,
    "entry": _entry,
    "reference": _reference,
}

INTERPRETER_PLANTS: Final = {
    "": "",
    "bytes": "import ctypes; libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p\n"
    "libc.memset(ctypes.c_void_p(libc.malloc(1 << 20)), 1, 1 << 20)",
    "descriptor": "import os; os.dup(0)",
    "region": "import os; fd = os.open('/dev/shm', os.O_TMPFILE | os.O_RDWR, 0o600)\n"
    "os.ftruncate(fd, 4096); import ctypes; libc = ctypes.CDLL(None); libc.mmap(None, 4096, 1, 1, fd, 0); os.close(fd)",
}
"""What an interpreter that leaks runs besides."""
