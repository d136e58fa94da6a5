"""The verbs: each one statement where SQLite can say it in one, else one short transaction.

Thread safety: every method, from any thread; each call has a connection of its
own while it lasts.  Nothing of the data is kept in Python.

Invariants, verified by `check`:
    Q1  SQLite finds the file whole (PRAGMA integrity_check)
    Q2  `floor` is one row, an integer, at least every generation that was deleted
    Q3  a key is one that `check_key` lets in, a generation an integer above 0
    Q4  a BLOB is the encoding of one value
    Q5  `expires_at` is NULL or a number of seconds since 1970
    Q6  the database says that it is a store, and its tables are as they were created
Crash: SQLite's, that is a transaction is whole or absent, and the kernel frees
the locks of the dead.
"""

from __future__ import annotations

import os
from _sqlite3 import sqlite_version
from time import time

from sharedstate.backend import (
    Backend,
    Counts,
    Lock,
    LockDirectory,
    Presence,
    PresenceFiles,
    add_numbers,
    batches_of,
    check_ttl,
    keeps_deadline,
)
from sharedstate.errors import CapacityError, ConflictError, CorruptError, StateError
from sharedstate.model import (
    ABSENT,
    DELETE,
    KEEP,
    Entry,
    Keep,
    LockRecord,
    Put,
    Sharer,
    Write,
)
from sharedstate.values import check_key
from sharedstate_sqlite import place, schema
from sharedstate_sqlite import statements as sql
from sharedstate_sqlite.cells import MAX_INTEGER, bounds_of, check_row, is_integer_or_float, pack, unpack
from sharedstate_sqlite.gates import MovingGate
from sharedstate_sqlite.offer import CAPABILITIES
from sharedstate_sqlite.sessions import all_rows, rows_changed

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from sqlite3 import Connection
    from typing import Any, Final

    from sharedstate.backend.activity import Activity
    from sharedstate.backend.moves import Moved, MoveOrder
    from sharedstate_sqlite.connections import Pool


_NOTHING_EXPECTED: Final[Mapping[str, int]] = {}

# How long others wait for the write lock at most: that many rows, or bytes.
_BATCH_ROWS: Final = 500
_BATCH_BYTES: Final = 2**22

# A sweep looks at more rows than there were writes with a time to live since
# the last one, so expired rows never outnumber the others for long.
_SWEEP_EVERY: Final = 64
_SWEEP_ROWS: Final = 256


