"""Where a store is: the server, the way to it, and the store's name there.

    redis://[user:password@]host[:port][/database][/name]
    rediss://...?ca=/path&cert=/path&key=/path      the same over TLS
    redis+unix:/path/of/the/socket?db=0&name=jobs
    redis+sentinel://[user:password@]host[:port],host[:port].../service[/database][/name]
    redis+cluster://[user:password@]host[:port],host[:port].../name

A name of digits only would be taken for a database's number: give both then; a
cluster has number 0 only.  User and password are the servers'; those of the
sentinels are parameters, `sentinel_username` and `sentinel_password`.  With
`tls=yes`, and then `ca`, `cert` and `key`, the way to all of them is encrypted.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sharedstate.backend import StoreUrl

__all__ = ["Address", "Service", "format_place", "read_url"]

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_NAME: Final = "default"
_LOCAL: Final = frozenset({"localhost", "::1"})


class Service(NamedTuple):
    """Servers of which one is the primary, and whom to ask which.

    Attributes:
        name: by which the sentinels know it.
        sentinels: host and port of each.
        username: of ours there; "" for the default user.
        password: likewise; "" for none.
    """

    name: str
    sentinels: tuple[tuple[str, int], ...]
    username: str
    password: str


class Address(NamedTuple):
    """One store.

    Attributes:
        url: opens it from anywhere that its server can be reached from.
        name: the store's, within the database.
        timeout_s: how long a call waits for the server.
        socket: path of the server's socket, "" if it is reached by `host` and `port`.
        host: of the server; "" if it has a socket, or a `service` or `nodes` tell.
        port: of the server; 0 likewise.
        database: its number.
        username: "" for the default user.
        password: "" for none.
        has_tls: whether the way is encrypted.
        certificates: paths of the CA's certificates, of ours, and of its key; "" for none.
        service: whose primary the server is; None if no sentinels tell.
        nodes: host and port of those of a cluster that are asked first; () if it is none.
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
    service: Service | None = None
    nodes: tuple[tuple[str, int], ...] = ()

    @property
    def may_change(self) -> bool:
        """Whether another server may take over, or be given the store."""
        return self.service is not None or bool(self.nodes)

    def is_of_this_host(self) -> bool:
        """Return whether no other host can mean the same server by it."""
        return bool(self.socket) or self.host in _LOCAL or self.host.startswith("127.")


def read_url(url: StoreUrl) -> Address:
    """Take a URL apart.

    Raises:
        UrlError: it is none of ours.
    """
    if url.scheme == "redis+unix":
        return _read_socket(url)
    if url.scheme == "redis+cluster":
        return _read_cluster(url)
    return _read_service(url) if url.scheme == "redis+sentinel" else _read_host(url)


