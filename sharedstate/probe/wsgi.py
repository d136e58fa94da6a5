"""The probe as a WSGI application: mount `sharedstate.probe.wsgi:application` in the real server.

It answers 404 to everything until the operator sets SHAREDSTATE_PROBE_TOKEN, in
the server's environment or by Apache's SetEnv; see docs/live-probe.md.
"""

from __future__ import annotations

import os

from sharedstate.probe.live.answering import Reply, admit, answer, refuse
from sharedstate.probe.live.place import sweep
from sharedstate.probe.live.protocol import HEADER, TOKEN_NAME

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["application"]


def application(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]) -> list[bytes]:
    """Answer one request."""
    sweep()
    reply = _answer(environ)
    start_response(reply.status_line, reply.headers)
    return [reply.body]


def _answer(environ: dict[str, Any]) -> Reply:
    # SetEnv's variables are keys of their own here; what a request sends begins with HTTP_.
    configured = _bytes(environ.get(TOKEN_NAME)) or os.environb.get(TOKEN_NAME.encode(), b"")
    kind, _, token = _bytes(environ.get("HTTP_AUTHORIZATION")).partition(b" ")
    presented = [token.strip() if kind.lower() == b"bearer" else b"", _bytes(environ.get(_HEADER_KEY))]
    length = admit(configured, presented, str(environ.get("REQUEST_METHOD")), str(environ.get("CONTENT_LENGTH") or ""))
    if not isinstance(length, int):
        return length
    try:
        body = _read(environ["wsgi.input"], length)
    except OSError:
        return refuse(400, "the body broke off")
    return answer(body, str(environ.get("SCRIPT_NAME") or ""), environ)


_HEADER_KEY = "HTTP_" + HEADER.upper().replace("-", "_")


def _read(stream: Any, length: int) -> bytes:
    parts: list[bytes] = []
    while length and (part := stream.read(length)):  # may give less than it was asked for
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _bytes(text: object) -> bytes:
    try:
        return text.encode("latin-1") if isinstance(text, str) else b""  # WSGI has one character for each byte
    except UnicodeEncodeError:  # wsgiref's copy of the environment, or a test client
        return b""
