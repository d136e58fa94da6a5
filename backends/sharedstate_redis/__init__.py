"""`redis://host/jobs`: a store in a Redis or Valkey server, for those who have outgrown one machine.

The plug-in's door; see FORMAT.md for what lies in the server and why.  Reading
order: `address` (a URL, taken apart), `sessions` (one connection, and fork),
`connecting` (how it is made), `sentinels` and `cluster` (to which server), `pool`
(who uses which), `faults` (the server's errors in ours), `cells` (an entry as bytes),
`scripts` (what the server runs), `server` (what it keeps, and how long), `place`
(a store made, found, removed), `anchor` (the connection that says that we
live), `locks`, `backend` (the verbs).
"""

from __future__ import annotations

from sharedstate_redis.offer import CAPABILITIES, COSTS, SCHEMES, temporary_url, url_for

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any

    from sharedstate_redis.opening import connect, discover, exists, remove

__all__ = [
    "CAPABILITIES",
    "COSTS",
    "SCHEMES",
    "connect",
    "discover",
    "exists",
    "remove",
    "temporary_url",
    "url_for",
]


def __getattr__(name: str) -> Any:
    # What it offers is looked at wherever a store is chosen; redis-py, which costs 150 ms, is loaded where it is used.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sharedstate_redis import opening

    return getattr(opening, name)
