"""hypercorn: its Config, which stands on the main thread's stack below the application; workers are spawned."""

from __future__ import annotations

from sharedstate.deployment import programs, surroundings
from sharedstate.deployment.model import MANY, Deployment, Fact, Incarnation, known, likely, unknown
from sharedstate.deployment.servers import multiprocess

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["incarnate", "recognise", "serves"]

_found: list[Any] = []  # the Config, once it was seen


def recognise(environ: Mapping[str, Any] | None) -> Deployment | None:
    """Return what the server that loads or runs the application was configured with."""
    del environ
    config = _find()
    if config is None:
        return None
    workers = int(config.workers)
    is_alone = workers == 0 or multiprocess.parent_pid() is None
    return Deployment(
        server=known("hypercorn", "hypercorn's Config on the stack"),
        version=_version(),
        mode=known(str(config.worker_class), "Config.worker_class"),
        processes=known(max(workers, 1), "Config.workers"),
        interpreters=surroundings.interpreters(),
        gil=surroundings.gil(),
        threads=likely(MANY, "one event loop, with a pool of threads beside it"),
        recycled=known(False, "no supervisor, which could replace the process")
        if is_alone
        else known(True, "the supervisor replaces workers"),
        preloaded=known(False, "workers are spawned, not forked"),
        application=programs.application_of_target(
            getattr(config, "application_path", None), "Config.application_path"
        ),
    )


def serves() -> bool:
    """Return True: who loads the application serves it."""
    return True


def incarnate() -> Incarnation:
    """Return the supervisor, which hides how often it was told to reload; alone, or under a reloader, this process."""
    return multiprocess.incarnate(is_reloaded=bool(_find().use_reloader))


def _find() -> Any:
    if not _found:
        for frame in surroundings.frames():
            if surroundings.module_of(frame).startswith("hypercorn."):
                config = frame.f_locals.get("config")
                if type(config).__module__ == "hypercorn.config":
                    _found.append(config)
                    break
    return _found[0] if _found else None


def _version() -> Fact:
    # It has no __version__; its __main__ asks the package's metadata, which would cost 20 ms.
    return unknown("hypercorn does not say its version")
