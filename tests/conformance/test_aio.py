"""A store for asyncio is a store: what the contract claims of entries, time, locks and waits, its coroutines keep.

The claims are those of every backend.  They call plain methods from plain
threads, so each thread of a test has a task of one loop that does what the
thread asks for, verb by verb.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

import pytest

import sharedstate
import sharedstate.aio
from sharedstate import Store
from sharedstate.aio import AsyncStore
from sharedstate.backend.forks import fork_epoch
from sharedstate.model import MISSING, Owner
from sharedstate.testing.conformance import (
    ConcurrencyClaims,
    CountingClaims,
    EntryClaims,
    ExpiryClaims,
    LockClaims,
    TransactionClaims,
    ValueClaims,
    WaitingClaims,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from sharedstate.aio import AsyncLock, AsyncTransaction


class House:
    """A loop in a thread of its own, with a task for each thread that asks it to do something."""

    def __init__(self) -> None:
        self._epoch = fork_epoch()
        self._mine = threading.local()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Return what the coroutine does, run in the calling thread's own task."""
        if self._epoch != fork_epoch():
            self.__init__()  # type: ignore[misc]  # the loop is the parent's
        if not hasattr(self._mine, "asked"):
            self._mine.asked = asyncio.run_coroutine_threadsafe(_begin(), self._loop).result()
        outcome: Future[Any] = Future()
        self._loop.call_soon_threadsafe(self._mine.asked.put_nowait, (coroutine, outcome))
        return outcome.result()

    def close(self) -> None:
        async def end_all() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _begin() -> asyncio.Queue[Any]:
    asked: asyncio.Queue[Any] = asyncio.Queue()

    async def do_as_asked() -> None:
        while True:
            coroutine, outcome = await asked.get()
            try:
                outcome.set_result(await coroutine)
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001  the asker's
                outcome.set_exception(error)
            del coroutine, outcome

    asked.worker = asyncio.create_task(do_as_asked())  # type: ignore[attr-defined]  # lives as long
    return asked


class InStep(Store):
    """A store whose verbs are those of an `AsyncStore`, awaited one by one."""

    def __init__(self, inner: AsyncStore, house: House) -> None:
        super().__init__(inner.store.backend, inner.store.prefix)
        self._inner = inner
        self._house = house
        for verb in (
            "add", "clear", "compare_and_set", "delete", "delete_many", "generation", "get", "get_many", "increment",
            "locks", "pop", "popitem", "read", "set", "set_many", "setdefault", "touch", "ttl",
            "wait_for_change",
        ):  # fmt: skip
            setattr(self, verb, self._awaited(getattr(inner, verb)))

    def _awaited(self, verb: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        return lambda *arguments, **options: self._house.run(verb(*arguments, **options))

    def __contains__(self, key: object) -> bool:
        if type(key) is not str:
            return super().__contains__(key)
        return bool(self._house.run(self._inner.contains(key)))

    def watch(self, prefix: str = "", timeout_s: float | None = None) -> Iterator[Any]:
        changes = self._house.run(self._inner.watch(prefix, timeout_s))
        return iter(lambda: self._house.run(anext(changes, None)), None)

    def update_with(
        self, key: str, change: Callable[[Any], Any], default: Any = None, ttl_s: float | None = None
    ) -> Any:
        async def in_thread(value: Any) -> Any:
            return await asyncio.to_thread(change, value)  # whose verbs have a task of their own

        return self._house.run(self._inner.update_with(key, in_thread, default, ttl_s))

    def transaction(self) -> Any:
        return TransactionInStep(self._inner.transaction(), self._house)

    def transact(self, body: Callable[[Any], Any], timeout_s: float | None = None) -> Any:
        async def in_thread(transaction: AsyncTransaction) -> Any:
            view = TransactionInStep(transaction, self._house)
            return await asyncio.to_thread(body, view)  # whose verbs have a task of their own

        return self._house.run(self._inner.transact(in_thread, timeout_s))

    def lock(self, name: str, timeout_s: float | None = None) -> Any:
        return LockInStep(self._inner.lock(name, timeout_s), self._house)


class TransactionInStep:
    def __init__(self, inner: AsyncTransaction, house: House) -> None:
        self._inner = inner
        self._house = house

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        return lambda *arguments, **options: self._house.run(getattr(self._inner, verb)(*arguments, **options))

    def __getitem__(self, key: str) -> Any:
        value = self.get(key, MISSING)
        if value is MISSING:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self.set(key, value)

    def __delitem__(self, key: str) -> None:
        if not self.delete(key):
            raise KeyError(key)

    def __contains__(self, key: str) -> bool:
        return bool(self.contains(key))

    def __iter__(self) -> Iterator[str]:
        raise TypeError("as transactions do")

    def __enter__(self) -> Self:
        self._house.run(self._inner.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self._house.run(self._inner.__aexit__(*error))


class LockInStep:
    def __init__(self, inner: AsyncLock, house: House) -> None:
        self._inner = inner
        self._house = house
        self.name = inner.name

    @property
    def token(self) -> int:
        async def ask() -> int:
            return self._inner.token

        return int(self._house.run(ask()))

    def acquire(self, timeout_s: Any = MISSING) -> int:
        return int(self._house.run(self._inner.acquire(timeout_s)))

    def try_acquire(self) -> bool:
        return bool(self._house.run(self._inner.try_acquire()))

    def release(self) -> None:
        self._house.run(self._inner.release())

    def is_held(self) -> bool:
        async def ask() -> bool:
            return self._inner.is_held()

        return bool(self._house.run(ask()))

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Awaited(
    ValueClaims,
    EntryClaims,
    CountingClaims,
    ExpiryClaims,
    TransactionClaims,
    LockClaims,
    WaitingClaims,
    ConcurrencyClaims,
):
    """Every claim that has a coroutine to keep it."""

    @pytest.fixture
    def house(self) -> Iterator[House]:
        house = House()
        yield house
        house.close()

    @pytest.fixture
    def store(self, url: str, house: House) -> Iterator[Store]:
        with sharedstate.open(url) as witness:
            try:
                with sharedstate.open(url) as store:
                    yield InStep(AsyncStore(store), house)
                witness.check()
            finally:
                sharedstate.remove(url)

    @pytest.fixture
    def open_another(self, store: Store, house: House) -> Iterator[Callable[[], Store]]:
        handles: list[Store] = []

        def open_one() -> Store:
            handles.append(sharedstate.open(store.url))
            return InStep(AsyncStore(handles[-1]), house)

        yield open_one
        for handle in handles:
            handle.close()

    def test_locks_tells_who_holds_what(self, store: Store, open_another: Callable[[], Store]) -> None:
        """Of a lock that a task holds the owner is its process, in the thread that the lock belongs to."""
        with store.lock("held") as lock:
            (record,) = open_another().locks()

            assert (record.name, record.held, record.token) == ("held", True, lock.token)
            assert record.owner[:4] == Owner.current()[:4]
            assert record.owner.is_alive()
        assert not any(record.held for record in store.locks())


class TestOnTheLoop(Awaited):
    @pytest.fixture
    def url(self) -> str:
        return f"memory:aio-{uuid4()}"


class TestInThreads(Awaited):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"file:{tmp_path}/store"
