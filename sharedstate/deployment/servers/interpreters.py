"""A sub-interpreter of no known server: of InterpreterPoolExecutor, concurrent.interpreters or `_interpreters`."""

from __future__ import annotations

import sys

from sharedstate.deployment import programs, surroundings
from sharedstate.deployment.model import MANY, Deployment, Fact, Incarnation, known, likely, unknown
from sharedstate.deployment.servers import multiprocess
from sharedstate.model import interpreter_id

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["incarnate", "recognise", "serves"]


def recognise(environ: Mapping[str, Any] | None) -> Deployment | None:
    """Return what a sub-interpreter sees: that it is one, and the command of its process."""
    del environ
    identity = interpreter_id()
    if identity == 0:
        return None
    return Deployment(
        server=likely("interpreters", f"interpreter {identity}, and no known server's"),
        version=known(sys.version.split()[0], "sys.version"),
        mode=known("sub-interpreter", f"interpreter {identity}"),
        processes=_processes(),
        interpreters=known(MANY, f"interpreter {identity} has a main one at least beside it"),
        gil=surroundings.gil(),
        threads=unknown("who made this interpreter may run any number of threads in it"),
        recycled=likely(False, "no server, which could replace the process"),
        preloaded=known(False, "a sub-interpreter imports everything itself"),
        application=programs.application_of_program(),
    )


def serves() -> bool:
    """Return True: it was made to be used."""
    return True


def incarnate() -> Incarnation:
    """Return the process that started it all."""
    return multiprocess.incarnate()


def _processes() -> Fact:
    if multiprocess.is_child():
        return unknown("a child of multiprocessing; it may have any number of siblings")
    if surroundings.os_environment("SERVER_SOFTWARE") or surroundings.os_environment("UWSGI_RELOADS"):
        return unknown("the main interpreter is a server's, which this one cannot ask")
    return likely(1, "no sibling process to be seen")
