"""A plain program: what is left when no server is recognised.

Only here do the flags of a request count: a server that nobody knows says by
them how it serves, as far as it tells the truth.
"""

from __future__ import annotations

import os
import sys

from sharedstate.deployment import programs, surroundings
from sharedstate.deployment.model import MANY, Deployment, Fact, Incarnation, known, likely, unknown
from sharedstate.deployment.servers import multiprocess

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

__all__ = ["incarnate", "recognise", "serves"]

_STARTING: Final = ("gunicorn.arbiter", "granian", "hypercorn.config", "uvicorn.config")
"""Modules of servers that a program may start, with workers, after it has asked."""


def recognise(environ: Mapping[str, Any] | None) -> Deployment | None:
    """Return what a program sees of itself; with a request's environ, what that hints at."""
    hints: Mapping[str, Any] = environ if environ is not None else {}
    return Deployment(
        server=_server(hints),
        version=known(sys.version.split()[0], "sys.version"),
        mode=likely("program", "nothing that tells of a server"),
        processes=_processes(hints),
        interpreters=surroundings.interpreters(),
        gil=surroundings.gil(),
        threads=_threads(hints),
        recycled=likely(False, "no server, which could replace the process"),
        preloaded=likely(False, "no server, which could fork workers"),
        application=programs.application_of_program(),
    )


def serves() -> bool:
    """Return True: nobody is known who would fork."""
    return True


def incarnate() -> Incarnation:
    """Return the process that started it all."""
    return multiprocess.incarnate()


def _server(hints: Mapping[str, Any]) -> Fact:
    software = hints.get("SERVER_SOFTWARE")
    if isinstance(software, str) and software:
        return likely(software.partition("/")[0], f"SERVER_SOFTWARE={software} of the request")
    return likely("python", "nothing that tells of a server")


def _processes(hints: Mapping[str, Any]) -> Fact:
    if hints.get("wsgi.multiprocess"):
        return likely(MANY, "wsgi.multiprocess, a hint")
    if hints:
        return unknown("wsgi.multiprocess is False under servers with many processes too")
    if surroundings.module("multiprocessing.context") is not None:
        return unknown("multiprocessing is loaded, and may start any number of children")
    for name in _STARTING:
        if surroundings.module(name) is not None:
            return unknown(f"{name} is loaded, and may start any number of workers")
    runner = programs.runner_of_many()
    if runner:
        return unknown(f"{runner} may run any number of processes")
    own = surroundings.read_process(os.getpid())
    parent = None if own is None else surroundings.read_process(own.parent)
    if own is not None and parent is not None and surroundings.is_forked_copy(own, parent):
        return likely(MANY, "a process forked from one that runs the same program")
    return likely(1, "no sibling process to be seen")


def _threads(hints: Mapping[str, Any]) -> Fact:
    if "wsgi.multithread" in hints:
        return likely(MANY if hints["wsgi.multithread"] else 1, "wsgi.multithread, a hint")
    return unknown("any number that the program starts")
