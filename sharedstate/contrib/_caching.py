"""What the adapters have in common: one handle for each URL, keys that fit, and any object as a value.

    A1  All adapters of an interpreter that name one URL share one handle.  Some
        frameworks make a cache object for each thread, or even each request.
    A2  No two keys of a framework's share a key of the store's, whatever their length.
    A3  A value that the store can hold is stored as it is, so that any caller
        can count with a number; every other one is stored as a pickle, with a
        tag that no value of the first kind has.
    A4  A write that depends on what was there is one atomic step.

A pickle that is loaded can run code.  Whoever may write to the store can put
one there: docs/security.md says who that is, and `PlainSerializer` loads none.
"""

from __future__ import annotations

import atexit
import pickle
from functools import cached_property

from sharedstate.backend.waiting import MAX_TTL_S, Backoff
from sharedstate.errors import ConflictError, CorruptError, KeyFormatError, ValueTypeError
from sharedstate.model import ABSENT, MISSING
from sharedstate.opening import open_store
from sharedstate.values import MAX_KEY_BYTES, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, Final, Protocol

    from sharedstate.store import Store
    from sharedstate.transactions import Transaction
    from sharedstate.values import Value

    class Serializer(Protocol):
        """How an object becomes a value that the store can hold, and is made from it again."""

        def dumps(self, value: Any, /) -> Any:
            """Return what is stored for `value`."""

        def loads(self, stored: Any, /) -> Any:
            """Return the object that `stored` stands for."""


__all__ = ["ObjectSerializer", "Objects", "PlainSerializer", "fit_key", "quote", "store_of"]

# --- Handles --------------------------------------------------------------------

_opened: dict[str, Store] = {}  # by URL; no framework says when its last cache ends, so they last as long as Python


@atexit.register
def close_all() -> None:
    """Close every handle: each is opened anew when it is next asked for."""
    while _opened:
        _opened.popitem()[1].close()


def store_of(url: str) -> Store:
    """Return this interpreter's handle on the store of that URL (A1); "" is what `sharedstate.open()` chooses."""
    store = _opened.get(url)
    if store is None:
        fresh = open_store(url or None)
        # Not under a lock, which a fork would copy in the hands of a thread that the child has not.
        store = _opened.setdefault(url, fresh)
        if store is not fresh:
            fresh.close()
    return store


# --- Keys -------------------------------------------------------------------------

_DIGEST_BYTES: Final = 32
_LONGEST_CHARACTER: Final = 4  # bytes of UTF-8


def fit_key(key: str, room: int) -> str:
    """Return `key`, or if that is long or no UTF-8 its beginning and a digest of it, in at most `room` bytes.

    What is shortened is longer than all that is not, so the two never meet (A2).
    """
    encoded = key.encode(errors="surrogatepass")
    kept = room - 2 * _DIGEST_BYTES
    if len(encoded) <= kept - _LONGEST_CHARACTER and (key.isascii() or b"\xed" not in encoded):
        return key  # 0xed begins every surrogate, and little else: some Korean keys get their digest for nothing
    if kept <= _LONGEST_CHARACTER:
        raise KeyFormatError(found=f"one below a prefix that leaves {room} bytes")
    from hashlib import blake2b

    beginning = encoded[:kept].decode(errors="ignore")
    return beginning + blake2b(encoded, digest_size=_DIGEST_BYTES).hexdigest()


def quote(name: str) -> str:
    """Return `name` as a namespace can be called: without a colon, and no two alike."""
    return name.replace("%", "%25").replace(":", "%3A")


# --- Values -----------------------------------------------------------------------

_PICKLED: Final = "sharedstate:pickle"
_DATETIME: Final = b"\xd8\x02"  # begins each datetime in the encoding of values.py


class ObjectSerializer:
    """Any object that can be pickled; None, bool, int, float, str, bytes, list, tuple and dict stay what they are.

    A datetime is pickled, alone and in a container: the value model keeps its
    offset, but not its time zone.
    """

    def dumps(self, value: Any, /) -> Value:
        """Return `value`, or its pickle behind a tag (A3)."""
        return value if _is_plain(value) else (_PICKLED, pickle.dumps(value, pickle.HIGHEST_PROTOCOL))

    def loads(self, stored: Value, /) -> Any:
        """Return the object that `stored` stands for."""
        return pickle.loads(stored[1]) if _is_pickled(stored) else stored  # noqa: S301  see the module's docstring


class PlainSerializer:
    """Only what the value model has (docs/guarantees.md); nothing is ever unpickled."""

    def dumps(self, value: Any, /) -> Value:
        """Return `value`, which the store will refuse if it is of another type."""
        if _is_pickled(value):
            raise ValueTypeError(path="value", found="a tuple that would be taken for a pickle")
        return value

    def loads(self, stored: Value, /) -> Any:
        """Return `stored`; refuse a pickle that another serializer left."""
        if _is_pickled(stored):
            raise CorruptError(
                url="stored value",
                reason="a pickle, where nothing is unpickled",
                advice="Clear the cache if another serializer served it before; else find out who writes to it.",
            )
        return stored


def _is_plain(value: Any) -> bool:
    if value is None or type(value) in {bool, float, bytes}:
        return True
    try:
        encoded = encode(value)
    except ValueTypeError:
        return False
    # In C, where a walk would be in Python.  The two bytes may be something else: then that is pickled for nothing.
    return _DATETIME not in encoded and not _is_pickled(value)


