"""Several keys read and changed as one by a task: T1 to T4 of `sharedstate.transactions` hold."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sharedstate.model import MISSING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType
    from typing import Any, Self

    from sharedstate.transactions import Transaction

__all__ = ["AsyncTransaction"]


class AsyncTransaction:
    """The body's view of the store.  Leaving the `async with` block commits; an exception discards."""

    def __init__(self, transaction: Transaction, call: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        self._transaction = transaction
        self._call = call
        self._turn = asyncio.Lock()  # a transaction serves one thread at a time

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key` as this transaction sees it, or `default`."""
        return await self._do(self._transaction.get, key, default)

    async def contains(self, key: str) -> bool:
        """Return whether `key` is there, as this transaction sees it."""
        return await self.get(key, MISSING) is not MISSING

    async def set(self, key: str, value: Any, ttl_s: float | None = None) -> None:
        """Store `value` when the transaction commits.

        Raises:
            ValueTypeError: the value is outside the value model, or `ttl_s` no time.
        """
        await self._do(self._transaction.set, key, value, ttl_s)

    async def delete(self, key: str) -> bool:
        """Remove `key` when the transaction commits; return whether it was there."""
        present: bool = await self._do(self._transaction.delete, key)
        return present

    async def increment(self, key: str, by: int | float = 1, initial: int | float = 0) -> int | float:
        """Add `by` to the number at `key`, which expires as it did; return the sum."""
        total: int | float = await self._do(self._transaction.increment, key, by, initial)
        return total

    async def commit(self) -> None:
        """Apply all writes, or none.

        Raises:
            ConflictError: a key that was read has changed since; nothing was written.
            CapacityError: no room, or too many keys; nothing was written.
        """
        await self._do(self._transaction.commit)

    async def _do(self, verb: Callable[..., Any], *arguments: Any) -> Any:
        async with self._turn:
            return await self._call(verb, *arguments)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.commit()
