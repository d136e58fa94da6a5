"""Who contends, in which kinds of workers, and what must run for it meanwhile."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from benchmarks.parts.crew import KINDS
from benchmarks.parts.servers import running_manager, running_redis

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from contextlib import AbstractContextManager

    from benchmarks.parts.room import Room

__all__ = ["CONTENDERS", "Contender", "contenders"]


class Contender(NamedTuple):
    """One contestant.

    Attributes:
        name: its row.
        attach: what a worker opens it with, "module:function"; see `attach`.
        kinds: of workers that can share it, of `crew.KINDS`.
        run: makes it in a room, for a purpose of its own; yields the place that `attach` takes, and removes it.
    """

    name: str
    attach: str
    kinds: tuple[str, ...]
    run: Callable[[Room, str], AbstractContextManager[str]]


def ours(backend: str, options: str = "") -> Callable[[Room, str], AbstractContextManager[str]]:
    """Return what makes a store of ours."""
    return lambda room, purpose: room.store(backend, purpose, options)


def _in_directory(name: str = "") -> Callable[[Room, str], AbstractContextManager[str]]:
    """Return what makes nothing but a directory; the place is `name` in it, or itself."""

    @contextmanager
    def make(room: Room, purpose: str) -> Generator[str, None, None]:
        yield os.path.join(room.make_place(purpose).directory, name).rstrip("/")

    return make


def _served(run: Callable[[str], AbstractContextManager[str]]) -> Callable[[Room, str], AbstractContextManager[str]]:
    """Return what runs a server, in a directory."""
    return lambda room, purpose: run(room.make_place(purpose).directory)


_PROCESSES: Final = ("processes",)

CONTENDERS: Final = (
    Contender("memory", "benchmarks.parts.attach:store", ("threads",), ours("memory")),
    Contender("file", "benchmarks.parts.attach:store", KINDS, ours("file")),
    Contender("sqlite", "benchmarks.parts.attach:store", KINDS, ours("sqlite")),
    Contender("shm", "benchmarks.parts.attach:store", KINDS, ours("shm")),
    Contender("dict+Lock", "benchmarks.parts.attach:dict_lock", ("threads",), _in_directory()),
    Contender("raw sqlite3", "benchmarks.parts.attach:sqlite3", _PROCESSES, _in_directory("raw.db")),
    Contender("LMDB", "benchmarks.parts.attach:lmdb", _PROCESSES, _in_directory()),
    Contender("diskcache", "benchmarks.parts.attach:diskcache", _PROCESSES, _in_directory()),
    Contender("Manager", "benchmarks.parts.attach:manager", _PROCESSES, _served(running_manager)),
    Contender("redis", "benchmarks.parts.attach:redis", _PROCESSES, _served(running_redis)),
)
"""In the order of the tables."""

_BACKENDS: Final = frozenset({"memory", "file", "sqlite", "shm"})

FLOCK: Final = Contender("flock", "benchmarks.parts.attach:flock", _PROCESSES, _in_directory("lock"))
FSYNC: Final = Contender("one fdatasync each", "benchmarks.parts.attach:fsync", _PROCESSES, _in_directory("log"))


@contextmanager
def _run_pipe(room: Room, purpose: str) -> Generator[str, None, None]:
    path = os.path.join(room.make_place(purpose).directory, "pipe")
    os.mkfifo(path)
    yield path


PIPE: Final = Contender("pipe", "benchmarks.parts.attach:pipe", _PROCESSES, _run_pipe)

RACY: Final = Contender("planted: racy", "benchmarks.parts.attach:racy", ("threads",), _in_directory())
HALVED: Final = Contender("planted: halved", "benchmarks.parts.attach:halved", ("threads",), _in_directory())


def contenders(room: Room, kind: str) -> Iterator[Contender]:
    """Yield those that share with workers of this kind, without those of ours that were not asked for."""
    for contender in CONTENDERS:
        if kind in contender.kinds and (contender.name not in _BACKENDS or contender.name in room.backends):
            yield contender