def _is_pickled(value: Any) -> bool:
    return type(value) is tuple and len(value) == 2 and type(value[0]) is str and value[0] == _PICKLED  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


# --- Entries ----------------------------------------------------------------------


class Objects:
    """Objects under keys, each for some time: what the caches of all frameworks stand on.

    A time to live of None is for ever; one of 0 or less has passed already.

    Args:
        url: of the store; "" for the one that `sharedstate.open()` chooses.
        name: of the part of the store that is theirs.
        serializer: of the values; ints of 64 bits never reach it.
    """

    def __init__(self, url: str, name: str, serializer: Serializer) -> None:
        self._url = url
        self._name = name
        self._room = MAX_KEY_BYTES - len(name.encode()) - 1
        self.serializer = serializer

    @cached_property
    def store(self) -> Store:
        """The part of the store that is theirs, opened when it is first asked for: after the server's forks."""
        return store_of(self._url).namespace(self._name)

    def fit(self, key: str) -> str:
        """Return the key under which the store has that of `key`."""
        return fit_key(key, self._room)

    # --- Reading ----------------------------------------------------------------

    def get(self, key: str, default: Any = None) -> Any:
        """Return the object of `key`, or `default`."""
        stored = self.store.get(self.fit(key), MISSING)
        return default if stored is MISSING else self._load(stored)

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the objects of those of `keys` that are there."""
        asked = {self.fit(key): key for key in keys}
        return {asked[key]: self._load(stored) for key, stored in self.store.get_many(asked).items()}

    def has(self, key: str) -> bool:
        """Return whether `key` is there."""
        return self.store.generation(self.fit(key)) != ABSENT

    # --- Writing ----------------------------------------------------------------

    def set(self, key: str, value: Any, ttl_s: float | None) -> None:
        """Store `value`, whatever was there."""
        self.set_many({key: value}, ttl_s)

    def set_many(self, values: Mapping[str, Any], ttl_s: float | None) -> None:
        """Store all of `values`, each atomically."""
        if _has_passed(ttl_s):
            self.delete_many(values)
        else:
            self.store.set_many({self.fit(key): self._dump(value) for key, value in values.items()}, _clamp(ttl_s))

    def add(self, key: str, value: Any, ttl_s: float | None) -> bool:
        """Store `value` if `key` is absent; return whether it was."""
        if _has_passed(ttl_s):
            return not self.has(key)
        return self.store.add(self.fit(key), self._dump(value), _clamp(ttl_s))

    def replace(self, key: str, value: Any, ttl_s: float | None) -> bool:
        """Store `value` if `key` is there; return whether it was."""
        if _has_passed(ttl_s):
            return self.delete(key)
        full, stored, backoff = self.fit(key), self._dump(value), Backoff()
        while (generation := self.store.generation(full)) != ABSENT:
            try:
                self.store.compare_and_set(full, stored, generation, _clamp(ttl_s))
            except ConflictError:
                backoff.sleep()
            else:
                return True
        return False

    def change(self, key: str, change: Callable[[Any], Any]) -> Any:
        """Replace the object of `key` by what `change` makes of it, until it expires as it would have; return that.

        Raises:
            KeyError: it is absent.
        """

        def changed(stored: Any) -> Any:
            if stored is MISSING:
                raise KeyError(key)
            return self._dump(change(self._load(stored)))

        return self._load(self.store.update_with(self.fit(key), changed, MISSING))

    def increment(self, key: str, by: int, ttl_s: float | None) -> int | float:
        """Add `by` to the number at `key`, which begins at 0 and then lives for `ttl_s`; return the sum."""
        full = self.fit(key)
        if _has_passed(ttl_s):
            number: int | float = self.store.get(full, 0)
            return number + by
        return self.store.increment(full, by, ttl_s=_clamp(ttl_s))

    def move(self, key: str, to: str, ttl_s: float | None) -> bool:
        """Put the object of `key` under another one; return whether it was there: of several callers one succeeds."""
        source, target = self.fit(key), self.fit(to)

        def moved(transaction: Transaction) -> bool:
            stored = transaction.get(source, MISSING)
            if stored is MISSING:
                return False
            transaction.delete(source)
            if not _has_passed(ttl_s):
                transaction.set(target, stored, _clamp(ttl_s))
            return True

        return bool(self.store.transact(moved))

    def touch(self, key: str, ttl_s: float | None) -> bool:
        """Let `key` expire anew; return whether it is there."""
        return self.delete(key) if _has_passed(ttl_s) else self.store.touch(self.fit(key), _clamp(ttl_s))

    def delete(self, key: str) -> bool:
        """Remove `key`; return whether it was there."""
        return self.store.delete(self.fit(key))

    def delete_many(self, keys: Iterable[str]) -> None:
        """Remove `keys`, each atomically."""
        self.store.delete_many([self.fit(key) for key in keys])

    def clear(self) -> None:
        """Remove all that is theirs, and nothing else of the store."""
        self.store.clear()

    # Ints are the store's own, whatever the serializer: else no two callers could count with one.

    def _dump(self, value: Any) -> Any:
        return value if type(value) is int and -(2**63) <= value < 2**64 else self.serializer.dumps(value)

    def _load(self, stored: Any) -> Any:
        return stored if type(stored) is int else self.serializer.loads(stored)


def _has_passed(ttl_s: float | None) -> bool:
    return ttl_s is not None and ttl_s <= 0


def _clamp(ttl_s: float | None) -> float | None:
    return None if ttl_s is None else min(float(ttl_s), MAX_TTL_S)
