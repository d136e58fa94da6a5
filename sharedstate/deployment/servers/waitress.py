"""waitress: one process, with threads that it names waitress-N."""

from __future__ import annotations

from sharedstate.deployment import programs, surroundings
from sharedstate.deployment.model import Deployment, Fact, Incarnation, known, unknown
from sharedstate.deployment.servers import multiprocess

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["incarnate", "recognise", "serves"]

_found: list[Fact] = []  # what `waitress-serve` was told to serve; its stack shows it at any time


def recognise(environ: Mapping[str, Any] | None) -> Deployment | None:
    """Return what is to be seen of waitress's runner, or of its server at work."""
    del environ
    runner = surroundings.find_frame("waitress.runner", "run")
    server = surroundings.local(surroundings.find_frame("waitress.server", "run"), "self")
    if runner is None and server is None:
        return None
    adjustments: Any = getattr(server, "adj", None)
    options: Any = surroundings.local(runner, "kw") or {}
    threads: Any = getattr(adjustments, "threads", None) or options.get("threads")
    return Deployment(
        server=known("waitress", "waitress on the stack"),
        version=unknown("waitress does not say its version"),
        mode=known("threads", "waitress has no other"),
        processes=known(1, "waitress is one process"),
        interpreters=surroundings.interpreters(),
        gil=surroundings.gil(),
        threads=known(int(threads), "waitress's Adjustments") if threads else known(4, "waitress's default"),
        recycled=known(False, "no supervisor, which could replace the process"),
        preloaded=known(False, "waitress does not fork"),
        application=programs.application_of_target(_target(runner), "the argument of waitress-serve"),
    )


def serves() -> bool:
    """Return True: it is one process."""
    return True


def incarnate() -> Incarnation:
    """Return this process."""
    return multiprocess.incarnate()


def _target(runner: Any) -> Any:
    arguments: Any = surroundings.local(runner, "args")
    return arguments[0] if arguments else None