class SqliteBackend(Backend):
    """One handle on one database."""

    can_move = True

    def __init__(self, url: str, pool: Pool, mode: int) -> None:
        self.url = url
        self.capabilities = CAPABILITIES
        self._pool = pool
        self._run = pool.run
        self._mode = mode
        self._counts = counts = Counts()
        self._hit, self._miss, self._wrote = counts.hit, counts.miss, counts.wrote
        # Not all handles after the same number of writes; a race on these two
        # costs a sweep.
        self._until_sweep = os.urandom(1)[0] % _SWEEP_EVERY
        self._swept_to: str | None = None

    # --- Reading ------------------------------------------------------------

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, or `default`."""
        check_key(key)
        row = self._run(sql.GET, (key,))
        if row is None:
            self._miss(key)
            return default
        cell, expires_at = row
        if expires_at is not None and self._has_passed(key, expires_at, time()):
            entry = self.read(key)  # which counts; it may have been there, or touched, since the row was read
            return default if entry is None else entry.value
        self._hit(key)
        return unpack(self.url, key, cell) if type(cell) is bytes else cell

    def read(self, key: str) -> Entry | None:
        """Return the entry of `key`, or None."""
        check_key(key)
        entry = self._read(key)
        if entry is None:
            self._miss(key)
        else:
            self._hit(key)
        return entry

    def _read(self, key: str) -> Entry | None:
        # Before the row: one that is expired by then was so all the time since,
        # while one that has expired since may have been touched meanwhile.
        now = time()
        return self._entry(key, self._run(sql.READ, (key,)), now)

    def generation(self, key: str) -> int:
        """Return the generation of `key`, `ABSENT` if there is none."""
        check_key(key)
        row = self._run(sql.GENERATION, (key, time()))
        if row is None:
            self._miss(key)
            return ABSENT
        self._hit(key)
        return self._generation_of(key, row[0])

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those of `keys` that are there."""
        found: dict[str, Any] = {}
        for batch in batches_of(keys, _BATCH_ROWS):
            # Few different lengths, so that few statements are prepared.
            length = 1 << (len(batch) - 1).bit_length()
            padded = (*batch, *batch[-1:] * (length - len(batch)))
            now = time()
            for key, cell, expires_at in self._run(sql.select_among(length), padded, all_rows):
                if expires_at is None or not self._has_passed(key, expires_at, now):
                    found[key] = unpack(self.url, key, cell)
            for key in batch:
                (self._hit if key in found else self._miss)(key)
        return found

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys that start with `prefix`."""
        return [key for (key,) in self._select("key", prefix)]

    def count(self, prefix: str = "") -> int:
        """Return how many entries start with `prefix`."""
        return sum(number for (number,) in self._select("count(*)", prefix))

    def _select(self, columns: str, prefix: str) -> list[Any]:
        end = sql.end_of(prefix)
        parameters = (prefix, time()) if end is None else (prefix, end, time())
        try:
            rows: list[Any] = self._run(sql.select(columns, end is not None), parameters, all_rows)
        except UnicodeEncodeError:
            return []  # no key holds a lone surrogate
        return rows

    def _entry(self, key: str, row: tuple[Any, int, float | None] | None, now: float) -> Entry | None:
        if row is None:
            return None
        cell, generation, expires_at = row
        if expires_at is not None and self._has_passed(key, expires_at, now):
            return None
        return Entry(unpack(self.url, key, cell), self._generation_of(key, generation), expires_at)

    # A column holds whatever another tool put there, of any type.

    def _has_passed(self, key: str, expires_at: Any, now: float) -> bool:
        if type(expires_at) is not float and type(expires_at) is not int:
            raise CorruptError(url=self.url, reason=f"Q5: {key!r} expires at {expires_at!r}")
        return expires_at <= now

    def _generation_of(self, key: str, generation: Any) -> int:
        if type(generation) is not int:
            raise CorruptError(url=self.url, reason=f"Q3: {key!r} is at generation {generation!r}")
        return generation

    # --- Writing one key ----------------------------------------------------

    def set(self, key: str, value: Any, ttl_s: float | None = None) -> None:
        """Store `value`, whatever was there."""
        check_key(key)
        cell = pack(self.url, value)
        if ttl_s is None:
            self._run(sql.SET, (key, cell, None))
        else:
            self._run(sql.SET, (key, cell, _deadline(ttl_s)))
            self._sweep_sometimes(key)
        self._wrote(key)

    def add(self, key: str, value: Any, ttl_s: float | None = None) -> bool:
        """Store `value` if `key` is absent; return whether it was."""
        check_key(key)
        added = bool(self._run(sql.ADD, (key, pack(self.url, value), _deadline(ttl_s)), rows_changed))
        if ttl_s is not None:
            self._sweep_sometimes(key)
        if added:
            self._wrote(key)
        return added

    def compare_and_set(self, key: str, value: Any, expected: int, ttl_s: float | Keep | None = None) -> int:
        """Store `value` if `key` is at generation `expected`; return the new one."""
        check_key(key)
        expires_at = KEEP if keeps_deadline(ttl_s, expected) else _deadline(ttl_s)
        cell = pack(self.url, value)
        if expected == ABSENT:
            row = self._run(sql.ADD_RETURNING, (key, cell, expires_at))
            generation = row and row[0]
        elif not 0 < expected <= MAX_INTEGER:
            generation = None
        elif expires_at is KEEP:
            generation = self._run(sql.SET_IF_KEEPING, (cell, key, expected), rows_changed) and expected + 1
        else:
            generation = self._run(sql.SET_IF, (cell, expires_at, key, expected), rows_changed) and expected + 1
        if not generation:
            entry = self._read(key)
            raise ConflictError(key=key, expected=expected, found=ABSENT if entry is None else entry.generation)
        if ttl_s is not None:
            self._sweep_sometimes(key)
        self._wrote(key)
        return self._generation_of(key, generation)

    def increment(
        self,
        key: str,
        by: int | float = 1,
        initial: int | float = 0,
        ttl_s: float | None = None,
    ) -> int | float:
        """Add `by` to the number at `key` and return the sum."""
        check_key(key)
        expires_at = _deadline(ttl_s)
        bounds = bounds_of(by)
        row = None
        if bounds is not None and type(initial) in {int, float}:
            first = pack(self.url, initial + by) if is_integer_or_float(initial + by) else b""
            if type(first) is not bytes:  # else SQLite could not count on from it
                row = self._run(sql.INCREMENT, (key, first, expires_at, by, *bounds))
        total: int | float = self._increment_slowly(key, by, initial, expires_at) if row is None else row[0]
        if ttl_s is not None:
            self._sweep_sometimes(key)
        self._wrote(key)
        return total

    def _increment_slowly(self, key: str, by: Any, initial: Any, expires_at: float | None) -> Any:
        """Add as Python does: for numbers that SQLite lacks, and for every refusal."""

        def body(connection: Connection) -> Any:
            entry = self._entry(key, connection.execute(sql.READ, (key,)).fetchone(), time())
            total = add_numbers(key, initial if entry is None else entry.value, by)
            until = expires_at if entry is None else entry.expires_at
            connection.execute(sql.SET, (key, pack(self.url, total), until))
            return total

        return self._pool.transact(body)

    def touch(self, key: str, ttl_s: float | None) -> bool:
        """Let `key` expire at another time."""
        check_key(key)
        return self._counted(key, bool(self._run(sql.TOUCH, (_deadline(ttl_s), key), rows_changed)))

    def delete(self, key: str) -> bool:
        """Remove `key`; return whether it was there."""
        check_key(key)
        return self._counted(key, bool(self._run(sql.DELETE_LIVE, (key,), rows_changed)))

    def _counted(self, key: str, has_changed: bool) -> bool:
        if has_changed:
            self._wrote(key)
        return has_changed

    def take(self, key: str) -> Entry | None:
        """Remove `key` and return what it was."""
        check_key(key)
        row = self._run(sql.TAKE, (key,))
        if row is None:
            return None
        self._wrote(key)
        cell, generation, expires_at = row
        if expires_at is not None:
            self._has_passed(key, expires_at, 0.0)  # it has not; but is it a number?
        return Entry(unpack(self.url, key, cell), self._generation_of(key, generation), expires_at)

    # --- Writing several keys -----------------------------------------------

    def commit(self, writes: Mapping[str, Write], expected: Mapping[str, int] = _NOTHING_EXPECTED) -> dict[str, int]:
        """Apply all of `writes` if every key of `expected` is at that generation."""
        for key in (*writes, *expected):
            check_key(key)
        if len(writes.keys() | expected.keys()) > CAPABILITIES.max_transaction_keys:
            raise CapacityError(
                url=self.url,
                reason=f"a transaction has at most {CAPABILITIES.max_transaction_keys} keys",
                advice="Split it.",
            )
        packed = {
            key: (pack(self.url, write.value), key)
            if keeps_deadline(write.ttl_s, expected.get(key, ABSENT))
            else (key, pack(self.url, write.value), _deadline(write.ttl_s))
            for key, write in writes.items()
            if isinstance(write, Put)
        }

        def body(connection: Connection) -> dict[str, int]:
            execute, now = connection.execute, time()
            for key, generation in expected.items():
                row = execute(sql.READ, (key,)).fetchone()
                if row is None or (row[2] is not None and self._has_passed(key, row[2], now)):
                    found = ABSENT
                else:
                    found = self._generation_of(key, row[1])
                if found != generation:
                    raise ConflictError(key=key, expected=generation, found=found)
            generations: dict[str, int] = {}
            for key, write in writes.items():
                if write is DELETE:
                    execute(sql.DELETE_ROW, (key,))
                    generations[key] = ABSENT
                else:
                    statement = sql.SET_KEEPING if write.ttl_s is KEEP else sql.SET_RETURNING
                    (generations[key],) = execute(statement, packed[key]).fetchone()
            return generations

        generations = self._pool.transact(body)
        for key in writes:
            self._wrote(key)
        return generations

    def set_many(self, values: Mapping[str, Any], ttl_s: float | None = None) -> None:
        """Store all of `values`, each atomically; a refused one leaves those after it unwritten."""
        expires_at = _deadline(ttl_s)
        batch: list[tuple[str, Any, float | None]] = []
        size = 0
        try:
            for key, value in values.items():
                check_key(key)
                cell = pack(self.url, value)
                batch.append((key, cell, expires_at))
                size += len(cell) if isinstance(cell, (bytes, str)) else 8
                if len(batch) == _BATCH_ROWS or size > _BATCH_BYTES:
                    full, batch, size = batch, [], 0
                    self._write_all(sql.SET, full)
        finally:
            self._write_all(sql.SET, batch)  # those before a refused one, too
        if ttl_s is not None and values:
            self._sweep_sometimes(next(iter(values)), len(values))

    def delete_many(self, keys: Iterable[str]) -> int:
        """Remove `keys`, each atomically; return how many were there."""
        return sum(
            self._write_all(sql.DELETE_LIVE, [(key,) for key in batch]) for batch in batches_of(keys, _BATCH_ROWS)
        )

    def _write_all(self, statement: str, rows: list[Any]) -> int:
        if not rows:
            return 0
        changed = self._pool.transact(lambda connection: connection.executemany(statement, rows).rowcount)
        if changed == len(rows):
            for row in rows:
                self._wrote(row[0])
        else:  # by others before us; which, SQLite does not say
            self._counts.wrote_many(changed)
        return changed

    def clear(self, prefix: str = "") -> int:
        """Remove the entries that start with `prefix`, each atomically; return how many."""
        end = sql.end_of(prefix)
        statement = sql.SLICE_TO_CLEAR if end is None else sql.SLICE_TO_CLEAR_UNTIL
        first = prefix

        def body(connection: Connection) -> int | None:
            nonlocal first
            bounds = (first, _BATCH_ROWS) if end is None else (first, end, _BATCH_ROWS)
            last, live = connection.execute(statement, (time(), *bounds)).fetchone()
            if last is None:
                return None
            connection.execute(sql.CLEAR_SLICE, (first, last))
            first = last + "\0"  # ever on, or writers could keep us here
            return int(live)

        removed = 0
        try:
            while (live := self._pool.transact(body)) is not None:
                removed += live
                self._counts.wrote_many(live)
        except UnicodeEncodeError:
            pass  # no key holds a lone surrogate
        return removed

    # --- Expired rows -------------------------------------------------------

    def _sweep_sometimes(self, key: str, writes: int = 1) -> None:
        self._until_sweep -= writes
        if self._until_sweep >= 0:
            return
        self._until_sweep = _SWEEP_EVERY
        after = key if self._swept_to is None else self._swept_to
        now = time()
        try:
            last, expired = self._run(sql.SLICE_TO_SWEEP, (now, after, _SWEEP_ROWS))
            self._swept_to = "" if last is None else last
            if expired:
                self._run(sql.SWEEP_SLICE, (after, last, now))
        except StateError:
            pass  # another time: the write that led here is done, and must not be reported as refused

    # --- Waiting and locks --------------------------------------------------

    def change_token(self) -> int:
        """Return a number that differs after any commit to the database."""
        return self._pool.change_token()

    def lock(self, name: str, timeout_s: float | None = None) -> Lock:
        """Return the lock of this name, a file beside the database."""
        check_key(name)
        self._pool.require_open()
        return self._lock_files().lock(name, timeout_s)

    # Files beside the database tell nothing of a move: so whoever has looked at them asks the database whether they
    # still counted.

    def locks(self) -> list[LockRecord]:
        """Return what each lock says of itself."""
        self._pool.require_open()
        records = [record for record in self._lock_files().records() if record.name != place.CREATION_LOCK]
        self._pool.require_unmoved()
        return records

    def announce(self, facts: Mapping[str, Any]) -> Presence:
        """Make the caller one of the sharers: a file beside the database."""
        self._pool.require_open()
        return PresenceFiles(self._lock_files(), self._counts).announce(
            facts
        )  # who comes too late goes along with the next verb

    def sharers(self) -> list[Sharer]:
        """Return those who are present now."""
        self._pool.require_open()
        found = PresenceFiles(self._lock_files()).sharers()
        self._pool.require_unmoved()
        return found

    def is_present(self, token: str) -> bool:
        """Return whether the sharer of that token is present."""
        self._pool.require_open()
        if PresenceFiles(self._lock_files()).is_present(token):
            return True
        self._pool.require_unmoved()  # else it may have gone along, and be present there
        return False

    def _lock_files(self) -> LockDirectory:
        directory = LockDirectory(self.url, f"{self._pool.path}.locks", self._mode, self._pool.path)
        directory.gate = MovingGate(self.url, directory.path, self._pool)
        return directory

    def move_to(self, target: Backend, how: MoveOrder) -> Moved:
        """Bring all entries to `target` while others read and write, and end this store in its favour."""
        from sharedstate_sqlite.moving import Move

        pool = self._pool.twin("FULL")  # what ends the store is on the disk before anybody learns of it
        locks = self._lock_files()
        locks.gate = None
        try:
            with locks.lock(place.CREATION_LOCK, self._pool.timeout_s):  # nobody mends, removes or moves it meanwhile
                return Move(pool, locks, target, how).run()
        finally:
            pool.close()

    def leave(self, to: str) -> None:
        """Close the connections; each further call raises `MovedError`."""
        self._pool.leave(to)

    # --- Figures and the end ------------------------------------------------

    def stats(self) -> dict[str, int | float | str]:
        """Return the number of entries, the bytes of the pages in use, and SQLite's own figures."""
        pages, free, size = (
            int(self._run(f"PRAGMA {name}")[0]) for name in ("page_count", "freelist_count", "page_size")
        )
        try:
            wal_bytes = os.stat(f"{self._pool.path}-wal").st_size
        except OSError:
            wal_bytes = 0  # gone since: the last connection closed
        return {
            "entries": self.count(),
            "bytes": (pages - free) * size,
            "capacity_bytes": 0,
            "page_count": pages,
            "wal_bytes": wal_bytes,
            "sqlite_version": sqlite_version,
            **self._totals(),
        }

    def _totals(self) -> dict[str, int | float | str]:
        from sharedstate.backend.activity import total_activity  # not by who only opens a store

        return total_activity(self._lock_files(), self._counts)

    def activity(self) -> list[Activity]:
        """Return what each sharer has done here."""
        from sharedstate.backend.activity import read_activity

        self._pool.require_open()
        return read_activity(self._lock_files(), with_samples=True)

    def check(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Verify Q1 to Q6, and the lock files."""
        total, done = self.count() if progress is not None else 0, 0
        for (line,) in self._run("PRAGMA integrity_check(1)", (), all_rows):
            if line != "ok":
                raise CorruptError(url=self.url, reason=f"Q1: {line}")
        identity, tables = (self._run(statement, (), all_rows) for statement in (schema.IDENTITY, schema.TABLES))
        if schema.has_moved(tables):
            self._pool.require_unmoved()  # says where to
        schema.require(self.url, identity, tables)
        floors = self._run("SELECT generation FROM floor", (), all_rows)
        if len(floors) != 1 or type(floors[0][0]) is not int or floors[0][0] < 0:
            raise CorruptError(url=self.url, reason=f"Q2: the floor is {floors}")
        for (key,) in self._run(sql.ODD_KEYS, (), all_rows):
            raise CorruptError(url=self.url, reason=f"Q3: {key!r} is a key")
        after = ""
        while rows := self._run(sql.SLICE_TO_CHECK, (after, _BATCH_ROWS), all_rows):
            for row in rows:
                check_row(self.url, *row)
            after = rows[-1][0]
            done += len(rows)
            if progress is not None:
                progress(done, max(total, done))
        self._lock_files().records()
        self.sharers()
        self._totals()

    def close(self) -> None:
        """Close the connections; those that calls have out, when these end."""
        self._pool.close()

    def __del__(self) -> None:
        self._pool.close()


def _deadline(ttl_s: float | None) -> float | None:
    if ttl_s is None:
        return None
    check_ttl(ttl_s)
    return (time() + ttl_s) * 1000 // 1 / 1000  # whole milliseconds, for `statements._NOW`, and never more than asked
