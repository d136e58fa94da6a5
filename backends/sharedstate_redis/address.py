"""Where a store is: the server, the way to it, and the store's name there.

    redis://[user:password@]host[:port][/database][/name]
    rediss://...?ca=/path&cert=/path&key=/path      the same over TLS
    redis+unix:/path/of/the/socket?db=0&name=jobs

A name of digits only would be taken for a database's number: give both then.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sharedstate.backend import StoreUrl

__all__ = ["Address", "read_url"]

_PORT: Final = 6379
_NAME: Final = "default"
_LOCAL: Final = frozenset({"localhost", "::1"})


class Address(NamedTuple):
    """One store.

    Attributes:
        url: opens it from anywhere that its server can be reached from.
        name: the store's, within the database.
        timeout_s: how long a call waits for the server.
        socket: path of the server's socket, "" if it is reached by `host` and `port`.
        host: of the server; likewise.
        port: of the server.
        database: its number.
        username: "" for the default user.
        password: "" for none.
        has_tls: whether the way is encrypted.
        certificates: paths of the CA's certificates, of ours, and of its key; "" for none.
    """

    url: str
    name: str
    timeout_s: float
    socket: str
    host: str
    port: int
    database: int
    username: str
    password: str
    has_tls: bool
    certificates: tuple[str, str, str]

    def is_of_this_host(self) -> bool:
        """Return whether no other host can mean the same server by it."""
        return bool(self.socket) or self.host in _LOCAL or self.host.startswith("127.")


def read_url(url: StoreUrl) -> Address:
    """Take a URL apart.

    Raises:
        UrlError: it is none of ours.
    """
    return _read_socket(url) if url.scheme == "redis+unix" else _read_host(url)


def _read_socket(url: StoreUrl) -> Address:
    path = url.path()
    name = _name(url, url.text_parameter("name", _NAME))
    database = _number(url, "db", url.text_parameter("db", "0"), 2**31 - 1)
    username, password = url.text_parameter("username", ""), url.text_parameter("password", "")
    timeout_s = _timeout(url)
    url.finish()
    return Address(url.canonical(path), name, timeout_s, path, "", 0, database, username, password, False, ("", "", ""))


def _read_host(url: StoreUrl) -> Address:
    if not url.target.startswith("//"):
        url.refuse("a host is missing", f"Write for instance {url.scheme}://localhost:{_PORT}/{_NAME}.")
    # From the right: a password may hold anything, also an @ or a slash.
    userinfo, _, rest = url.target.removeprefix("//").rpartition("@")
    username, _, password = userinfo.partition(":")
    place, *parts = rest.split("/")
    host, port = _split_port(url, place)
    parts = [part for part in parts if part]
    database = _number(url, "the database", parts.pop(0), 2**31 - 1) if parts and parts[0].isdecimal() else 0
    name = _name(url, parts.pop(0) if parts else _NAME)
    if parts:
        url.refuse("there is more behind the store's name", "Write redis://host:port/database/name.")
    has_tls = url.scheme == "rediss"
    files = tuple(url.text_parameter(each, "") for each in ("ca", "cert", "key")) if has_tls else ("", "", "")
    timeout_s = _timeout(url)
    url.finish()
    canonical = url.canonical(url.target)
    ca, cert, key = files
    return Address(canonical, name, timeout_s, "", host, port, database, username, password, has_tls, (ca, cert, key))


def _split_port(url: StoreUrl, place: str) -> tuple[str, int]:
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        host, _, port = place.partition(":")
    if not host:
        url.refuse("a host is missing", f"Write for instance {url.scheme}://localhost:{_PORT}/{_NAME}.")
    return host, _number(url, "the port", port, 65535) if port else _PORT


def _number(url: StoreUrl, what: str, text: str, most: int) -> int:
    if not text.isdecimal() or not text.isascii() or len(text) > 10 or int(text) > most:
        url.refuse(f"{what} is {text!r}, and should be a number up to {most}", "Write redis://host:port/database/name.")
    return int(text)


def _name(url: StoreUrl, name: str) -> str:
    return StoreUrl(url.text, url.scheme, name, {}).name()


def _timeout(url: StoreUrl) -> float:
    timeout_s = url.seconds("timeout", 5.0)
    if timeout_s < 0.001:
        url.refuse("timeout=0 would give the server no time to answer", "Give seconds above 0.001.")
    return timeout_s
