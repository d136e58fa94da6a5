"""The part of a store under a prefix, as the views of `collections.abc` want it.

The views of collections.abc would raise KeyError for a key that somebody else
deletes while they walk; these pass over it.
"""

from __future__ import annotations

from collections.abc import ItemsView, Mapping, ValuesView

from sharedstate.model import MISSING

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

__all__ = ["Items", "Selection", "Values"]


class Selection(Mapping[str, "Any"]):
    """The entries of `store` whose keys start with `prefix`.

    Args:
        store: to look values up in.
        prefix: of the keys.
        names: returns these keys as they are now.
        count: returns how many there are.
    """

    def __init__(
        self, store: Mapping[str, Any], prefix: str, names: Callable[[], list[str]], count: Callable[[], int]
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._names = names
        self._count = count

    def __getitem__(self, key: str) -> Any:
        if not key.startswith(self._prefix):
            raise KeyError(key)
        return self._store[key]

    def walk(self) -> Iterator[tuple[str, Any]]:
        """Yield the items that are there when their turn comes."""
        for key in self._names():
            value = self._store.get(key, MISSING)
            if value is not MISSING:
                yield key, value

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key.startswith(self._prefix) and key in self._store

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return self._count()


class Items(ItemsView[str, "Any"]):
    """A view of the items."""

    _mapping: Selection

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self._mapping.walk()


class Values(ValuesView["Any"]):
    """A view of the values."""

    _mapping: Selection

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping.walk())

    def __contains__(self, value: object) -> bool:
        return any(value is found or value == found for found in self)
