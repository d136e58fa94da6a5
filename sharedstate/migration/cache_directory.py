"""A directory of diskcache's, that is only read.

A `Cache` is one directory, with its entries in the table Cache of a database,
cache.db, and long values in files beside it.  A `FanoutCache` is one with such
directories in it, 000, 001 and so on: its shards.

    D1  Nothing of the cache is changed.  SQLite opens the database read-only, and
        in WAL mode even that makes two files beside it; so one that nobody has
        open is declared immutable to SQLite, which then makes none.
    D2  Whoever opens the database in WAL mode makes a -wal.  So while there is
        none, and the file's size and time are what they were, what was read is
        what was there; else it is read again, by SQLite's locks, which let its
        users go on.  Nothing is kept open between two reads that they wait for.
    D3  The database is opened by SQLite alone: to close a file gives up all locks
        that the process has on it, a `Cache` of its own among them.
    D4  No name in the database leads out of the directory: links are not
        followed, and what is no file of the stated length is not read.

In rollback mode SQLite's locks are always used: there they leave no trace.  What
remains of D1: a last user who closes a database in WAL mode between our look at
it and its opening leaves an empty -wal and a -shm behind, of our making.
"""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sharedstate.backend.waiting import Backoff
from sharedstate.errors import CorruptError, StateError, StoreAccessError, UnavailableError

if TYPE_CHECKING:
    import sqlite3
    from types import TracebackType
    from typing import Self

__all__ = ["CacheDirectory", "Row", "Shard", "UnfitError", "printable"]

_DATABASE: Final = "cache.db"
_TICK_S: Final = 0.02  # the clock of a file system advances some hundred times a second
_COLUMNS: Final = frozenset({"key", "raw", "expire_time", "tag", "size", "mode", "filename", "value"})
_LONGEST_SHOWN: Final = 200

# sqlite3.h; Python's module has these names too, but not all of them in 3.11.
_ERROR: Final = 1
_BUSY_CODES: Final = frozenset({5, 6, 15})  # BUSY, LOCKED, PROTOCOL
_DENIED_CODES: Final = frozenset({8, 14})  # READONLY, CANTOPEN
_CORRUPT: Final = 11
_NOTADB: Final = 26


class UnfitError(Exception):
    """An entry cannot be taken from the cache as it is; the message says why."""


class Row(NamedTuple):
    """What the database has of one entry, unchecked.

    Attributes:
        expires_at: seconds since 1970, or None.
        tag: whatever groups entries, or None.
        size: of the file, in bytes.
        mode: what `value`, or the file, is.
        filename: of a long value, relative to the shard's directory, or None.
        value: of a short one, or None.
    """

    expires_at: Any
    tag: Any
    size: Any
    mode: Any
    filename: Any
    value: Any


