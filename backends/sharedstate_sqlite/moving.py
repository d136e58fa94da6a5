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
    G6  The target still has all that was brought, as its change token tells, when the
        store ends: a server that lost writes, or somebody else's write, stops the move.
    G7  Who shares the store at its end is present in the target by then: the mover
        stands in for each until it ends or comes along.

First everything is brought while others write, then again and again what has
changed since, until that is little; so what writers are held for is one look at
the generations of all entries, some two microseconds for each.
"""

from __future__ import annotations

from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

from sharedstate.backend import Backoff, Deadline, PresenceFiles
from sharedstate.backend.moves import Moved
from sharedstate.errors import LockTimeoutError, UnavailableError
from sharedstate.model import DELETE, Put
from sharedstate_sqlite import place, schema
from sharedstate_sqlite import statements as sql
from sharedstate_sqlite.cells import check_row, unpack
from sharedstate_sqlite.gates import MovingGate
from sharedstate_sqlite.sessions import all_rows

if TYPE_CHECKING:
    from sqlite3 import Connection

    from sharedstate.backend import Backend, LockDirectory, Presence
    from sharedstate.backend.moves import MoveOrder
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
        how: what to ask, and whom to tell.
    """

    def __init__(self, pool: Pool, locks: LockDirectory, target: Backend, how: MoveOrder) -> None:
        self._pool = pool
        self._locks = locks
        self._gate = MovingGate(pool.url, locks.path, pool)
        self._target = target
        self._how = how
        self._mark = 0  # the target's change token, as we left it
        self._seen: dict[str, tuple[int, Any]] = {}  # generation and deadline of each entry as it was last brought
        self._greatest = 0  # of all generations and fencing tokens seen
        self._brought = 0
        self._round_s = 0.0  # what the last look for changes took

    def run(self) -> Moved:
        """Move the store."""
        deadline, backoff = Deadline(self._how.timeout_s), Backoff(0.1)
        total = self._pool.run(sql.COUNT_ROWS)[0]  # first: that it has moved is told before the target is touched
        self._how.prepare()
        self._mark = self._target.change_token()
        self._bring_all(total)
        for _ in range(_ROUNDS):
            if self._bring_changes() <= _FEW:
                break
        while True:
            places: list[Presence] = []
            holders = self._try_to_end(places)
            if not holders:
                now = time()
                live = sum(expires_at is None or expires_at > now for _, expires_at in self._seen.values())
                return Moved(live, self._brought, places, self._find_left)
            if deadline.has_passed():
                holder = "; ".join(holders)
                raise LockTimeoutError(
                    url=self._pool.url, what="everything", timeout_s=self._how.timeout_s, holder=holder
                )
            backoff.sleep(deadline)
            self._bring_changes()

    # --- Bringing entries -----------------------------------------------------

    def _bring_all(self, total: int) -> None:
        after = ""
        while rows := self._pool.run(sql.SLICE_TO_CHECK, (after, _BATCH_ROWS), all_rows):
            self._bring(rows)
            after = rows[-1][0]
            self._how.progress(len(self._seen), max(total, len(self._seen)))

    def _bring_changes(self) -> int:
        """Bring what is not as it was brought last; return how many entries that were."""
        begun = monotonic()
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
        if gone:
            self._require_untouched()
            self._target.delete_many(sorted(gone))
            self._mark = self._target.change_token()
        for key in gone:
            del self._seen[key]
        self._round_s = monotonic() - begun
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
                self._commit(writes)
                writes, size = {}, 0
        if writes:
            self._commit(writes)
        self._brought += len(rows)

    def _commit(self, writes: dict[str, Write]) -> None:
        self._require_untouched()
        self._target.commit(writes)
        self._mark = self._target.change_token()

    def _require_untouched(self) -> None:
        if self._target.change_token() != self._mark:
            raise UnavailableError(
                url=self._target.url,
                reason="it is not as the move left it: somebody else writes there, or its server has lost writes",
                advice="Look at the server, then move again with overwrite=True (--overwrite).",
            )

    # --- The end ----------------------------------------------------------------

    def _try_to_end(self, places: list[Presence]) -> list[str]:
        """Move if nothing is held by anybody; else return by whom, and leave everything as it was."""
        self._require_short_hold()
        self._gate.close(self._locks)
        try:
            held = self._wait_for_locks()
            if held:
                return held
            self._wait_for_clock()  # no token is given out any more; so within the write lock it is no wait
            try:
                self._pool.transact(lambda connection: self._end(connection, places))
            except LockTimeoutError as busy:
                return [str(busy)]
        except _BlockedError as blocked:
            return list(blocked.args)
        finally:
            self._gate.open()
        return []

    def _require_short_hold(self) -> None:
        """Refuse to hold writers for longer than they wait."""
        if self._round_s > self._pool.timeout_s / 2:
            raise UnavailableError(
                url=self._pool.url,
                reason=f"writers would be held for {self._round_s:.1f} s, in which all its entries are looked at, "
                f"and they wait {self._pool.timeout_s:g} s at most",
                advice="Give them more time (?timeout=60), move when less is written; or stop them, and copy it.",
            )

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

    def _end(self, connection: Connection, places: list[Presence]) -> None:
        """Bring the last changes and move, with the write lock held."""
        self._bring_changes()
        claims = self._how.find_claims(self._seen)
        if claims:
            raise _BlockedError(*claims)
        (floor,) = connection.execute("SELECT generation FROM floor").fetchone()
        self._greatest = max(self._greatest, floor)
        self._wait_for_clock()
        places += [self._target.readmit(each.token, each.facts) for each in PresenceFiles(self._locks).sharers()]
        self._require_untouched()
        schema.move(connection, self._target.url)

    def _wait_for_clock(self) -> None:
        """Return once all that the target gives is greater than what this store gave (G5)."""
        deadline, backoff = Deadline(_CLOCK_S), Backoff(0.1)
        while (behind_s := self._greatest / 1e6 - self._target.now()) >= 0:
            if behind_s > _CLOCK_S or deadline.has_passed():
                raise UnavailableError(
                    url=self._target.url,
                    reason=f"its clock is {behind_s:.1f} s behind the newest fencing token of {self._pool.url}",
                    advice="Set the server's clock, then move.",
                )
            backoff.sleep(deadline)

    def _find_left(self) -> set[str]:
        return {sharer.token for sharer in PresenceFiles(self._locks).sharers()}
