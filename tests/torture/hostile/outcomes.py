"""The one judge of what a store of hostile bytes did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sharedstate
from sharedstate import StateError, values

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["outcome_of", "use_everything"]


def outcome_of(act: Callable[[], Any]) -> Any:
    """Return what `act` returns, or the `StateError` that it raises; any other exception is a broken promise."""
    try:
        return act()
    except StateError as error:
        str(error)  # it can tell what it is
        return error


def use_everything(url: str) -> dict[str, Any] | StateError:
    """Open the store, read all of it, check it, write to it; return what it held, or why it did not open or read.

    A write or a check may be refused too, by a `StateError`.
    """
    store = outcome_of(lambda: sharedstate.open(url, allow_narrow=True))
    if isinstance(store, StateError):
        return store
    with store:
        found = outcome_of(lambda: dict(store.items()))
        if not isinstance(found, StateError):
            values.check(list(found.items()))  # nothing that could not have been stored
            for key in list(found)[:3]:
                outcome_of(lambda key=key: store.increment(key) if type(found[key]) is int else store.generation(key))
        for act in (
            store.check,
            lambda: store.get("a"),
            lambda: len(store),
            lambda: store.set("written", 1),
            lambda: store.update({"written": [2], "also": None}),
            lambda: store.delete("a"),
            lambda: store.clear("w"),
        ):
            outcome_of(act)
    return found
