"""werkzeug's development server, alone or under its reloader.

The reloader's parent runs the same program, does not serve, and starts the
serving process anew at each change of a file.
"""

from __future__ import annotations

from sharedstate.deployment import programs, surroundings
from sharedstate.deployment.model import MANY, Deployment, Fact, Incarnation, known, unknown
from sharedstate.deployment.servers import multiprocess

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["incarnate", "recognise", "serves"]


def recognise(environ: Mapping[str, Any] | None) -> Deployment | None:
    """Return what is to be seen of the server at work, or of the reloader around it."""
    del environ
    server = surroundings.local(surroundings.find_frame("werkzeug.serving", "serve_forever"), "self")
    if server is None and not _is_reloaded() and surroundings.find_frame("werkzeug.serving", "run_simple") is None:
        return None
    processes = getattr(server, "max_children", 1) if getattr(server, "multiprocess", False) else 1
    return Deployment(
        server=known("werkzeug", "werkzeug.serving at work"),
        version=unknown("werkzeug does not say its version"),
        mode=known("reloader" if _is_reloaded() else "single", "WERKZEUG_RUN_MAIN"),
        processes=known(MANY, "ForkingWSGIServer.max_children") if processes != 1 else known(1, "one process serves"),
        interpreters=surroundings.interpreters(),
        gil=surroundings.gil(),
        threads=_threads(server),
        recycled=known(True, "the reloader starts another process at each change")
        if _is_reloaded()
        else known(False, "no supervisor, which could replace the process"),
        preloaded=known(processes != 1, "ForkingWSGIServer forks, no other does"),
        application=programs.application_of_program(),
    )


def serves() -> bool:
    """Return whether this is not the reloader's parent."""
    return _is_reloaded() or surroundings.find_frame("werkzeug._reloader", "restart_with_reloader") is None


def incarnate() -> Incarnation:
    """Return the serving process: under the reloader each is a new start."""
    # The reloader executes it anew, so it is no forked copy of the reloader's parent.
    return multiprocess.incarnate()


def _is_reloaded() -> bool:
    return surroundings.os_environment("WERKZEUG_RUN_MAIN") == "true"


def _threads(server: Any) -> Fact:
    if server is None:
        return unknown("the server is not at work yet")
    if getattr(server, "multithread", False):
        return known(MANY, "ThreadedWSGIServer: one for each request")
    return known(1, "BaseWSGIServer answers one request after the other")
