"""Where each application is mounted, and in which process group and interpreter it answers there.

The rules are mod_wsgi's (wsgi_add_script_alias, wsgi_create_req_config,
wsgi_application_group, wsgi_execute_remote of 4.9.4; 6.1.1 has the same).  An
option of the alias beats a section, a section beats the virtual host, and that
the server.  "" is %{GLOBAL}: Apache's own children, or the main interpreter.
"""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sharedstate.deployment.apache.directives import Directive, Section, Source, next_word, read_options
from sharedstate.deployment.apache.matching import Scene, is_certain, literal_prefixes, variants

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sharedstate.deployment.apache.hosts import Host

__all__ = ["Group", "Mount", "Preload", "find_mounts", "find_preloads"]

_ALIASES: Final = frozenset({"wsgiscriptalias", "wsgiscriptaliasmatch"})
_DECIDING: Final = frozenset({"wsgiprocessgroup", "wsgiapplicationgroup", "wsgiscriptreloading"})
_REST_OF_PATH: Final = re.compile(r"(?:\(\?:)?\(?/?\.\*\)?\)?\??\$?|\(/\|\$\)|\$?")
_PER_CLIENT: Final = frozenset({"%{RESOURCE}", "%{SERVER}", "%{HOST}"})


@dataclass(frozen=True, slots=True)
class Group:
    """The name of a process group or of an application group.

    Attributes:
        names: that it has; several if requests arrive at several ports.
        written: as the configuration says; "" if it says nothing.
        is_open: whether a request may bring further names that cannot be foreseen.
        source: where it stands.
    """

    names: tuple[str, ...]
    written: str
    is_open: bool
    source: Source


@dataclass(frozen=True, slots=True)
class Mount:
    """One way to reach an application.

    Attributes:
        url: the path that it begins with; a regular expression if `is_pattern`.
        is_pattern: mounted with WSGIScriptAliasMatch, and no more is known of its path.
        script: the file; with `$1` in it if requests choose it.
        host: the server that answers.
        process_group: where.
        application_group: in which interpreter.
        names_client_port: the interpreter's name contains the port that the client names.
        reloads: whether a newer script is noticed.
        only: the sections that a request must match; with them it is a variant of another mount.
        hidden_by: an earlier alias that takes all its requests.
        sources: where all that stands.
    """

    url: str
    is_pattern: bool
    script: str
    host: Host
    process_group: Group
    application_group: Group
    names_client_port: bool
    reloads: bool
    only: tuple[Section, ...]
    hidden_by: Source | None
    sources: tuple[Source, ...]

    @property
    def place(self) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
        """What a variant must differ in to be worth a word."""
        return self.process_group.names, self.application_group.names, self.reloads

    @property
    def is_certain(self) -> bool:
        """Whether some requests surely can come this way; else what it leads to may never exist."""
        return all(is_certain(section) for section in self.only)

    @property
    def label(self) -> str:
        """What people call it."""
        where = f"{self.host.name} ~ {self.url}" if self.is_pattern else f"{self.host.name}{self.url or '/'}"
        return f"{where} within {' '.join(section.source.text for section in self.only)}" if self.only else where


@dataclass(frozen=True, slots=True)
class Preload:
    """A script that each process of a group runs when it starts.

    Attributes:
        script: the file.
        process_group: "" is Apache's own children.
        application_group: "" is the main interpreter.
        source: where it stands.
    """

    script: str
    process_group: str
    application_group: str
    source: Source


def find_mounts(directives: Sequence[Directive], hosts: Sequence[Host]) -> list[Mount]:
    """Return each mount of each server that answers, variants among them, in the order in which they are tried.

    A virtual host tries its own aliases first, then those of the main server.
    """
    aliases = [directive for directive in directives if directive.name in _ALIASES]
    found: list[Mount] = []
    for host in hosts:
        own = [alias for alias in aliases if alias.host == host.section]
        inherited = [alias for alias in aliases if alias.host is None and host.section is not None]
        tried: list[tuple[str, Source]] = []
        for directive in [*own, *inherited]:
            alias = _Alias.read(directive, host)
            hidden_by = next(
                (source for top, source in tried if alias.url == top or alias.url.startswith(top + "/")), None
            )
            found.extend(alias.mounts(directives, hidden_by))
            if not alias.is_pattern:
                tried.append((alias.url, directive.source))
    return found


def find_preloads(directives: Sequence[Directive]) -> list[Preload]:
    """Return what is run at the start of processes: WSGIImportScript, and aliases with both groups."""
    found: list[Preload] = []
    for directive in directives:
        if directive.name == "wsgiimportscript":
            script, rest = next_word(directive.arguments)
        elif directive.name in _ALIASES:
            _, rest = next_word(directive.arguments)
            script, rest = next_word(rest)
        else:
            continue
        options = read_options(rest)
        if not {"process-group", "application-group"} <= options.keys():
            continue
        process, application = (
            "" if options[name] == "%{GLOBAL}" else options[name] for name in ("process-group", "application-group")
        )
        if directive.name in _ALIASES and ("%{" in process + application or "$" in script):
            continue
        found.append(Preload(os.path.normpath(script), process, application, directive.source))
    return found


