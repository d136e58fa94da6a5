"""What will go wrong, or surprise, in the deployment that a forecast describes; and what to do.

One function per pitfall, each seen on real servers.  They read the forecast and
change nothing in it.  One list, so the module is a little longer than others.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sharedstate.deployment.apache.copies import Copies
    from sharedstate.deployment.apache.directives import Source
    from sharedstate.deployment.apache.forecast import Application, Forecast
    from sharedstate.deployment.apache.mounts import Mount
    from sharedstate.deployment.apache.surroundings import Surroundings

__all__ = ["Advice", "Weight", "advise"]


class Weight(IntEnum):
    """How much it matters."""

    NOTE = 1  # good to know
    WARNING = 2  # state will be lost, doubled or not shared, unless somebody thought of it
    ERROR = 3  # requests fail, or processes never end


@dataclass(frozen=True, slots=True)
class Advice:
    """One pitfall.

    Attributes:
        code: its name, which stays.
        weight: how much it matters.
        finding: what will happen.
        remedy: what to do.
        scripts: the applications that it is about; none: all of them.
        sources: the evidence.
    """

    code: str
    weight: Weight
    finding: str
    remedy: str
    scripts: tuple[str, ...]
    sources: tuple[Source, ...]


def advise(found: Forecast, surroundings: Surroundings) -> list[Advice]:
    """Return all that is to be said, the weightiest first."""
    said = [advice for pitfall in _PITFALLS for advice in pitfall(found)]
    said.extend(_around(surroundings))
    return sorted(said, key=lambda advice: -advice.weight)


def _per_application(
    found: Forecast, choose: Callable[[Application], Iterable[Source]]
) -> tuple[tuple[str, ...], tuple[Source, ...]]:
    """Return the applications for which `choose` finds evidence, and all the evidence."""
    chosen = {each.script: tuple(choose(each)) for each in found.applications}
    sources = [source for evidence in chosen.values() for source in evidence]
    return tuple(script for script, evidence in chosen.items() if evidence), tuple(dict.fromkeys(sources))


# --- Requests fail, processes never end ---------------------------------------------


def _dead_mounts(found: Forecast) -> Iterator[Advice]:
    by_reason: dict[str, list[Mount]] = {}
    for dead in found.dead:
        by_reason.setdefault(dead.reason, []).append(dead.mount)
    for reason, mounts in by_reason.items():
        fails = "500" in reason
        yield Advice(
            code="dead-mount",
            weight=Weight.ERROR if fails else Weight.NOTE,
            finding=f"{', '.join(dict.fromkeys(mount.label for mount in mounts))}: {reason}.",
            remedy="Define the group where this mount may use it." if "group" in reason else "Mend it, or take it out.",
            scripts=tuple(dict.fromkeys(mount.script for mount in mounts)),
            sources=tuple(dict.fromkeys(mount.sources[0] for mount in mounts)),
        )


def _missing_scripts(found: Forecast) -> Iterator[Advice]:
    for each in found.applications:
        folder = os.path.dirname(each.script)
        if "$" not in each.script and os.access(folder or "/", os.X_OK) and not os.path.exists(each.script):
            yield Advice(
                code="script-missing",
                weight=Weight.ERROR,
                finding=f"There is no file {each.script}: every request gets status 404.",
                remedy="Mend the path.",
                scripts=(each.script,),
                sources=(each.mounts[0].sources[0],),
            )


def _shutdown_hang(found: Forecast) -> Iterator[Advice]:
    """mod_wsgi 4.9: a threaded process whose sub-interpreter was made by a request's thread hangs when it ends."""
    if not found.mod_wsgi.version.startswith("4.9") or found.settings.kept is not None:
        return

    def hanging(each: Application) -> list[Source]:
        return [copies.sources[0] for copies in each.copies if _hangs(copies, found)]

    scripts, sources = _per_application(found, hanging)
    if not scripts:
        return
    embedded = any(
        copies.pool.is_embedded and _hangs(copies, found) for each in found.applications for copies in each.copies
    )
    consequence = (
        "after graceful the old children never end, their threads go on and their locks stay held"
        if embedded
        else "each end of a daemon takes 3 to 5 s and a SIGKILL; atexit does not run"
    )
    if embedded and found.mpm.connections:
        consequence += "; with MaxConnectionsPerChild the hung ones fill the scoreboard until requests time out"
    yield Advice(
        code="shutdown-hang",
        weight=Weight.ERROR if embedded else Weight.WARNING,
        finding=f"mod_wsgi {found.mod_wsgi.version} hangs when a threaded process with sub-interpreters ends: "
        f"{consequence}.",
        remedy="Preload (WSGIImportScript with process-group= and application-group=, or both options on the alias), "
        "or WSGIApplicationGroup %{GLOBAL}, or WSGIDestroyInterpreter Off (then no atexit), or a newer mod_wsgi.",
        scripts=scripts,
        sources=sources,
    )


