"""A storage for limits, and so for Flask-Limiter and SlowApi, that counts exactly, whoever asks.

    import sharedstate.contrib.limits  # makes the schemes known
    limits.storage.storage_from_string("sharedstate+shm://limits?size=16MiB")

The scheme is "sharedstate+" and a store's URL, or "sharedstate://" for the store
that `sharedstate.open()` chooses; with "async+" before it, the same for an event
loop.  Each strategy of limits is kept:

    X1  Fixed window: a window begins with its first hit; its hits are counted by
        `Store.increment`, so each gets a total of its own.
    X2  Moving window: no interval of `expiry` seconds holds more than `limit`
        admitted hits.
    X3  Sliding window counter: windows follow on one another from the first hit
        on; the hits of the last one count by the share of it that is still in reach.
    X4  A hit of X2 and X3 is judged and counted by one compare-and-set on what was
        read, and dated between the two.  What is refused is not counted.
    X5  A record vanishes once it cannot matter any more.

The clock is the store's, as in sharedstate.coordination.rate_limit: one that was
set back lets nobody in early and keeps nobody out for longer than `expiry`.
What limits is told in times of day is converted.
"""

from __future__ import annotations

import asyncio
import time
from functools import cached_property

from limits.aio.storage import MovingWindowSupport as AsyncMovingWindowSupport
from limits.aio.storage import SlidingWindowCounterSupport as AsyncSlidingWindowCounterSupport
from limits.aio.storage import Storage as AsyncStorage
from limits.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage

from sharedstate.backend.waiting import Backoff
from sharedstate.contrib._caching import fit_key, store_of
from sharedstate.coordination.claims import corrupt
from sharedstate.errors import ConflictError, StateError
from sharedstate.model import ABSENT, MISSING
from sharedstate.registry import every_scheme
from sharedstate.values import MAX_KEY_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from sharedstate.store import Store

__all__ = ["AsyncSharedStateStorage", "SharedStateStorage"]

_NS: Final = 1_000_000_000
_NAME: Final = "limits"
_SCHEMES: Final = ["sharedstate", *(f"sharedstate+{scheme}" for scheme in every_scheme())]
_FIXED: Final = "fixed/"
_MOVING: Final = "moving/"  # [date, hits, date, hits ...], the oldest first
_SLIDING: Final = "sliding/"  # [when the window began, hits of the one before it, its own hits]


class SharedStateStorage(Storage, MovingWindowSupport, SlidingWindowCounterSupport):
    """What limits counts, in a store.

    Args:
        uri: of the store, with or without "sharedstate+" before it.
        wrap_exceptions: raise `limits.errors.StorageError` in place of our errors.
    """

    STORAGE_SCHEME = _SCHEMES

    def __init__(self, uri: str | None = None, wrap_exceptions: bool = False) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self._url = _url_of(uri or "")

    @cached_property
    def _store(self) -> Store:
        return store_of(self._url).namespace(_NAME)

    @property
    def base_exceptions(self) -> type[Exception]:
        """What this storage raises."""
        return StateError

    # --- Fixed window -----------------------------------------------------------

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count `amount` hits, and return the total of the window, which begins with its first one."""
        return int(self._store.increment(_fit(_FIXED, key), amount, ttl_s=expiry))

    def get(self, key: str) -> int:
        """Return the hits of the window."""
        return int(self._store.get(_fit(_FIXED, key), 0))

    def get_expiry(self, key: str) -> float:
        """Return when the window ends, in seconds since 1970: now, if there is none."""
        entry = self._store.read(_fit(_FIXED, key))
        if entry is None or entry.expires_at is None:
            return time.time()
        return time.time() + max(entry.expires_at - self._now_ns() / _NS, 0.0)

    # --- Moving window ----------------------------------------------------------

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count `amount` hits if there is room for all of them; return whether there was."""
        full = _fit(_MOVING, key)

        def judge(value: Any, now_ns: int) -> tuple[bool, list[int] | None, int]:
            hits = self._moving(full, value, now_ns, expiry * _NS)
            if sum(hits[1::2]) + amount <= limit:
                return True, [*hits, now_ns, amount], expiry * _NS
            is_set_back = bool(hits) and hits[-2] < value[-2]
            return False, hits if is_set_back else None, expiry * _NS

        return self._admit(full, judge)

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:  # noqa: ARG002  limits passes it
        """Return the date of the oldest hit that still counts (now, if there is none), and how many do."""
        full, now_ns = _fit(_MOVING, key), self._now_ns()
        hits = self._moving(full, self._store.get(full, MISSING), now_ns, expiry * _NS)
        age_ns = now_ns - hits[0] if hits else 0
        return time.time() - age_ns / _NS, sum(hits[1::2])

    def _moving(self, full: str, value: Any, now_ns: int, expiry_ns: int) -> list[int]:
        if value is MISSING:
            return []
        if not _is_ints(value) or len(value) % 2:
            raise corrupt(self._store, full, "a moving window")
        # A date after now is one from before the clock was set back; it is now, from now on.
        pairs = zip(value[::2], value[1::2], strict=True)
        return [part for date, hits in pairs if date > now_ns - expiry_ns for part in (min(date, now_ns), hits)]

    # --- Sliding window counter -------------------------------------------------

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count `amount` hits if the weighted count has room for all of them; return whether it had."""
        full, expiry_ns = _fit(_SLIDING, key), expiry * _NS

        def judge(value: Any, now_ns: int) -> tuple[bool, list[int] | None, int]:
            began_ns, before, hits = self._sliding(full, value, now_ns, expiry_ns)
            left_ns = began_ns + expiry_ns - now_ns
            if before * left_ns // expiry_ns + hits + amount <= limit:
                return True, [began_ns, before, hits + amount], left_ns + expiry_ns
            is_set_back = value is not MISSING and began_ns < value[0]
            return False, [began_ns, before, hits] if is_set_back else None, left_ns + expiry_ns

        return self._admit(full, judge)

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return the hits of the window before and how long it still counts, and the same of the current one."""
        full, now_ns, expiry_ns = _fit(_SLIDING, key), self._now_ns(), expiry * _NS
        began_ns, before, hits = self._sliding(full, self._store.get(full, MISSING), now_ns, expiry_ns)
        left_s = (began_ns + expiry_ns - now_ns) / _NS
        return before, left_s if before else 0.0, hits, left_s + expiry if hits else 0.0

    def clear_sliding_window(self, key: str, expiry: int) -> None:  # noqa: ARG002  limits passes it
        """Forget the hits of `key`."""
        self._store.delete(_fit(_SLIDING, key))

    def _sliding(self, full: str, value: Any, now_ns: int, expiry_ns: int) -> tuple[int, int, int]:
        if value is MISSING:
            return now_ns, 0, 0
        if not _is_ints(value) or len(value) != 3:
            raise corrupt(self._store, full, "a sliding window")
        began_ns, before, hits = value
        began_ns = min(began_ns, now_ns)  # later only if the clock was set back
        passed = (now_ns - began_ns) // expiry_ns
        if passed == 0:
            return began_ns, before, hits
        return (began_ns + expiry_ns, hits, 0) if passed == 1 else (now_ns, 0, 0)

    # --- Both -------------------------------------------------------------------

    def clear(self, key: str) -> None:
        """Forget the hits of `key` in its fixed and in its moving window."""
        self._store.delete_many([_fit(_FIXED, key), _fit(_MOVING, key)])

    def reset(self) -> int | None:
        """Forget all that limits counts in this store, and nothing else; return how many records that were."""
        return self._store.delete_many(list(self._store))

    def check(self) -> bool:
        """Return whether the store can be used."""
        try:
            self._store.generation(_FIXED)
        except StateError:
            return False
        return True

    def _admit(self, full: str, judge: Callable[[Any, int], tuple[bool, list[int] | None, int]]) -> bool:
        """Write what `judge` makes of the record, for as long as it says, and return whether it admits the hit (X4).

        A refusal is written only if the clock was set back: the record's dates,
        left as they are, would go on refusing until the clock is there again.
        """
        backoff = Backoff()
        while True:
            entry = self._store.read(full)
            # Dated after the read, so never before what was read.
            is_admitted, kept, ttl_ns = judge(MISSING if entry is None else entry.value, self._now_ns())
            if kept is None:
                return is_admitted
            try:
                self._store.compare_and_set(full, kept, ABSENT if entry is None else entry.generation, ttl_ns / _NS)
            except ConflictError:
                backoff.sleep()
            else:
                return is_admitted

    def _now_ns(self) -> int:
        return int(self._store.now() * _NS)


