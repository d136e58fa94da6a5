"""`repair`: the whole rows of a damaged database go into a new one; a copy of the old one is kept first.

Rows are read by the table, from both ends, and where it breaks one by one by
the key's index, which also tells the keys of rows that are lost.

Others who have the store open meanwhile: the old database is retired before its
name goes, as by `remove`, so their next call is refused and says that the store
has gone; they open it again.

Invariants:
    G1  no generation is given out twice: the floor rises above all that were
        seen, and where rows are lost by more than any row can have been written
    G2  nothing is changed before the copy is on the disk
Crash: up to the retirement the damaged database is still the store; from there to
the new one's link, some milliseconds, see `place`.
"""

from __future__ import annotations

import os
import stat
from time import sleep
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sharedstate.backend import LockDirectory, open_private, translate_os_error
from sharedstate.backend.files import sync_names
from sharedstate.backend.repairs import Repair, copy_name
from sharedstate.errors import CorruptError, StateError, UnavailableError
from sharedstate.model import ABSENT
from sharedstate_sqlite import place, schema
from sharedstate_sqlite.cells import MAX_INTEGER, check_row
from sharedstate_sqlite.connections import LOOK_EVERY_S
from sharedstate_sqlite.faults import FAULTS, is_busy, is_damage, translate
from sharedstate_sqlite.opening import read_url
from sharedstate_sqlite.sessions import no_fork, open_connection

if TYPE_CHECKING:
    from _sqlite3 import Connection

    from sharedstate.backend import StoreUrl

__all__ = ["repair"]

_LEAP: Final = 2**48  # of the floor, over lost rows: a century of fifty thousand writes a second is 2**47
_ROWS: Final = "SELECT rowid, key, value, generation, expires_at FROM entry NOT INDEXED"
_FORWARD: Final = _ROWS + " ORDER BY rowid"
_BACKWARD: Final = _ROWS + " WHERE rowid > ? ORDER BY rowid DESC"
_ONE: Final = _ROWS + " WHERE rowid = ?"
_INDEX: Final = "SELECT key, rowid FROM entry INDEXED BY sqlite_autoindex_entry_1 ORDER BY key"

_Row = tuple[str, Any, int, "float | None"]


def repair(url: StoreUrl, copy_to: str | None = None) -> Repair:
    """Mend the store; see `sharedstate.backend.plugin`."""
    text, path, timeout_s = read_url(url)
    found = place.look(text, path)
    if found is None:
        place.refuse_absent(text)
    mode = stat.S_IMODE(found.st_mode)
    with no_fork(), LockDirectory(text, f"{path}.locks", mode).lock(place.CREATION_LOCK, timeout_s):
        connection = open_connection(path, timeout_s)
        try:
            return _repair(text, path, mode, connection, copy_to or copy_name(path))
        except FAULTS as error:
            raise translate(text, error, is_writing=True) from error
        finally:
            connection.close()


def _repair(url: str, path: str, mode: int, connection: Connection, copy: str) -> Repair:
    if schema.is_retired(connection) and os.path.lexists(f"{path}.repaired"):
        return _finish(url, path)
    try:
        connection.execute("PRAGMA cell_size_check=ON")
        connection.execute("PRAGMA trusted_schema=OFF")
        _require_ours(url, connection)
        damage, kept = _damage(url, connection)
    except FAULTS as error:
        if is_busy(error):
            raise
        raise CorruptError(url=url, reason=f"{error}: nothing in it is certain") from error
    if not damage:
        return Repair("", kept)
    _copy(url, connection, path, copy, mode)  # before the lock, for which it would wait for ever
    connection.execute("BEGIN IMMEDIATE")  # no writer acknowledges what the new database would lack
    try:
        rows, lost, notes = _whole_rows(url, connection)
        if not rows and (lost or notes):
            os.unlink(copy)
            raise CorruptError(url=url, reason=f"{damage}; no row can be read, so nothing is certain")
        floor = _floor(connection, [row[2] for row in rows], bool(lost) or bool(notes))
        unborn = _make(url, path, mode, rows, floor)
        if not place.replace(url, path, unborn, connection):
            sleep(2 * LOOK_EVERY_S)  # with the lock held: no handle writes to the old one any more
    finally:
        connection.rollback()
    named = tuple(sorted(key for key in lost if type(key) is str))
    return Repair(copy, len(rows), len(lost), named, (damage, *notes))


def _finish(url: str, path: str) -> Repair:
    place.finish_replacing(url, path)
    connection = open_connection(path)
    try:
        _, kept = _damage(url, connection)
    finally:
        connection.close()
    return Repair("", kept, notes=("a repair that was killed is finished; what was damaged is in the copy it kept",))


def _require_ours(url: str, connection: Connection) -> None:
    """Refuse what is no store, or of another version, or was removed."""
    application_id, version = connection.execute(schema.IDENTITY).fetchone()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if application_id != schema.APPLICATION_ID or version != schema.FORMAT_VERSION or "entry" not in tables:
        schema.admit(url, connection)  # says what it is instead
        raise CorruptError(url=url, reason="the database has no table of entries: nothing is certain")