class CacheDirectory:
    """A `Cache` or a `FanoutCache`, open for reading.

    Attributes:
        shards: of a `Cache`, one.

    Raises:
        UnavailableError: there is no such directory, no cache of diskcache's in it, or it is locked or out of reach.
        CorruptError: a database is damaged.
    """

    def __init__(self, directory: str, timeout_s: float) -> None:
        self.shards: list[Shard] = []
        try:
            for path in _shard_paths(directory):
                self.shards.append(Shard(path, timeout_s))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its databases."""
        for shard in self.shards:
            shard.close()


def _shard_paths(directory: str) -> list[str]:
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        raise UnavailableError(url=directory, reason="there is no such directory", advice=_NAME_IT) from None
    except OSError as error:
        raise _denied(directory, error) from None
    if _DATABASE in names:
        return [directory]
    shards = [name for name in names if len(name) >= 3 and name.isascii() and name.isdecimal()]
    if not shards:
        reason = f"there is no {_DATABASE} in it, and there are no directories 000, 001 and so on"
        raise UnavailableError(url=directory, reason=reason, advice=_NAME_IT)
    paths = [os.path.join(directory, f"{number:03}") for number in range(len(shards))]
    for path in paths:
        if not os.path.exists(os.path.join(path, _DATABASE)):
            reason = f"a shard is missing: there are {len(shards)}, and no {path}/{_DATABASE}"
            raise UnavailableError(url=directory, reason=reason, advice="Restore it, or import each shard by itself.")
    return paths


_NAME_IT: Final = "Name the directory that diskcache.Cache or FanoutCache was given."


class Shard:
    """One database and the files beside it.

    Attributes:
        directory: its path.
        name: the last part of it.
    """

    def __init__(self, directory: str, timeout_s: float) -> None:
        self.directory = directory
        self.name = os.path.basename(os.path.abspath(directory))
        # SQLite puts the -wal beside what a link leads to.
        self._path = os.path.realpath(os.path.join(directory, _DATABASE))
        self._timeout_s = timeout_s
        self._connection: sqlite3.Connection | None = None
        self._seen: tuple[int, ...] | None = None  # the database that SQLite reads without locks, or None (D2)
        try:
            self._require_cache()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the database."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def list_keys(self) -> list[tuple[Any, Any, Any]]:
        """Return key, raw and expire_time of each entry, as they are at one moment."""
        return self._query("SELECT key, raw, expire_time FROM Cache")

    def row(self, key: str | int) -> Row | None:
        """Return the entry of a key that was stored as it is."""
        rows = self._query(
            "SELECT expire_time, tag, size, mode, filename, value FROM Cache WHERE key = ? AND raw = 1", (key,)
        )
        return Row(*rows[0]) if rows else None

    # --- The database ---------------------------------------------------------------

    def _require_cache(self) -> None:
        tables = self._query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'Cache'")
        columns = {column[1] for column in self._query("PRAGMA table_info(Cache)")}
        if not tables or not columns >= _COLUMNS:
            raise self._foreign()
        verdict = self._query("PRAGMA integrity_check(1)")[0][0]
        if verdict != "ok":
            raise self._damaged(verdict)

    def _query(self, statement: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Return a statement's rows; begin again while somebody wrote behind SQLite's back (D2)."""
        import sqlite3

        backoff = Backoff()
        while True:
            try:
                if self._connection is None:
                    self._open()
                assert self._connection is not None
                rows = self._connection.execute(statement, parameters).fetchall()
                if self._is_current():
                    return rows
            except sqlite3.Error as error:
                if self._is_current():
                    raise self._explain(error) from error
            except OSError as error:
                raise _denied(self.directory, error) from None
            self.close()
            backoff.sleep()

    def _is_current(self) -> bool:
        try:
            return self._seen is None or self._seen == self._look()
        except OSError:
            return False  # which opening it again will explain

    def _look(self) -> tuple[int, ...] | None:
        """Return what tells one state of the database from another; None if somebody may have it open."""
        if os.path.lexists(f"{self._path}-wal") or os.path.lexists(f"{self._path}-journal"):
            return None
        found = os.stat(self._path)
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _open(self) -> None:
        backoff = Backoff()
        while True:
            self._seen = self._look()
            if self._seen is None:
                break
            self._connection = self._connect("immutable=1")
            mode = self._connection.execute("SELECT value FROM Settings WHERE key = 'sqlite_journal_mode'").fetchall()
            if mode == [("wal",)] and not 0 <= time.time() - self._seen[-1] / 1e9 < _TICK_S:
                return
            self.close()
            if mode != [("wal",)]:
                self._seen = None
                break
            backoff.sleep()  # another write in the same tick of the clock would not show
        self._connection = self._connect("mode=ro")

    def _connect(self, how: str) -> sqlite3.Connection:
        import sqlite3

        path = self._path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        connection = sqlite3.connect(f"file://{path}?{how}", timeout=self._timeout_s, isolation_level=None, uri=True)
        connection.execute("PRAGMA trusted_schema = OFF")  # a view or a check runs no function that writes
        connection.text_factory = _decode
        return connection

    def _explain(self, error: sqlite3.Error) -> StateError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in {_ERROR, _NOTADB}:
            return self._foreign()
        if code == _CORRUPT:
            return self._damaged(str(error))
        if code in _BUSY_CODES:
            return UnavailableError(
                url=self.directory,
                reason=f"somebody has locked {_DATABASE} for {self._timeout_s:g} s",
                advice="Begin again when he is done; what was brought over is not written again.",
            )
        if code in _DENIED_CODES and self._seen is None and os.access(self._path, os.R_OK):
            return StoreAccessError(
                url=self.directory,
                reason=f"{_DATABASE} is open, or was not closed, and only who may write to it can read it now",
                advice="Open it once with diskcache and close it, or import a copy of the directory.",
            )
        if code in _DENIED_CODES:
            return StoreAccessError(
                url=self.directory,
                reason=f"{_DATABASE} cannot be opened",
                advice="Look at its kind, its owner and its mode, and at the limit of open files.",
            )
        return UnavailableError(
            url=self.directory, reason=f"{_DATABASE} cannot be read: {error}", advice="Look at the disk, then retry."
        )

    def _foreign(self) -> UnavailableError:
        reason = f"{_DATABASE} is no database of diskcache's"
        return UnavailableError(url=self.directory, reason=reason, advice=_NAME_IT)

    def _damaged(self, finding: str) -> CorruptError:
        return CorruptError(
            url=self.directory,
            reason=f"{_DATABASE} is damaged: {printable(finding)}",
            advice="Keep a copy of it for diagnosis, then restore a backup, or let `sqlite3 cache.db .recover` try.",
        )

    # --- The files ------------------------------------------------------------------

    def read_file(self, row: Row, at_most: int) -> bytes | None:
        """Return what the file of an entry holds, or None if that is more than `at_most` bytes.

        Raises:
            FileNotFoundError: it is gone.
            UnfitError: it lies elsewhere (D4), has another length than it should have, or cannot be read.
        """
        name = row.filename
        shown = printable(str(name))
        parts = name.split("/") if type(name) is str else [""]
        if "\0" in parts[-1] or not {"", ".", ".."}.isdisjoint(parts) or parts[-1].startswith(_DATABASE):
            raise UnfitError(f"its file {shown} is none of the cache's own")
        try:
            descriptor = self._open_file(parts)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:  # a link, or "embedded null byte"
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise UnfitError(f"its file {shown} is not opened: {reason}") from None
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise UnfitError(f"its file {shown} is none")
        with os.fdopen(descriptor, "rb") as file:
            if found.st_size != row.size:
                raise UnfitError(f"its file {shown} has {found.st_size} bytes, and had {row.size} when it was written")
            return None if found.st_size > at_most else file.read()

    def _open_file(self, parts: list[str]) -> int:
        """Open a file below the directory, by a path on which there is no link."""
        *folders, last = parts
        steps = [*((folder, os.O_DIRECTORY) for folder in folders), (last, os.O_NONBLOCK)]  # not to wait for a FIFO
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        for part, kind in steps:
            try:
                inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | kind, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = inner
        return descriptor


def _decode(text: bytes) -> str:
    """Return a text of the database; what is no UTF-8 in it is refused with its entry, as no value of a store's."""
    return text.decode(errors="surrogateescape")


def printable(text: str) -> str:
    """Return `text` on one line and not too long, whatever is in it."""
    shown = text if text.isprintable() else ascii(text)
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}..."


def _denied(directory: str, error: OSError) -> UnavailableError:
    kind = StoreAccessError if isinstance(error, PermissionError) else UnavailableError
    return kind(url=directory, reason=f"it cannot be read: {error.strerror}", advice="Look at its path and its mode.")
