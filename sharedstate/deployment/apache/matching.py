"""Which directives hold for a mounted application, and which only for some of its requests.

Apache merges, each level over the one before: the server, the virtual host,
then the sections that match the request: Directory from short to long,
Directory by pattern, Files, Location in the order of the file, If; within each
of them the server's before the virtual host's.

A section that matches only some requests of a mount (a longer Location, an If)
makes a variant of the mount: `variants` finds them, `Scene.value` is asked once
for each.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sharedstate.deployment.apache.directives import Directive, Section

__all__ = ["Match", "Scene", "glob_pattern", "is_certain", "literal_prefixes", "variants"]

_PLAIN: Final = re.compile(r"[^\\.^$*+?{}\[\]|()]*")
_WILD: Final = re.compile(r"[*?\[]")
_GROUP: Final = re.compile(r"\((?:\?:)?([^()]*)\)")


class Match(IntEnum):
    """For how many of a mount's requests a section holds."""

    NEVER = 0
    SOMETIMES = 1  # for some of them, or nobody can tell before the request is there
    ALWAYS = 2


class _Phase(IntEnum):
    SERVER = 0
    DIRECTORY = 1
    DIRECTORY_PATTERN = 2
    FILES = 3
    LOCATION = 4
    IF = 5


_PHASES: Final = {
    "directory": _Phase.DIRECTORY,
    "directorymatch": _Phase.DIRECTORY_PATTERN,
    "files": _Phase.FILES,
    "filesmatch": _Phase.FILES,
    "location": _Phase.LOCATION,
    "locationmatch": _Phase.LOCATION,
    "if": _Phase.IF,
    "elseif": _Phase.IF,
    "else": _Phase.IF,
}


@dataclass(frozen=True, slots=True)
class Scene:
    """The requests of one mount, in the eyes of the configuration.

    Attributes:
        host: the `<VirtualHost>` that answers; None: the main server.
        url: the path that the mount begins with, without a slash at its end; "" is the root.
        script: the file, or the part of its name that is known.
        whole: whether `script` is the complete name.
        assumed: sections that match only some of the requests, and match these.
    """

    host: Section | None
    url: str
    script: str
    whole: bool = True
    assumed: frozenset[Section] = frozenset()

    def value(self, directives: Iterable[Directive], name: str) -> Directive | None:
        """Return the directive of that name that has the last word, if there is any."""
        holding = [
            directive for directive in directives if directive.name == name and self._match(directive) is Match.ALWAYS
        ]
        return max(holding, key=self._rank, default=None)

    def _match(self, directive: Directive) -> Match:
        if directive.host not in {None, self.host}:
            return Match.NEVER
        return min((self.section_match(section) for section in directive.sections), default=Match.ALWAYS)

    def section_match(self, section: Section) -> Match:
        """Return for how many of these requests a section holds."""
        if section.name == "virtualhost":
            return Match.ALWAYS if section == self.host else Match.NEVER
        phase = _PHASES.get(section.name)
        if phase is None:
            return Match.NEVER  # Proxy and others, which no WSGI script is in
        if section in self.assumed:
            return Match.ALWAYS
        if phase is _Phase.IF:
            return Match.SOMETIMES
        pattern, is_regex = _pattern_of(section)
        if phase is _Phase.LOCATION:
            return _match_location(pattern, self.url, is_regex=is_regex)
        if phase is _Phase.FILES:
            return _match_file(pattern, os.path.basename(self.script), is_regex=is_regex, whole=self.whole)
        return _match_directory(pattern, self.script, is_regex=is_regex, whole=self.whole)

    def _rank(self, directive: Directive) -> tuple[int, int, bool, int]:
        phase, depth = _Phase.SERVER, 0
        for section in directive.sections:
            here = _PHASES.get(section.name, _Phase.SERVER)
            pattern, is_regex = _pattern_of(section)
            if here is _Phase.DIRECTORY and is_regex:
                here = _Phase.DIRECTORY_PATTERN
            if here >= phase:
                phase = here
                depth = pattern.strip("/").count("/") + bool(pattern.strip("/")) if here is _Phase.DIRECTORY else 0
        return phase, depth, directive.host is not None, directive.position


def variants(scene: Scene, directives: Sequence[Directive], names: frozenset[str]) -> list[Scene]:
    """Return the scene, and one more for each section that decides `names` for some of its requests only."""
    found = [scene]
    seen: set[Section] = set()
    for directive in directives:
        if directive.name not in names or directive.host not in {None, scene.host}:
            continue
        matches = {section: scene.section_match(section) for section in directive.sections}
        if min(matches.values(), default=Match.ALWAYS) is not Match.SOMETIMES:
            continue
        undecided = [section for section, match in matches.items() if match is Match.SOMETIMES]
        if undecided[-1] not in seen:
            seen.add(undecided[-1])
            found.append(replace(scene, assumed=frozenset(undecided)))
    return found