def _damage(url: str, connection: Connection) -> tuple[str, int]:
    """Return what is wrong, "" if nothing is, and how many rows there are."""
    try:
        schema.admit(url, connection)
        for (line,) in connection.execute("PRAGMA integrity_check(1)").fetchall():
            if line != "ok":
                return f"Q1: {line}", 0
        floors = connection.execute("SELECT generation FROM floor").fetchall()
        if len(floors) != 1 or type(floors[0][0]) is not int or floors[0][0] < 0:
            return f"Q2: the floor is {floors}", 0
        count = 0
        for row in connection.execute(_FORWARD):
            check_row(url, *row[1:])
            count += 1
    except CorruptError as error:
        return error.reason, 0
    except FAULTS as error:
        if is_busy(error):
            raise
        return f"Q1: {error}", 0
    return "", count


# --- The copy -------------------------------------------------------------------------


def _copy(url: str, connection: Connection, path: str, copy: str, mode: int) -> None:
    """Copy the database, its log applied, page by page as they are; nobody opens its file but SQLite."""
    if os.path.lexists(copy):
        reason = f"{copy} is taken, and a copy replaces nothing"
        raise UnavailableError(url=url, reason=reason, advice="Name another path.")
    try:
        os.close(open_private(url, copy, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode & 0o660))
        target = open_connection(copy)
        try:
            connection.backup(target)
            target.execute("PRAGMA journal_mode=DELETE").fetchone()  # one file, whatever is beside it
        except FAULTS as error:
            if not is_damage(error):  # no room, or a lock that lasts
                raise translate(url, error, is_writing=True) from error
        finally:
            target.close()
        _require_content(url, path, copy)
        place.give_like(url, copy, path)
        fd = os.open(copy, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        sync_names(os.path.dirname(os.path.abspath(copy)))
    except BaseException as error:
        if os.path.lexists(copy):
            os.unlink(copy)
        if isinstance(error, OSError) and not isinstance(error, StateError):
            raise translate_os_error(url, error) from error
        raise


def _require_content(url: str, path: str, copy: str) -> None:
    if os.path.getsize(copy) == 0:
        raise CorruptError(url=url, reason=f"{path} cannot be read, so no copy can be kept")


# --- The rows ---------------------------------------------------------------------------


class _Rows(NamedTuple):
    rows: list[_Row]
    lost: set[Any]
    notes: tuple[str, ...]


def _whole_rows(url: str, connection: Connection) -> _Rows:
    found: dict[int, tuple[Any, ...]] = {}
    is_complete = _take(connection, _FORWARD, (), found)
    notes: list[str] = []
    keys: dict[int, Any] = {}
    if not is_complete:
        # The rest from the other end, and what lies between by the index, row by row.
        _take(connection, _BACKWARD, (max(found, default=-(2**63)),), found)
        is_complete = _take_keys(connection, keys)
        for rowid in keys.keys() - found.keys():
            _take(connection, _ONE, (rowid,), found)
        if not is_complete:
            notes.append("neither the table nor the index of keys could be read to its end: more may be lost")
    best: dict[str, _Row] = {}
    lost: set[Any] = {keys[rowid] for rowid in keys.keys() - found.keys()}
    for _, *row in found.values():
        key, cell, generation, expires_at = row
        try:
            check_row(url, key, cell, generation, expires_at)
        except CorruptError as error:
            lost.add(key)
            notes.append(f"dropped: {error.reason}")
            continue
        if key not in best or best[key][2] < generation:  # of two, the one that was written later
            best[key] = (key, cell, generation, expires_at)
    return _Rows(list(best.values()), lost - best.keys(), tuple(notes))


def _take(
    connection: Connection, statement: str, parameters: tuple[int, ...], found: dict[int, tuple[Any, ...]]
) -> bool:
    """Take rows until one cannot be read; return whether all could."""
    try:
        for row in connection.execute(statement, parameters):
            found.setdefault(row[0], row)
    except FAULTS:
        return False
    return True


def _take_keys(connection: Connection, keys: dict[int, Any]) -> bool:
    try:
        keys.update((rowid, key) for key, rowid in connection.execute(_INDEX))
    except FAULTS:
        return False
    return True


def _floor(connection: Connection, generations: list[int], is_leaping: bool) -> int:
    floor = max(generations, default=ABSENT)
    try:
        for (generation,) in connection.execute("SELECT generation FROM floor"):
            if type(generation) is int and generation >= 0:
                floor = max(floor, generation)
                break
        else:
            is_leaping = True
    except FAULTS:
        is_leaping = True
    return min(floor + _LEAP * is_leaping, MAX_INTEGER // 2)


def _make(url: str, path: str, mode: int, rows: list[_Row], floor: int) -> str:
    unborn = place.begin(url, path, mode)
    connection = open_connection(unborn)
    try:
        schema.create(connection)
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO entry VALUES (?, ?, ?, ?)", rows)
        connection.execute("UPDATE floor SET generation = ?", (floor,))
        connection.execute("COMMIT")
    finally:
        connection.close()
    return unborn