def format_place(host: str, port: int) -> str:
    """Return a host and a port as a URL has them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _read_socket(url: StoreUrl) -> Address:
    path = url.path()
    name = _name(url, url.text_parameter("name", _NAME))
    database = _number(url, "db", url.text_parameter("db", "0"), 2**31 - 1)
    username, password = url.text_parameter("username", ""), url.text_parameter("password", "")
    timeout_s = _timeout(url)
    url.finish()
    return Address(url.canonical(path), name, timeout_s, path, "", 0, database, username, password, False, ("", "", ""))


def _read_host(url: StoreUrl) -> Address:
    username, password, place, parts = _split_target(url)
    host, port = _split_port(url, place, _PORT)
    database, name = _database_and_name(url, parts)
    has_tls = url.scheme == "rediss"
    certificates = _certificates(url, has_tls)
    timeout_s = _timeout(url)
    url.finish()
    canonical = url.canonical(url.target)
    return Address(canonical, name, timeout_s, "", host, port, database, username, password, has_tls, certificates)


def _read_service(url: StoreUrl) -> Address:
    username, password, places, parts = _split_target(url)
    sentinels = tuple(_split_port(url, place, _SENTINEL_PORT) for place in places.split(","))
    known_as = parts.pop(0) if parts else ""
    if not known_as:
        url.refuse("the service is missing", f"Write {_form(url)}; the service is what the sentinels monitor.")
    database, name = _database_and_name(url, parts)
    has_tls = url.choice("tls", ("no", "yes")) == "yes"
    certificates = _certificates(url, has_tls)
    ours = url.text_parameter("sentinel_username", ""), url.text_parameter("sentinel_password", "")
    timeout_s = _timeout(url)
    url.finish()
    service = Service(known_as, sentinels, *ours)
    canonical = url.canonical(url.target)
    return Address(canonical, name, timeout_s, "", "", 0, database, username, password, has_tls, certificates, service)


def _read_cluster(url: StoreUrl) -> Address:
    username, password, places, parts = _split_target(url)
    nodes = tuple(_split_port(url, place, _PORT) for place in places.split(","))
    database, name = _database_and_name(url, parts)
    if database:
        reason = f"a cluster has database 0 only, not {database}"
        url.refuse(reason, f"Leave it out; if {database} is the store's name, write /0/{database}.")
    has_tls = url.choice("tls", ("no", "yes")) == "yes"
    certificates = _certificates(url, has_tls)
    timeout_s = _timeout(url)
    url.finish()
    canonical = url.canonical(url.target)
    return Address(canonical, name, timeout_s, "", "", 0, 0, username, password, has_tls, certificates, None, nodes)


def _split_target(url: StoreUrl) -> tuple[str, str, str, list[str]]:
    """Return user, password, what names the host, and what follows it."""
    if not url.target.startswith("//"):
        url.refuse("a host is missing", f"Write {_form(url)}.")
    # From the right: a password may hold anything, also an @ or a slash.
    userinfo, _, rest = url.target.removeprefix("//").rpartition("@")
    username, _, password = userinfo.partition(":")
    place, *parts = rest.split("/")
    return username, password, place, parts


def _database_and_name(url: StoreUrl, parts: list[str]) -> tuple[int, str]:
    parts = [part for part in parts if part]
    database = _number(url, "the database", parts.pop(0), 2**31 - 1) if parts and parts[0].isdecimal() else 0
    name = _name(url, parts.pop(0) if parts else _NAME)
    if parts:
        url.refuse("there is more behind the store's name", f"Write {_form(url)}.")
    return database, name


def _certificates(url: StoreUrl, has_tls: bool) -> tuple[str, str, str]:
    if not has_tls:
        return "", "", ""
    ca, cert, key = (url.text_parameter(each, "") for each in ("ca", "cert", "key"))
    if key and not cert:
        url.refuse("key= is of no use without the certificate that it belongs to", "Give cert= too.")
    return ca, cert, key


def _split_port(url: StoreUrl, place: str, default: int) -> tuple[str, int]:
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        host, _, port = place.partition(":")
    if not host:
        url.refuse("a host is missing", f"Write {_form(url)}.")
    return host, _number(url, "the port", port, 65535) if port else default


def _number(url: StoreUrl, what: str, text: str, most: int) -> int:
    if not text.isdecimal() or not text.isascii() or len(text) > 10 or int(text) > most:
        url.refuse(f"{what} is {text!r}, and should be a number up to {most}", f"Write {_form(url)}.")
    return int(text)


def _form(url: StoreUrl) -> str:
    if url.scheme == "redis+unix":
        return "redis+unix:/path/of/the/socket?db=0&name=jobs"
    if url.scheme == "redis+cluster":
        return "redis+cluster://host:port,host:port/name"
    return f"{url.scheme}://host:port{',host:port/service' if url.scheme == 'redis+sentinel' else ''}/database/name"


def _name(url: StoreUrl, name: str) -> str:
    return StoreUrl(url.text, url.scheme, name, {}).name()


def _timeout(url: StoreUrl) -> float:
    timeout_s = url.seconds("timeout", 5.0)
    if timeout_s < 0.001:
        url.refuse("timeout=0 would give the server no time to answer", "Give seconds above 0.001.")
    return timeout_s
