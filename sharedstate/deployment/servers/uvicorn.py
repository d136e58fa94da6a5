"""uvicorn: its Config, which stands on the main thread's stack below the application.

With --workers or --reload a supervisor spawns the serving processes and imports no application.
"""

from __future__ import annotations

from sharedstate.deployment import programs, surroundings
from sharedstate.deployment.model import MANY, Deployment, Incarnation, known, likely, unknown
from sharedstate.deployment.servers import multiprocess

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["incarnate", "is_stopping", "recognise", "serves"]

_found: list[Any] = []  # the Config, once it was seen; a spawned process never changes it


def recognise(environ: Mapping[str, Any] | None) -> Deployment | None:
    """Return what the server that loads or runs the application was configured with."""
    del environ
    config = _find()
    if config is None:
        return None
    parent = multiprocess.parent_pid()
    workers = int(config.workers or 1)
    reload = bool(config.reload)
    return Deployment(
        server=known("uvicorn", "uvicorn's Config on the stack"),
        version=known(str(surroundings.module("uvicorn").__version__), "uvicorn.__version__"),
        mode=known("reload" if reload else "workers" if workers > 1 else "single", "Config.workers, Config.reload"),
        processes=known(workers, "Config.workers")
        if workers > 1 or parent is None or reload
        else unknown("one worker, started by multiprocessing: its supervisor may start more of them"),
        interpreters=surroundings.interpreters(),
        gil=surroundings.gil(),
        threads=likely(MANY, "one event loop, with a pool of threads beside it"),
        recycled=known(True, "the supervisor replaces processes")
        if parent is not None
        else known(False, "no supervisor, which could replace the process"),
        preloaded=known(False, "serving processes are spawned, not forked"),
        application=programs.application_of_target(config.app, "Config.app"),
    )


def serves() -> bool:
    """Return True: who loads the application serves it."""
    return True


def incarnate() -> Incarnation:
    """Return the supervisor, which hides how often it was told to restart; alone, or under a reloader, this process."""
    return multiprocess.incarnate(is_reloaded=bool(_find().reload))


def is_stopping() -> bool:
    """Return whether the server was told to end."""
    # Not in `_serve`: a coroutine is on no stack while it waits.
    server = surroundings.local(surroundings.find_frame("uvicorn.server", "run"), "self")
    return bool(getattr(server, "should_exit", False))


def _find() -> Any:
    if not _found:
        for name, function in (("uvicorn.config", "load"), ("uvicorn.server", ""), ("uvicorn.main", "run")):
            frame = surroundings.find_frame(name, function)
            owner = surroundings.local(frame, "self")
            config = getattr(owner, "config", owner) if owner is not None else surroundings.local(frame, "config")
            if hasattr(config, "app") and hasattr(config, "workers"):
                _found.append(config)
                break
    return _found[0] if _found else None
