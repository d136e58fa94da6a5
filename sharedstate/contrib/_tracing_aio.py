"""The coroutines of a traced store: W1 to W4 of `sharedstate.contrib.opentelemetry` hold.

A verb that runs in a thread has its span there, as a child of the task's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sharedstate.aio import AsyncStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from sharedstate.aio import AsyncTransaction
    from sharedstate.aio.listening import Listeners
    from sharedstate.contrib.opentelemetry import TracedStore

__all__ = ["TracedAsyncStore"]


class TracedAsyncStore(AsyncStore):
    """The coroutines of a store whose verbs, transactions, namespaces and locks have spans."""

    def __init__(self, store: TracedStore, _listeners: Listeners | None = None) -> None:
        super().__init__(store, _listeners)
        self._traced = store
        self._spans = store.spans

    async def update_with(
        self, key: str, change: Callable[[Any], Any], default: Any = None, ttl_s: float | None = None
    ) -> Any:
        """Replace the value of `key` by `change(value)` and return it, atomically; see `AsyncStore.update_with`."""
        with self._spans.attempts("update_with", change) as counted:
            return await super().update_with(key, counted, default, ttl_s)

    async def transact(self, body: Callable[[AsyncTransaction], Awaitable[Any]], timeout_s: float | None = None) -> Any:
        """Await `body(tx)` in a transaction, again while others come between; see `AsyncStore.transact`."""
        with self._spans.attempts("transact", body) as counted:
            return await super().transact(counted, timeout_s)

    def namespace(self, name: str) -> TracedAsyncStore:
        """Return a view of the entries and locks whose names start with `name` and a colon; traced, too."""
        return TracedAsyncStore(self._traced.namespace(name), self._listeners)
