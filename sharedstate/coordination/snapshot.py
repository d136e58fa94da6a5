"""Read-mostly configuration: decoded once for each change, handed out read-only.

    N1  `value` is never older than the latest change that was complete when it
        was asked for: each read looks at the key's generation.
    N2  All readers of one version get one object, which nobody can change.

Nothing is owned here, so a death leaves nothing behind.

Thread safety: any thread.  Two that find a change at once may both decode it.
"""

from __future__ import annotations

from types import MappingProxyType

from sharedstate.model import ABSENT

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any

    from sharedstate.store import Store

__all__ = ["Snapshot", "frozen"]


class Snapshot:
    """The value of one key, as it is now, at the cost of a look at its generation.

    Args:
        store: where it is.
        key: of the user's own; write it with the store's verbs.
        default: what `value` is while the key is absent.
    """

    def __init__(self, store: Store, key: str, default: Any = None) -> None:
        self._store = store
        self._key = key
        self._default: Any = frozen(default)
        self._seen: tuple[int, Any] = (ABSENT, self._default)  # generation and value; replaced as one

    @property
    def value(self) -> Any:
        """The value now, read-only: a dict as a mapping proxy, a list as a tuple, and so on inside."""
        generation, value = self._seen
        if self._store.generation(self._key) == generation:
            return value
        entry = self._store.read(self._key)
        seen = (ABSENT, self._default) if entry is None else (entry.generation, frozen(entry.value))
        self._seen = seen
        return seen[1]


def frozen(value: Any) -> Any:
    """Return a value of the value model that nobody can change: mapping proxies for dicts, tuples for lists."""
    kind: type = type(value)  # pyright: ignore[reportUnknownVariableType]  the type of Any
    if kind is dict:
        return MappingProxyType({key: frozen(item) for key, item in value.items()})
    if kind in {list, tuple}:
        return tuple(frozen(item) for item in value)
    return value
