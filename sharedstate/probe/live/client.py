"""One request to a mounted probe, and what its answer says; whatever else answers is told apart.

Nothing that arrives is trusted: it is bounded in size, checked field by field,
and characters that a terminal would obey are replaced.

Thread safety: any thread.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

from sharedstate.errors import StateError
from sharedstate.probe.live.checked import as_number, as_text, as_whole, clean
from sharedstate.probe.live.protocol import FORMAT, HEADER, MARKER, TOKEN_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Answer", "LiveProbeError", "Mount", "Problem", "Where", "ask", "parse_mount"]

_MOST_ANSWER_BYTES: Final = 4 * 2**20


class LiveProbeError(StateError):
    """A probe of a live server that could not be begun.

    Attributes:
        url: of the mount.
        reason: what was found.
        advice: what the reader can do next.
    """

    url: str
    reason: str
    advice: str

    def __init__(self, *, url: str, reason: str, advice: str) -> None:
        super().__init__(url=url, reason=reason, advice=advice)

    def describe(self) -> str:
        """Return the message."""
        return f"{self.url}: {self.reason}. {self.advice}"


class Mount(NamedTuple):
    """A place in a server where the probe is mounted."""

    url: str
    scheme: str
    host: str
    port: int
    path: str

    @property
    def is_private(self) -> bool:
        """Whether nobody on the way can read the token."""
        return self.scheme == "https" or self.host in {"localhost", "::1"} or self.host.startswith("127.")


class Where(NamedTuple):
    """Who answered: a thread of an interpreter of a process of a host.

    Attributes:
        host: its name.
        boot: the kernel's id of its boot: two containers of one machine have the same.
        space: of pids: two containers of one machine have different ones.
        clock: what CLOCK_MONOTONIC of this process can be compared within.
        pid: of the process.
        started: in clock ticks after boot.
        born_s: when the process started, in seconds after boot.
        up_s: when it answered, on the same clock.
        parent: pid of the parent.
        interpreter: its number in the process.
        place: the interpreter's own token.
        thread: the kernel's id.
        mount: where the server says that it mounted the probe.
        python: version.
    """

    host: str
    boot: str
    space: int
    clock: str
    pid: int
    started: int
    born_s: float
    up_s: float
    parent: int
    interpreter: int
    place: str
    thread: int
    mount: str
    python: str


class Answer(NamedTuple):
    """What a place did by order.

    Attributes:
        url: that was asked.
        where: who answered.
        began_ns: when the place began with it, on its own monotonic clock.
        ended_ns: when it was done.
        did: the deed's report, unchecked.
    """

    url: str
    where: Where
    began_ns: int
    ended_ns: int
    did: dict[str, Any]

    @property
    def is_look(self) -> bool:
        """Whether it says what the place is, and not what it did."""
        return "deployment" in self.did


class Problem(NamedTuple):
    """A request without an answer of a probe.

    Attributes:
        url: that was asked.
        kind: "off", "token", "refused", "silent", "broken", "error" or "stranger".
        reason: what was found.
        advice: what the reader can do next.
    """

    url: str
    kind: str
    reason: str
    advice: str

    def as_error(self) -> LiveProbeError:
        """Return it as the error that ends the command."""
        return LiveProbeError(url=self.url, reason=self.reason, advice=self.advice)


def parse_mount(url: str) -> Mount:
    """Take the URL of a mount apart.

    Raises:
        LiveProbeError: it is none.
    """

    def refuse(reason: str) -> LiveProbeError:
        return LiveProbeError(url=clean(url), reason=reason, advice="Write for instance http://127.0.0.1:8000/probe.")

    if not (url.isascii() and url.isprintable()) or " " in url:
        raise refuse("a URL has no spaces, and only ASCII characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise refuse(f"it is no URL ({error})") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise refuse("the URL of a mount begins with http:// or https:// and a host")
    if parts.username is not None or parts.password is not None:
        # Not repeated: it may hold a password.
        plain = LiveProbeError(url=f"{parts.scheme}://{parts.hostname}", reason="", advice="")
        raise LiveProbeError(
            url=plain.url, reason="a user name stands in the URL", advice="The probe asks for its token only."
        )
    if parts.query or parts.fragment:
        raise refuse("a mount has no ? and no #")
    default = 443 if parts.scheme == "https" else 80
    return Mount(url, parts.scheme, parts.hostname, default if port is None else port, parts.path or "/")


def ask(mount: Mount, token: str, order: dict[str, Any], timeout_s: float) -> Answer | Problem:
    """Send one order on a connection of its own, and return what came of it within `timeout_s`."""
    body = json.dumps(order).encode()
    headers = {
        "Authorization": f"Bearer {token}",
        HEADER: token,
        "Content-Type": "application/json",
        "Connection": "close",
        "User-Agent": "sharedstate-probe",
    }
    until = time.monotonic() + timeout_s
    connection = _connect(mount, timeout_s)
    try:
        connection.request("POST", mount.path, body, headers)
        response = connection.getresponse()
        found = _read_until(response, until)
    except ConnectionRefusedError:
        return Problem(mount.url, "refused", "connection refused", "Is the server running, and is that its port?")
    except TimeoutError:
        advice = "Is it a web server, and does it have a worker to spare?"
        return Problem(mount.url, "silent", f"no answer within {timeout_s:.0f} s", advice)
    except (socket.gaierror, ssl.SSLError) as error:
        return Problem(mount.url, "refused", clean(str(error.args[-1])), "Look at the host's name and scheme.")
    except (OSError, http.client.HTTPException) as error:
        reason = f"the connection broke ({type(error).__name__})"
        return Problem(mount.url, "broken", reason, "The server, or a worker of it, ended in the middle: see its log.")
    finally:
        connection.close()
    return _understand(mount, response, found)


def _connect(mount: Mount, timeout_s: float) -> http.client.HTTPConnection:
    if mount.scheme == "https":
        return http.client.HTTPSConnection(mount.host, mount.port, timeout=timeout_s)
    return http.client.HTTPConnection(mount.host, mount.port, timeout=timeout_s)


def _read_until(response: http.client.HTTPResponse, until: float) -> bytes:
    # A server that sends a byte now and then would never time out by itself.
    parts = list[bytes]()
    size = 0
    while part := response.read1(65536):
        parts.append(part)
        size += len(part)
        if size > _MOST_ANSWER_BYTES:
            return b""
        if time.monotonic() > until:
            raise TimeoutError
    if response.length:
        raise http.client.IncompleteRead(b"")
    return b"".join(parts)


def _understand(mount: Mount, response: http.client.HTTPResponse, body: bytes) -> Answer | Problem:
    status = response.status
    found = _parse(body)
    is_ours = found.get(MARKER) == FORMAT
    if is_ours and status == 200:
        try:
            return _read_answer(mount.url, found)
        except (KeyError, TypeError, ValueError) as error:
            advice = "Have server and command use the same version of sharedstate."
            return Problem(mount.url, "stranger", f"its answer cannot be understood ({type(error).__name__})", advice)
    if is_ours:
        return _explain_refusal(mount, status, clean(str(found.get("error", ""))))
    return _explain_stranger(mount, status, response)


def _parse(body: bytes) -> dict[str, Any]:
    """Return the object in the body, an empty one if there is none."""
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return cast(dict[str, Any], found) if type(found) is dict else {}


def _explain_refusal(mount: Mount, status: int, reason: str) -> Problem:
    if status == 403:
        advice = f"Give the token that the server has as {TOKEN_NAME}, by the same variable or by --token-file."
        return Problem(mount.url, "token", "wrong token", advice)
    advice = "Have server and command use the same version of sharedstate, and see the server's log."
    return Problem(mount.url, "error", f"the probe answers {status}: {reason}", advice)


def _explain_stranger(mount: Mount, status: int, response: http.client.HTTPResponse) -> Problem:
    if status == 404:
        return Problem(
            mount.url,
            "off",
            "404: nothing is mounted there, or the probe is off",
            f"Mount sharedstate.probe.wsgi:application, set {TOKEN_NAME} (16 characters or more) in the server's "
            "environment or by Apache's SetEnv, and restart the server; docs/live-probe.md shows how.",
        )
    if status in {502, 503, 504}:
        advice = "See the log of the server behind it; with too few workers, try a lower --concurrency."
        return Problem(mount.url, "broken", f"the server answers {status}", advice)
    if status in {301, 302, 303, 307, 308}:
        target = clean(response.headers.get("Location") or "nowhere")[:200]
        return Problem(mount.url, "stranger", f"{status}, a redirect to {target}", "Give the URL that answers itself.")
    kind = clean(response.headers.get("Content-Type") or "no type")[:80]
    advice = "Mount sharedstate.probe.wsgi:application there; docs/live-probe.md shows how."
    return Problem(mount.url, "stranger", f"something else answers there: {status}, {kind}, no probe", advice)


# --- What arrived, checked ------------------------------------------------------


def _read_answer(url: str, found: dict[str, Any]) -> Answer:
    where = found["where"]
    checked = Where(**{name: check(where[name]) for name, check in _WHERE.items()})
    did = found["did"]
    if type(did) is not dict:
        raise TypeError
    return Answer(url, checked, as_whole(found["began_ns"]), as_whole(found["ended_ns"]), did)


_WHERE: Final[dict[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(("host", "boot", "clock", "place", "mount", "python"), as_text),
    **dict.fromkeys(("space", "pid", "started", "parent", "interpreter", "thread"), as_whole),
    **dict.fromkeys(("born_s", "up_s"), as_number),
}
