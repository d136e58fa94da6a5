"""`file:/path`: an append-only log in a directory, shared by every process of this host.

The plug-in's door; see FORMAT.md for the bytes, `sharedstate_file.backend` for
the verbs, and `sharedstate_file.place` for how a store is found, made and mended.
"""

from __future__ import annotations

from sharedstate_file.offer import CAPABILITIES, COSTS, url_for

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any

    from sharedstate_file.backend import connect, discover, exists, remove, temporary_url
    from sharedstate_file.salvage import repair

__all__ = ["CAPABILITIES", "COSTS", "connect", "discover", "exists", "remove", "repair", "temporary_url", "url_for"]


def __getattr__(name: str) -> Any:
    # What it offers is looked at wherever a store is chosen; the rest is loaded where it is chosen.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "repair":  # which a program that only uses its store never loads
        from sharedstate_file.salvage import repair

        return repair
    from sharedstate_file import backend

    return getattr(backend, name)
