"""What coroutines add to the contract: A1 to A4 of `sharedstate.aio`, J1 to J4 of its locks, N1 to N3 of its waits."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

import sharedstate
import sharedstate.aio
from sharedstate.aio import AsyncStore, AsyncTransaction, listening
from sharedstate.testing.conformance.support import PATIENCE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path
    from typing import Any

    from sharedstate import Store


@pytest.fixture(params=["memory", "shm", "file", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh store."""
    scheme = request.param
    place = f"{tmp_path}/store" if scheme in {"file", "sqlite"} else f"//aio-{uuid4().hex}"
    url = f"{scheme}:{place if scheme != 'memory' else place[2:]}"
    with sharedstate.open(url):  # keeps it, where it dies with its last user
        yield url
        sharedstate.remove(url)


def run(body: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Return what the coroutine does on a loop of its own; no thread of ours goes on after it."""

    async def in_time() -> Any:
        async with asyncio.timeout(PATIENCE_S):
            return await body()

    result = asyncio.run(in_time())
    until(lambda: not any("sharedstate l" in thread.name for thread in threading.enumerate()))
    return result


async def spin(condition: Callable[[], object]) -> None:
    """Return once it is true; leave the interpreter to the threads that it may be waiting for."""
    while not condition():  # noqa: ASYNC110  of other tasks, which tell it to nobody
        await asyncio.sleep(1e-3)


def _waiting(store: AsyncStore) -> list[Any]:
    return [future for listener in store._listeners._of.values() for future in listener._waiting]


# --- Opening -----------------------------------------------------------------------------


def test_opened_by_entering_or_awaiting(url: str) -> None:
    """`async with open(url)` closes at the end; `await open(url)` leaves that to the caller."""

    async def body() -> None:
        async with sharedstate.aio.open(url) as store:
            await store.set("k", 1)
        with pytest.raises(sharedstate.ClosedError):
            await store.get("k")

        store = await sharedstate.aio.open(url)
        assert await store.get("k") == 1
        await store.close()
        with pytest.raises(sharedstate.ClosedError):
            await store.get("k")

    run(body)


def test_errors_of_opening_come_out_of_the_await() -> None:
    """A URL that nobody knows raises when it is opened, and not before."""
    opening = sharedstate.aio.open("nobody://knows")

    async def body() -> None:
        with pytest.raises(sharedstate.UrlError):
            await opening

    run(body)


def test_one_store_for_tasks_and_threads(url: str) -> None:
    """What a coroutine wrote a thread reads at once, and the other way round; a namespace too."""
    store = sharedstate.open(url)

    async def body() -> None:
        served = AsyncStore(store)
        await served.namespace("app").set("k", 1)
        assert store["app:k"] == 1
        store["k"] = 2
        assert await served.get("k") == 2
        assert sorted([key async for key in served]) == ["app:k", "k"]
        assert sorted([item async for item in served.items()]) == [("app:k", 1), ("k", 2)]
        assert [value async for value in served.values("app:")] == [1]
        assert (await served.count(), await served.count("app:")) == (2, 1)

    run(body)
    store.close()


def test_many_tasks_lose_nothing(url: str) -> None:
    """50 tasks count, change a list by a coroutine, and move between two keys: nothing is lost."""

    async def body() -> None:
        async with sharedstate.aio.open(url) as store:

            async def add(values: list[int] | None) -> list[int]:
                await asyncio.sleep(0)
                return [*(values or []), len(values or [])]

            async def move(transaction: Any) -> None:
                await transaction.set("a", await transaction.get("a", 0) - 1)
                await asyncio.sleep(0)
                await transaction.increment("b")

            async def work() -> None:
                await store.increment("n")
                await store.update_with("list", add)
                await store.transact(move)

            await asyncio.gather(*(work() for _ in range(50)))

            assert await store.get("n") == 50
            assert await store.get("list") == list(range(50))
            assert await store.get_many(["a", "b"]) == {"a": -50, "b": 50}

    run(body)


# --- Waits ---------------------------------------------------------------------------------


def test_a_thousand_waits_are_one_thread(url: str) -> None:
    """N2: all are ended by one change, while the loop goes on; N3: then the thread ends."""

    async def body() -> None:
        async with sharedstate.aio.open(url) as store:
            others = threading.active_count()
            waits = [asyncio.create_task(store.wait_for_change("k", 0)) for _ in range(1000)]
            await spin(lambda: len(_waiting(store)) == 1000)
            assert not any(wait.done() for wait in waits)
            assert threading.active_count() <= others + 1 + 8  # the listener, the pool

            await store.set("k", 1)

            assert set(await asyncio.gather(*waits)) == {await store.generation("k")}

    run(body)


def test_a_wait_for_what_is_past_ends_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """N1: also while the thread waits, as long as it may, on behalf of a task that knows the newest."""
    monkeypatch.setattr(listening, "_SLICE_S", 2 * PATIENCE_S)

    async def body() -> None:
        async with sharedstate.aio.open(url) as store:
            await store.set("k", 1)
            past = store.store.backend.change_token()
            await store.set("k", 2)
            newest = await store.generation("k")
            waiting = asyncio.create_task(store.wait_for_change("k", newest))
            await spin(lambda: _waiting(store))

            await store._listeners.wait(past, 2 * PATIENCE_S)

            assert not waiting.done()
            await store.delete("k")  # lets the thread end
            await waiting

    run(body)


def test_a_cancelled_wait_leaves_nothing(url: str) -> None:
    """A3: no future is remembered and no thread waits on for it, and the next wait works."""

    async def body() -> None:
        async with sharedstate.aio.open(url) as store:
            waiting = asyncio.create_task(store.wait_for_change("k", 0))
            await spin(lambda: _waiting(store))
            (listener,) = store._listeners._of.values()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert not listener._waiting
            await spin(lambda: listener._thread is None)

            waiting = asyncio.create_task(store.wait_for_change("k", 0))
            await spin(lambda: _waiting(store))
            await store.set("k", 1)
            assert await waiting != 0

    run(body)


def test_a_wait_on_a_store_that_is_closed_says_so(url: str) -> None:
    """Whoever waits when the handle is closed gets ClosedError, and does not wait for ever."""

    async def body() -> None:
        store = await sharedstate.aio.open(url)
        waiting = asyncio.create_task(store.wait_for_change("k", 0))
        await spin(lambda: _waiting(store))
        await store.close()
        with pytest.raises(sharedstate.ClosedError):
            await waiting

    run(body)


def test_what_changes_after_watch_counts(url: str) -> None:
    """Also before the first step; each change comes once, and the watch ends after a quiet time."""

    async def body() -> None:
        async with sharedstate.aio.open(url) as store:
            changes = await store.watch("jobs:", timeout_s=0.2)
            await store.set("jobs:1", "a")
            await store.set("other", "b")

            found = [(key, entry and entry.value) async for key, entry in changes]

            assert found == [("jobs:1", "a")]

    run(body)


# --- Locks --------------------------------------------------------------------------------


def test_a_lock_excludes_tasks_and_threads(url: str) -> None:
    """J1: through any object, of this kind or the other."""
    with sharedstate.open(url) as plain:

        async def body() -> None:
            async with sharedstate.aio.open(url) as store:
                async with store.lock("l"):
                    assert not await asyncio.to_thread(plain.lock("l").try_acquire)
                    assert not await asyncio.create_task(store.lock("l").try_acquire())
                    with pytest.raises(sharedstate.LockTimeoutError):
                        await asyncio.create_task(store.lock("l", 0.01).acquire())
                lock = plain.lock("l")
                lock.acquire()
                assert not await store.lock("l").try_acquire()
                lock.release()

        run(body)


def test_the_loop_goes_on_while_a_task_waits_for_a_lock(url: str) -> None:
    """A2: a lock that a thread holds makes a task wait, and no other."""
    with sharedstate.open(url) as plain:
        lock = plain.lock("l")
        lock.acquire()

        async def body() -> None:
            async with sharedstate.aio.open(url) as store:
                waits = [asyncio.create_task(store.lock("l").acquire()) for _ in range(20)]
                for _ in range(100):
                    assert await store.increment("n") > 0
                assert not any(wait.done() for wait in waits)
                for wait in waits:
                    wait.cancel()
                await asyncio.gather(*waits, return_exceptions=True)

        run(body)
        lock.release()


def test_tasks_are_let_in_as_they_came(url: str) -> None:
    """J4."""

    async def body() -> None:
        async with sharedstate.aio.open(url) as store:
            came: list[int] = []

            async def enter(number: int) -> None:
                async with store.lock("l"):
                    came.append(number)

            async with store.lock("l"):
                tasks = []
                for number in range(10):
                    tasks.append(asyncio.create_task(enter(number)))
                    await asyncio.sleep(0)
            await asyncio.gather(*tasks)

            assert came == list(range(10))

    run(body)


def test_a_cancelled_acquisition_leaves_the_lock_free(url: str) -> None:
    """J3: cancelled at any step of its way, also where it has just come true."""

    async def body() -> None:
        async with sharedstate.aio.open(url) as store:
            for steps in range(60):
                acquiring = asyncio.create_task(store.lock("l").acquire())
                for _ in range(steps % 20):
                    await asyncio.sleep(0)
                if steps >= 20:
                    await asyncio.sleep(steps * 1e-5)  # another point of what a thread does meanwhile
                acquiring.cancel()
                with suppress(asyncio.CancelledError):
                    await acquiring
                del acquiring
                gc.collect()  # where it came true first, the lock ends with its object

                async with store.lock("l", PATIENCE_S):
                    pass

    run(body)


def test_a_lock_that_its_holder_let_go_of_passes_on(url: str) -> None:
    """J3: whoever waits already, in the same loop or in another handle, gets it when its object ends."""

    async def body() -> None:
        async with sharedstate.aio.open(url) as store, sharedstate.aio.open(url) as other:
            lock = store.lock("l")
            await lock.acquire()
            waiting = [asyncio.create_task(each.lock("l").acquire(PATIENCE_S)) for each in (store, other)]
            for _ in range(20):
                await asyncio.sleep(0)

            del lock
            gc.collect()

            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert all(task.result() for task in done)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            del done, task, waiting
            gc.collect()  # nobody releases what they acquired either

    run(body)


def test_only_the_task_that_acquired_it_may_release(url: str) -> None:
    """J2; and not twice."""

    async def body() -> None:
        async with sharedstate.aio.open(url) as store:
            lock = store.lock("l")
            await lock.acquire()
            with pytest.raises(sharedstate.LockOwnershipError):
                await asyncio.create_task(lock.release())
            assert lock.is_held()
            await lock.release()
            with pytest.raises(sharedstate.LockOwnershipError):
                await lock.release()

    run(body)


# --- Verbs that are cancelled ---------------------------------------------------------------


def test_a_cancelled_verb_has_happened_or_not(url: str) -> None:
    """A4: what is moved between two keys is never lost on the way, at whatever step of it the mover is cancelled."""

    async def move(transaction: AsyncTransaction) -> None:
        await transaction.increment("a", -1)
        await asyncio.sleep(0)
        await transaction.increment("b")

    async def look(transaction: AsyncTransaction) -> tuple[int, int]:
        return await transaction.get("a", 0), await transaction.get("b", 0)

    async def body() -> None:
        async with sharedstate.aio.open(url) as store:
            attempts, moved = 60, set()
            for steps in range(attempts):
                moving = asyncio.create_task(store.transact(move))
                for _ in range(steps % 20):
                    await asyncio.sleep(0)
                if steps >= 20:
                    await asyncio.sleep(steps * 2e-5)  # another point of what a thread does meanwhile
                moving.cancel()
                with suppress(asyncio.CancelledError):
                    await moving

                a, b = await store.transact(look)
                assert a + b == 0
                moved.add(b)

            await store.transact(move)
            assert 0 in moved  # some were cancelled before they had happened
            assert max(moved) <= await store.get("b") - 1 <= attempts

    run(body)


# --- Where verbs run --------------------------------------------------------------------------


def test_verbs_run_on_the_loop_only_in_memory(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A1: on a disk in a thread; many keys in a thread everywhere."""
    ran_in: list[threading.Thread] = []

    def note(*_: Any) -> Any:
        ran_in.append(threading.current_thread())

    async def body(store: Store) -> None:
        monkeypatch.setattr(store, "get", note)
        monkeypatch.setattr(store, "get_many", note)
        served = AsyncStore(store)
        await served.get("k")
        await served.get_many(["k"])
        await served.get_many([str(number) for number in range(1000)])

    with sharedstate.open(url) as store:
        run(lambda: body(store))

    in_memory = url.startswith(("memory", "shm"))
    main = threading.main_thread()
    assert [thread is main for thread in ran_in] == [in_memory, in_memory, False]


def test_a_thread_sees_its_tasks_context(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a verb runs, context variables are those of the task that awaits it."""
    request: ContextVar[int] = ContextVar("request")

    async def serve(store: AsyncStore, number: int) -> None:
        request.set(number)
        assert [await store.get("k"), await store.get_many(["k"] * 1000), await store.popitem()] == [number] * 3

    async def body(store: Store) -> None:
        for verb in ("get", "get_many", "popitem"):
            monkeypatch.setattr(store, verb, lambda *_: request.get())
        served = AsyncStore(store)
        await asyncio.gather(*(serve(served, number) for number in range(3)))

    with sharedstate.open(url) as store:
        run(lambda: body(store))
