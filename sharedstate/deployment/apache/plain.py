"""A forecast as plain data, for `doctor --apache --json` and whoever reads that.

A change of meaning changes `FORMAT`.  A number is {"low": 2, "high": 6};
"high" is null where nothing bounds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sharedstate.deployment.apache.advice import Advice
    from sharedstate.deployment.apache.copies import Copies
    from sharedstate.deployment.apache.counts import Range
    from sharedstate.deployment.apache.directives import Source
    from sharedstate.deployment.apache.forecast import Application, Forecast
    from sharedstate.deployment.apache.mounts import Group, Mount
    from sharedstate.deployment.apache.pools import Pool

__all__ = ["FORMAT", "as_plain"]

FORMAT: Final = 1


def as_plain(found: Forecast, advice: Sequence[Advice]) -> dict[str, Any]:
    """Return all of a forecast, with its evidence, as what JSON can hold."""
    return {
        "format": FORMAT,
        "apache": {
            "program": found.apache.program,
            "version": found.apache.version,
            "config": found.apache.config,
            "is_system": found.apache.is_system,
        },
        "mod_wsgi": {
            "path": found.mod_wsgi.path,
            "version": found.mod_wsgi.version,
            "python": found.mod_wsgi.python,
            "free_threaded": found.mod_wsgi.free_threaded,
        },
        "mpm": {
            "name": found.mpm.name,
            "threads": found.mpm.threads,
            "start": found.mpm.start,
            "fewest": found.mpm.fewest,
            "most": found.mpm.most,
            "connections": found.mpm.connections,
            "evidence": {name: _source(source) for name, source in found.mpm.sources.items()},
        },
        "applications": [_application(each) for each in found.applications],
        "dead_mounts": [{**_mount(dead.mount), "reason": dead.reason} for dead in found.dead],
        "advice": [
            {
                "code": each.code,
                "weight": each.weight.name.lower(),
                "finding": each.finding,
                "remedy": each.remedy,
                "scripts": list(each.scripts),
                "evidence": _sources(each.sources),
            }
            for each in advice
        ],
    }


def _application(each: Application) -> dict[str, Any]:
    return {
        "script": each.script,
        "mounts": [_mount(mount) for mount in each.mounts],
        "processes_at_start": _range(each.at_start),
        "processes": _range(each.processes),
        "interpreters": _range(each.interpreters),
        "copies": _range(each.number),
        "threads": _range(each.threads),
        "module_runs": {
            "at_start": _range(each.runs.at_start),
            "after_load": _range(each.runs.after_load),
            "more_at_touch": _range(each.runs.touch),
            "more_at_restart": _range(each.runs.restart),
            "more_at_kill": _range(each.runs.kill),
        },
        "wsgi.multithread": each.multithread,
        "wsgi.multiprocess": each.multiprocess,
        "process_groups": [_pool(pool) for pool in each.pools],
        "where": [_copies(copies) for copies in each.copies],
        "needs": {"scope": each.scope.name, "durability": each.durability.name, "because": each.because},
    }


def _mount(mount: Mount) -> dict[str, Any]:
    return {
        "url": mount.url or "/",
        "is_pattern": mount.is_pattern,
        "script": mount.script,
        "server": mount.host.name,
        "ports": list(mount.host.ports),
        "only_within": [section.source.text for section in mount.only],
        "process_group": _group(mount.process_group),
        "application_group": _group(mount.application_group),
        "names_client_port": mount.names_client_port,
        "evidence": _sources(mount.sources),
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        "names": list(group.names),
        "written": group.written,
        "is_open": group.is_open,
        "evidence": _source(group.source),
    }


def _pool(pool: Pool) -> dict[str, Any]:
    return {
        "name": pool.name,
        "processes": _range(pool.processes),
        "threads": _range(pool.threads),
        "user": pool.account.user,
        "group": pool.account.group,
        "umask": pool.account.umask,
        "recycling": [{"what": each.what, "evidence": _source(each.source)} for each in pool.recycling],
        "evidence": _source(pool.source),
    }


def _copies(copies: Copies) -> dict[str, Any]:
    return {
        "process_group": copies.pool.name,
        "application_group": copies.application_group,
        "interpreters": _range(copies.interpreters),
        "copies": _range(copies.number),
        "gil": copies.gil,
        "preloaded_by": _source(copies.preloaded) if copies.preloaded else None,
        "mounts": [mount.label for mount in copies.mounts],
        "shares_modules_with": list(copies.neighbours),
        "evidence": _sources(copies.sources),
    }


def _range(number: Range) -> dict[str, int | None]:
    return {"low": number.low, "high": number.high}


def _sources(sources: Iterable[Source]) -> list[dict[str, Any]]:
    return [_source(source) for source in sources]


def _source(source: Source) -> dict[str, Any]:
    return {"file": source.file, "line": source.line, "text": source.text}
