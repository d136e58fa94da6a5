"""The probe as an ASGI application: `sharedstate.probe.asgi:application`, the twin of `sharedstate.probe.wsgi`.

It blocks the event loop for as long as an order says: busy as a worker in the
middle of its work is, so that the next request goes to another worker.
"""

from __future__ import annotations

import os

from sharedstate.probe.live.answering import Reply, admit, answer, refuse
from sharedstate.probe.live.place import sweep
from sharedstate.probe.live.protocol import HEADER, TOKEN_NAME

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[object]]

__all__ = ["application"]


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer one request, or take part in the server's life."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000})
    elif scope["type"] == "http":
        sweep()
        reply = await _answer(scope, receive)
        headers = [(name.lower().encode(), value.encode()) for name, value in reply.headers]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})


async def _live(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def _answer(scope: dict[str, Any], receive: Receive) -> Reply:
    headers: dict[bytes, bytes] = {bytes(name).lower(): bytes(value) for name, value in scope["headers"]}
    kind, _, token = headers.get(b"authorization", b"").partition(b" ")
    presented = [token.strip() if kind.lower() == b"bearer" else b"", headers.get(HEADER.lower().encode(), b"")]
    configured = os.environb.get(TOKEN_NAME.encode(), b"")
    length = admit(configured, presented, scope["method"], headers.get(b"content-length", b"").decode("latin-1"))
    if not isinstance(length, int):
        return length
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return refuse(400, "the body broke off")
        body += message.get("body", b"")
        if len(body) > length:
            return refuse(400, "the body is longer than its Content-Length")
        if not message.get("more_body"):
            return answer(body, scope.get("root_path", ""), None)
