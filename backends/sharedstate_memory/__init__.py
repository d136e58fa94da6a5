"""`memory:name`: a dict of this interpreter, with the semantics of a shared store.

The plug-in's door; see `sharedstate_memory.backend` for what it keeps.
"""

from __future__ import annotations

from sharedstate_memory.offer import CAPABILITIES, COSTS, url_for

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any

    from sharedstate_memory.backend import connect, discover, exists, remove, temporary_url

__all__ = ["CAPABILITIES", "COSTS", "connect", "discover", "exists", "remove", "temporary_url", "url_for"]


def __getattr__(name: str) -> Any:
    # What it offers is looked at wherever a store is chosen; the rest is loaded where it is chosen.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sharedstate_memory import backend

    return getattr(backend, name)
