"""mod_wsgi's daemon process groups, and what holds for all of mod_wsgi."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sharedstate.deployment.apache.directives import Source, next_word, read_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sharedstate.deployment.apache.directives import Directive, Section

__all__ = ["Account", "Daemon", "Settings", "read_daemons", "read_settings"]

_DEFAULT_THREADS = 15


@dataclass(frozen=True, slots=True)
class Account:
    """As whom processes run, and how the files that they make are protected.

    Attributes:
        user: its name, or `#uid`.
        group: its name, or `#gid`.
        umask: in octal, or "" for the one that Apache inherits (usually 022).
        source: where it stands.
    """

    user: str
    group: str
    umask: str
    source: Source


@dataclass(frozen=True, slots=True)
class Daemon:
    """One WSGIDaemonProcess.

    Attributes:
        name: of the process group.
        processes: how many; exact.
        says_processes: whether `processes=` is written: then wsgi.multiprocess is True.
        threads: that serve requests, in each.
        account: as whom they run.
        host: the virtual host that it is defined in, or None.
        options: all options as written.
        source: where it stands.
    """

    name: str
    processes: int
    says_processes: bool
    threads: int
    account: Account
    host: Section | None
    options: dict[str, str]
    source: Source

    def number(self, option: str) -> int:
        """Return an option that is a number; 0 without it, as mod_wsgi has it."""
        text = self.options.get(option, "0")
        return int(text) if text.isdigit() else 0


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for every application.

    Attributes:
        account: as whom Apache's own children run.
        restricted: WSGIRestrictEmbedded On, or None.
        kept: WSGIDestroyInterpreter Off, or None: interpreters are not destroyed at the end.
        fixed_sockets: WSGISocketRotation Off, or None.
        metrics: WSGIServerMetrics On, or None.
    """

    account: Account
    restricted: Source | None
    kept: Source | None
    fixed_sockets: Source | None
    metrics: Source | None


def read_settings(directives: Sequence[Directive]) -> Settings:
    """Return what holds for every application."""

    def last(name: str, default: str) -> tuple[str, Source]:
        found = [directive for directive in directives if directive.name == name and not directive.sections]
        if found:
            return found[-1].words[0], found[-1].source
        return default, Source("", 0, f"{name.title()} is not set")

    def switched(name: str, value: str) -> Source | None:
        word, source = last(name, "")
        return source if word.lower() == value else None

    user, user_source = last("user", "#-1")
    group, _ = last("group", "#-1")
    return Settings(
        account=Account(user, group, "", user_source),
        restricted=switched("wsgirestrictembedded", "on"),
        kept=switched("wsgidestroyinterpreter", "off"),
        fixed_sockets=switched("wsgisocketrotation", "off"),
        metrics=switched("wsgiservermetrics", "on"),
    )


def read_daemons(directives: Sequence[Directive], default: Account) -> dict[str, Daemon]:
    """Return the process groups by name.

    Args:
        directives: the configuration.
        default: as whom Apache's own children run.
    """
    found: dict[str, Daemon] = {}
    for directive in directives:
        if directive.name != "wsgidaemonprocess":
            continue
        name, rest = next_word(directive.arguments)
        options = read_options(rest)
        account = Account(
            user=options.get("user", default.user),
            group=options.get("group", default.group),
            umask=options.get("umask", ""),
            source=directive.source if {"user", "group", "umask"} & options.keys() else default.source,
        )
        found[name] = Daemon(
            name=name,
            processes=int(options.get("processes", "1")),
            says_processes="processes" in options,
            threads=int(options.get("threads", str(_DEFAULT_THREADS))),
            account=account,
            host=directive.host,
            options=options,
            source=directive.source,
        )
    return found
