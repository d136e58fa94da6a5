"""The plug-in's functions: a URL to a handle, and a store's end."""

from __future__ import annotations

import _thread
import sys
from typing import TYPE_CHECKING, Any

from sharedstate.errors import BackendMissingError
from sharedstate_redis.address import read_url

if TYPE_CHECKING:
    from sharedstate.backend import StoreUrl
    from sharedstate_redis.backend import RedisBackend
    from sharedstate_redis.pool import Pool

__all__ = ["connect", "discover", "exists", "remove"]


def connect(url: StoreUrl) -> RedisBackend:
    """Open the store that `url` names, making it if there is none."""
    pool = _pool(url)
    from sharedstate_redis import place, server
    from sharedstate_redis.backend import RedisBackend

    try:
        pool.give_back(pool.dial(patience_s=0.0))  # a wrong name shall not take as long as a server that starts
        found = server.ask(pool)
        store = place.make_or_find(pool)
        place.bury(pool)
    except BaseException:
        pool.close()
        raise
    found.warn(pool.address)
    return RedisBackend(pool, store, found)


def discover() -> list[str]:
    """Return nothing: a server may be anywhere."""
    return []


def exists(url: StoreUrl) -> bool:
    """Return whether the server has a store of that name; none is made."""
    pool = _pool(url)
    from sharedstate_redis import place

    try:
        return place.find(pool) is not None
    finally:
        pool.close()


def remove(url: StoreUrl) -> None:
    """Remove the store and its locks; handles that are open see it as gone."""
    pool = _pool(url)
    from sharedstate_redis import place

    try:
        place.retire(pool)
        place.bury(pool)
    finally:
        pool.close()


def _pool(url: StoreUrl) -> Pool:
    address = read_url(url)
    allowed: Any = getattr(_thread, "daemon_threads_allowed", None)
    if sys.version_info[:2] == (3, 12) and allowed and not allowed():
        # An isolated interpreter is known by what 3.12 forbids it; datetime it does not, and dies of that.
        raise BackendMissingError(
            url=address.url,
            reason="redis-py imports datetime, of which CPython 3.12 crashes in an interpreter with a GIL of its own",
            advice="Take Python 3.13 or later, or open it in the main interpreter, or use another backend.",
        )
    try:
        from sharedstate_redis.pool import Pool
    except ImportError as error:
        raise BackendMissingError(
            url=address.url,
            reason=f"redis-py cannot be imported ({error})",
            advice="Install it with: pip install 'sharedstate[redis]'.",
        ) from error
    return Pool(address)
