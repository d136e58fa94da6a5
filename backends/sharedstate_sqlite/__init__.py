"""`sqlite:/path/state.db`: one row per entry in an SQLite database, readable by any SQLite tool.

The plug-in's door; see FORMAT.md for what lies on disk and why.  Reading order:
`schema` (the tables), `cells` (a value in a row), `place` (the path: looked at,
created, removed), `opening`, `sessions` (a connection, and fork), `connections`
(who uses which, when), `faults` (SQLite's errors in ours), `statements`,
`backend` (the verbs), `inspection` (for people).
"""

from sharedstate_sqlite.backend import CAPABILITIES
from sharedstate_sqlite.opening import connect, discover, exists, remove, temporary_url

__all__ = ["CAPABILITIES", "connect", "discover", "exists", "remove", "temporary_url"]