class AsyncSharedStateStorage(AsyncStorage, AsyncMovingWindowSupport, AsyncSlidingWindowCounterSupport):
    """The same for an event loop, which it never blocks: each call runs in a thread of asyncio's."""

    STORAGE_SCHEME = [f"async+{scheme}" for scheme in _SCHEMES]  # noqa: RUF012  limits reads it so

    def __init__(self, uri: str | None = None, wrap_exceptions: bool = False) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self._storage = SharedStateStorage(uri)

    @property
    def base_exceptions(self) -> type[Exception]:
        """What this storage raises."""
        return StateError

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """See SharedStateStorage, as for all of these."""
        return await asyncio.to_thread(self._storage.incr, key, expiry, amount)

    async def get(self, key: str) -> int:  # noqa: D102
        return await asyncio.to_thread(self._storage.get, key)

    async def get_expiry(self, key: str) -> float:  # noqa: D102
        return await asyncio.to_thread(self._storage.get_expiry, key)

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:  # noqa: D102
        return await asyncio.to_thread(self._storage.acquire_entry, key, limit, expiry, amount)

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:  # noqa: D102
        return await asyncio.to_thread(self._storage.get_moving_window, key, limit, expiry)

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:  # noqa: D102
        return await asyncio.to_thread(self._storage.acquire_sliding_window_entry, key, limit, expiry, amount)

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:  # noqa: D102
        return await asyncio.to_thread(self._storage.get_sliding_window, key, expiry)

    async def clear_sliding_window(self, key: str, expiry: int) -> None:  # noqa: D102
        await asyncio.to_thread(self._storage.clear_sliding_window, key, expiry)

    async def clear(self, key: str) -> None:  # noqa: D102
        await asyncio.to_thread(self._storage.clear, key)

    async def reset(self) -> int | None:  # noqa: D102
        return await asyncio.to_thread(self._storage.reset)

    async def check(self) -> bool:  # noqa: D102
        return await asyncio.to_thread(self._storage.check)


def _url_of(uri: str) -> str:
    uri = uri.removeprefix("async+")
    return "" if uri in {"", "sharedstate:", "sharedstate://"} else uri.removeprefix("sharedstate+")


def _fit(strategy: str, key: str) -> str:
    return fit_key(strategy + key, MAX_KEY_BYTES - len(_NAME) - 1)


def _is_ints(value: Any) -> bool:
    return type(value) is list and {int}.issuperset(map(type, value))  # pyright: ignore[reportUnknownArgumentType]
