"""A cache for cachelib, and so for Flask-Caching and Flask-Session, that all workers share.

    cache = SharedStateCache("shm://myapp?size=64MiB&full=evict")

Flask-Caching: CACHE_TYPE "sharedstate.contrib.cachelib.SharedStateCache", with
CACHE_OPTIONS {"url": ..., "key_prefix": ...}.  Flask-Session: SESSION_TYPE
"cachelib", and SESSION_CACHELIB an object of this class.

Thread safety: any.  All objects for one URL share one handle (A1).
"""

from __future__ import annotations

from cachelib import BaseCache

from sharedstate.contrib._caching import Objects, ObjectSerializer, PlainSerializer, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Any

    from sharedstate.contrib._caching import Serializer

__all__ = ["ObjectSerializer", "PlainSerializer", "SharedStateCache"]


class SharedStateCache(BaseCache):
    """The cache in a store.

    Args:
        url: of the store; None for the one that `sharedstate.open()` chooses.
        default_timeout: seconds that an entry lives; 0: for ever.
        key_prefix: of the part of the store that is this cache's: `clear`
            touches no other, and caches of one URL and prefix are one cache.
        serializer: of the values, with `dumps` and `loads`; ints of 64 bits
            never reach it.  None: `ObjectSerializer`.
        ignore_delete_many_errors: as in cachelib; there are none.
    """

    def __init__(
        self,
        url: str | None = None,
        default_timeout: int | timedelta = 300,
        key_prefix: str = "",
        *,
        serializer: Serializer | None = None,
        ignore_delete_many_errors: bool = True,
    ) -> None:
        super().__init__(default_timeout, ignore_delete_many_errors=ignore_delete_many_errors)
        self._objects = Objects(url or "", f"cachelib/{quote(key_prefix)}", serializer or ObjectSerializer())

    @property
    def serializer(self) -> Serializer:
        """How values are stored; Flask-Caching sets it from CACHE_SERIALIZER."""
        return self._objects.serializer

    @serializer.setter
    def serializer(self, serializer: Serializer) -> None:
        self._objects.serializer = serializer

    # --- Reading ----------------------------------------------------------------

    def get(self, key: str) -> Any:
        """Return the value of `key`, or None."""
        return self._objects.get(key)

    def get_many(self, *keys: str) -> list[Any]:
        """Return the values of `keys`, None for each that is not there."""
        found = self._objects.get_many(keys)
        return [found.get(key) for key in keys]

    def has(self, key: str) -> bool:
        """Return whether `key` is there."""
        return self._objects.has(key)

    # --- Writing ----------------------------------------------------------------

    def set(self, key: str, value: Any, timeout: int | timedelta | None = None) -> bool:
        """Store `value`, whatever was there, and return True; a full store raises `CapacityError`."""
        self._objects.set(key, value, self._ttl_s(timeout))
        return True

    def add(self, key: str, value: Any, timeout: int | timedelta | None = None) -> bool:
        """Store `value` if `key` is absent; of several callers one gets True."""
        return self._objects.add(key, value, self._ttl_s(timeout))

    def set_many(self, mapping: dict[str, Any], timeout: int | timedelta | None = None) -> list[Any]:
        """Store all of `mapping`, each atomically; return its keys."""
        self._objects.set_many(mapping, self._ttl_s(timeout))
        return list(mapping)

    def delete(self, key: str) -> bool:
        """Remove `key`; return whether it was there."""
        return self._objects.delete(key)

    def clear(self) -> bool:
        """Remove what is below this cache's prefix, and nothing else of the store."""
        self._objects.clear()
        return True

    def inc(self, key: str, delta: int = 1) -> int:
        """Add `delta` to the number at `key`, 0 if it is absent, and return the sum; no increment is lost.

        What is counted anew expires after `default_timeout`, and else as it did.

        Raises:
            ValueTypeError: it is no number.
        """
        return int(self._objects.increment(key, delta, self._ttl_s(None)))

    def dec(self, key: str, delta: int = 1) -> int:
        """Subtract `delta`; as `inc`."""
        return self.inc(key, -delta)

    def _ttl_s(self, timeout: int | timedelta | None) -> float | None:
        return self._normalize_timeout(timeout) or None  # 0 is for ever
