"""`sharedstate.contrib.asgi`: B1 to B4, by the lifespan protocol itself; a server's part is played by hand."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest

import sharedstate
from sharedstate.contrib import asgi
from sharedstate.contrib.asgi import SharedStateMiddleware, Stopping, lifespan, serving
from sharedstate.testing.conformance.support import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from sharedstate import Store

_STARTUP, _SHUTDOWN = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}
_STARTED, _ENDED = {"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}


class Server:
    """One worker of a server: tells an application to start and to end, and passes requests on."""

    def __init__(self, app: Any, *, has_state: bool = True) -> None:
        self.app = app
        self.state: dict[str, Any] | None = {} if has_state else None
        self.told: list[Any] = []  # by the application, of its life
        self._says: asyncio.Queue[Any] = asyncio.Queue()
        self._heard = asyncio.Event()
        self.life: asyncio.Task[None] | None = None

    async def start(self) -> Any:
        self.life = asyncio.create_task(self._live())
        return await self._ask(_STARTUP)

    async def end(self) -> Any:
        return await self._ask(_SHUTDOWN)

    async def request(self, kind: str = "http") -> dict[str, Any]:
        """Return the scope of a request, as the application left it."""
        scope: dict[str, Any] = {"type": kind}
        if self.state is not None:
            scope["state"] = self.state.copy()
        await self.app(scope, self._says.get, self._hear)
        return scope

    async def _ask(self, message: Any) -> Any:
        before = len(self.told)
        self._heard.clear()
        self._says.put_nowait(message)
        assert self.life is not None
        hearing = asyncio.create_task(self._heard.wait())
        await asyncio.wait({self.life, hearing}, return_when=asyncio.FIRST_COMPLETED)
        hearing.cancel()
        if len(self.told) == before:
            await self.life  # raises what ended it
        return self.told[-1]

    async def _live(self) -> None:
        scope: dict[str, Any] = {"type": "lifespan"}
        if self.state is not None:
            scope["state"] = self.state
        await self.app(scope, self._says.get, self._hear)

    async def _hear(self, message: Any) -> None:
        self.told.append(message)
        self._heard.set()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Counts requests; knows its lifespan."""
    if scope["type"] != "lifespan":
        await scope["state"]["store"].increment("requests")
        return
    for kind in ("startup", "shutdown"):
        assert (await receive())["type"] == f"lifespan.{kind}"
        await send({"type": f"lifespan.{kind}.complete"})


async def without_lifespan(scope: Any, receive: Any, send: Any) -> None:
    """As Django's, which refuses what it does not know."""
    if scope["type"] == "lifespan":
        raise ValueError(scope["type"])
    await application(scope, receive, send)


async def silent(scope: Any, receive: Any, send: Any) -> None:
    """Does nothing where it knows nothing."""
    if scope["type"] != "lifespan":
        await application(scope, receive, send)


async def hasty(scope: Any, receive: Any, send: Any) -> None:
    """Says that it has started, and does not wait for its end."""
    if scope["type"] == "lifespan":
        await send(_STARTED)
    else:
        await application(scope, receive, send)


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await body()

    asyncio.run(in_time())


# --- The middleware -----------------------------------------------------------------------


@pytest.mark.parametrize("app", [application, without_lifespan, silent, hasty])
@pytest.mark.parametrize("has_state", [True, False])
def test_a_store_is_open_from_start_to_end(any_url: str, app: Any, has_state: bool) -> None:
    """B1, B4: in each scope, whether application and server know of lifespan and state or not; then it is closed."""

    async def body() -> None:
        server = Server(SharedStateMiddleware(app, any_url), has_state=has_state)
        assert await server.start() == _STARTED
        scopes = [await server.request(), await server.request("websocket")]
        store = scopes[0]["state"]["store"]
        assert await store.get("requests") == 2
        assert scopes[1]["state"]["store"] is store

        assert await server.end() == _ENDED

        with pytest.raises(sharedstate.ClosedError):
            await store.get("requests")
        assert server.told == [_STARTED, _ENDED]
        await server.life

    run(body)


