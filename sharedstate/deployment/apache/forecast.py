"""What will exist when the server runs: per application its processes, interpreters, threads, and what they share.

An application is a script file, wherever it is mounted.  A *copy* of it is one
interpreter of one process in which its module globals exist.  Each number is
exact where the server makes it so, else a range; tests/servers/test_forecast.py
compares them with what real servers were then seen to do.

    embedded   Apache's own children serve; their number varies with the load
    daemon     exactly processes= of a WSGIDaemonProcess serve
    runs       a module-level statement runs once in each copy, at its first
               request or, preloaded, when its process starts; and once more in
               each copy that is made anew
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from sharedstate.deployment.apache.copies import Copies, find_copies
from sharedstate.deployment.apache.counts import NONE, Range, total
from sharedstate.deployment.apache.daemons import Account, Daemon, Settings, read_daemons, read_settings
from sharedstate.deployment.apache.errors import NoMountError
from sharedstate.deployment.apache.hosts import find_hosts
from sharedstate.deployment.apache.mounts import Mount, Preload, find_mounts, find_preloads
from sharedstate.deployment.apache.mpm import Mpm, read_mpm
from sharedstate.deployment.apache.pools import Pool, make_pools
from sharedstate.model import Durability, Scope

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sharedstate.deployment.apache.binary import Apache, ModWsgi
    from sharedstate.deployment.apache.directives import Directive
    from sharedstate.deployment.apache.hosts import Host

__all__ = ["Application", "DeadMount", "Forecast", "Runs", "forecast"]


@dataclass(frozen=True, slots=True)
class Runs:
    """How often a module-level statement of the script runs.

    Attributes:
        at_start: with no request yet.
        after_load: in all, once every copy was asked; more if processes were replaced meanwhile.
        touch: that many more after the script was touched.
        restart: that many more after graceful, restart, or stop and start.
        kill: that many more after one of the processes was killed.
    """

    at_start: Range
    after_load: Range
    touch: Range
    restart: Range
    kill: Range


@dataclass(frozen=True, slots=True)
class DeadMount:
    """A mount that answers nothing, and why."""

    mount: Mount
    reason: str


@dataclass(frozen=True, slots=True)
class Application:
    """One script, wherever it is mounted.

    Attributes:
        script: its file.
        mounts: that answer.
        copies: where its module globals exist.
        pools: the process groups that it runs in.
        at_start: processes that can serve it, soon after the start.
        processes: that can serve it at any later time.
        interpreters: of it, in each of these processes.
        number: how many copies of its module globals there are in all.
        threads: that can serve it, over all processes.
        runs: of its module-level statements.
        multithread, multiprocess: what WSGI's environ says; None: not the same in all mounts.
        scope: that state needs so that all copies see it.
        durability: that state needs to outlive the replacement of processes.
        because: why that scope.
    """

    script: str
    mounts: tuple[Mount, ...]
    copies: tuple[Copies, ...]
    pools: tuple[Pool, ...]
    at_start: Range
    processes: Range
    interpreters: Range
    number: Range
    threads: Range
    runs: Runs
    multithread: bool | None
    multiprocess: bool | None
    scope: Scope
    durability: Durability
    because: str

    @property
    def accounts(self) -> tuple[Account, ...]:
        """As whom it runs."""
        return tuple(dict.fromkeys(pool.account for pool in self.pools))


@dataclass(frozen=True, slots=True)
class Forecast:
    """All of it.

    Attributes:
        apache: the program and its configuration.
        mod_wsgi: which one it loads.
        mpm: Apache's own children.
        settings: what holds for every application.
        daemons: the daemon process groups, by name.
        applications: those of which at least one mount answers.
        dead: the mounts that answer nothing.
        preloads: what processes run when they start.
        directives: the configuration.
    """

    apache: Apache
    mod_wsgi: ModWsgi
    mpm: Mpm
    settings: Settings
    daemons: Mapping[str, Daemon]
    applications: tuple[Application, ...]
    dead: tuple[DeadMount, ...]
    preloads: tuple[Preload, ...]
    directives: Sequence[Directive]


def forecast(apache: Apache) -> Forecast:
    """Read the server's configuration and say what will exist.

    Raises:
        ConfigSyntaxError: Apache refuses the configuration.
        ConfigAccessError: a file of it cannot be read.
        ModWsgiMissingError: mod_wsgi is not loaded.
        NoMountError: nothing is mounted with it.
        ApacheRunError: Apache fails in another way.
    """
    mod_wsgi = apache.mod_wsgi()
    directives = apache.read()
    mpm = read_mpm(directives, apache.modules)
    settings = read_settings(directives)
    daemons = read_daemons(directives, settings.account)
    pools = make_pools(mpm, daemons, settings)
    preloads = find_preloads(directives)
    alive: list[Mount] = []
    dead: list[DeadMount] = []
    hosts = find_hosts(directives)
    for mount in find_mounts(directives, hosts):
        reason = _fault(mount, daemons, settings, hosts)
        if reason:
            dead.append(DeadMount(mount, reason))
        elif mount.host.ports:
            alive.append(mount)
    if not alive and not dead:
        raise _no_mount(apache, directives)
    copies = find_copies(alive, preloads, pools, mod_wsgi, directives)
    scripts = dict.fromkeys(mount.script for mount in alive)
    return Forecast(
        apache=apache,
        mod_wsgi=mod_wsgi,
        mpm=mpm,
        settings=settings,
        daemons=daemons,
        applications=tuple(
            _application(
                script,
                [mount for mount in alive if mount.script == script],
                [each for each in copies if each.script == script],
            )
            for script in scripts
        ),
        dead=tuple(dead),
        preloads=tuple(preloads),
        directives=directives,
    )


def _no_mount(apache: Apache, directives: Sequence[Directive]) -> NoMountError:
    handlers = [
        directive
        for directive in directives
        if directive.name in {"addhandler", "sethandler", "wsgihandlerscript"} and "wsgi" in directive.arguments.lower()
    ]
    if handlers:
        reason = f"nothing is mounted with WSGIScriptAlias; {handlers[0].source.place} runs files as they are asked for"
        advice = "Which applications that makes, only the requests tell; mount each with WSGIScriptAlias to foresee it."
    else:
        reason = "mod_wsgi is loaded, and no WSGIScriptAlias mounts an application"
        advice = (
            "Is it the right file? Sites of Debian are read from sites-enabled: a2ensite. Give it: --apache CONFIG."
        )
    return NoMountError(subject=apache.config, reason=reason, advice=advice)


def _fault(mount: Mount, daemons: Mapping[str, Daemon], settings: Settings, hosts: Sequence[Host]) -> str:
    """Return why requests to a mount fail or never come; "" if they are answered."""
    if mount.hidden_by is not None:
        return f"all its requests go to the earlier alias at {mount.hidden_by.place}"
    if not mount.host.ports and mount.host.section is not None:
        return f"Apache does not listen where {mount.host.section.source.place} answers"
    for name in () if mount.process_group.is_open else mount.process_group.names:
        if not name:
            if settings.restricted is not None:
                return f"{settings.restricted.place} forbids embedded applications: every request gets status 500"
            continue
        daemon = daemons.get(name)
        if daemon is None:
            return f"no WSGIDaemonProcess defines the process group {name}: every request gets status 500"
        # One ServerName, as of a site at ports 80 and 443, may use the other's.
        owner = next(host.name for host in hosts if host.section == daemon.host)
        if daemon.host is not None and owner != mount.host.name:
            where = daemon.source.place
            return (
                f"the process group {name} belongs to the virtual host {owner} ({where}): every request gets status 500"
            )
    return ""


def _application(script: str, mounts: Sequence[Mount], copies: Sequence[Copies]) -> Application:
    pools = tuple(dict.fromkeys(each.pool for each in copies))
    per_process = [total(each.interpreters for each in copies if each.pool == pool) for pool in pools]
    # A group of which no request is certain may never serve it.
    doubts = [Range(min(1, interpreters.low), 1) for interpreters in per_process]
    asked = dict.fromkeys(each.pool for each in copies if each.mounts)
    scope, because = _scope(pools, per_process)
    return Application(
        script=script,
        mounts=tuple(mounts),
        copies=tuple(copies),
        pools=pools,
        at_start=total(pool.at_start * doubt for pool, doubt in zip(pools, doubts, strict=True)),
        processes=total(pool.processes * doubt for pool, doubt in zip(pools, doubts, strict=True)),
        interpreters=reduce(Range.__or__, per_process),
        number=total(each.number for each in copies),
        threads=total(
            pool.processes * pool.threads * doubt for pool, doubt in zip(pools, doubts, strict=True) if pool in asked
        ),
        runs=_runs(copies, per_process, reloads=any(mount.reloads for mount in mounts)),
        multithread=_common([pool.multithread for pool in asked]),
        multiprocess=_common([pool.multiprocess for pool in asked]),
        scope=scope,
        # Every Apache recycles: at each graceful restart, at each touch of a daemon's script.
        durability=Durability.BOOT,
        because=because,
    )


def _common(values: Sequence[bool | None]) -> bool | None:
    return values[0] if len(set(values)) == 1 else None


def _scope(pools: Sequence[Pool], per_process: Sequence[Range]) -> tuple[Scope, str]:
    if len(pools) > 1:
        return Scope.HOST, f"it runs in {len(pools)} process groups"
    pool, interpreters = pools[0], per_process[0]
    if pool.processes.high is None or pool.processes.high > 1:
        return Scope.HOST, f"it runs in {pool.processes} processes"
    if pool.is_embedded:
        return Scope.HOST, "it runs in one process, but in two while a graceful restart replaces it"
    if interpreters.high is None or interpreters.high > 1:
        return Scope.PROCESS, f"it runs in one process, in {interpreters} interpreters"
    return Scope.INTERPRETER, "it runs in one interpreter of one process"


def _runs(copies: Sequence[Copies], per_process: Sequence[Range], *, reloads: bool) -> Runs:
    number = total(each.number for each in copies)
    counted = any(each.pool.counts_requests for each in copies)
    # A child of Apache's runs a touched script again where it is; a daemon ends, and its successor starts anew.
    touched = number if reloads else NONE
    # Apache replaces a killed child only when it lacks idle ones.
    killed = [
        Range(0 if pool.is_embedded else interpreters.low, interpreters.high)
        for pool, interpreters in zip(dict.fromkeys(each.pool for each in copies), per_process, strict=True)
    ]
    return Runs(
        at_start=total(each.pool.at_start for each in copies if each.preloaded is not None),
        after_load=Range(number.low, None) if counted else number,
        touch=touched,
        restart=number,
        kill=reduce(Range.__or__, killed),
    )
