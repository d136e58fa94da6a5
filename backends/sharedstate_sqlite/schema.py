"""The tables: authored with sqlite-utils, frozen as SQL, created and recognised.

`author` is where the schema is written and where a version 2 would be.
`FROZEN` is what it makes, as text, because importing sqlite-utils costs each
fresh interpreter more than thousands of reads, and datetime with it, which
crashes isolated interpreters of several CPythons.  A test proves them equal.
"""

from __future__ import annotations

from sharedstate.errors import CorruptError, MovedError, UnavailableError
from sharedstate_sqlite.faults import FAULTS

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from sqlite3 import Connection
    from typing import Any, Final

    from sqlite_utils import Database

__all__ = [
    "APPLICATION_ID",
    "FORMAT_VERSION",
    "FROZEN",
    "IDENTITY",
    "TABLES",
    "WHERE_TO",
    "admit",
    "author",
    "create",
    "has_moved",
    "move",
    "require",
    "retire",
]

APPLICATION_ID: Final = 0x73685374
"""`shSt`, at offset 68 of the file: this database is a store of ours."""

FORMAT_VERSION: Final = 1

IDENTITY: Final = "SELECT application_id, user_version FROM pragma_application_id, pragma_user_version"
_RETIRED: Final = "removed"
_MOVED: Final = "moved_to"
WHERE_TO: Final = f"SELECT url FROM {_MOVED}"  # noqa: S608  of ours
TABLES: Final = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"

# A trigger and not a second statement of ours: so a delete is one statement,
# and the row that a person deletes with another tool raises the floor too.
_RAISE_FLOOR: Final = """CREATE TRIGGER raise_floor AFTER DELETE ON entry
WHEN old.generation > (SELECT generation FROM floor)
BEGIN UPDATE floor SET generation = old.generation; END"""

FROZEN: Final = (
    """CREATE TABLE "entry" (
   "key" TEXT PRIMARY KEY NOT NULL,
   "value" BLOB,
   "generation" INTEGER NOT NULL,
   "expires_at" REAL
)""",
    """CREATE TABLE "floor" (
   "generation" INTEGER NOT NULL
)""",
    _RAISE_FLOOR,
)


def author(database: Database) -> None:
    """Write the schema into an empty database.

    `value` is BLOB, sqlite-utils' word for a column without affinity: what goes
    in as INTEGER, REAL or TEXT stays that.
    """
    database.table("entry").create(
        {"key": str, "value": bytes, "generation": int, "expires_at": float},
        pk="key",
        not_null={"key", "generation"},
    )
    database.table("floor").create({"generation": int}, not_null={"generation"})
    database.conn.execute(_RAISE_FLOOR)


def create(connection: Connection) -> None:
    """Make an empty database a store, durably; nobody else may know its name yet."""
    connection.execute("PRAGMA journal_mode=WAL").fetchone()
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("BEGIN IMMEDIATE")
    for statement in FROZEN:
        connection.execute(statement)
    connection.execute("INSERT INTO floor VALUES (0)")
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={FORMAT_VERSION}")
    connection.execute("COMMIT")


def admit(url: str, connection: Connection) -> None:
    """Refuse a database that is not a store of this version; what is refused is left as found.

    Raises:
        CorruptError: it is somebody else's, or its tables were changed.
        UnavailableError: it is a store, of another version.
        MovedError: it was one.
    """
    identity, tables = (connection.execute(statement).fetchall() for statement in (IDENTITY, TABLES))
    if has_moved(tables):
        raise MovedError(url=url, to=connection.execute(WHERE_TO).fetchone()[0])
    require(url, identity, tables)
    # It says so in the file; but another tool may have changed that.
    connection.execute("PRAGMA journal_mode=WAL").fetchone()


def require(url: str, identity: list[Any], tables: list[Any]) -> None:
    """Refuse as `admit` does, by the rows of `IDENTITY` and `TABLES`."""
    ((application_id, version),) = identity
    found = {name: sql for name, sql in tables if not name.startswith("sqlite_")}
    if application_id != APPLICATION_ID:
        holds = f"it holds {', '.join(sorted(found))}" if found else "it is empty"
        raise CorruptError(
            url=url,
            reason=f"this SQLite database is not a store (application id {application_id:#x}; {holds})",
            advice="It is left as found: name another path.",
        )
    _require_version(url, version)
    if set(found.values()) != set(FROZEN):
        raise CorruptError(
            url=url,
            reason=f"the store's tables are not as they were created; it holds {', '.join(sorted(found)) or 'none'}",
            advice="Undo what was added or changed; after a remove(), or a repair, that was killed, call that again.",
        )


def _require_version(url: str, version: int) -> None:
    if version != FORMAT_VERSION:
        raise UnavailableError(
            url=url,
            reason=f"the store has format version {version}, this library reads version {FORMAT_VERSION}",
            advice="Use the library that wrote it, or copy the entries over.",
        )


def has_moved(tables: list[Any]) -> bool:
    """Return whether by the rows of `TABLES` the store has moved."""
    return any(name == _MOVED for name, _ in tables)


def move(connection: Connection, to: str) -> None:
    """End the store in favour of another one; takes effect when the caller's transaction commits."""
    connection.execute("ALTER TABLE entry RENAME TO moved_entry")
    connection.execute(f"CREATE TABLE {_MOVED} (url TEXT NOT NULL)")
    connection.execute(f"INSERT INTO {_MOVED} VALUES (?)", (to,))  # noqa: S608  of ours


def is_retired(connection: Connection) -> bool:
    """Return whether this was a store, and was told that it is none any more; False if that cannot be read."""
    try:
        return any(name == _RETIRED for name, _ in connection.execute(TABLES))
    except FAULTS:
        return False


def retire(url: str, connection: Connection) -> None:
    """Make a store useless to everybody who has it open: no statement finds its table any more.

    Raises:
        CorruptError: it is somebody else's; it is left as found.
        UnavailableError: it is a store, of another version; likewise.
    """
    application_id, version = connection.execute(IDENTITY).fetchone()
    if application_id != APPLICATION_ID:
        raise CorruptError(url=url, reason="this SQLite database is not a store", advice="It is left as found.")
    _require_version(url, version)
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'entry'").fetchone():
        connection.execute(f"ALTER TABLE entry RENAME TO {_RETIRED}")