@dataclass(frozen=True, slots=True)
class _Alias:
    """One WSGIScriptAlias or WSGIScriptAliasMatch, as one server has it."""

    directive: Directive
    host: Host
    location: str
    url: str  # the path that it mounts, as far as it is known
    is_pattern: bool
    script: str
    whole: bool  # `script` is its complete name
    options: dict[str, str]

    @classmethod
    def read(cls, directive: Directive, host: Host) -> _Alias:
        location, rest = next_word(directive.arguments)
        target, rest = next_word(rest)
        if directive.name == "wsgiscriptaliasmatch":
            url, is_pattern = _url_of_pattern(location)
            script, whole = _script_of_pattern(target)
        else:
            url, is_pattern = re.sub("/+", "/", location).rstrip("/"), False
            script, whole = target, True
        return cls(directive, host, location, url, is_pattern, script, whole, read_options(rest))

    def mounts(self, directives: Sequence[Directive], hidden_by: Source | None) -> list[Mount]:
        found: list[Mount] = []
        for url, file in _files_of(self.url, self.script):
            scene = Scene(self.host.section, url, file, self.whole)
            first, *others = (
                self._mount(each, directives, hidden_by) for each in variants(scene, directives, _DECIDING)
            )
            found += [first, *(other for other in others if other.place != first.place)]
        return found

    def _mount(self, scene: Scene, directives: Sequence[Directive], hidden_by: Source | None) -> Mount:
        canonical = scene.value(directives, "usecanonicalname")
        is_canonical = canonical is not None and canonical.words[0].lower() == "on"
        reloading = scene.value(directives, "wsgiscriptreloading")
        names = self.host.names(canonical=is_canonical)
        path = "..." if self.is_pattern else scene.url.lower()  # mod_wsgi takes the mount in lower case
        resources = tuple(f"{name}|{path}" for name in names)

        def group(option: str, directive: str, default: str) -> Group:
            setting = scene.value(directives, directive)
            if option in self.options:
                value, source = self.options[option], self.directive.source
            elif setting is not None:
                value, source = setting.words[0], setting.source
            else:
                value, source = "", self.directive.source
            is_open = (value or default) == "%{RESOURCE}" and self.is_pattern
            return _group(value or default, value, source, names, resources, is_open=is_open)

        process_group = group("process-group", "wsgiprocessgroup", "%{GLOBAL}")
        application_group = group("application-group", "wsgiapplicationgroup", "%{RESOURCE}")
        sources = [self.directive.source, process_group.source, application_group.source, *self.host.sources]
        return Mount(
            url=self.location if self.is_pattern else scene.url,
            is_pattern=self.is_pattern,
            script=scene.script,
            host=self.host,
            process_group=process_group,
            application_group=application_group,
            names_client_port=not is_canonical and (application_group.written or "%{RESOURCE}") in _PER_CLIENT,
            reloads=reloading is None or reloading.words[0].lower() == "on",
            only=tuple(sorted(scene.assumed, key=lambda section: section.source.line)),
            hidden_by=hidden_by,
            sources=tuple(dict.fromkeys(sources)),
        )


def _group(
    value: str, written: str, source: Source, names: Sequence[str], resources: tuple[str, ...], *, is_open: bool
) -> Group:
    """Resolve a group's name as mod_wsgi does for a request."""
    known = {"%{GLOBAL}": ("",), "%{RESOURCE}": resources, "%{SERVER}": tuple(names), "%{HOST}": tuple(names)}
    is_open = is_open or value == "%{HOST}" or value.startswith("%{ENV:")
    return Group(known.get(value, (value,)), written, is_open=is_open, source=source)


def _files_of(url: str, script: str) -> list[tuple[str, str]]:
    """Return (mount, script) of an alias: of each script, if the target is a directory."""
    if not os.path.isdir(script):
        return [(url, os.path.normpath(script))]
    files = sorted(path for end in ("*.wsgi", "*.py") for path in glob.glob(os.path.join(glob.escape(script), end)))
    return [(f"{url}/{os.path.basename(path)}", os.path.normpath(path)) for path in files]


def _url_of_pattern(regex: str) -> tuple[str, bool]:
    """Return the path that a WSGIScriptAliasMatch mounts, and whether it depends on the request."""
    first, *others = literal_prefixes(regex)
    prefix = "" if others else first
    rest = regex[1 + len(prefix) :]
    if prefix and _REST_OF_PATH.fullmatch(rest):
        return prefix.rstrip("/"), False
    return prefix.rstrip("/"), True


def _script_of_pattern(target: str) -> tuple[str, bool]:
    """Return the script that a pattern's target names, and whether that is all of its name."""
    head = target.split("$", 1)[0]
    if head != target and not (head.endswith((".wsgi", ".py")) or os.path.isfile(head)):
        return target, False
    return head.rstrip("/"), True
