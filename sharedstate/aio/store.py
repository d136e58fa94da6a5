"""A store whose verbs are coroutines.  See `sharedstate.aio` for what is promised."""

from __future__ import annotations

import asyncio
from inspect import isawaitable
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from sharedstate.aio.listening import Listeners
from sharedstate.aio.locks import AsyncLock
from sharedstate.aio.threads import in_thread
from sharedstate.aio.transactions import AsyncTransaction
from sharedstate.backend.forks import fork_epoch
from sharedstate.backend.waiting import Backoff, Deadline
from sharedstate.errors import ConflictError
from sharedstate.model import ABSENT, KEEP, MISSING, Durability, Scope
from sharedstate.watching import LOOK_AT_KEY_S, Watch, wait_at_most_s

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
    from types import TracebackType
    from typing import Any, Final, Self

    from sharedstate.model import Capabilities, Change, Entry, LockRecord, Sharer
    from sharedstate.store import Store

__all__ = ["AsyncStore"]

_FEW: Final = 100
"""Keys that a verb may visit on the loop, and that one visit of a thread reads."""


class AsyncStore:
    """The verbs of a `Store`, each with its meaning, arguments and errors, as coroutines.

    Made by `sharedstate.aio.open`, or around a store that is open already.  Any
    task of any loop may use it, and others may use the `Store` meanwhile.

    Attributes:
        store: the one that it serves.
    """

    def __init__(self, store: Store, _listeners: Listeners | None = None) -> None:
        self.store = store
        given = store.capabilities
        # What is lost at a reboot lies on no disk: its verbs cost less than a switch of threads (A1).
        self._is_quick = given.durability < Durability.DISK and given.scope <= Scope.HOST
        self._listeners = _listeners or Listeners(store.backend, lambda: self._call(store.backend.change_token))
        # Of the tasks of a loop of a process that wait for a lock (J4).
        self._turns: WeakValueDictionary[tuple[int, asyncio.AbstractEventLoop, str], asyncio.Lock] = (
            WeakValueDictionary()
        )

    # --- Reading ------------------------------------------------------------

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, or `default` if it is absent or expired."""
        return await self._call(self.store.get, key, default)

    async def read(self, key: str) -> Entry | None:
        """Return value, generation and expiry of `key` as one consistent Entry, or None."""
        entry: Entry | None = await self._call(self.store.read, key)
        return entry

    async def generation(self, key: str) -> int:
        """Return the generation of `key`, `ABSENT` if it is absent or expired; cheaper than `read`."""
        generation: int = await self._call(self.store.generation, key)
        return generation

    async def contains(self, key: str) -> bool:
        """Return whether `key` is there."""
        return await self.generation(key) != ABSENT

    async def ttl(self, key: str) -> float | None:
        """Return the seconds until `key` expires, None if it never does.

        Raises:
            KeyError: it is absent.
        """
        left_s: float | None = await self._call(self.store.ttl, key)
        return left_s

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those of `keys` that are there.  Each is read atomically, not all at one instant."""
        found: dict[str, Any] = await self._call_many(self.store.get_many, list(keys))
        return found

    # --- Writing ------------------------------------------------------------

    async def set(self, key: str, value: Any, ttl_s: float | None = None) -> None:
        """Store `value`, whatever was there.  `ttl_s`: seconds until the entry expires; None: never."""
        await self._call(self.store.set, key, value, ttl_s)

    async def add(self, key: str, value: Any, ttl_s: float | None = None) -> bool:
        """Store `value` if `key` is absent; return whether it was."""
        is_added: bool = await self._call(self.store.add, key, value, ttl_s)
        return is_added

    async def increment(
        self, key: str, by: int | float = 1, initial: int | float = 0, ttl_s: float | None = None
    ) -> int | float:
        """Add `by` to the number at `key` and return the sum; `ttl_s` counts only when this creates the key."""
        total: int | float = await self._call(self.store.increment, key, by, initial, ttl_s)
        return total

    async def compare_and_set(self, key: str, value: Any, expected: int, ttl_s: float | None = None) -> int:
        """Store `value` if `key` is still at generation `expected`; return the new one.

        Raises:
            ConflictError: the key is at another generation; nothing was written.
        """
        generation: int = await self._call(self.store.compare_and_set, key, value, expected, ttl_s)
        return generation

    async def delete(self, key: str) -> bool:
        """Remove `key`; return whether it was there."""
        was_there: bool = await self._call(self.store.delete, key)
        return was_there

    async def touch(self, key: str, ttl_s: float | None) -> bool:
        """Let `key` expire `ttl_s` seconds from now, or never if None; False if it is absent."""
        is_there: bool = await self._call(self.store.touch, key, ttl_s)
        return is_there

    async def set_many(self, values: Mapping[str, Any], ttl_s: float | None = None) -> None:
        """Store all of `values`, each atomically.  For all or nothing, use `transaction`."""
        await self._call_many(self.store.set_many, dict(values), ttl_s)

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Remove `keys`, each atomically; return how many were there."""
        count: int = await self._call_many(self.store.delete_many, list(keys))
        return count

    async def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, after storing `default` if it was absent; all callers get the same."""
        return await self._call(self.store.setdefault, key, default)

    async def pop(self, key: str, default: Any = MISSING) -> Any:
        """Remove `key` and return its value: of several callers one gets it.

        Raises:
            KeyError: it is absent and no `default` was given.
        """
        return await self._call(self.store.pop, key, default)

    async def popitem(self) -> tuple[str, Any]:
        """Remove some entry and return its key and value.

        Raises:
            KeyError: the store is empty.
        """
        return await in_thread(self.store.popitem)

    async def clear(self, prefix: str = "") -> None:
        """Remove the entries whose keys start with `prefix`, each atomically."""
        await in_thread(self.store.clear, prefix)

    # --- Reading, thinking, writing -----------------------------------------

    async def update_with(
        self, key: str, change: Callable[[Any], Any], default: Any = None, ttl_s: float | None = None
    ) -> Any:
        """Replace the value of `key` by `change(value)` and return it, atomically.

        Args:
            key: of the value to change.
            change: a function, or coroutine function, of a copy of the value;
                called on the loop, and again if another writer came between, so
                it must have no other effect.
            default: what `change` gets if the key is absent.
            ttl_s: None keeps the time at which the entry expires, also if it was touched meanwhile.
        """
        backend, full = self.store.backend, self.store.prefix + key
        backoff = Backoff()
        while True:
            entry = await self.read(key)
            value = change(default if entry is None else entry.value)
            if isawaitable(value):
                value = await value
            try:
                if entry is None:
                    await self.compare_and_set(key, value, ABSENT, ttl_s)
                else:
                    until = KEEP if ttl_s is None else ttl_s
                    await self._call(backend.compare_and_set, full, value, entry.generation, until)
            except ConflictError:
                await asyncio.sleep(backoff.next_s())
            else:
                return value

    def transaction(self) -> AsyncTransaction:
        """Return a transaction: `async with store.transaction() as tx:` reads and writes `tx`, all or nothing.

        Raises:
            ConflictError: at the end of the block, if a key that was read has
                changed meanwhile; nothing was written.  `transact` retries.
        """
        return AsyncTransaction(self.store.transaction(), self._call)

    async def transact(self, body: Callable[[AsyncTransaction], Awaitable[Any]], timeout_s: float | None = None) -> Any:
        """Await `body(tx)` in a transaction and return its result, again and again while others come between.

        Args:
            body: may be called several times, so it must have no other effect.
            timeout_s: when to give up; None: never.

        Raises:
            ConflictError: every attempt within `timeout_s` lost a race; nothing was written.
        """
        deadline, backoff = Deadline(timeout_s), Backoff()
        while True:
            try:
                async with self.transaction() as transaction:
                    return await body(transaction)
            except ConflictError:
                if deadline.has_passed():
                    raise
                await asyncio.sleep(deadline.remaining_s(backoff.next_s()))

    # --- Waiting ------------------------------------------------------------

    async def wait_for_change(self, key: str, since: int, timeout_s: float | None = None) -> int:
        """Wait until `key` is at another generation than `since`, and return that one; `since` if it did not in time.

        Args:
            key: need not exist; `since` is then `ABSENT`.
            since: the generation the caller has seen.
            timeout_s: None waits for ever.
        """
        backend, deadline = self.store.backend, Deadline(timeout_s)

        def look() -> tuple[int, Entry | None]:
            return backend.change_token(), self.store.read(key)  # in this order: see Watch

        while True:
            token, entry = await self._call(look)
            generation: int = ABSENT if entry is None else entry.generation
            if generation != since or deadline.has_passed():
                return generation
            expires_at = None if entry is None else entry.expires_at
            at_most_s = deadline.remaining_s(wait_at_most_s(backend, expires_at, LOOK_AT_KEY_S))
            await self._listeners.wait(token, at_most_s)

    async def watch(self, prefix: str = "", timeout_s: float | None = None) -> AsyncIterator[Change]:
        """Return an iterator over the changes of keys that start with `prefix`, from now on.

            async for key, entry in await store.watch("jobs:"):

        A key that changed several times between two looks is yielded once, with
        its newest entry; None stands for a key that is gone.

        Args:
            prefix: of the keys to watch.
            timeout_s: end after that long without a change; None: never end.
        """
        # No generator itself: what changes before the first step counts too.
        backend, inner = self.store.backend, self.store.prefix
        return self._changes(await in_thread(Watch, backend, inner + prefix, len(inner)), timeout_s)

    async def _changes(self, watch: Watch, timeout_s: float | None) -> AsyncIterator[Change]:
        deadline = Deadline(timeout_s)
        while True:
            await self._listeners.wait(watch.token, deadline.remaining_s(watch.wait_at_most_s()))
            changes = await in_thread(watch.look)
            for change in changes:
                yield change
            if changes:
                deadline = Deadline(timeout_s)
            elif deadline.has_passed():
                return

    # --- Locks and sharers --------------------------------------------------

    def lock(self, name: str, timeout_s: float | None = None) -> AsyncLock:
        """Return the lock of this name: `async with store.lock("rebuild") as lock: ...`.

        The same lock as that of `Store.lock`.  It belongs to the task that acquired it.

        Args:
            name: 1 to 512 bytes of UTF-8; locks and keys do not meet.
            timeout_s: how long `async with` and `acquire()` wait; None: for ever.
        """
        self.store.lock(name, timeout_s)  # refuses what is no name
        return AsyncLock(name, timeout_s, lambda: self.store.lock(name), lambda: self._turn(name), self._is_quick)

    def _turn(self, name: str) -> asyncio.Lock:
        return self._turns.setdefault((fork_epoch(), asyncio.get_running_loop(), name), asyncio.Lock())

    async def locks(self) -> list[LockRecord]:
        """Return the locks that were ever acquired here, each with its latest owner and whether it is held."""
        return await in_thread(self.store.locks)

    async def join(self) -> str:
        """Take a place among the store's sharers, unless this handle has one, and return its token."""
        return await in_thread(self.store.join)

    async def sharers(self) -> list[Sharer]:
        """Return the handles that have this store open just now, this one among them, in the order of their coming."""
        return await in_thread(self.store.sharers)

    async def is_present(self, token: str) -> bool:
        """Return whether the sharer of that token is present; once False, it stays so."""
        return await in_thread(self.store.is_present, token)

    # --- Walking ------------------------------------------------------------

    async def keys(self, prefix: str = "") -> list[str]:
        """Return the keys that start with `prefix`, as they are now; one that stays throughout comes exactly once."""
        return await in_thread(lambda: list(self.store.keys(prefix)))

    async def count(self, prefix: str = "") -> int:
        """Return how many entries start with `prefix`."""
        return await in_thread(lambda: len(self.store.keys(prefix)))

    async def items(self, prefix: str = "") -> AsyncIterator[tuple[str, Any]]:
        """Yield the items whose keys start with `prefix`, as they are when their turn comes."""
        names = await self.keys(prefix)
        for start in range(0, len(names), _FEW):
            found = await self.get_many(names[start : start + _FEW])
            for item in found.items():
                yield item

    async def values(self, prefix: str = "") -> AsyncIterator[Any]:
        """Yield the values whose keys start with `prefix`, as they are when their turn comes."""
        async for _, value in self.items(prefix):
            yield value

    async def __aiter__(self) -> AsyncIterator[str]:
        for key in await self.keys():
            yield key

    # --- Names, figures, the end --------------------------------------------

    def namespace(self, name: str) -> AsyncStore:
        """Return a view of the entries and locks whose names start with `name` and a colon; closed with this store."""
        return AsyncStore(self.store.namespace(name), self._listeners)

    @property
    def url(self) -> str:
        """The URL that opens the same store from any caller within its scope."""
        return self.store.url

    @property
    def capabilities(self) -> Capabilities:
        """What the backend promises: scope, durability, clock, limits."""
        return self.store.capabilities

    async def stats(self) -> dict[str, int | float | str]:
        """Return figures for people: entries, bytes, capacity_bytes and the backend's own."""
        return await in_thread(self.store.stats)

    async def check(self) -> None:
        """Verify every invariant of what is stored; others go on reading and writing meanwhile.

        Raises:
            CorruptError: names the invariant and the place.
        """
        await in_thread(self.store.check)

    async def close(self) -> None:
        """Give back what this handle holds; what is stored stays.  Closing twice is no error."""
        await in_thread(self.store.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncStore of {self.store!r}>"

    # --- Where a verb runs --------------------------------------------------

    async def _call(self, verb: Callable[..., Any], *arguments: Any) -> Any:
        return verb(*arguments) if self._is_quick else await in_thread(verb, *arguments)

    async def _call_many(self, verb: Callable[..., Any], batch: list[str] | dict[str, Any], *arguments: Any) -> Any:
        if self._is_quick and len(batch) <= _FEW:
            return verb(batch, *arguments)
        return await in_thread(verb, batch, *arguments)
