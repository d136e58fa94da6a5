"""Where an application's module globals exist: once in each interpreter of each process that serves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sharedstate.deployment.apache.counts import Range
from sharedstate.deployment.apache.directives import read_options
from sharedstate.deployment.apache.pools import Pool, pool_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sharedstate.deployment.apache.binary import ModWsgi
    from sharedstate.deployment.apache.directives import Directive, Source
    from sharedstate.deployment.apache.mounts import Mount, Preload

__all__ = ["Copies", "find_copies"]

_OPTIONS_SECTION = "wsgiinterpreteroptions"


@dataclass(frozen=True, slots=True)
class Copies:
    """The copies of one application in one process group under one application group.

    Attributes:
        script: the application's.
        pool: whose processes.
        application_group: the interpreter's name; "" is the main one.
        interpreters: in each process; more than one if requests can bring further names,
            perhaps none if it is not certain that any request comes.
        gil: "only" (nobody else in the process has one), "shared" with the process's
            other interpreters, "own", or "absent".
        preloaded: by what it runs when a process starts; None: at the first request.
        mounts: that lead here; none: it is preloaded here, and no request comes.
        neighbours: other scripts in the same interpreters, which see the same modules.
        sources: why.
    """

    script: str
    pool: Pool
    application_group: str
    interpreters: Range
    gil: str
    preloaded: Source | None
    mounts: tuple[Mount, ...]
    neighbours: tuple[str, ...]
    sources: tuple[Source, ...]

    @property
    def number(self) -> Range:
        """How many copies there are."""
        return self.pool.processes * self.interpreters

    @property
    def interpreter_label(self) -> str:
        """What people call the interpreter."""
        return self.application_group or "%{GLOBAL}, the main interpreter"


_Place = tuple[str, str]  # process group, application group


def find_copies(
    mounts: Sequence[Mount],
    preloads: Sequence[Preload],
    pools: Mapping[str, Pool],
    mod_wsgi: ModWsgi,
    directives: Sequence[Directive],
) -> list[Copies]:
    """Return the copies of every application that is mounted.

    Args:
        mounts: that answer.
        preloads: of any script; those of scripts that are not mounted only keep an interpreter alive.
        pools: by name.
        mod_wsgi: what runs them.
        directives: the configuration.
    """
    scripts = list(dict.fromkeys(mount.script for mount in mounts))
    places: dict[str, dict[_Place, list[Mount]]] = {script: {} for script in scripts}
    chosen: dict[_Place, Pool] = {}
    for mount in mounts:
        for process in mount.process_group.names:
            for application in mount.application_group.names:
                place = (process, application)
                places[mount.script].setdefault(place, []).append(mount)
                chosen[place] = pool_of(mount.process_group, process, pools)
    loaded: dict[tuple[str, _Place], Source] = {}
    for preload in preloads:
        place = (preload.process_group, preload.application_group)
        loaded.setdefault((preload.script, place), preload.source)
        chosen.setdefault(place, pools[preload.process_group])
        if preload.script in places:
            places[preload.script].setdefault(place, [])
    gils = _gils(list(chosen), mod_wsgi, directives)
    found: list[Copies] = []
    for script in scripts:
        for place, leading in places[script].items():
            pool, preloaded = chosen[place], loaded.get((script, place))
            sources = [pool.source, *(source for mount in leading for source in mount.sources)]
            least = int(preloaded is not None or any(mount.is_certain for mount in leading))
            is_open = any(mount.application_group.is_open for mount in leading)
            found.append(
                Copies(
                    script=script,
                    pool=pool,
                    application_group=place[1],
                    interpreters=Range(least, None if is_open else 1),
                    gil=gils[place],
                    preloaded=preloaded,
                    mounts=tuple(leading),
                    neighbours=tuple(other for other in scripts if other != script and place in places[other]),
                    sources=tuple(dict.fromkeys([*sources, *([preloaded] if preloaded else [])])),
                )
            )
    return found


def _gils(places: Sequence[_Place], mod_wsgi: ModWsgi, directives: Sequence[Directive]) -> dict[_Place, str]:
    """Return the kind of each interpreter's GIL."""
    found: dict[_Place, str] = {}
    for place in places:
        process, application = place
        if mod_wsgi.free_threaded and _option(directives, "wsgifreethreading", process, None):
            found[place] = "absent"
        elif not application:
            found[place] = "only"  # unless somebody shares it: below
        else:
            has_own = _can_isolate(mod_wsgi) and _option(directives, "wsgiperinterpretergil", process, application)
            found[place] = "own" if has_own else "shared"
    shared = {process for (process, _), gil in found.items() if gil == "shared"}
    return {place: "shared" if gil == "only" and place[0] in shared else gil for place, gil in found.items()}


def _can_isolate(mod_wsgi: ModWsgi) -> bool:
    minor = mod_wsgi.python.partition(".")[2]
    return not minor.isdigit() or int(minor) >= 12  # mod_wsgi ignores the directive before


def _option(directives: Sequence[Directive], name: str, process: str, application: str | None) -> bool:
    """Return whether a switch is On for an interpreter, or for a whole process (`application` None).

    A `<WSGIInterpreterOptions>` that names more of the two groups beats one that
    names fewer, and the later beats the earlier.
    """
    best, value = -1, False
    for directive in directives:
        if directive.name != name:
            continue
        options: dict[str, str] = {}
        for section in directive.sections:
            if section.name == _OPTIONS_SECTION:
                options = read_options(section.argument)
        wanted = {"process-group": process, "application-group": application}
        said = {key.lower(): "" if text == "%{GLOBAL}" else text for key, text in options.items()}
        if any(wanted.get(key) != text for key, text in said.items()):
            continue
        if len(said) >= best:
            best, value = len(said), directive.words[0].lower() == "on"
    return value
