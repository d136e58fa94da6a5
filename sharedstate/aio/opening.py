"""`open`: as `sharedstate.open`, awaited or entered."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sharedstate.aio.store import AsyncStore
from sharedstate.aio.threads import in_thread
from sharedstate.opening import open_store as open_now

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType
    from typing import Any

    from sharedstate.model import Durability, Scope
    from sharedstate.store import Store

__all__ = ["open_store"]


def open_store(
    url: str | None = None,
    *,
    name: str | None = None,
    scope: Scope | None = None,
    durability: Durability | None = None,
    allow_narrow: bool = False,
) -> _Opening:
    """Open a store: `async with open(url) as store:`, which closes it, or `store = await open(url)`.

    Arguments and errors are those of `sharedstate.open`; the errors come out of the `await`.
    """
    return _Opening(partial(open_now, url, name=name, scope=scope, durability=durability, allow_narrow=allow_narrow))


class _Opening:
    def __init__(self, open_it: Callable[[], Store]) -> None:
        self._open_it = open_it
        self._store: AsyncStore | None = None

    def __await__(self) -> Generator[Any, None, AsyncStore]:
        return self._open().__await__()

    async def _open(self) -> AsyncStore:
        # In a thread, for it may have to mend what a crash left behind.
        return AsyncStore(await in_thread(self._open_it))

    async def __aenter__(self) -> AsyncStore:
        self._store = await self._open()
        return self._store

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._store is not None:
            await self._store.close()
