"""The configuration as Apache itself reads it: one list of directives, each with where it stands.

The text comes from `-D DUMP_CONFIG` (mod_info), in which Apache has already
resolved Include, Define, ${VARIABLE}, IfModule, IfDefine, IfVersion, IfFile and
Use; docs/decisions/0013 says why no parser of ours does that.  What it decides
per request (Directory, Files, Location, If) is left standing as sections.

    # In file: /etc/apache2/sites-enabled/app.conf
    #   3:
    <VirtualHost *:80>
      #   4:
      WSGIScriptAlias / /srv/app/app.wsgi
    </VirtualHost>

Not in it: what Apache acts upon while it reads, such as LoadModule and ServerRoot.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["Directive", "Section", "Source", "next_word", "parse_dump", "read_options", "split_words"]

_FILE: Final = re.compile(r"\s*# In file: (.*)")
_LINE: Final = re.compile(r"\s*#\s+(\d+):\s*")
_CLOSING: Final = re.compile(r"\s*</")
_OPENING: Final = re.compile(r"\s*<(\S+?)(?:\s+(.*?))?\s*>\s*")
_MACRO: Final = re.compile(r"macro '(.*?)' \(defined on line (\d+) of \"(.*?)\"\) used on line (\d+) of \"(.*)\"")
_QUOTES: Final = ('"', "'")


@dataclass(frozen=True, slots=True)
class Source:
    """The evidence for a statement.

    Attributes:
        file: "" for what stands in no file, such as a compiled default.
        line: of `file`, the last one if the directive goes over several; 0 without a file.
        text: the directive, or what else it is.
    """

    file: str
    line: int
    text: str

    @property
    def place(self) -> str:
        """`file:line`, or what it is instead."""
        return f"{self.file}:{self.line}" if self.file else self.text

    def __str__(self) -> str:
        return f"{self.place}: {self.text}" if self.file else self.text


@dataclass(frozen=True, slots=True)
class Section:
    """An enclosing `<Name argument>`."""

    name: str  # in lower case
    argument: str
    source: Source


@dataclass(frozen=True, slots=True)
class Directive:
    """One directive that Apache acts upon.

    Attributes:
        name: in lower case: Apache does not tell cases apart.
        arguments: as written, variables resolved.
        sections: that enclose it, the outermost first.
        source: where it stands.
        position: in the order in which Apache reads.
    """

    name: str
    arguments: str
    sections: tuple[Section, ...]
    source: Source
    position: int

    @property
    def words(self) -> list[str]:
        """The arguments, unquoted."""
        return split_words(self.arguments)

    @property
    def host(self) -> Section | None:
        """The `<VirtualHost>` that it stands in."""
        return next((section for section in self.sections if section.name == "virtualhost"), None)


def parse_dump(text: str) -> list[Directive]:
    """Return the directives that Apache printed."""
    found: list[Directive] = []
    sections: list[Section] = []
    file, line = "", 0
    for row in text.splitlines():
        if match := _FILE.fullmatch(row):
            file = match[1]
        elif match := _LINE.fullmatch(row):
            line = int(match[1])
        elif _CLOSING.match(row):
            sections.pop()
        elif match := _OPENING.fullmatch(row):
            sections.append(Section(match[1].lower(), match[2] or "", _source(file, line, row.strip())))
        elif row.strip():
            name, _, arguments = row.strip().partition(" ")
            source = _source(file, line, " ".join(row.split()))
            found.append(Directive(name.lower(), arguments.strip(), tuple(sections), source, len(found)))
    return found


def _source(file: str, line: int, text: str) -> Source:
    """Return where a directive stands; what a macro brings stands in the macro, whose lines Apache counts from 1."""
    macro = _MACRO.fullmatch(file)
    if macro is None:
        return Source(file, line, text)
    name, defined, where, used, by = macro.groups()
    return Source(where, int(defined) + line, f"{text} (macro {name}, used at {by}:{used})")


def next_word(text: str) -> tuple[str, str]:
    r"""Return the first word of arguments, unquoted, and the rest: Apache's ap_getword_conf.

    Within quotes a backslash protects the quote and itself; outside only itself.
    """
    text = text.lstrip()
    quote = text[:1] if text.startswith(_QUOTES) else ""
    word: list[str] = []
    at = len(quote)
    while at < len(text):
        here = text[at]
        if here == "\\" and text[at + 1 : at + 2] in {"\\", quote or "\\"}:
            at += 1
            here = text[at]
        elif here == quote or (not quote and here.isspace()):
            at += 1
            break
        word.append(here)
        at += 1
    return "".join(word), text[at:].lstrip()


def split_words(text: str) -> list[str]:
    """Return all words of arguments, unquoted."""
    words: list[str] = []
    while text.strip():
        word, text = next_word(text)
        words.append(word)
    return words


def read_options(text: str) -> dict[str, str]:
    """Return mod_wsgi's `name=value` options; a value may be quoted, the last one of a name counts."""
    options: dict[str, str] = {}
    while text := text.lstrip():
        name, equals, text = text.partition("=")
        if not equals:
            break  # Apache would have refused it
        options[name], text = next_word(text)
    return options
