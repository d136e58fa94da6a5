"""`sqlite:/path/state.db`: one row per entry in an SQLite database, readable by any SQLite tool.

The plug-in's door; see FORMAT.md for what lies on disk and why.  Reading order:
`schema` (the tables), `cells` (a value in a row), `place` (the path: looked at,
created, removed), `opening`, `sessions` (a connection, and fork), `connections`
(who uses which, when), `faults` (SQLite's errors in ours), `statements`,
`backend` (the verbs), `inspection` (for people).
"""

from __future__ import annotations

from sharedstate_sqlite.offer import CAPABILITIES, COSTS, url_for

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any

    from sharedstate_sqlite.opening import connect, discover, exists, remove, temporary_url
    from sharedstate_sqlite.salvage import repair

__all__ = ["CAPABILITIES", "COSTS", "connect", "discover", "exists", "remove", "repair", "temporary_url", "url_for"]


def __getattr__(name: str) -> Any:
    # What it offers is looked at wherever a store is chosen; the rest is loaded where it is chosen.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "repair":  # which a program that only uses its store never loads
        from sharedstate_sqlite.salvage import repair

        return repair
    from sharedstate_sqlite import opening

    return getattr(opening, name)
