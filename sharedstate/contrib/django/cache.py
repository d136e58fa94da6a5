"""A cache backend for Django that all workers share, and whose counters lose nothing.

    CACHES = {
        "default": {
            "BACKEND": "sharedstate.contrib.django.SharedStateCache",
            "LOCATION": "shm://mysite?size=64MiB&full=evict",
        },
    }

Thread safety: any.  Django makes an object of this class for each thread, and
they share one handle (A1).  The asynchronous verbs are Django's own, which call
these in a thread.
"""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from sharedstate.contrib._caching import Objects, ObjectSerializer, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

__all__ = ["SharedStateCache"]


class SharedStateCache(BaseCache):
    """The cache at LOCATION, a store's URL; "" is the store that `sharedstate.open()` chooses.

    Its keys are below its KEY_PREFIX in the store: `clear` touches no others,
    and caches of one LOCATION and one KEY_PREFIX are one cache.

    Raises:
        ImproperlyConfigured: OPTIONS has other names than `serializer`: an
            object, a class or the dotted name of one, with `dumps` and `loads`.
    """

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        options: dict[str, Any] = dict(params.get("OPTIONS") or {})
        serializer = options.pop("serializer", ObjectSerializer)
        if options:
            raise ImproperlyConfigured(
                f"SharedStateCache has no {', '.join(sorted(options))} in OPTIONS. How much it keeps is the store's "
                "to say: give a LOCATION such as 'shm://name?size=64MiB&full=evict'."
            )
        if isinstance(serializer, str):
            serializer = import_string(serializer)
        self._objects = Objects(
            location, f"django/{quote(self.key_prefix)}", serializer() if isinstance(serializer, type) else serializer
        )

    def get_backend_timeout(self, timeout: Any = DEFAULT_TIMEOUT) -> float | None:
        """Return the seconds that an entry lives: None for ever, 0 or less not at all."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return None if timeout is None else float(timeout)

    # --- Reading ----------------------------------------------------------------

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        """Return the value of `key`, or `default`."""
        return self._objects.get(self.make_and_validate_key(key, version=version), default)

    def get_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        """Return the values of those of `keys` that are there."""
        made = {self.make_and_validate_key(key, version=version): key for key in keys}
        return {made[key]: value for key, value in self._objects.get_many(made).items()}

    def has_key(self, key: str, version: int | None = None) -> bool:
        """Return whether `key` is there."""
        return self._objects.has(self.make_and_validate_key(key, version=version))

    # --- Writing ----------------------------------------------------------------

    def set(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Store `value`, whatever was there."""
        made = self.make_and_validate_key(key, version=version)
        self._objects.set(made, value, self.get_backend_timeout(timeout))

    def set_many(
        self, data: Mapping[str, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[str]:
        """Store all of `data`, each atomically; return those that failed: none, or it raises."""
        made = {self.make_and_validate_key(key, version=version): value for key, value in data.items()}
        self._objects.set_many(made, self.get_backend_timeout(timeout))
        return []

    def add(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Store `value` if `key` is absent; of several callers one gets True."""
        made = self.make_and_validate_key(key, version=version)
        return self._objects.add(made, value, self.get_backend_timeout(timeout))

    def replace(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Store `value` if `key` is there; return whether it was.  Not a verb of Django's: the sessions need it."""
        made = self.make_and_validate_key(key, version=version)
        return self._objects.replace(made, value, self.get_backend_timeout(timeout))

    async def areplace(
        self,
        key: str,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,  # noqa: ASYNC109  of the entry, and not of the call
        version: int | None = None,
    ) -> bool:
        """See replace()."""
        return await sync_to_async(self.replace, thread_sensitive=True)(key, value, timeout, version)

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> Any:
        """Add `delta` to the value of `key`, which expires as it did, and return the sum; no increment is lost.

        Raises:
            ValueError: the key is absent.
        """
        made = self.make_and_validate_key(key, version=version)
        try:
            return self._objects.change(made, lambda value: value + delta)
        except KeyError:
            raise _not_found(key) from None

    def touch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Let `key` expire anew; return whether it is there."""
        return self._objects.touch(self.make_and_validate_key(key, version=version), self.get_backend_timeout(timeout))

    def delete(self, key: str, version: int | None = None) -> bool:
        """Remove `key`; return whether it was there."""
        return self._objects.delete(self.make_and_validate_key(key, version=version))

    def delete_many(self, keys: Iterable[str], version: int | None = None) -> None:
        """Remove `keys`, each atomically."""
        self._objects.delete_many([self.make_and_validate_key(key, version=version) for key in keys])

    def clear(self) -> None:
        """Remove what is below this cache's KEY_PREFIX, of all versions, and nothing else of the store."""
        self._objects.clear()

    def incr_version(self, key: str, delta: int = 1, version: int | None = None) -> int:
        """Move `key` to a later version, in one step, and return that; of several callers one succeeds.

        Raises:
            ValueError: the key is absent.
        """
        before = self.version if version is None else version
        source = self.make_and_validate_key(key, version=before)
        target = self.make_and_validate_key(key, version=before + delta)
        if not self._objects.move(source, target, self.get_backend_timeout()):
            raise _not_found(key)
        return int(before + delta)


def _not_found(key: str) -> ValueError:
    return ValueError(f"Key '{key}' not found")
