"""The work of one interpreter, which proves itself: it goes on until it is killed.

A hand works in a lane of the page.  Before each operation it notes that it has
begun, behind it what was acknowledged, and whatever breaks a promise it writes
as a line into the findings.  Its first operation adopts what the killed hand
before it left in the lane: each word of the store must be what was
acknowledged, or the one operation further that was under way.

Imports nothing that is not clean in isolated interpreters of every CPython.
"""

from __future__ import annotations

import os
import time
from _random import Random

import sharedstate
from sharedstate.backend.waiting import clock_s
from turmoil import plants
from turmoil.contents import ABSENT_VERSION, content, is_absence, version_of
from turmoil.page import LANES, LOCKS, OPERATIONS, VALUES, Lane, Page

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, NoReturn

__all__ = ["ACCOUNTS", "BALANCE", "MOST_KEYS", "Findings", "Hand", "found"]

ACCOUNTS: Final = [f"account:{number}" for number in range(12)]
BALANCE: Final = 1000
_SURGE: Final = 60
MOST_KEYS: Final = len(ACCOUNTS) + LANES * (VALUES + 3 + _SURGE) + 2
"""More than this a store never holds."""

_WEIGHTS: Final = {
    "transfer": 24,
    "audit": 6,
    "hit": 12,
    "receipt": 8,
    "write": 24,
    "read": 14,
    "guard": 8,
    "expire": 4,
    "watch": 2,
    "ring": 5,
    "surge": 2,
    "reopen": 1,
}
_TTL_S: Final = 0.03
_EXITING: Final = 0x4  # PF_EXITING of /proc/PID/stat's flags: its descriptors may be closed already


class Findings:
    """A file to which anyone appends whole lines."""

    def __init__(self, path: str) -> None:
        self._path = path

    def add(self, fault: str, **facts: Any) -> None:
        """Write down what broke a promise."""
        import json

        line = json.dumps({"fault": fault, **facts}, default=repr) + "\n"
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, line.encode())
        os.close(fd)


def found(path: str) -> list[dict[str, Any]]:
    """Return what was written down so far."""
    import json

    try:
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except FileNotFoundError:
        return []


