"""Who may give orders, and the answer to each request, whatever the server's protocol is.

    A1  Without a token that the operator set, every answer is 404.
    A2  Nothing of a request is looked at before its token was found right.
    A3  Whatever is sent, the answer is made here: a status and a line, never a traceback.
    A4  The token is compared in constant time, and stands in no answer and no log.

Thread safety: any thread.
"""

from __future__ import annotations

import sys
import time
from _operator import _compare_digest  # pyright: ignore[reportPrivateUsage]  what hmac hands on; hmac would load hashlib, which isolated 3.12.1 dies of

from sharedstate._light import NamedTuple
from sharedstate.probe.live.place import here
from sharedstate.probe.live.protocol import FORMAT, MARKER, MOST_BODY_BYTES, TOKEN_NAME, OrderError, read_order
from sharedstate.probe.live.working import obey

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final

__all__ = ["Reply", "admit", "answer", "refuse"]

_SHORTEST_TOKEN: Final = 16
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    411: "Length Required",
    413: "Content Too Large",
    500: "Internal Server Error",
}

_told: list[str] = []  # what was said in the server's log, once per interpreter


class Reply(NamedTuple):
    """An answer that is ready to be sent."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def status_line(self) -> str:
        """As WSGI wants it."""
        return f"{self.status} {_REASONS[self.status]}"


def admit(configured: bytes, presented: Sequence[bytes], method: str, length: str) -> Reply | int:
    """Return how many bytes of the body are to be read, or the answer to a request that is refused.

    Args:
        configured: the operator's token, empty if there is none.
        presented: what the request gives as one.
        method: of the request.
        length: its Content-Length as it stands, "" if there is none.
    """
    if len(configured) < _SHORTEST_TOKEN or not configured.isascii():
        if configured:
            _tell(f"sharedstate.probe is off: {TOKEN_NAME} has to be at least {_SHORTEST_TOKEN} characters of ASCII")
        return Reply(404, _headers("text/plain", 10), b"Not Found\n")
    # All of them, whether or not one has fitted.
    if not sum([_compare_digest(configured, token) for token in presented]):
        return refuse(403, "this is not the token")
    if method != "POST":
        return refuse(405, "orders are sent by POST")
    if not length:
        return refuse(411, "a body needs its Content-Length")
    if not (length.isascii() and length.isdecimal() and len(length) < 20):
        return refuse(400, "Content-Length is no number")
    if int(length) > MOST_BODY_BYTES:
        return refuse(413, f"an order has at most {MOST_BODY_BYTES} bytes")
    return int(length)


def answer(body: bytes, mount: str, environ: dict[str, Any] | None) -> Reply:
    """Do what the body of an admitted request orders, and return the answer.

    Args:
        body: as it was sent.
        mount: where the server has mounted us.
        environ: WSGI's, for what it tells of the deployment.
    """
    began_ns = time.monotonic_ns()
    try:
        order = read_order(body)
        place = here()
        did = obey(place, order, environ)
        found = {
            "where": place.describe(mount),
            "began_ns": began_ns,
            "ended_ns": time.monotonic_ns(),
            "do": order.do,
            "did": did,
        }
    except OrderError as error:
        return refuse(400, str(error))
    except Exception as error:  # noqa: BLE001  whatever it is, A3
        import traceback

        traceback.print_exc(file=sys.stderr)
        return refuse(500, f"the probe itself failed ({type(error).__name__}); the server's log says more")
    return _reply(200, found)


def refuse(status: int, reason: str) -> Reply:
    """Return the answer that says why there is none."""
    return _reply(status, {"error": reason})


def _reply(status: int, found: dict[str, Any]) -> Reply:
    import json  # only here: an interpreter that is never probed does not pay for it

    body = json.dumps({MARKER: FORMAT, **found}).encode()
    return Reply(status, _headers("application/json", len(body)), body)


def _headers(kind: str, length: int) -> list[tuple[str, str]]:
    return [
        ("Content-Type", kind),
        ("Content-Length", str(length)),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    ]


def _tell(line: str) -> None:
    if line not in _told:
        _told.append(line)
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
