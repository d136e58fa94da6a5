"""A dogpile.cache backend that all workers share, in which one of them makes a value while the others wait.

    import sharedstate.contrib.dogpile  # not needed where sharedstate is installed: there is an entry point
    region = make_region().configure("sharedstate", arguments={"url": "shm://myapp?size=64MiB&full=evict"})

    G1  Of all who share the store, one at a time holds the mutex of a key.
    G2  Any thread of the holder's interpreter may release it, as dogpile.cache's
        `async_creation_runner` does from its own; so it is no `Store.lock`.
    G3  It is free once its holder's process is dead, and noticed within a tenth of
        a second by who waits; a holder that is slow keeps it.
    G4  A mutex that nobody holds leaves nothing in the store: there may be one for
        each key.

A store that evicts may forget who holds a mutex; then two make the same value.
"""

from __future__ import annotations

from dogpile.cache import register_backend  # pyright: ignore[reportUnknownVariableType]  it has no types
from dogpile.cache.api import NO_VALUE, BytesBackend, CacheMutex

from sharedstate.backend.waiting import MAX_TTL_S, Backoff
from sharedstate.contrib._caching import fit_key, quote, store_of
from sharedstate.coordination.claims import Claim, Living, corrupt, is_shaped
from sharedstate.errors import ClaimLostError, ConflictError
from sharedstate.model import ABSENT, MISSING
from sharedstate.values import MAX_KEY_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, Final

    from dogpile.cache.api import SerializedReturnType

    from sharedstate.store import Store
    from sharedstate.transactions import Transaction

__all__ = ["SharedStateBackend", "SharedStateMutex"]

_LOOK_S: Final = 0.1  # a death changes no key that would wake who waits
_SHAPE: Final[dict[str, tuple[type, ...]]] = {"owner": (str,), "claim": (str,), "who": (str,)}


class SharedStateBackend(BytesBackend):
    """What a region keeps, in a store.

    Args:
        arguments: `url` of the store, by default the one that `sharedstate.open()`
            chooses; `name` of the part of it that is the region's;
            `expiration_time`, seconds after which the store forgets a value: more
            than the region's own, which still hands out old values while a new
            one is made.  Others are ignored, as dogpile.cache wants it.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._url: str = arguments.get("url") or ""
        expiration_time: float | None = arguments.get("expiration_time")
        self._ttl_s = None if expiration_time is None else min(float(expiration_time), MAX_TTL_S)
        name = quote(arguments.get("name") or "")
        self._values_name, self._mutexes_name = f"dogpile/{name}", f"dogpile-mutex/{name}"

    @property
    def _store(self) -> Store:
        return store_of(self._url).namespace(self._values_name)

    def _fit(self, key: str) -> str:
        return fit_key(key, MAX_KEY_BYTES - len(self._mutexes_name.encode()) - 1)

    def get_mutex(self, key: str) -> CacheMutex:
        """Return the mutex of `key`, not acquired."""
        return SharedStateMutex(store_of(self._url).namespace(self._mutexes_name), self._fit(key))

    def get_serialized(self, key: str) -> SerializedReturnType:
        """Return the bytes of `key`, or NO_VALUE."""
        found: SerializedReturnType = self._store.get(self._fit(key), NO_VALUE)
        return found

    def get_serialized_multi(self, keys: Iterable[str]) -> Sequence[SerializedReturnType]:
        """Return the bytes of each of `keys`, or NO_VALUE."""
        fitted = [self._fit(key) for key in keys]
        found = self._store.get_many(fitted)
        return [found.get(key, NO_VALUE) for key in fitted]

    def set_serialized(self, key: str, value: bytes) -> None:
        """Store the bytes of `key`."""
        self._store.set(self._fit(key), value, self._ttl_s)

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        """Store the bytes of each key, each atomically."""
        self._store.set_many({self._fit(key): value for key, value in mapping.items()}, self._ttl_s)

    def delete(self, key: str) -> None:
        """Remove `key`, if it is there."""
        self._store.delete(self._fit(key))

    def delete_multi(self, keys: Iterable[str]) -> None:
        """Remove those of `keys` that are there."""
        self._store.delete_many([self._fit(key) for key in keys])


class SharedStateMutex(CacheMutex):
    """Who makes the value of one key now; one object may serve many threads."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key
        self._claim: Claim | None = None  # written only by who has just recorded it, or releases it

    def acquire(self, wait: bool = True) -> bool:
        """Take the mutex, if need be when it is free; return whether it is now held."""
        claim, backoff = Claim(self._store), Backoff()
        record = {"owner": claim.owner, "claim": claim.id, "who": claim.who}
        while True:
            entry = self._store.read(self._key)
            generation = ABSENT if entry is None else entry.generation
            if entry is not None and self._is_held(entry.value):
                if not wait:
                    return False
                self._store.wait_for_change(self._key, generation, _LOOK_S)
                continue
            try:
                self._store.compare_and_set(self._key, record, generation)
            except ConflictError:
                backoff.sleep()
                continue
            self._claim = claim
            return True

    def release(self) -> None:
        """Give the mutex back.

        Raises:
            ClaimLostError: it is not held through this object, or in the parent of this forked process.
        """
        claim, self._claim = self._claim, None
        if claim is None or not claim.is_ours():
            raise ClaimLostError(what=f"the mutex of {self._key!r}", reason="this process does not hold it")

        def forget(transaction: Transaction) -> None:
            record = transaction.get(self._key)
            if record is not None and record["claim"] == claim.id:  # not so if it was evicted
                transaction.delete(self._key)

        self._store.transact(forget)
        claim.end()

    def locked(self) -> bool:
        """Return whether anybody holds the mutex."""
        record = self._store.get(self._key, MISSING)
        return record is not MISSING and self._is_held(record)

    def _is_held(self, record: Any) -> bool:
        if not is_shaped(record, _SHAPE):
            raise corrupt(self._store, self._key, "a mutex of dogpile.cache")
        return Living(self._store).holds(record["owner"], record["claim"])


register_backend("sharedstate", __name__, "SharedStateBackend")  # type: ignore[no-untyped-call]