def _hangs(copies: Copies, found: Forecast) -> bool:
    is_threaded = found.mpm.is_threaded if copies.pool.is_embedded else True  # a daemon is, even with threads=1
    return is_threaded and bool(copies.application_group) and copies.preloaded is None


# --- Less is shared, or more copies exist, than one might think ------------------------


def _client_ports(found: Forecast) -> Iterator[Advice]:
    """The default name of an interpreter has the port of the client's Host header in it."""

    def named(each: Application) -> list[Source]:
        return [mount.sources[0] for mount in each.mounts if mount.names_client_port]

    scripts, sources = _per_application(found, named)
    if scripts:
        yield Advice(
            code="client-names-interpreter",
            weight=Weight.WARNING,
            finding="The interpreter's name contains the port in the client's Host header: every other port that a "
            "client names makes one more interpreter, with its own module globals and its own start-up.",
            remedy="Name it: WSGIApplicationGroup %{GLOBAL} or a name of yours; or UseCanonicalName On.",
            scripts=scripts,
            sources=sources,
        )


def _open_names(found: Forecast) -> Iterator[Advice]:
    def opened(each: Application) -> list[Source]:
        return [
            group.source
            for mount in each.mounts
            for group in (mount.process_group, mount.application_group)
            if group.is_open
        ]

    scripts, sources = _per_application(found, opened)
    if scripts:
        yield Advice(
            code="decided-per-request",
            weight=Weight.WARNING,
            finding="Only the request tells in which process group or interpreter it runs: their number has no bound.",
            remedy="Name the group, or hold state where any process of the host finds it.",
            scripts=scripts,
            sources=sources,
        )


def _mixed(found: Forecast) -> Iterator[Advice]:
    for each in found.applications:
        kinds = {pool.is_embedded for pool in each.pools}
        if len(each.pools) == 1:
            continue
        labels = " and ".join(pool.label for pool in each.pools)
        rest = (
            "wsgi.multiprocess does not tell the mounts of each other."
            if len(kinds) == 1
            else ("Touching the script replaces the daemons' processes and not the embedded ones.")
        )
        yield Advice(
            code="mixed" if len(kinds) > 1 else "several-groups",
            weight=Weight.WARNING,
            finding=f"{each.script} runs in {labels}: they share no module globals. {rest}",
            remedy="Mount it in one process group, or use a store of scope HOST.",
            scripts=(each.script,),
            sources=tuple(dict.fromkeys(source for copies in each.copies for source in copies.sources)),
        )


def _idle_preloads(found: Forecast) -> Iterator[Advice]:
    for each in found.applications:
        for copies in each.copies:
            if copies.mounts or copies.preloaded is None:
                continue
            yield Advice(
                code="preloaded-elsewhere",
                weight=Weight.WARNING,
                finding=f"{copies.preloaded.place} runs {each.script} in the interpreter {copies.interpreter_label} "
                f"of {copies.pool.label}, where no request to it arrives: one more copy, and no preload where they do.",
                remedy="Give it the process-group and application-group of the mount.",
                scripts=(each.script,),
                sources=(copies.preloaded,),
            )


def _high_water(found: Forecast) -> Iterator[Advice]:
    if not found.mpm.is_threaded or found.mpm.most == 1:
        return
    scripts, sources = _per_application(found, lambda each: [pool.source for pool in each.pools if pool.is_embedded])
    if scripts:
        yield Advice(
            code="maximum-processes",
            weight=Weight.NOTE,
            finding="mod_wsgi.maximum_processes of an embedded application is what was needed so far, and may say 1 "
            f"where up to {found.mpm.most} processes serve.",
            remedy="Never conclude from it that there is one process.",
            scripts=scripts,
            sources=sources,
        )


# --- When it starts, and when it starts again --------------------------------------------


def _no_preload(found: Forecast) -> Iterator[Advice]:
    scripts, sources = _per_application(
        found,
        lambda each: [
            mount.sources[0] for copies in each.copies if copies.preloaded is None for mount in copies.mounts
        ],
    )
    if scripts:
        yield Advice(
            code="no-preload",
            weight=Weight.NOTE,
            finding='Nothing of it runs before the first request to each copy: "at start-up" means at the first '
            "request, and what was left unfinished waits until somebody comes.",
            remedy="Preload: process-group= and application-group= on the alias, or WSGIImportScript.",
            scripts=scripts,
            sources=sources,
        )


def _fixed_sockets(found: Forecast) -> Iterator[Advice]:
    if found.settings.fixed_sockets is None or not found.daemons:
        return
    scripts, _ = _per_application(found, lambda each: [pool.source for pool in each.pools if not pool.is_embedded])
    if scripts:
        yield Advice(
            code="generation-hidden",
            weight=Weight.WARNING,
            finding="With WSGISocketRotation Off a daemon cannot tell a graceful restart or a restart from none: "
            "once per server start is then once per stop and start.",
            remedy="Leave it On, or switch WSGIServerMetrics On.",
            scripts=scripts,
            sources=(found.settings.fixed_sockets,),
        )


