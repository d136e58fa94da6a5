"""How many processes Apache itself keeps, in which mod_wsgi's embedded applications live.

The rules and the compiled defaults are those of httpd 2.4's prefork.c, worker.c
and event.c (`*_pre_config`, `*_check_config`, idle maintenance).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sharedstate.deployment.apache.directives import Source

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sharedstate.deployment.apache.directives import Directive

__all__ = ["Mpm", "read_mpm"]

_OLD_NAMES: Final = {"maxclients": "maxrequestworkers", "maxrequestsperchild": "maxconnectionsperchild"}
_SPELLING: Final = {
    "startservers": "StartServers",
    "minspareservers": "MinSpareServers",
    "maxspareservers": "MaxSpareServers",
    "minsparethreads": "MinSpareThreads",
    "maxsparethreads": "MaxSpareThreads",
    "threadsperchild": "ThreadsPerChild",
    "threadlimit": "ThreadLimit",
    "serverlimit": "ServerLimit",
    "maxrequestworkers": "MaxRequestWorkers",
    "maxconnectionsperchild": "MaxConnectionsPerChild",
}
_PREFORK: Final = {
    "startservers": 5,
    "minspareservers": 5,
    "maxspareservers": 10,
    "serverlimit": 256,
    "maxrequestworkers": 256,
    "maxconnectionsperchild": 0,
}
_THREADED: Final = {
    "startservers": 3,
    "minsparethreads": 75,
    "maxsparethreads": 250,
    "threadsperchild": 25,
    "threadlimit": 64,
    "serverlimit": 16,
    "maxrequestworkers": 400,
    "maxconnectionsperchild": 0,
}


@dataclass(frozen=True, slots=True)
class Mpm:
    """Apache's own children.

    Attributes:
        name: "prefork", "worker", "event"; another one is not understood.
        threads: that serve requests, in each child.
        start: children at the start, as StartServers says.
        started: children soon after it: idle maintenance may want more than StartServers.
        fewest: that remain, idle, whatever was ended or killed.
        most: under load.  A graceful restart adds old ones that still serve.
        connections: after which a child is replaced; 0: never.
        sources: where each directive stands; one that stands nowhere is a compiled default.
    """

    name: str
    threads: int
    start: int
    started: int
    fewest: int
    most: int
    connections: int
    sources: dict[str, Source]

    @property
    def is_threaded(self) -> bool:
        """Whether a child's threads serve requests, be it only one."""
        return "ThreadsPerChild" in self.sources


def read_mpm(directives: Iterable[Directive], modules: Collection[str]) -> Mpm:
    """Return the children that the configuration asks for."""
    name = next((module.removeprefix("mpm_") for module in sorted(modules) if module.startswith("mpm_")), "unknown")
    if "mpm_itk" in modules:
        name = "itk"
    defaults = _PREFORK if name in {"prefork", "itk"} else _THREADED
    sizes = dict(defaults)
    sources = {key: Source("", 0, f"{_SPELLING[key]} {number} (compiled default)") for key, number in sizes.items()}
    for directive in directives:
        key = _OLD_NAMES.get(directive.name, directive.name)
        if key in sizes and directive.words[0].lstrip("+-").isdigit():
            sizes[key] = int(directive.words[0])
            sources[key] = directive.source
    limit = max(1, sizes["serverlimit"])
    if defaults is _PREFORK:
        threads = 1
        most = max(1, min(sizes["maxrequestworkers"], limit))
        idle = max(1, sizes["minspareservers"])
    else:
        threads = max(1, min(sizes["threadsperchild"], sizes["threadlimit"]))
        most = max(1, min(max(sizes["maxrequestworkers"], threads) // threads, limit))
        idle = -(-max(1, sizes["minsparethreads"]) // threads)
    start = max(1, min(sizes["startservers"], most))
    return Mpm(
        name=name,
        threads=threads,
        start=start,
        started=max(start, min(idle, most)),
        fewest=min(start, idle, most),
        most=most,
        connections=max(0, sizes["maxconnectionsperchild"]),
        sources={_SPELLING[key]: source for key, source in sources.items()},
    )
