"""A dict: bare, behind a lock, and behind the same lock by a cheaper road."""

from __future__ import annotations

import platform
from threading import Lock
from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import Session

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping

    from benchmarks.peers.base import Place

__all__ = ["open_dict", "open_dict_lock", "open_dict_lock_bound"]


def open_dict(_place: Place) -> Generator[Session, None, None]:
    """A dict: what sharing costs is measured from here."""
    table: dict[str, Any] = {}

    def increment(k: str) -> int:
        total: int = table.get(k, 0) + 1
        table[k] = total
        return total

    def get_many(ks: Iterable[str]) -> dict[str, Any]:
        return {k: table[k] for k in ks if k in table}

    verbs = {
        "get": table.get,
        "getitem": table,
        "set": table.__setitem__,
        "setitem": table,
        "delete": table.__delitem__,
        "increment_apart": increment,
        "items": table.items,
        "get_many": get_many,
        "set_many": table.update,
    }
    yield Session(verbs, platform.python_version(), "no lock: nothing beyond a single get or set is atomic")


def open_dict_lock(_place: Place) -> Generator[Session, None, None]:  # noqa: C901  many functions, each of a line or two
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

    def delete(k: str) -> bool:
        with lock:
            return table.pop(k, None) is not None

    def items() -> list[tuple[str, Any]]:
        with lock:
            return list(table.items())

    def get_many(ks: Iterable[str]) -> dict[str, Any]:
        with lock:
            return {k: table[k] for k in ks if k in table}

    def set_many(values: Mapping[str, Any]) -> None:
        with lock:
            table.update(values)

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
    note = "threads of one interpreter only; hands out references, not copies"
    yield Session(verbs, platform.python_version(), note, generation)


def open_dict_lock_bound(_place: Place) -> Generator[Session, None, None]:  # noqa: C901, PLR0915
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

    def delete(k: str) -> bool:
        acquire()
        try:
            return table.pop(k, None) is not None
        finally:
            release()

    def items() -> list[tuple[str, Any]]:
        acquire()
        try:
            return list(table.items())
        finally:
            release()

    def get_many(ks: Iterable[str]) -> dict[str, Any]:
        acquire()
        try:
            return {k: table[k] for k in ks if k in table}
        finally:
            release()

    def set_many(values: Mapping[str, Any]) -> None:
        acquire()
        try:
            table.update(values)
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
    note = "acquire(), try, finally release() in place of `with`; else as dict+Lock"
    yield Session(verbs, platform.python_version(), note, generation)
