"""Do those meet here who should?  What servers announce, beside who is present.

A worker that opens the right store by the wrong name, in another mount
namespace or as another user shares it with nobody, and nothing fails.  So the
sharers of a store are gathered into crews, the workers of one server each, and
a crew that is smaller than its server says is told of: by `sharedstate who` and
`doctor` at any time, and once by a worker that opens its store late, when the
others must long be there.
"""

from __future__ import annotations

import os
import time

from sharedstate._light import NamedTuple
from sharedstate.events import tell

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Final

    from sharedstate.deployment.model import Deployment
    from sharedstate.model import Sharer
    from sharedstate.store import Store

__all__ = ["Crew", "SharersMissingWarning", "gather_crews", "look_around"]

_SETTLED_AFTER_S: Final = 30.0
"""How long a server may take to start: before that, others may yet have to come."""

_LOADS_LATER: Final = frozenset({"mod_wsgi"})
"""Servers whose workers load the application with the first request that they get: no one knows how many have."""

_warned: set[str] = set()  # of this interpreter; URLs


class SharersMissingWarning(UserWarning):
    """The server announces more workers than share the store."""


class Crew(NamedTuple):
    """The sharers of a store that one server keeps running.

    Attributes:
        server: its name, "" if they did not say.
        mode: how it runs them.
        supervisor: pid of the process that keeps them running.
        started: when that one started, in clock ticks since boot; 0 if unknown.
        announced: how many processes the server says it runs; 0 if it does not say.
        loads_later: whether a worker that has had no request yet is not expected here.
        members: one for each handle that a process and interpreter has open.
    """

    server: str
    mode: str
    supervisor: int
    started: int
    announced: int
    loads_later: bool
    members: tuple[Sharer, ...]

    @property
    def processes(self) -> int:
        """How many processes of the crew share the store."""
        return len({(member.owner.pid, member.owner.started) for member in self.members})

    @property
    def missing(self) -> int:
        """How many more processes the server announces; 0 where that tells nothing."""
        return 0 if self.loads_later else max(self.announced - self.processes, 0)


def gather_crews(sharers: Iterable[Sharer]) -> list[Crew]:
    """Return the crews among `sharers`, in the order in which their first members came."""
    gathered: dict[tuple[Any, ...], list[Sharer]] = {}
    for sharer in sharers:
        facts = sharer.facts
        # Not by the restart: workers of a server that is reloading overlap.
        key = tuple(facts.get(name) for name in ("server", "boot", "supervisor", "started"))
        gathered.setdefault(key if facts.get("supervisor") else (sharer.token,), []).append(sharer)
    return [_crew(members) for members in gathered.values()]


def _crew(members: list[Sharer]) -> Crew:
    facts = members[-1].facts  # the newest: a reload may have changed how many there are
    processes = facts.get("processes")
    return Crew(
        server=str(facts.get("server") or ""),
        mode=str(facts.get("mode") or ""),
        supervisor=int(facts.get("supervisor") or 0),
        started=int(facts.get("started") or 0),
        announced=processes if type(processes) is int else 0,
        loads_later=facts.get("server") in _LOADS_LATER,
        members=tuple(members),
    )


def look_around(store: Store, deployment: Deployment) -> None:
    """Warn, once for each store, if most of those who should share it are not there."""
    if store.url in _warned or type(deployment.processes.value) is not int or deployment.processes.value == 1:
        return
    token = store.join()
    crew = next(crew for crew in gather_crews(store.sharers()) if any(token == member.token for member in crew.members))
    # Half of them: workers that are replaced just now are no reason to cry.
    if not crew.started or _uptime_s(crew.started) < _SETTLED_AFTER_S or crew.missing * 2 < crew.announced:
        return
    _warned.add(store.url)
    tell(
        "deployment.sharers_missing",
        store=store.url,
        server=crew.server,
        announced=crew.announced,
        present=crew.processes,
    )
    import warnings

    warnings.warn(
        f"{store.url}: {crew.server} announces {crew.announced} workers ({deployment.processes.evidence}), but only "
        f"{crew.processes} share this store. The others may have opened another name, run as another user, or see "
        f"another directory. Look with `sharedstate doctor` and `sharedstate who {store.url}`.",
        SharersMissingWarning,
        stacklevel=4,
    )


def _uptime_s(started: int) -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
