"""The servers that answer: the main one and the virtual hosts, by which name and at which ports."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sharedstate.deployment.apache.directives import Source, split_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sharedstate.deployment.apache.directives import Directive, Section

__all__ = ["Host", "find_hosts"]

_ADDRESS: Final = re.compile(r"(?:(?P<host>\[[^\]]*\]|[^:\[\]]*):)?(?P<port>\d+|\*)")
_NAME: Final = re.compile(r"(?:(?P<scheme>[a-z]+)://)?(?P<name>\[[^\]]*\]|[^:]*)(?::(?P<port>\d+))?", re.IGNORECASE)
_EVERY_ADDRESS: Final = frozenset({"*", "_default_", "", "0.0.0.0", "[::]"})  # noqa: S104  a name to compare with
_WEB_PORTS: Final = frozenset({80, 443})


@dataclass(frozen=True, slots=True)
class Host:
    """One server that answers requests.

    Attributes:
        section: its `<VirtualHost>`; None: the main server.
        name: its ServerName, in the configuration's spelling.
        named_port: the port in its ServerName, or None.
        ports: at which requests reach it; empty if none can.
        sources: where its name and its addresses stand.
    """

    section: Section | None
    name: str
    named_port: int | None
    ports: tuple[int, ...]
    sources: tuple[Source, ...]

    @property
    def label(self) -> str:
        """What people call it."""
        return f"{self.name} ({self.section.argument})" if self.section else f"{self.name} (main server)"

    def names(self, *, canonical: bool) -> list[str]:
        """Return `name[:port]` as mod_wsgi makes it, for each port that a client may come by.

        Args:
            canonical: UseCanonicalName is On: the port is ServerName's, not the client's.
        """
        ports = [self.named_port or 80] if canonical else self.ports
        named = [self.name if port in _WEB_PORTS else f"{self.name}:{port}" for port in ports]
        return list(dict.fromkeys(named))


def find_hosts(directives: Sequence[Directive]) -> list[Host]:
    """Return the main server and each virtual host, in the order of the configuration."""
    listening = [_address(directive.words[0]) for directive in directives if directive.name == "listen"]
    sections = list(dict.fromkeys(directive.host for directive in directives if directive.host))
    main = _named(directives, None)
    name, port = _parse_name(main) if main else (socket.getfqdn(), None)
    told = main.source if main else Source("", 0, "this machine's name: there is no ServerName")
    taken = [_address(word) for section in sections for word in split_words(section.argument)]
    ports = [port for host, port in listening if not any(_covers(other, (host, port)) for other in taken)]
    hosts = [Host(None, name, port, _unique(ports), (told,))]
    for section in sections:
        own = _named(directives, section)
        own_name, own_port = _parse_name(own) if own else (name, port)
        addresses = [_address(word) for word in split_words(section.argument)]
        reached = [port for host, port in listening if any(_meets(address, (host, port)) for address in addresses)]
        hosts.append(Host(section, own_name, own_port, _unique(reached), (own.source if own else told, section.source)))
    return hosts


def _unique(ports: list[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(ports))


def _named(directives: Sequence[Directive], section: Section | None) -> Directive | None:
    found = [directive for directive in directives if directive.name == "servername" and directive.host == section]
    return found[-1] if found else None


def _parse_name(directive: Directive) -> tuple[str, int | None]:
    match = _NAME.fullmatch(directive.words[0])
    if match is None:
        return directive.words[0], None
    by_scheme = 443 if (match["scheme"] or "").lower() == "https" else None
    return match["name"], int(match["port"]) if match["port"] else by_scheme


def _address(word: str) -> tuple[str, int]:
    """Return (address, port); "" is every address, 0 every port."""
    match = _ADDRESS.fullmatch(word)
    host, port = (match["host"] or "", match["port"]) if match else (word, "*")
    return "" if host in _EVERY_ADDRESS else host.lower(), 0 if port == "*" else int(port)


def _meets(address: tuple[str, int], listen: tuple[str, int]) -> bool:
    """Whether a connection at `listen` can be one for `address`."""
    hosts = "" in {address[0], listen[0]} or address[0] == listen[0]
    return hosts and address[1] in {0, listen[1]}


def _covers(address: tuple[str, int], listen: tuple[str, int]) -> bool:
    """Whether every connection at `listen` is one for `address`."""
    return address[0] in {"", listen[0]} and address[1] in {0, listen[1]}