def test_a_store_that_cannot_be_opened_fails_the_start() -> None:
    """B1: the server is told why, and the application never runs."""

    async def body() -> None:
        ran: list[Any] = []

        async def app(scope: Any, *_: Any) -> None:
            ran.append(scope)

        server = Server(SharedStateMiddleware(app, "nobody://knows"))
        told = await server.start()
        assert told["type"] == "lifespan.startup.failed"
        assert "UrlError" in told["message"]
        with pytest.raises(sharedstate.UrlError):
            await server.life
        assert ran == []

    run(body)


def test_start_is_done_before_anything_is_served(memory_url: str) -> None:
    """B2; in a thread, so that it may wait; and what it raises fails the start, and closes the store."""
    began, go_on, stores = threading.Event(), threading.Event(), []

    def start(store: Store) -> None:
        stores.append(store)
        began.set()
        assert go_on.wait(PATIENCE_S)
        store["started"] = threading.current_thread() is threading.main_thread()
        if len(stores) == 2:
            raise OSError("no such host")

    async def body() -> None:
        server = Server(SharedStateMiddleware(application, memory_url, start=start))
        starting = asyncio.create_task(server.start())
        await asyncio.to_thread(began.wait, PATIENCE_S)
        assert server.told == []
        go_on.set()
        assert await starting == _STARTED
        assert await (await server.request())["state"]["store"].get("started") is False
        assert await server.end() == _ENDED

        server = Server(SharedStateMiddleware(application, memory_url, start=start))
        told = await server.start()
        assert (told["type"], "no such host" in told["message"]) == ("lifespan.startup.failed", True)
        with pytest.raises(OSError, match="no such host"):
            await server.life
        with pytest.raises(sharedstate.ClosedError):
            stores[1].get("started")

    run(body)


def test_a_request_without_a_start_is_told_why(memory_url: str) -> None:
    """A server with its lifespan off opens nothing; and after the end nothing is open either."""

    async def body() -> None:
        server = Server(SharedStateMiddleware(application, memory_url))
        with pytest.raises(sharedstate.UnavailableError, match="lifespan on"):
            await server.request()
        await server.start()
        await server.end()
        with pytest.raises(sharedstate.UnavailableError, match="lifespan on"):
            await server.request()

    run(body)


@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize("kind", ["startup", "shutdown"])
def test_what_the_application_says_of_its_failure_is_passed_on(memory_url: str, kind: str, raises: bool) -> None:
    """Once and in its words, whether it then raises, as Starlette does, or not; the store is closed."""
    stores: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        stores.append(scope["state"]["store"])
        for asked in ("startup", "shutdown"):
            await receive()
            if asked == kind:
                await send({"type": f"lifespan.{kind}.failed", "message": "mine"})
                if raises:
                    raise RuntimeError(kind)
                return
            await send({"type": f"lifespan.{asked}.complete"})

    async def body() -> None:
        server = Server(SharedStateMiddleware(app, memory_url))
        told = await server.start()
        if kind == "shutdown":
            told = await server.end()
        assert told == {"type": f"lifespan.{kind}.failed", "message": "mine"}
        with pytest.raises(RuntimeError, match=kind) if raises else nullcontext():
            await server.life
        assert len(server.told) == (1 if kind == "startup" else 2)
        with pytest.raises(sharedstate.ClosedError):
            await stores[0].get("k")

    run(body)


def test_each_forked_worker_opens_its_own(shared_url: str, in_four_processes: Callable[..., None]) -> None:
    """B1: one middleware, made before the fork; all count in one store, and `once` in `start` is run by one."""

    def start(store: Store) -> None:
        sharedstate.once(store, "migrate", lambda: store.increment("migrated"), per="test")

    app = SharedStateMiddleware(application, shared_url, start=start)

    async def body() -> None:
        server = Server(app)
        assert await server.start() == _STARTED
        assert (await server.request())["state"]["store"].store.get("migrated") == 1
        assert await server.end() == _ENDED

    in_four_processes(lambda: run(body))

    with sharedstate.open(shared_url) as store:
        assert (store["requests"], store["migrated"]) == (4, 1)


# --- Work beside the application --------------------------------------------------------------


