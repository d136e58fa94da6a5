"""The processes that run applications: Apache's own children, and each daemon process group; and when they end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sharedstate.deployment.apache.counts import Range, exactly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sharedstate.deployment.apache.daemons import Account, Daemon, Settings
    from sharedstate.deployment.apache.directives import Source
    from sharedstate.deployment.apache.mounts import Group
    from sharedstate.deployment.apache.mpm import Mpm

__all__ = ["Pool", "Recycling", "make_pools", "pool_of"]

_TIMED: Final = {
    "maximum-requests": "each process ends after {} requests",
    "restart-interval": "each process ends after {} s",
    "inactivity-timeout": "each process ends after {} s without a request",
    "request-timeout": "a process ends when its requests take {} s on average over its threads",
    "cpu-time-limit": "each process ends after {} s of CPU time",
}


@dataclass(frozen=True, slots=True)
class Recycling:
    """One reason why processes end and others take their place while the server goes on."""

    what: str
    source: Source


@dataclass(frozen=True, slots=True)
class Pool:
    """The processes of one process group.

    Attributes:
        name: "" is Apache's own children (embedded).
        at_start: processes, soon after the start.
        processes: at any later time, but for old ones that end during a graceful restart.
        threads: that serve requests, in each process.
        multithread, multiprocess: what WSGI's environ says there.
        account: as whom they run.
        recycling: when they end, besides the restarts that end all of them.
        counts_requests: they end after a number of requests or connections.
        source: where it is defined.
    """

    name: str
    at_start: Range
    processes: Range
    threads: Range
    multithread: bool | None
    multiprocess: bool | None
    account: Account
    recycling: tuple[Recycling, ...]
    counts_requests: bool
    source: Source

    @property
    def is_embedded(self) -> bool:
        """Whether these are Apache's own children."""
        return not self.name

    @property
    def label(self) -> str:
        """What people call it."""
        return f"daemon {self.name}" if self.name else "embedded"


def make_pools(mpm: Mpm, daemons: Mapping[str, Daemon], settings: Settings) -> dict[str, Pool]:
    """Return the process groups by name."""
    return {"": _embedded(mpm, settings), **{name: _daemon(daemon) for name, daemon in daemons.items()}}


def pool_of(group: Group, name: str, pools: Mapping[str, Pool]) -> Pool:
    """Return the processes behind a group's name; what only the request tells may be any of them, and of any number."""
    if not group.is_open:
        return pools[name]
    return Pool(
        name=name,
        at_start=Range(1, None),
        processes=Range(1, None),
        threads=Range(1, None),
        multithread=None,
        multiprocess=None,
        account=pools[""].account,
        recycling=(),
        counts_requests=False,
        source=group.source,
    )


def _embedded(mpm: Mpm, settings: Settings) -> Pool:
    recycling: list[Recycling] = []
    if mpm.connections:
        source = mpm.sources["MaxConnectionsPerChild"]
        recycling.append(Recycling(f"each child ends after {mpm.connections} connections (not requests)", source))
    if mpm.fewest != mpm.most:
        source = mpm.sources["MaxSpareThreads" if mpm.is_threaded else "MaxSpareServers"]
        recycling.append(Recycling("idle children end when the load falls", source))
    return Pool(
        name="",
        at_start=Range(mpm.start, mpm.started),
        processes=Range(mpm.fewest, mpm.most),
        threads=exactly(mpm.threads),
        multithread=mpm.is_threaded and mpm.threads != 1,
        multiprocess=mpm.most != 1,
        account=settings.account,
        recycling=tuple(recycling),
        counts_requests=bool(mpm.connections),
        source=mpm.sources["MaxRequestWorkers"],
    )


def _daemon(daemon: Daemon) -> Pool:
    recycling = [
        Recycling(text.format(daemon.number(option)), daemon.source)
        for option, text in _TIMED.items()
        if daemon.number(option)
    ]
    return Pool(
        name=daemon.name,
        at_start=exactly(daemon.processes),
        processes=exactly(daemon.processes),
        threads=exactly(max(1, daemon.threads)),
        multithread=daemon.threads != 1,
        multiprocess=daemon.says_processes,
        account=daemon.account,
        recycling=tuple(recycling),
        counts_requests=bool(daemon.number("maximum-requests")),
        source=daemon.source,
    )
