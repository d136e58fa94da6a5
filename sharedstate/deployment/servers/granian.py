"""granian: its Server, which a forked worker's stack still has below it, or what it hands to a spawned one.

Its own threads, in Rust, call the application with nothing below it, so what
was seen once is kept.
"""

from __future__ import annotations

from sharedstate.deployment import programs, surroundings
from sharedstate.deployment.model import MANY, Deployment, Fact, Incarnation, known, likely, unknown
from sharedstate.deployment.servers import multiprocess

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

__all__ = ["incarnate", "recognise", "serves"]

_WORKERS: Final = "granian.server.mp"


class _Told:
    """What this process was told of the server: "" or None for what it was not.

    Attributes:
        target: the application, as the server was given it.
        interface: "wsgi", "asgi", "rsgi" ...
        workers: how many processes.
        threads: how many that run the application, in each.
    """

    __slots__ = ("interface", "target", "threads", "workers")

    def __init__(self, target: object, interface: str, workers: int | None, threads: int | None) -> None:
        self.target = target
        self.interface = interface
        self.workers = workers
        self.threads = threads


_found: list[_Told] = []  # what was seen once


def recognise(environ: Mapping[str, Any] | None) -> Deployment | None:
    """Return what the server was configured with, as far as its workers are told."""
    del environ
    if not _found:
        found = _of_server() or _of_worker()
        if found is None:
            return None
        _found.append(found)
    told = _found[0]
    return Deployment(
        server=known("granian", "granian's Server or worker on the stack"),
        version=known(str(surroundings.module("granian").__version__), "granian.__version__"),
        mode=known(told.interface, "the worker's interface"),
        processes=known(told.workers, "Server.workers")
        if told.workers is not None
        else unknown("a spawned worker is not told how many there are"),
        interpreters=surroundings.interpreters(),
        gil=surroundings.gil(),
        threads=_threads(told),
        recycled=known(True, "the server replaces workers at HUP, and by its options"),
        preloaded=known(False, "each worker imports the application"),
        application=programs.application_of_target(told.target, "the loader's target"),
    )


def serves() -> bool:
    """Return True: who loads the application serves it."""
    return True


def incarnate() -> Incarnation:
    """Return the server's main process, which hides how often it was told to reload."""
    return multiprocess.incarnate()


def _threads(told: _Told) -> Fact:
    if told.interface != "wsgi":
        return likely(MANY, "one event loop, with a pool of threads beside it")
    return known(told.threads, "blocking_threads") if told.threads is not None else unknown("not told to the worker")


def _of_server() -> _Told | None:
    for function in ("serve", "_serve", "startup"):
        server = surroundings.local(surroundings.find_frame("granian.server.common", function), "self")
        if hasattr(server, "workers") and hasattr(server, "target"):
            return _Told(server.target, str(server.interface), int(server.workers), int(server.blocking_threads))
    return None


def _of_worker() -> _Told | None:
    """Return what a worker's first function was called with: a loader of the application, and the worker's settings."""
    frame = surroundings.find_frame(_WORKERS, "wrapped")
    loader: Any = surroundings.local(frame, "callback_loader")
    serve: Any = surroundings.local(frame, "target")  # _spawn_wsgi_worker and the like
    if loader is None or serve is None:
        return None
    code = serve.__code__
    # The first five are the number, the application, the socket, the pipe and the loop.
    settings = dict(zip(code.co_varnames[5 : code.co_argcount], surroundings.local(frame, "args"), strict=False))
    interface = str(code.co_name).removeprefix("_spawn_").partition("_")[0]
    return _Told(next(iter(getattr(loader, "args", ())), ""), interface, None, settings.get("blocking_threads"))
