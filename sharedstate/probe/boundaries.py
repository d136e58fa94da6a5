"""What an actor can be, and what can lie between two of them; what of it this Python can make."""

from __future__ import annotations

from enum import Enum
from typing import Final

from sharedstate.model import Scope
from sharedstate.probe import interpreters

__all__ = ["KINDS_OF", "Boundary", "Kind", "available_kinds"]


class Kind(Enum):
    """What an actor is."""

    THREAD = "thread"  # of a host process's main interpreter; all thread actors share one process
    LEGACY = "legacy"  # a sub-interpreter that shares the GIL; all interpreters share one process
    ISOLATED = "isolated"  # a sub-interpreter with a GIL of its own
    FORKED = "forked"  # a forked child of the threads' process
    SPAWNED = "spawned"  # a child with a fresh interpreter
    UNRELATED = "unrelated"  # a process without parent, session or descriptor in common


class Boundary(Enum):
    """What lies between two actors; in the order in which it separates more and more."""

    SAME_THREAD = "same-thread"
    THREADS = "threads"
    LEGACY = "legacy"
    ISOLATED = "isolated"
    FORKED = "forked"
    SPAWNED = "spawned"
    UNRELATED = "unrelated"

    @property
    def title(self) -> str:
        """Its name for people."""
        return _TITLES[self][0]

    @property
    def example(self) -> str:
        """Where one meets it, in a word or two."""
        return _TITLES[self][1]

    @property
    def meaning(self) -> str:
        """What it is, and where one meets it."""
        return _TITLES[self][2]

    @property
    def scope(self) -> Scope:
        """The least scope that reaches across."""
        if self in {Boundary.SAME_THREAD, Boundary.THREADS}:
            return Scope.INTERPRETER
        return Scope.PROCESS if self.is_within_process else Scope.HOST

    @property
    def is_within_process(self) -> bool:
        """Whether both sides are one process, which dies as a whole."""
        return self not in {Boundary.FORKED, Boundary.SPAWNED, Boundary.UNRELATED}


_TITLES: Final = {
    Boundary.SAME_THREAD: ("same thread", "two libraries", "Two handles in one thread, as two libraries open them."),
    Boundary.THREADS: ("threads", "gthread, executors", "Two threads of one interpreter: threaded servers, executors."),
    Boundary.LEGACY: (
        "legacy interpreters",
        "mod_wsgi groups",
        "Two sub-interpreters of one process that share its GIL: mod_wsgi's application groups.",
    ),
    Boundary.ISOLATED: (
        "isolated interpreters",
        "InterpreterPool",
        "Two sub-interpreters of one process with a GIL each (PEP 684): interpreter pools, WSGIPerInterpreterGIL.",
    ),
    Boundary.FORKED: ("forked child", "gunicorn, uWSGI", "A parent and its forked child: servers that fork workers."),
    Boundary.SPAWNED: (
        "spawned child",
        "multiprocessing",
        "A parent and a child with a fresh interpreter: multiprocessing's spawn, servers on such workers.",
    ),
    Boundary.UNRELATED: (
        "unrelated process",
        "cron job, shell",
        "Two processes with nothing in common but the store's URL: a worker and a cron job or a shell.",
    ),
}

KINDS_OF: Final = {
    Boundary.SAME_THREAD: (Kind.THREAD, Kind.THREAD),
    Boundary.THREADS: (Kind.THREAD, Kind.THREAD),
    Boundary.LEGACY: (Kind.LEGACY, Kind.LEGACY),
    Boundary.ISOLATED: (Kind.ISOLATED, Kind.ISOLATED),
    Boundary.FORKED: (Kind.THREAD, Kind.FORKED),
    Boundary.SPAWNED: (Kind.THREAD, Kind.SPAWNED),
    Boundary.UNRELATED: (Kind.THREAD, Kind.UNRELATED),
}


def available_kinds() -> dict[Kind, str]:
    """Return for each kind why this Python cannot make it, "" if it can."""
    reasons = dict.fromkeys(Kind, "")
    for kind in (Kind.LEGACY, Kind.ISOLATED):
        reasons[kind] = interpreters.reason_unavailable(kind.value)
    return reasons
