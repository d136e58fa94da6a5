"""The entries of one store in C: `c/entries.h`.  `entries.py` is the same in Python, and its fallback."""

from collections.abc import Callable
from typing import Any, Literal, NoReturn, TypeAlias, final

Stored: TypeAlias = tuple[Any, bool, int, float | None]
"""Value (a scalar, or the bytes of an encoded container), is it encoded, generation, deadline on the boot clock."""

Change: TypeAlias = tuple[Any, bool, float | Literal[True] | None]
"""What is to be stored: value, is it encoded, deadline; True: that of the entry that is there."""

@final
class Entries:
    """What all handles of one store of one interpreter share.

    Every method is atomic.  Keys have been checked, and values are scalars.
    """

    def look(self, key: str, /) -> Stored | None:
        """Return the entry of `key`, or None if it is absent or expired."""

    def keys(self, prefix: str, /) -> list[str]:
        """Return the keys that start with `prefix`, of entries that have not expired."""

    def snapshot(self) -> list[tuple[str, Any, bool, int, float | None]]:
        """Return all entries as they are at one instant, expired ones too: each its key, and what `look` returns."""

    def commit(self, changes: dict[str, Change | None], expected: dict[str, int], /) -> int | None:
        """Apply all changes if every key of `expected` is at that generation.

        Args:
            changes: None for a key that is to go.  Each takes the next generation, in order.
            expected: the generation each key must be at, or `ABSENT`.

        Returns:
            The generation of the first change; None if the store was removed,
            and nothing was changed.

        Raises:
            ConflictError: a key is at another generation; nothing was changed.
            MemoryError: nothing was changed.
        """

    def take(self, key: str, /) -> Stored | None:
        """Remove `key` and return what it was, or None."""

    def touch(self, key: str, expires_at: float | None, /) -> bool:
        """Let `key` expire at another time, at the same generation; return whether it is there."""

    def remove(self) -> None:
        """Drop everything, for good: no write is taken any more."""

    def enlist(self, token: int, wake: Callable[[], object], /) -> bool:
        """Have the next change, removal or `wake()` call `wake`, once.

        Returns:
            False if `last` is not `token` any more, or the store was removed:
            then nobody will.
        """

    def leave(self, wake: Callable[[], object], /) -> None:
        """Do not call `wake` (the very object that was enlisted) any more, should it be enlisted still."""

    def wake(self) -> None:
        """Call, and forget, whoever is enlisted."""

    def after_fork_in_child(self) -> None:
        """Forget whoever is enlisted: they are the parent's."""

    def hold(self) -> None:
        """Let no other thread be in the middle of a change until `let_go`; for a fork."""

    def let_go(self) -> None:
        """End what `hold` began."""

    @property
    def asked(self) -> tuple[int, int]:
        """How many questions for one entry found it, and how many did not."""

    @property
    def last(self) -> int:
        """The newest generation, also of deletes and of new deadlines."""

    @property
    def is_removed(self) -> bool:
        """Whether `remove` was called."""

@final
class Handle:
    """The hot verbs of one handle, as in `sharedstate.backend.Backend`.

    A verb of a closed handle, and a write to a removed store, calls
    `refuse(url, is_removed)`, which raises.
    """

    def __new__(cls, entries: Entries, url: str, refuse: Callable[[str, bool], NoReturn], /) -> Handle: ...
    def get(self, key: str, default: Any = None) -> Any: ...
    def set(self, key: str, value: Any, ttl_s: float | None = None) -> None: ...
    def increment(
        self, key: str, by: int | float = 1, initial: int | float = 0, ttl_s: float | None = None
    ) -> int | float: ...
    def close(self) -> None: ...
