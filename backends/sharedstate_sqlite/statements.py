"""Every statement that a verb runs, in one place, for whoever reads a query plan or the database's log.

Each is one transaction by itself.  An expired row counts as absent, and its
generation still grows.  A comment names the parameters in their order.

Not numbered as `?1`, which would spare repeating them: CPython 3.12.0 to 3.12.3
take those for named ones and warn at every call.
"""

# ruff: noqa: S608  statements are put together from these constants, never from anything of a caller's
from __future__ import annotations

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final


_LIVE: Final = "(expires_at IS NULL OR expires_at > ?)"  # now

# Writes ask the clock themselves, when they have the lock: they may have waited
# for it for seconds, and others have then seen entries expire.  SQLite's own clock,
# in whole milliseconds, as deadlines are; it stands still for one statement.  A
# function of ours would wait for the GIL with the lock held.
_NOW: Final = "(round((julianday('now') - 2440587.5) * 86400000.0) / 1000.0)"
_LIVE_NOW: Final = f"(expires_at IS NULL OR expires_at > {_NOW})"

GET: Final = "SELECT value, expires_at FROM entry WHERE key = ?"  # key
GENERATION: Final = f"SELECT generation FROM entry WHERE key = ? AND {_LIVE}"  # key, now
READ: Final = "SELECT value, generation, expires_at FROM entry WHERE key = ?"  # key

# A key that is new, or comes back, starts above every generation that was
# ever deleted; one that is there adds 1 to its own.
_INSERT: Final = (
    "INSERT INTO entry (key, value, generation, expires_at) "
    "VALUES (?, ?, (SELECT generation FROM floor) + 1, ?) ON CONFLICT (key) DO UPDATE SET "
)
_REPLACE: Final = "value = excluded.value, generation = generation + 1, expires_at = excluded.expires_at"

SET: Final = _INSERT + _REPLACE  # key, value, expires_at
SET_RETURNING: Final = f"{SET} RETURNING generation"  # key, value, expires_at
ADD: Final = f"{_INSERT}{_REPLACE} WHERE expires_at <= {_NOW}"  # key, value, expires_at
ADD_RETURNING: Final = f"{ADD} RETURNING generation"  # key, value, expires_at
SET_IF: Final = (  # value, expires_at, key, expected
    "UPDATE entry SET value = ?, generation = generation + 1, expires_at = ? "
    f"WHERE key = ? AND generation = ? AND {_LIVE_NOW}"
)
SET_IF_KEEPING: Final = (  # value, key, expected
    f"UPDATE entry SET value = ?, generation = generation + 1 WHERE key = ? AND generation = ? AND {_LIVE_NOW}"
)
SET_KEEPING: Final = (  # value, key
    "UPDATE entry SET value = ?, generation = generation + 1 WHERE key = ? RETURNING generation"
)

# key, initial + by, expires_at, by, least, greatest: the integers to which `by`
# can be added, for SQLite would turn an overflow into a REAL.  No row comes back
# where the value is beyond them, or neither INTEGER nor REAL.
INCREMENT: Final = f"""{_INSERT}
value = CASE WHEN {_LIVE_NOW} THEN value + ? ELSE excluded.value END,
generation = generation + 1,
expires_at = CASE WHEN {_LIVE_NOW} THEN expires_at ELSE excluded.expires_at END
WHERE typeof(value) = 'real' OR (typeof(value) = 'integer' AND value BETWEEN ? AND ?) OR expires_at <= {_NOW}
RETURNING value"""

TOUCH: Final = f"UPDATE entry SET expires_at = ? WHERE key = ? AND {_LIVE_NOW}"  # expires_at, key
DELETE_LIVE: Final = f"DELETE FROM entry WHERE key = ? AND {_LIVE_NOW}"  # key
DELETE_ROW: Final = "DELETE FROM entry WHERE key = ?"  # key
TAKE: Final = f"DELETE FROM entry WHERE key = ? AND {_LIVE_NOW} RETURNING value, generation, expires_at"  # key


def select(columns: str, has_end: bool) -> str:
    """Return the statement for the live entries from a key on: first key, end if `has_end`, now."""
    return f"SELECT {columns} FROM entry WHERE key >= ?{' AND key < ?' if has_end else ''} AND {_LIVE}"


def end_of(prefix: str) -> str | None:
    """Return the least str above all that start with `prefix`, None if there is none.

    SQLite orders TEXT by its UTF-8 bytes, which is the order of code points.
    """
    head = prefix.rstrip("\U0010ffff")
    if not head:
        return None
    following = ord(head[-1]) + 1
    return head[:-1] + chr(0xE000 if following == 0xD800 else following)  # over the surrogates


def select_among(keys: int) -> str:
    """Return the statement for the entries of that many keys."""
    return f"SELECT key, value, expires_at FROM entry WHERE key IN ({', '.join('?' * keys)})"


def select_rows_among(keys: int) -> str:
    """Return the statement for the whole rows of that many keys."""
    return f"SELECT key, value, generation, expires_at FROM entry WHERE key IN ({', '.join('?' * keys)})"


ANY: Final = "SELECT 1 FROM entry LIMIT 0"  # fails where the table is not there any more
COUNT_ROWS: Final = "SELECT count(*) FROM entry"


# The table in slices, in the order of keys.
_SLICE: Final = "FROM (SELECT key, expires_at FROM entry WHERE key >{} ? {} ORDER BY key LIMIT ?)"
SLICE_TO_CLEAR: Final = (  # now, first key, limit
    f"SELECT max(key), sum(expires_at IS NULL OR expires_at > ?) {_SLICE.format('=', '')}"
)
SLICE_TO_CLEAR_UNTIL: Final = (  # now, first key, end, limit
    f"SELECT max(key), sum(expires_at IS NULL OR expires_at > ?) {_SLICE.format('=', 'AND key < ?')}"
)
SLICE_TO_SWEEP: Final = f"SELECT max(key), sum(expires_at <= ?) {_SLICE.format('', '')}"  # now, after key, limit
ODD_KEYS: Final = "SELECT key FROM entry WHERE typeof(key) <> 'text' OR key = '' LIMIT 1"  # which no slice would show
SLICE_TO_CHECK: Final = (  # after key, limit
    "SELECT key, value, generation, expires_at FROM entry WHERE key > ? ORDER BY key LIMIT ?"
)
SLICE_OF_VERSIONS: Final = (  # after key, limit
    "SELECT key, generation, expires_at FROM entry WHERE key > ? ORDER BY key LIMIT ?"
)
CLEAR_SLICE: Final = "DELETE FROM entry WHERE key >= ? AND key <= ?"  # first key, last key
SWEEP_SLICE: Final = "DELETE FROM entry WHERE key > ? AND key <= ? AND expires_at <= ?"  # after key, last key, now
