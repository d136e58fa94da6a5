"""How the tasks of a loop wait for a store to change: one thread waits for all of them.

    N1  Who waits for a token that the store has left goes on at once.
    N2  A change after `wait` was called ends that wait, however many wait for it.
    N3  The thread ends once nobody waits: soon after the last one got its
        change or was cancelled, and with the interpreter at the latest.

A thread for each waiter would be simpler; a service with a thousand open
event streams would have a thousand threads.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from sharedstate.backend.forks import fork_epoch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Final

    from sharedstate.backend import Backend

__all__ = ["Listeners"]

_SLICE_S: Final = 0.2
"""How long the thread may wait on for tasks that were cancelled, or an interpreter that ends."""

_IDLE_S: Final = 0.2
"""How long it stays for the next task, so that one that waits again and again starts one thread."""


class Listeners:
    """The listener of each loop that waits on one handle."""

    def __init__(self, backend: Backend, look: Callable[[], Awaitable[int]]) -> None:
        self._backend = backend
        self._look = look  # at the token, without holding up the loop
        self._epoch = fork_epoch()
        self._of: WeakKeyDictionary[asyncio.AbstractEventLoop, _Listener] = WeakKeyDictionary()

    async def wait(self, token: int, timeout_s: float) -> None:
        """Wait until the store's token differs from `token`, or for `timeout_s` seconds."""
        if self._epoch != fork_epoch():  # the threads are the parent's
            self._epoch = fork_epoch()
            self._of = WeakKeyDictionary()
        loop = asyncio.get_running_loop()
        listener = self._of.get(loop)
        if listener is None:
            listener = self._of[loop] = _Listener(self._backend, loop)
        await listener.wait(token, timeout_s, self._look)


class _Listener:
    def __init__(self, backend: Backend, loop: asyncio.AbstractEventLoop) -> None:
        self._backend = backend
        self._loop = loop
        self._turn = threading.Condition()
        self._waiting: dict[asyncio.Future[None], int] = {}  # the token that each knows; guarded by _turn
        self._thread: threading.Thread | None = None  # guarded by _turn

    async def wait(self, token: int, timeout_s: float, look: Callable[[], Awaitable[int]]) -> None:
        future = self._loop.create_future()
        with self._turn:
            self._waiting[future] = token
            if self._thread is None:
                # No daemon: an interpreter of its own GIL allows none.
                self._thread = threading.Thread(target=self._listen, name="sharedstate listener")
                self._thread.start()
            self._turn.notify()
        try:
            async with asyncio.timeout(timeout_s):
                # The thread may be waiting for the change after the one that came before this task (N1).
                if await look() == token:
                    await future
        except TimeoutError:
            pass
        finally:
            with self._turn:
                self._waiting.pop(future, None)

    def _listen(self) -> None:
        known: int | None = None
        while True:
            with self._turn:
                if not self._waiting:
                    self._turn.wait(_IDLE_S)
                if not self._waiting or self._loop.is_closed() or not threading.main_thread().is_alive():
                    self._thread = None
                    return
                tokens = set(self._waiting.values())
            try:
                known = self._backend.change_token()
                if tokens == {known}:
                    self._backend.wait(known, _SLICE_S)
                    known = self._backend.change_token()
            except BaseException as error:  # noqa: BLE001  the waiters' to know
                self._end(None, error)
            else:
                self._end(known, None)

    def _end(self, known: int | None, error: BaseException | None) -> None:
        """End the waits for other tokens than `known`."""
        with self._turn:
            ended = [future for future, token in self._waiting.items() if token != known]
            for future in ended:
                del self._waiting[future]
        if ended:
            with suppress(RuntimeError):  # the loop was closed, and with it all that waited
                self._loop.call_soon_threadsafe(_settle, ended, error)


def _settle(futures: list[asyncio.Future[None]], error: BaseException | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
