"""Several keys read and changed as one: buffered here, decided by the backend's `commit`.

T1  The body holds no lock, so it blocks nobody and cannot deadlock.
T2  What it read is remembered by generation; the commit succeeds only if
    every key it read is still at that generation, so committed transactions
    are serializable over the keys they touched.
T3  It reads its own writes, and never hands out an object it has kept.
T4  A body that saw two states mixed cannot commit.
"""

from __future__ import annotations

from sharedstate.backend.contract import add_numbers
from sharedstate.backend.waiting import check_ttl
from sharedstate.errors import ConflictError
from sharedstate.model import ABSENT, DELETE, KEEP, MISSING, Entry, Put, Write
from sharedstate.values import check_key, decode, encode

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any, Self

    from sharedstate.backend.contract import Backend
    from sharedstate.model import Keep

__all__ = ["Transaction", "copy_value"]

_CONTAINERS = frozenset({list, tuple, dict})


class Transaction:
    """The body's view of the store.  Leaving the `with` block commits; an exception discards.

    Not iterable: a transaction is serializable over the keys it names, and the
    keys that are *not* there cannot be named.
    """

    def __init__(self, backend: Backend, prefix: str) -> None:
        self._backend = backend
        self._prefix = prefix
        self._seen: dict[str, Entry | None] = {}  # by full key, so that a second read agrees
        self._writes: dict[str, Write] = {}

    # --- Reading ------------------------------------------------------------

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key` as this transaction sees it, or `default`."""
        full = self._full(key)
        write = self._writes.get(full)
        if write is DELETE:
            return default
        if write is not None:
            return copy_value(write.value)
        entry = self._look(full)
        return default if entry is None else copy_value(entry.value)

    def __getitem__(self, key: str) -> Any:
        value = self.get(key, MISSING)
        if value is MISSING:
            raise KeyError(key)
        return value

    def __contains__(self, key: str) -> bool:
        return self.get(key, MISSING) is not MISSING

    # A class with __getitem__ alone would be iterated over 0, 1, 2 ...
    def __iter__(self) -> Iterator[str]:
        raise TypeError("a transaction names its keys; iterate over the store before it, or keep a key that lists them")

    # --- Writing ------------------------------------------------------------

    def set(self, key: str, value: Any, ttl_s: float | None = None) -> None:
        """Store `value` when the transaction commits.

        Raises:
            ValueTypeError: the value is outside the value model, or `ttl_s` no time.
        """
        check_ttl(ttl_s)
        encoded = encode(value)  # so that the line that stores a bad value is the one that raises
        full = self._full(key)
        self._writes[full] = Put(decode(encoded) if type(value) in _CONTAINERS else value, ttl_s)

    def __setitem__(self, key: str, value: Any) -> None:
        self.set(key, value)

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        self._writes[self._full(key)] = DELETE

    def delete(self, key: str) -> bool:
        """Remove `key` when the transaction commits; return whether it was there."""
        present = key in self
        if present:
            del self[key]
        return present

    def increment(self, key: str, by: int | float = 1, initial: int | float = 0) -> int | float:
        """Add `by` to the number at `key`, which expires as it did; return the sum."""
        total = add_numbers(key, self.get(key, initial), by)
        full = self._full(key)
        write = self._writes.get(full)
        until: float | Keep | None = None
        if write is None and self._look(full) is not None:
            until = KEEP
        elif isinstance(write, Put):
            until = write.ttl_s
        self._writes[full] = Put(total, until)
        return total

    # --- Ending -------------------------------------------------------------

    def commit(self) -> None:
        """Apply all writes, or none.

        Raises:
            ConflictError: a key that was read has changed since; nothing was written.
            CapacityError: no room, or too many keys; nothing was written.
        """
        if self._writes or len(self._seen) > 1:
            expected = {key: ABSENT if entry is None else entry.generation for key, entry in self._seen.items()}
            try:
                self._backend.commit(self._writes, expected)
            except ConflictError as conflict:
                key = conflict.key[len(self._prefix) :]
                raise ConflictError(key=key, expected=conflict.expected, found=conflict.found) from None
        # Done: what follows in the block, and its end, begin anew.
        self._writes.clear()
        self._seen.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()

    def _look(self, full: str) -> Entry | None:
        if full not in self._seen:
            self._seen[full] = self._backend.read(full)
        return self._seen[full]

    def _full(self, key: str) -> str:
        check_key(key)
        return self._prefix + key


def copy_value(value: Any) -> Any:
    """Return `value`, or a copy of it if somebody could change it."""
    return decode(encode(value)) if type(value) in _CONTAINERS else value
