"""An ASGI application whose workers count together, and finish what one of them left unfinished.

    uvicorn --workers 4 asgi_app:app

    curl http://127.0.0.1:8000/                  # one count, whoever answers
    curl -X POST http://127.0.0.1:8000/spring    # writes a mailing down; one worker sends it, a letter each second
    curl http://127.0.0.1:8000/spring            # how far it got; kill its worker, and another goes on from there

Starlette and FastAPI take `lifespan=` in place of the middleware: docs/adapters/asgi.md.
"""

import asyncio
import json
import os
from typing import Any

import sharedstate
from sharedstate.aio import AsyncStore
from sharedstate.contrib.asgi import SharedStateMiddleware, Stopping

LETTERS = 10


def start(store: sharedstate.Store) -> None:
    """Run in each worker before it serves."""
    sharedstate.once(store, "migrate", lambda: store.set("migrated by", os.getpid()))  # by one of them


def work(store: sharedstate.Store, stopping: Stopping) -> None:
    """Run in a thread of each worker until it ends."""
    mailings = sharedstate.Tasks(store, "mailings", is_stopping=stopping.is_set)

    def send(mailing: sharedstate.Task) -> None:
        for number in range(mailing.state or 0, LETTERS):
            if stopping.wait(1):
                mailing.release()  # to another worker, or to the next start
                return
            mailing.checkpoint(number + 1, lambda tx: tx.increment(f"letters:{mailing.id}"))
        mailing.finish()

    while not stopping.wait(0.5):
        mailings.resume(send)


async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer a request."""
    if scope["type"] != "http":
        raise ValueError(f"no {scope['type']} here")  # so the middleware lives in its place
    store: AsyncStore = scope["state"]["store"]
    name = scope["path"].strip("/")
    content: dict[str, Any]
    if not name:
        content = {"requests": await store.increment("requests"), "migrated by": await store.get("migrated by")}
    elif scope["method"] == "POST":
        mailings = sharedstate.Tasks(store.store, "mailings")
        content = {"accepted": await asyncio.to_thread(mailings.add, name)}  # a store on a disk may wait
    else:
        content = {"letters": await store.get(f"letters:{name}")}
    content["pid"] = os.getpid()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(content).encode() + b"\n"})


app = SharedStateMiddleware(serve, start=start, work=work)  # the store that sharedstate.open() chooses