def test_work_has_ended_when_the_store_closes(any_url: str) -> None:
    """B3: it is told when the application has ended, may write until it returns, and only then the server is told."""
    events: list[str] = []
    told = threading.Event()  # the server, of the end

    def work(store: Store, stopping: Stopping) -> None:
        while not stopping.wait(PATIENCE_S):
            pass
        events.append("told to stop")
        assert not told.wait(0.05)
        store["last"] = "word"
        events.append("returned")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await application(scope, receive, send)
        if scope["type"] == "lifespan":
            events.append("application ended")

    async def body() -> None:
        server = Server(SharedStateMiddleware(app, any_url, work=work))
        await server.start()
        assert events == []

        assert await server.end() == _ENDED
        told.set()

        assert events == ["application ended", "told to stop", "returned"]

    run(body)
    with sharedstate.open(any_url) as store:
        assert store["last"] == "word"


def test_work_has_ended_although_the_life_was_cancelled(memory_url: str) -> None:
    """B3: as by a server that is hurried; the store is still open when the work writes its last."""
    stores: list[Store] = []
    ended = threading.Event()  # the application's life

    def work(store: Store, stopping: Stopping) -> None:
        stores.append(store)
        while not stopping.wait(PATIENCE_S):
            pass
        assert not ended.wait(0.05)
        store["last"] = "word"

    async def body() -> None:
        server = Server(SharedStateMiddleware(application, memory_url, work=work))
        await server.start()
        server.life.cancel()
        with pytest.raises(asyncio.CancelledError):
            await server.life
        ended.set()

    run(body)
    with pytest.raises(sharedstate.ClosedError):
        stores[0].get("last")
    with sharedstate.open(memory_url) as store:
        assert store["last"] == "word"


def test_work_resumes_what_others_left_unfinished(any_url: str) -> None:
    """As docs/adapters/asgi.md has it: each task once, of two workers, and none begun after the end."""
    with sharedstate.open(any_url) as plain:
        tasks = sharedstate.Tasks(plain, "mailings")
        for number in range(10):
            tasks.add(str(number))

        def send(task: sharedstate.Task) -> None:
            task.finish(lambda tx: tx.increment(f"sent:{task.id}"))

        def work(store: Store, stopping: Stopping) -> None:
            sharedstate.Tasks(store, "mailings", is_stopping=stopping.is_set).resume(send)

        async def body() -> None:
            workers = [Server(SharedStateMiddleware(application, any_url, work=work)) for _ in range(2)]
            await asyncio.gather(*(worker.start() for worker in workers))
            while tasks.count():  # noqa: ASYNC110  of threads, which tell it to nobody
                await asyncio.sleep(0.001)
            await asyncio.gather(*(worker.end() for worker in workers))

        run(body)
        assert dict(plain.items("sent:")) == {f"sent:{number}": 1 for number in range(10)}


def test_work_ends_with_a_process_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """`stopping` is set too once the process is known to end, by whatever tells it."""
    stopping = Stopping()
    assert not stopping.is_set()
    assert not stopping.wait(0)

    monkeypatch.setattr(asgi, "is_stopping", lambda: True)

    assert stopping.is_set()
    assert stopping.wait(0)


# --- What Starlette takes -----------------------------------------------------------------


def test_lifespan_is_what_starlette_takes(any_url: str) -> None:
    """A function of the application whose context manager yields the state; here Starlette's part is played by hand."""

    async def body() -> None:
        async with lifespan(any_url, name="shared", start=lambda store: store.set("k", 1))(object()) as state:
            assert await state["shared"].get("k") == 1
        with pytest.raises(sharedstate.ClosedError):
            await state["shared"].get("k")

    run(body)


def test_serving_within_a_lifespan_of_ones_own(memory_url: str) -> None:
    """It is closed also where the application failed."""

    @asynccontextmanager
    async def live() -> AsyncIterator[dict[str, Any]]:
        async with serving(memory_url) as store:
            yield {"store": store, "pid": os.getpid()}

    async def body() -> None:
        found: list[Any] = []

        async def fail() -> None:
            async with live() as state:
                found.append(state["store"])
                raise OSError("failed")

        with pytest.raises(OSError, match="failed"):
            await fail()
        with pytest.raises(sharedstate.ClosedError):
            await found[0].get("k")

    run(body)
