"""A store for an ASGI application: opened when a worker starts, at hand in each request, closed at the worker's end.

    app = Starlette(routes, lifespan=lifespan("shm://app"))  # or FastAPI; then request.state.store
    app = SharedStateMiddleware(app, "shm://app")  # any ASGI application; then scope["state"]["store"]

No framework is imported: `lifespan` is what Starlette takes by that name, and
the middleware speaks the protocol itself.

    B1  The store is opened when the server tells a worker to start: after every
        fork, and by the loop that serves.  If it cannot be, or `start` raises,
        the worker does not start.
    B2  Nothing is served before `start` has returned.
    B3  `work` is told to stop when the application has ended; only when it has
        returned is the store closed, and only then the server told of the end.
    B4  An application that knows nothing of lifespan is none the worse for it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sharedstate.aio import open as open_store
from sharedstate.deployment.lifecycle import is_stopping
from sharedstate.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
    from contextlib import AbstractAsyncContextManager
    from typing import Any

    from sharedstate.aio import AsyncStore
    from sharedstate.store import Store

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[Any, Any, Any], Awaitable[None]]  # each framework has types of its own for these

__all__ = ["SharedStateMiddleware", "Stopping", "lifespan", "serving"]


class Stopping(threading.Event):
    """Set when the work beside an application is to end: with it, or because the process ends without a word."""

    def is_set(self) -> bool:
        """Return whether to end."""
        return super().is_set() or is_stopping()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for that, and return whether to end; give it half a second, say: not every end wakes who waits."""
        return super().wait(timeout) or self.is_set()


@asynccontextmanager
async def serving(
    url: str | None = None,
    *,
    start: Callable[[Store], object] | None = None,
    work: Callable[[Store, Stopping], object] | None = None,
) -> AsyncGenerator[AsyncStore]:
    """Have a store open while the block runs, for a lifespan function of your own.

    Args:
        url: of the store; None: the one that `sharedstate.open()` chooses.
        start: called in a thread of each worker before the block.  What one
            worker must do for all, it hands to `sharedstate.once`.
        work: called in a thread of each worker beside the block, and waited for
            at its end, so it must look at `stopping`: `Tasks.resume` does, if
            `Tasks` got `is_stopping=stopping.is_set`.  What it raises is
            printed, as of any thread, and the application goes on.
    """
    async with open_store(url) as store:
        if start is not None:
            await asyncio.to_thread(start, store.store)
        if work is None:
            yield store
            return
        stopping = Stopping()
        # No daemon, which the end of the process would break off amid a write.
        thread = threading.Thread(target=work, args=(store.store, stopping), name="sharedstate work")
        thread.start()
        try:
            yield store
        finally:
            stopping.set()
            await asyncio.to_thread(thread.join)


def lifespan(
    url: str | None = None,
    *,
    name: str = "store",
    start: Callable[[Store], object] | None = None,
    work: Callable[[Store, Stopping], object] | None = None,
) -> Callable[[object], AbstractAsyncContextManager[dict[str, AsyncStore]]]:
    """Return what Starlette and FastAPI take as `lifespan`.

    Args:
        url: of the store; None: the one that `sharedstate.open()` chooses.
        name: under which `request.state` has it.
        start: see `serving`.
        work: see `serving`.
    """

    @asynccontextmanager
    async def live(_application: object) -> AsyncGenerator[dict[str, AsyncStore]]:
        async with serving(url, start=start, work=work) as store:
            yield {name: store}

    return live


class SharedStateMiddleware:
    """Any ASGI application, with a store in the state of each of its scopes.

    Args:
        app: the application.
        url: of the store; None: the one that `sharedstate.open()` chooses.
        name: under which `scope["state"]` has it.
        start: see `serving`.
        work: see `serving`.
    """

    def __init__(
        self,
        app: Application,
        url: str | None = None,
        *,
        name: str = "store",
        start: Callable[[Store], object] | None = None,
        work: Callable[[Store, Stopping], object] | None = None,
    ) -> None:
        self._app = app
        self._url = url
        self._name = name
        self._start = start
        self._work = work
        self._store: AsyncStore | None = None  # while this worker is started

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request, or live as long as the worker.

        Raises:
            UnavailableError: a request before the worker was told to start.
        """
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        if self._store is None:
            raise UnavailableError(
                url=self._url or "",
                reason="the server did not tell this worker to start (ASGI's lifespan), so no store is open",
                advice="Turn it on: --lifespan on, in uvicorn.",
            )
        scope.setdefault("state", {})[self._name] = self._store
        await self._app(scope, receive, send)

    async def _live(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        life = _Life(receive, send)
        await life.begin()
        try:
            async with serving(self._url, start=self._start, work=self._work) as self._store:
                if "state" in scope:  # else the server keeps none, and each request is given its own
                    scope["state"][self._name] = self._store
                await life.lead(self._app, scope)
        except Exception:
            await life.fail(traceback.format_exc())
            raise
        finally:
            self._store = None
        await life.end()


class _Life:
    """What the server and the application tell each other, of which the last word is held back (B3)."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._first: Message | None = None  # what the server said, and the application has not yet heard
        self._asked = ""  # what the server waits for an answer to
        self._started = ""  # the application's answer to the first message
        self._last: Message = {"type": "lifespan.shutdown.complete"}

    async def begin(self) -> None:
        self._first = await self._hear()

    async def lead(self, app: Application, scope: MutableMapping[str, Any]) -> None:
        """Let the application live, or live in its place where it does not (B4)."""
        try:
            await app(scope, self._hear, self._say)
        except Exception:
            if self._started:
                raise
            # This is how an application says that it knows no lifespan, and servers take it so.
            logging.getLogger(__name__).info("The application failed in its lifespan, or has none.", exc_info=True)
        if not self._started:
            await self._say({"type": "lifespan.startup.complete"})
        while self._started == "lifespan.startup.complete" and self._asked != "lifespan.shutdown":
            await self._hear()

    async def end(self) -> None:
        if self._started == "lifespan.startup.complete":
            await self._send(self._last)

    async def fail(self, why: str) -> None:
        """Tell the server, if it waits for an answer."""
        if self._asked:
            failed = f"{self._asked}.failed"
            await self._send(self._last if self._last["type"] == failed else {"type": failed, "message": why})

    async def _hear(self) -> Message:
        message, self._first = self._first, None
        if message is None:
            message = await self._receive()
            self._asked = message["type"]
        return message

    async def _say(self, message: Message) -> None:
        if message["type"].startswith("lifespan.startup."):
            self._asked, self._started = "", message["type"]
            await self._send(message)
        else:
            self._last = message
