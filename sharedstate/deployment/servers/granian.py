"""granian: its Server, or what it hands to the workers that multiprocessing starts for it.

Python's threads do not show on the stack what granian's own threads in Rust
call, so what was seen once is kept.
"""

from __future__ import annotations

from sharedstate.deployment import programs, surroundings
from sharedstate.deployment.model import MANY, Deployment, Fact, Incarnation, known, likely, unknown
from sharedstate.deployment.servers import multiprocess

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["incarnate", "recognise", "serves"]

_found: list[tuple[str, Any]] = []  # the target and the Server, "" or None if not to be seen


def recognise(environ: Mapping[str, Any] | None) -> Deployment | None:
    """Return what the server was configured with, as far as its workers are told."""
    del environ
    if not _found:
        found = _find()
        if found is None:
            return None
        _found.append(found)
    target, server = _found[0]
    return Deployment(
        server=known("granian", "granian's loader on the stack"),
        version=known(str(surroundings.module("granian").__version__), "granian.__version__"),
        mode=known(str(server.interface), "Server.interface") if server is not None else unknown("not told to workers"),
        processes=known(int(server.workers), "Server.workers")
        if server is not None
        else unknown("a spawned worker is not told how many there are"),
        interpreters=surroundings.interpreters(),
        gil=surroundings.gil(),
        threads=_threads(server),
        recycled=known(True, "the server replaces workers at HUP, and by its options"),
        preloaded=known(False, "each worker imports the application"),
        application=programs.application_of_target(target, "the loader's target"),
    )


def serves() -> bool:
    """Return True: who loads the application serves it."""
    return True


def incarnate() -> Incarnation:
    """Return the server's main process, which hides how often it was told to reload."""
    return multiprocess.incarnate()


def _threads(server: Any) -> Fact:
    if server is None:
        return unknown("not told to workers")
    if str(server.interface).endswith("wsgi"):
        return known(int(server.blocking_threads), "Server.blocking_threads")
    return likely(MANY, "one event loop, with a pool of threads beside it")


def _find() -> tuple[str, Any] | None:
    loading = surroundings.find_frame("granian._internal", "load_target")
    target = surroundings.local(loading, "target")
    server = None
    for function in ("serve", "_serve", "startup"):
        owner = surroundings.local(surroundings.find_frame("granian.server.common", function), "self")
        if hasattr(owner, "workers") and hasattr(owner, "target"):
            server = owner
            break
    if server is not None:
        found = server.target
        return (found if isinstance(found, str) else ""), server
    if isinstance(target, str):
        return target, None
    loader = surroundings.local(surroundings.find_frame("granian.server.mp", "wrapped"), "callback_loader")
    if loader is not None:
        arguments: tuple[Any, ...] = getattr(loader, "args", ())
        return (arguments[0] if arguments and isinstance(arguments[0], str) else ""), None
    return None
