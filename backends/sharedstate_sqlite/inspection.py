"""What a person wants to know of a store's database: its tables, its rows, its health.

Served by sqlite-utils, which opening a store never imports.  It gets a
connection of ours: left to itself it may pick another SQLite library
(pysqlite3, sqlean), and two libraries on one file drop one another's locks.
"""

from __future__ import annotations

from contextlib import contextmanager  # here it may: nothing that opens a store imports this module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sharedstate_sqlite import place, schema
from sharedstate_sqlite.cells import unpack
from sharedstate_sqlite.faults import FAULTS, translate
from sharedstate_sqlite.sessions import no_fork, open_connection

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlite_utils import Database

__all__ = ["Table", "dump", "tables"]

_ALL: Final = "SELECT key, value, typeof(value) AS stored_as, generation, expires_at FROM entry ORDER BY key"


class Table(NamedTuple):
    """One table: its name, how many rows it has, and the SQL that made it."""

    name: str
    rows: int
    schema: str


def tables(url: str, path: str) -> list[Table]:
    """Return what tables the SQLite database at `path` has, be it a store or not.

    Raises:
        StateError: there is none, or it is not ours to open.
    """
    with _database(url, path) as database:
        return [Table(table.name, table.count, table.schema) for table in database.tables]


def dump(url: str, path: str) -> list[dict[str, Any]]:
    """Return each row of the store at `path`, expired ones too, in the order of keys, as a dict.

    `stored_as` is SQLite's type of the value: text, integer, real, null, blob.

    Raises:
        CorruptError: it is no store, or a value does not decode.
    """
    with _database(url, path) as database:
        schema.admit(url, database.conn)
        rows: list[dict[str, Any]] = list(
            database.query(_ALL)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  it says dict, of anything
        )
    return [{**row, "value": unpack(url, row["key"], row["value"])} for row in rows]


@contextmanager
def _database(url: str, path: str) -> Generator[Database, None, None]:
    from sqlite_utils import Database

    if place.look(url, path) is None:
        place.refuse_absent(url)
    with no_fork():
        connection = open_connection(path, 5.0)
        try:
            yield Database(connection)
        except FAULTS as error:
            raise translate(url, error, is_writing=False) from error
        finally:
            connection.close()
