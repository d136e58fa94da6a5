"""`shm://name?size=64MiB`: a table in POSIX shared memory, for all processes and interpreters of one host.

The plug-in's door; see FORMAT.md for what a region holds, and `backend` for the
handle.  The table itself is C: `c/ss_shm.h`.
"""

from __future__ import annotations

from sharedstate_shm.offer import CAPABILITIES, COSTS, url_for

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any

    from sharedstate_shm.backend import connect, discover, exists, path, remove, temporary_url
    from sharedstate_shm.salvage import repair

__all__ = [
    "CAPABILITIES",
    "COSTS",
    "connect",
    "discover",
    "exists",
    "path",
    "remove",
    "repair",
    "temporary_url",
    "url_for",
]


def __getattr__(name: str) -> Any:
    # What it offers is looked at wherever a store is chosen; the rest is loaded where it is chosen.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "repair":  # which a program that only uses its store never loads
        from sharedstate_shm.salvage import repair

        return repair
    from sharedstate_shm import backend

    return getattr(backend, name)