def _is_dying(pid: int) -> bool:
    """Return whether the process is dead, or so far on its way that its locks are free."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return fields[0] in {b"Z", b"X"} or bool(int(fields[6]) & _EXITING)


class Hand:
    """Whoever works in a lane.

    Args:
        orders: what every process of the run is told; see `supervisor.Supervisor`.
        page: to keep what was acknowledged.
        lane: to work in.
        start: how many processes were started before.
    """

    def __init__(self, orders: dict[str, Any], page: Page, lane: int, start: int) -> None:
        self._orders = orders
        self._page = page
        self._lane: Lane = page.lanes[lane]
        self._me = lane
        self._findings = Findings(orders["findings"])
        self._dice = Random(orders["seed"] * 1_000_003 + start * LANES + lane)
        self._table = [verb for verb, weight in _WEIGHTS.items() for _ in range(weight)]
        self._last_hits = 0
        self._interrupted = 0  # what a compaction is part of

    def _below(self, limit: int) -> int:
        return int(self._dice.random() * limit)

    def _fault(self, fault: str, **facts: Any) -> None:
        self._findings.add(fault, lane=self._me, **facts)

    def run(self) -> NoReturn:
        """Open the store, adopt the lane, and work."""
        lane = self._lane
        lane.pid = os.getpid()
        self._do("opening", self._open)
        self._do("opening", self._adopt)
        while True:
            verb = self._table[self._below(len(self._table))]
            self._do(verb, getattr(self, f"_{verb}"))
            if self._orders["yields"] or self._below(8) == 0:
                time.sleep(20e-6)  # until 3.12, nobody else takes the GIL from a busy legacy interpreter

    def _do(self, verb: str, body: Callable[[], None]) -> None:
        lane, number = self._lane, OPERATIONS.index(verb)
        lane.operation = number
        began_ns = lane.began_ns = time.monotonic_ns()
        body()
        took_ns = time.monotonic_ns() - began_ns
        lane.began_ns = 0
        lane.longest_ns = max(took_ns, lane.longest_ns)
        lane.counts[number] += 1

    # --- Beginning ----------------------------------------------------------

    def _open(self) -> None:
        self._store = store = sharedstate.open(self._orders["url"])
        plants.plant(self._orders["plant"], store)
        self._clock = store.capabilities.clock
        if self._orders["url"].startswith("file:"):
            from sharedstate_file import compaction

            compaction.reached = self._note_compaction

    def _note_compaction(self, point: str) -> None:
        # The supervisor looks for this word, and kills.
        lane, compacting = self._lane, OPERATIONS.index("compact")
        if point == "draft written":
            self._interrupted, lane.operation = lane.operation, compacting
        elif point == "old log removed":
            lane.operation = self._interrupted
            lane.counts[compacting] += 1

    def _adopt(self) -> None:
        lane, me, get = self._lane, self._me, self._store.get
        lane.receipts = self._adopted("receipts", get(f"receipt:{me}", 0), lane.receipts)
        lane.moved = self._adopted("moved", get(f"moved:{me}", 0), lane.moved)
        for number in range(VALUES):
            key, acknowledged = f"value:{me}:{number}", lane.versions[number]
            seen = version_of(key, get(key))
            if seen == ABSENT_VERSION and is_absence(key, (acknowledged, acknowledged + 1)):
                lane.versions[number] += content(key, acknowledged) is not None
            elif seen not in {acknowledged, acknowledged + 1} or seen is None:
                self._fault("lost", key=key, acknowledged=acknowledged, seen=seen)
            else:
                lane.versions[number] = seen

    def _adopted(self, what: str, seen: int, acknowledged: int) -> int:
        if not acknowledged <= seen <= acknowledged + 1:
            self._fault("lost", what=what, acknowledged=acknowledged, seen=seen)
        return seen

    # --- The bank -----------------------------------------------------------

    def _transfer(self) -> None:
        giver, taker = self._below(len(ACCOUNTS)), self._below(len(ACCOUNTS) - 1)
        taker += taker >= giver
        try:
            with self._store.transaction() as tx:
                amount = 1 + self._below(100)
                tx[ACCOUNTS[giver]] -= amount
                tx[ACCOUNTS[taker]] += amount
                moved = tx.increment(f"moved:{self._me}")
        except sharedstate.ConflictError:
            self._lane.conflicts += 1
            return
        if moved != self._lane.moved + 1:
            self._fault("lost", what="moved", acknowledged=self._lane.moved, seen=moved)
        self._lane.moved = moved

    def _audit(self) -> None:
        try:
            with self._store.transaction() as tx:
                balances = [tx[account] for account in ACCOUNTS]
        except sharedstate.ConflictError:
            self._lane.conflicts += 1
            return
        if sum(balances) != BALANCE * len(ACCOUNTS):
            self._fault("sum", balances=balances)

    # --- Counters -----------------------------------------------------------

    def _hit(self) -> None:
        # Many in a row, so that others are at it too.
        for _ in range(1 + self._below(40)):
            hits = int(self._store.increment("hits"))
            if hits <= self._last_hits:
                self._fault("not greater", before=self._last_hits, after=hits)
            self._last_hits = hits
            self._lane.hits += 1

    def _receipt(self) -> None:
        count = self._store.increment(f"receipt:{self._me}")
        if count != self._lane.receipts + 1:
            self._fault("lost", what="receipts", acknowledged=self._lane.receipts, seen=count)
        self._lane.receipts = count

    # --- Self-checking values -----------------------------------------------

    def _write(self) -> None:
        number = self._below(VALUES)
        key = f"value:{self._me}:{number}"
        version = self._lane.versions[number] + 1
        self._put(key, content(key, version))
        self._lane.versions[number] = version
        generation = self._store.generation(key)
        if generation == sharedstate.ABSENT:
            if not is_absence(key, [version]):
                self._fault("lost", key=key, acknowledged=version, seen=None)
        elif generation <= self._lane.generations[number]:
            self._fault("generation", key=key, before=self._lane.generations[number], after=generation)
        else:
            self._lane.generations[number] = generation

    def _put(self, key: str, value: Any) -> None:
        store, way = self._store, self._below(4)
        if value is None and way == 0:
            store.pop(key, None)
        elif value is None and way == 1:
            store.delete_many([key])
        elif way == 2:
            with store.transaction() as tx:
                if value is None:
                    tx.delete(key)
                else:
                    tx[key] = value
        elif value is None:
            store.delete(key)
        elif way == 0:
            store.compare_and_set(key, value, expected=store.generation(key))
        elif way == 1:
            store.set_many({key: value})
        else:
            store.set(key, value)

    def _read(self) -> None:
        owner = self._below(LANES)
        for number in range(VALUES):
            self._read_one(owner, number)

    def _read_one(self, owner: int, number: int) -> None:
        key, versions = f"value:{owner}:{number}", self._page.lanes[owner].versions
        before = versions[number]
        value = self._store.get(key)
        possible = range(before, versions[number] + 2)
        seen = version_of(key, value)
        if seen is None:
            self._fault("mixed", key=key, value=repr(value)[:200])
        elif not (is_absence(key, possible) if seen == ABSENT_VERSION else seen in possible):
            self._fault("stale", key=key, possible=[possible.start, possible.stop - 1], seen=seen)

    # --- Locks --------------------------------------------------------------

    def _guard(self) -> None:
        number, page, me = self._below(LOCKS), self._page, os.getpid() << 8 | self._me
        lock = self._store.lock(f"guard {number}", timeout_s=self._orders["bound_s"])
        try:
            token = lock.acquire()
        except sharedstate.LockTimeoutError as error:
            self._fault("waited", operation="guard", why=str(error))
            return
        holder = page.holders[number]
        # Who did not take his name off must have been killed, and be dead by now.
        if holder and not _is_dying(holder >> 8):
            self._fault("two holders", lock=number, holder=holder)
        page.holders[number] = me
        if token <= page.tokens[number]:
            self._fault("token", lock=number, before=page.tokens[number], after=token)
        page.tokens[number] = token
        tally = page.tallies[number]
        if self._below(2):
            time.sleep(self._dice.random() * 1e-3)
        page.tallies[number] = tally + 1
        if page.holders[number] != me:
            self._fault("two holders", lock=number, holder=page.holders[number])
        page.holders[number] = 0
        lock.release()
        self._lane.entries[number] += 1

    # --- Expiry -------------------------------------------------------------

    def _expire(self) -> None:
        key = f"mayfly:{self._below(LANES)}"
        if self._below(2):
            key = f"mayfly:{self._me}"
            before = clock_s(self._clock)
            self._store.set(key, content(key, self._lane.receipts + 1), ttl_s=_TTL_S)
            entry = self._store.read(key)
            after = clock_s(self._clock)
            if entry is None and after < before + _TTL_S:
                self._fault("expired early", key=key, after_s=after - before)
        else:
            before = clock_s(self._clock)
            entry = self._store.read(key)
            after = clock_s(self._clock)
        if entry is None:
            return
        if entry.expires_at is None or entry.expires_at > after + _TTL_S + 1e-3:
            self._fault("deadline", key=key, expires_at=entry.expires_at, now=after)
        elif entry.expires_at < before:
            self._fault("seen after its deadline", key=key, expires_at=entry.expires_at, now=before)
        elif version_of(key, entry.value) is None:
            self._fault("mixed", key=key, value=repr(entry.value)[:200])

    # --- Watching -----------------------------------------------------------

    def _watch(self) -> None:
        store = self._store
        since = store.generation("bell")
        # Even lanes never wait for ever, so that somebody always rings.
        generation = store.wait_for_change("bell", since, timeout_s=None if self._me % 2 else 0.05)
        if generation < since:
            self._fault("generation", key="bell", before=since, after=generation)

    def _ring(self) -> None:
        self._store.increment("bell")
        self._lane.rings += 1

    # --- Room ---------------------------------------------------------------

    def _surge(self) -> None:
        keys = [f"surge:{self._me}:{number}" for number in range(_SURGE)]
        body = bytes([self._me]) * (1 << self._below(13))
        self._store.set_many(dict.fromkeys(keys, body))
        counted = self._store.delete_many(keys)
        if counted != _SURGE:
            self._fault("lost", what="surge", acknowledged=_SURGE, seen=counted)

    def _reopen(self) -> None:
        self._store.close()
        self._open()