def is_certain(section: Section) -> bool:
    """Return whether requests surely can match a section that only some of a mount's requests match."""
    pattern, is_regex = _pattern_of(section)
    return section.name == "location" and not is_regex and not _WILD.search(pattern)


def glob_pattern(pattern: str) -> re.Pattern[str]:
    """Return Apache's shell pattern as a regular expression: no wildcard goes beyond a slash."""
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        here = pattern[at]
        end = pattern.find("]", at + 2)
        if here == "[" and end > 0:
            inside = pattern[at + 1 : end]
            negated = inside.startswith(("!", "^"))
            characters = re.escape(inside[negated:]).replace("\\-", "-")
            parts.append(f"[^/{characters}]" if negated else f"[{characters}]")
            at = end
        else:
            parts.append({"*": "[^/]*", "?": "[^/]"}.get(here, re.escape(here)))
        at += 1
    return re.compile("".join(parts))


def literal_prefixes(regex: str) -> list[str]:
    """Return what a match begins with, one of these, as far as it is plain to see; "" if it may begin with anything.

    Sees through alternatives of plain text at the beginning: `^/(one|two)/`.
    """
    if not regex.startswith("^"):
        return [""]
    plain = _plain_text(regex[1:])
    rest = regex[1 + len(plain) :]
    if "|" in _GROUP.sub("", regex):
        return [""]
    if rest[:1] in {"?", "*", "{"}:  # the last character is optional
        return [plain[:-1]]
    group = _GROUP.match(rest)
    if group is None or rest[group.end() :][:1] in {"?", "*", "{"}:
        return [plain]
    return [plain + _plain_text(branch) for branch in group[1].split("|")]


def _plain_text(regex: str) -> str:
    match = _PLAIN.match(regex)
    return match[0] if match else ""


def _pattern_of(section: Section) -> tuple[str, bool]:
    words = section.argument
    if words.startswith("~"):
        return _unquote(words[1:].strip()), True
    return _unquote(words), section.name.endswith("match")


def _unquote(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _search(regex: str, text: str) -> bool | None:
    """Return whether it is found; None if Python cannot read what PCRE can."""
    try:
        return re.search(regex, text) is not None
    except re.error:
        return None


def _is_below(path: str, top: str) -> bool:
    top = top.rstrip("/")
    return path == top or path.startswith(top + "/")


def _match_location(pattern: str, url: str, *, is_regex: bool) -> Match:
    if is_regex:
        # Tried on what a mount's requests look like; all of them agree, or it depends on the request.
        tried = [_search(pattern, url + rest) for rest in ("", "/", "/x", "/x/y.z", "/0/") if url + rest]
        if None in tried:
            return Match.SOMETIMES
        if all(tried):
            return Match.ALWAYS
        return Match.SOMETIMES if any(_meet(prefix, url) for prefix in literal_prefixes(pattern)) else Match.NEVER
    if _WILD.search(pattern):
        return Match.SOMETIMES if _meet(_WILD.split(pattern)[0], url) else Match.NEVER
    if _is_below(url, pattern) and (not pattern.endswith("/") or url != pattern.rstrip("/") or not url):
        return Match.ALWAYS
    return Match.SOMETIMES if _is_below(pattern, url) else Match.NEVER


def _meet(prefix: str, url: str) -> bool:
    """Whether a path can begin with the one and lie at or below the other."""
    return _is_below(prefix, url) or url.startswith(prefix)


def _match_directory(pattern: str, script: str, *, is_regex: bool, whole: bool) -> Match:
    directory = os.path.dirname(script)
    if is_regex:
        # Apache tries each directory on the way down.
        steps = [directory[:at] or "/" for at in range(len(directory) + 1) if directory[at : at + 1] in {"", "/"}]
        tried = [
            found for step in steps for found in (_search(pattern, step), _search(pattern, step.rstrip("/") + "/"))
        ]
        if True in tried:
            return Match.ALWAYS
        return Match.SOMETIMES if None in tried or not whole else Match.NEVER
    depth = len([part for part in pattern.split("/") if part])
    parts = [part for part in directory.split("/") if part]
    top = "/" + "/".join(parts[:depth])
    if len(parts) >= depth and glob_pattern(pattern.rstrip("/") or "/").fullmatch(top):
        return Match.ALWAYS
    return Match.SOMETIMES if not whole and _is_below(pattern, directory) else Match.NEVER


def _match_file(pattern: str, name: str, *, is_regex: bool, whole: bool) -> Match:
    if not whole:
        return Match.SOMETIMES
    found = _search(pattern, name) if is_regex else glob_pattern(pattern).fullmatch(name) is not None
    return Match.SOMETIMES if found is None else Match.ALWAYS if found else Match.NEVER
