"""`detect`: what runs this interpreter, found out once in each interpreter of each process.

Costs some reads of /proc and a walk over the stack the first time, next to
nothing afterwards; works at import time and in a request alike.
"""

from __future__ import annotations

import sys

from sharedstate.backend.forks import fork_epoch
from sharedstate.deployment.servers import SERVERS, WITHOUT_SERVER
from sharedstate.deployment.surroundings import list_interpreters

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from sharedstate.deployment.model import Deployment

__all__ = ["detect", "listeners", "recogniser"]

listeners: list[Callable[[], object]] = []
"""Called when a process is looked at for the first time: where a fork calls nobody, this tells of it, if late."""

_seen: dict[tuple[Any, ...], tuple[Any, Deployment]] = {}
"""What was found, and by whom, by what could change it: a fork, another interpreter, a server's modules."""

_looked: list[int] = []  # [the epoch in which this process was looked at]


def detect(environ: Mapping[str, Any] | None = None) -> Deployment:
    """Return what runs the calling interpreter.

    Args:
        environ: of a WSGI request, if there is one.  It tells more only where
            nothing else does: of a server that is not known here, or of which
            of several scripts in one interpreter is asking.

    Returns:
        The facts, each with its evidence and certainty.  What cannot be known
        from here is None and `Certainty.UNKNOWN`.
    """
    server, found = _find(environ)
    application = getattr(server, "application", None)
    # One interpreter may run several scripts: then the answer depends on who asks.
    return found if application is None else found._replace(application=application(environ))


def recogniser() -> Any:
    """Return the module of `servers` that recognised this interpreter."""
    return _find(None)[0]


def _find(environ: Mapping[str, Any] | None) -> tuple[Any, Deployment]:
    asked = [(name, tell) for name, tell in SERVERS if not tell or tell in sys.modules]
    epoch = fork_epoch()
    key = (epoch, len(list_interpreters()), "" if environ is None else environ.get("SERVER_SOFTWARE", "-"), *asked)
    found = _seen.get(key)
    if found is None:
        found = _ask([name for name, _ in asked], environ)
        # A program may have loaded its server's modules, and start it only later.
        if _name_of(found) not in WITHOUT_SERVER or all(name in WITHOUT_SERVER for name, _ in asked):
            _seen[key] = found
    if _looked != [epoch]:
        _looked[:] = [epoch]
        for old in list(_seen):
            if old[0] != epoch:
                _seen.pop(old, None)
        for listener in listeners:
            listener()
    return found


def _name_of(found: tuple[Any, Deployment]) -> str:
    name: str = found[0].__name__
    return name.rpartition(".")[2]


def _ask(names: list[str], environ: Mapping[str, Any] | None) -> tuple[Any, Deployment]:
    for name in names:
        server: Any = _module_of(name)
        deployment = server.recognise(environ)
        if deployment is not None:
            return server, deployment
    raise AssertionError(names)  # `python` recognises everything


def _module_of(name: str) -> Any:
    path = f"sharedstate.deployment.servers.{name}"
    __import__(path)
    return sys.modules[path]
