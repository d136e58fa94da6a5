"""A store that goes elsewhere while it is used: what is copied when, and who is held up meanwhile.

    G1  Moved is one transaction: `entry` gets another name and `moved_to` holds the
        URL.  It is on the disk before anybody learns of it, and every statement of
        everybody fails from then on, having done nothing.
    G2  What is brought last is what the store ends with: SQLite's write lock is held
        from before the last look for changes until the move is committed.
    G3  No lock is taken from before the last look at the locks until the store has
        moved (L6 of `sharedstate.backend.locks`), and none is held then: so nobody
        holds one across.
    G4  The gate is closed by a flock and the writers are held by a transaction, so
        both are open again when the mover dies, and the store is as it was.
    G5  Nothing that the target gives is less than what this store gave: its clock is
        past every fencing token and every generation, or the store does not move.

First everything is brought while others write, then again and again what has
changed since, until that is little; so writers are held for milliseconds.
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Any, Final

from sharedstate.backend import Backoff, Deadline
from sharedstate.errors import LockTimeoutError, UnavailableError
from sharedstate.model import DELETE, Put
from sharedstate_sqlite import place, schema
from sharedstate_sqlite import statements as sql
from sharedstate_sqlite.cells import check_row, unpack
from sharedstate_sqlite.gates import MovingGate
from sharedstate_sqlite.sessions import all_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from sqlite3 import Connection

    from sharedstate.backend import Backend, LockDirectory
    from sharedstate.model import Write
    from sharedstate_sqlite.connections import Pool

__all__ = ["Move"]

_SLICE_ROWS: Final = 10_000  # looked at at once
_BATCH_ROWS: Final = 200  # brought at once: one transaction of the target
_BATCH_BYTES: Final = 2**22
_FEW: Final = 200  # changes, that are brought while writers are held
_ROUNDS: Final = 10  # of bringing what has changed: whoever writes as fast as we do is held for longer
_PATIENCE_S: Final = 0.2  # how long nobody takes a lock while we wait for those that are held
_CLOCK_S: Final = 2.0  # how far behind the target's clock may be, which is then waited for


class _BlockedError(Exception):
    """There is somebody whom a move would tear from what he holds."""


class Move:
    """One move of one store.

    Args:
        pool: of the source; each of its commits must be synced to the disk.
        locks: the source's.
        target: the handle on the new store.
        find_claims: names what somebody who lives owns under some keys.
        progress: called with how many entries are brought, and of how many.
    """

    def __init__(
        self,
        pool: Pool,
        locks: LockDirectory,
        target: Backend,
        find_claims: Callable[[Iterable[str]], list[str]],
        progress: Callable[[int, int], None],
    ) -> None:
        self._pool = pool
        self._locks = locks
        self._gate = MovingGate(pool.url, locks.path, pool)
        self._target = target
        self._find_claims = find_claims
        self._progress = progress
        self._seen: dict[str, tuple[int, Any]] = {}  # generation and deadline of each entry as it was last brought
        self._greatest = 0  # of all generations and fencing tokens seen
        self._brought = 0

    def run(self, timeout_s: float) -> tuple[int, int]:
        """Move; return how many entries there were at the end, and how many were brought."""
        deadline, backoff = Deadline(timeout_s), Backoff(0.1)
        total = self._pool.run(sql.COUNT_ROWS)[0]
        self._bring_all(total)
        changed = self._bring_changes()
        for _ in range(_ROUNDS):
            if changed <= _FEW:
                break
            changed = self._bring_changes()
        while True:
            holders = self._try_to_end()
            if not holders:
                now = time()
                live = sum(expires_at is None or expires_at > now for _, expires_at in self._seen.values())
                return live, self._brought
            if deadline.has_passed():
                holder = "; ".join(holders)
                raise LockTimeoutError(url=self._pool.url, what="everything", timeout_s=timeout_s, holder=holder)
            backoff.sleep(deadline)
            self._bring_changes()

    # --- Bringing entries -----------------------------------------------------

    def _bring_all(self, total: int) -> None:
        after = ""
        while rows := self._pool.run(sql.SLICE_TO_CHECK, (after, _BATCH_ROWS), all_rows):
            self._bring(rows)
            after = rows[-1][0]
            self._progress(len(self._seen), max(total, len(self._seen)))

    def _bring_changes(self) -> int:
        """Bring what is not as it was brought last; return how many entries that were."""
        gone, changed, after = set(self._seen), list[str](), ""
        while rows := self._pool.run(sql.SLICE_OF_VERSIONS, (after, _SLICE_ROWS), all_rows):
            for key, generation, expires_at in rows:
                gone.discard(key)
                if self._seen.get(key) != (generation, expires_at):
                    changed.append(key)
            after = rows[-1][0]
        for at in range(0, len(changed), _BATCH_ROWS):
            keys = tuple(changed[at : at + _BATCH_ROWS])
            self._bring(self._pool.run(sql.select_rows_among(len(keys)), keys, all_rows))
        self._target.delete_many(sorted(gone))
        for key in gone:
            del self._seen[key]
        return len(changed) + len(gone)

    def _bring(self, rows: list[Any]) -> None:
        writes: dict[str, Write] = {}
        size, now = 0, time()
        for key, cell, generation, expires_at in rows:
            check_row(self._pool.url, key, cell, generation, expires_at)
            self._greatest = max(self._greatest, generation)
            self._seen[key] = (generation, expires_at)
            left_s = None if expires_at is None else expires_at - now
            has_expired = left_s is not None and left_s <= 0
            writes[key] = DELETE if has_expired else Put(unpack(self._pool.url, key, cell), left_s)
            size += len(cell) if isinstance(cell, (bytes, str)) else 8
            if size > _BATCH_BYTES:
                self._target.commit(writes)
                writes, size = {}, 0
        if writes:
            self._target.commit(writes)
        self._brought += len(rows)

    # --- The end ----------------------------------------------------------------

    def _try_to_end(self) -> list[str]:
        """Move if nothing is held by anybody; else return by whom, and leave everything as it was."""
        self._gate.close(self._locks)
        try:
            held = self._wait_for_locks()
            if held:
                return held
            self._pool.transact(self._end)
        except _BlockedError as blocked:
            return list(blocked.args)
        finally:
            self._gate.open()
        return []

    def _wait_for_locks(self) -> list[str]:
        deadline, backoff = Deadline(_PATIENCE_S), Backoff()
        while True:
            records = [record for record in self._locks.records() if record.name != place.CREATION_LOCK]
            held = [f"lock {record.name!r}: {record.owner}" for record in records if record.held]
            if not held:
                # They are in microseconds since 1970.
                self._greatest = max([self._greatest, *(record.token for record in records)])
                return []
            if deadline.has_passed():
                return held
            backoff.sleep(deadline)

    def _end(self, connection: Connection) -> None:
        """Bring the last changes and move, with the write lock held."""
        self._bring_changes()
        claims = self._find_claims(self._seen)
        if claims:
            raise _BlockedError(*claims)
        (floor,) = connection.execute("SELECT generation FROM floor").fetchone()
        self._greatest = max(self._greatest, floor)
        self._wait_for_clock()
        schema.move(connection, self._target.url)

    def _wait_for_clock(self) -> None:
        """Return once all that the target gives is greater than what this store gave (G5)."""
        deadline = Deadline(_CLOCK_S)
        while (behind_s := self._greatest / 1e6 - self._target.now()) >= 0:
            if behind_s > _CLOCK_S or deadline.has_passed():
                raise UnavailableError(
                    url=self._target.url,
                    reason=f"its clock is {behind_s:.1f} s behind the newest fencing token of {self._pool.url}",
                    advice="Set the server's clock, then move.",
                )
            Backoff(min(behind_s + 1e-3, 0.1)).sleep()