# --- Who may open what ---------------------------------------------------------------------


def _users(found: Forecast) -> Iterator[Advice]:
    for each in found.applications:
        users = {account.user for account in each.accounts}
        if len(users) > 1:
            yield Advice(
                code="several-users",
                weight=Weight.WARNING,
                finding=f"{each.script} runs as {' and as '.join(sorted(users))}: what one of them makes (mode 0600 or "
                "0644), the other cannot open or not write.",
                remedy="Run both as one user, or keep the state in a directory of a common group, with a mode for it.",
                scripts=(each.script,),
                sources=tuple(account.source for account in each.accounts),
            )


def _root_made(found: Forecast) -> Iterator[Advice]:
    users = sorted({account.user for each in found.applications for account in each.accounts} - {"root"})
    if users:
        yield Advice(
            code="made-by-root",
            weight=Weight.NOTE,
            finding=f"The applications run as {' and '.join(users)}: a store that root makes first, from a shell or "
            "by cron, they cannot write.",
            remedy=f"Let the server make it, or make it by `sudo -u {users[0]}`, in a directory of that user's; not "
            "below a home, which embedded processes do not know.",
            scripts=(),
            sources=tuple(dict.fromkeys(account.source for each in found.applications for account in each.accounts)),
        )


def _chroots(found: Forecast) -> Iterator[Advice]:
    for daemon in found.daemons.values():
        if "chroot" in daemon.options:
            yield Advice(
                code="chroot",
                weight=Weight.WARNING,
                finding=f"The processes of {daemon.name} see only {daemon.options['chroot']}: what they make there, "
                "others know by another path, and /dev/shm is not there.",
                remedy="Share by a path inside it, or do not chroot.",
                scripts=tuple(
                    each.script for each in found.applications if daemon.name in {pool.name for pool in each.pools}
                ),
                sources=(daemon.source,),
            )


# --- What the configuration leaves open ------------------------------------------------------


def _undefined(found: Forecast) -> Iterator[Advice]:
    for name in found.apache.undefined:
        yield Advice(
            code="undefined-variable",
            weight=Weight.WARNING,
            finding=f"The configuration uses ${{{name}}}, which is defined nowhere: Apache takes it as it is written.",
            remedy="Define it, or start the doctor with what the server is started with.",
            scripts=(),
            sources=(),
        )


def _other_doors(found: Forecast) -> Iterator[Advice]:
    """Handlers, dispatch and access scripts: Python runs, and no mount says so."""
    for directive in found.directives:
        handles = directive.name in {"addhandler", "sethandler"} and "wsgi-script" in directive.arguments
        scripted = directive.name in {"wsgihandlerscript", "wsgidispatchscript", "wsgiaccessscript"}
        if handles or scripted or directive.name in {"wsgiauthuserscript", "wsgiauthgroupscript"}:
            yield Advice(
                code="not-foreseen",
                weight=Weight.NOTE,
                finding=f"{directive.source.place} runs Python beside the mounts, which this forecast leaves out.",
                remedy="Count its interpreters too where it shares state with an application.",
                scripts=(),
                sources=(directive.source,),
            )


def _unknown_mpm(found: Forecast) -> Iterator[Advice]:
    if found.mpm.name not in {"prefork", "worker", "event"}:
        yield Advice(
            code="unknown-mpm",
            weight=Weight.WARNING,
            finding=f"The MPM {found.mpm.name} is not understood: the numbers of embedded processes are a guess.",
            remedy="Ask the running server instead: sharedstate probe --url.",
            scripts=(),
            sources=(),
        )


def _around(surroundings: Surroundings) -> Iterator[Advice]:
    if surroundings.private_tmp is not None:
        yield Advice(
            code="private-tmp",
            weight=Weight.WARNING,
            finding="systemd gives the server a /tmp of its own: a store there is not the one that a shell, cron or "
            "another service sees, and it is gone after stop and start.",
            remedy="Keep state in /dev/shm (shm:) or in a directory of its own such as /var/lib/NAME.",
            scripts=(),
            sources=(surroundings.private_tmp,),
        )
    if surroundings.rotation is not None:
        yield Advice(
            code="rotation-restarts",
            weight=Weight.WARNING,
            finding=f"logrotate restarts the server {surroundings.period}: every process is replaced, all that lives "
            "in them is lost, and what runs once per restart runs again.",
            remedy="Hold state outside the processes (durability BOOT or more); let start-up work be claimed, not "
            "repeated.",
            scripts=(),
            sources=(surroundings.rotation,),
        )


_PITFALLS: Final = (
    _dead_mounts,
    _missing_scripts,
    _shutdown_hang,
    _client_ports,
    _open_names,
    _mixed,
    _idle_preloads,
    _high_water,
    _no_preload,
    _fixed_sockets,
    _users,
    _root_made,
    _chroots,
    _undefined,
    _other_doors,
    _unknown_mpm,
)
