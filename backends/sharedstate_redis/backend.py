"""The verbs: one command each, which the server runs by itself.

Thread safety: every method, from any thread; each call has a connection of its
own while it lasts.  Nothing of the data is kept in Python.

Invariants, verified by `check`:
    R1  the store's key has an id, a format and the last generation
    R2  an entry is a generation above 0 and at most the last one, a deadline, and the bytes of one value
    R3  the index has each entry once, with its deadline; the server expires it one millisecond before that, or
        about then if it came from another node of a cluster
    R4  a lock's record has its state, token, time and owner
    R5  a sharer's record is the encoding of what it tells of itself
Crash: the server's; a script is run whole or not at all, also where the client
dies, and what outlives the server is what it has written to disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError

from sharedstate.backend import Backend, Deadline, Lock, Presence, batches_of, check_ttl, keeps_deadline
from sharedstate.errors import CapacityError, ConflictError, CorruptError, KeyFormatError, UnavailableError
from sharedstate.model import ABSENT, Entry, Keep, LockRecord, Put, Sharer, Write
from sharedstate.values import check_key
from sharedstate_redis import locks as claims
from sharedstate_redis import scripts
from sharedstate_redis.anchor import Anchors
from sharedstate_redis.cells import (
    HEADER_BYTES,
    pack_value,
    parse_entry,
    parse_generation,
    parse_value,
    parse_values,
    unpack_value,
)
from sharedstate_redis.faults import gone
from sharedstate_redis.locks import RedisLock
from sharedstate_redis.offer import MAX_TRANSACTION_KEYS
from sharedstate_redis.server import figures
from sharedstate_redis.sessions import LateError, LostError, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from sharedstate_redis.place import Place
    from sharedstate_redis.pool import Pool
    from sharedstate_redis.server import Server

__all__ = ["RedisBackend"]

_NOTHING_EXPECTED: Final[Mapping[str, int]] = {}
_NUMBERS: Final = (int, float)
_LEAST: Final = -(2**63)
_MOST: Final = 2**64 - 1

# How long others wait for the server at most: that many keys, or bytes.
_SAMPLE: Final = 16  # entries whose sizes stand for those of all
_BATCH_KEYS: Final = 500
_BATCH_BYTES: Final = 2**22
_BATCH_CELLS: Final = 50  # read whole, and each may be large

_LOOK_S: Final = 1.0  # a waiter looks at least so often whether the handle is still open
_GET: Final = b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n"


class RedisBackend(Backend):
    """One handle on one store."""

    is_clocked = True  # L2 of `scripts`

    def __init__(self, pool: Pool, place: Place, server: Server) -> None:
        self.url = pool.address.url
        self.capabilities = server.capabilities(pool.address)
        self._pool = pool
        self._place = place
        self._server = server
        self._read = pool.read
        self._entries = place.entries  # what the name of an entry begins with
        self._anchors = Anchors(pool, place)
        self._moves = bool(pool.address.nodes)  # whether entries may have come from another server
        self._is_told = True  # whether the server tells of changes; until it refuses

    # --- Reading ------------------------------------------------------------

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, or `default`."""
        check_key(key)
        name = self._entries + key.encode()
        cell = self._read(_GET % (len(name), name))
        return default if cell is None else parse_value(self.url, key, cell)

    def read(self, key: str) -> Entry | None:
        """Return the entry of `key`, or None."""
        check_key(key)
        cell = self._read(pack(b"GET", self._place.entry(key)))
        return None if cell is None else parse_entry(self.url, key, cell)

    def generation(self, key: str) -> int:
        """Return the generation of `key`, `ABSENT` if there is none."""
        check_key(key)
        header = self._read(pack(b"GETRANGE", self._place.entry(key), b"0", b"%d" % (HEADER_BYTES - 1)))
        return parse_generation(self.url, key, header) if header else ABSENT

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those of `keys` that are there."""
        found: dict[str, Any] = {}
        entries = self._entries
        for batch in batches_of(keys, _BATCH_KEYS):
            cells = self._pool.read_strings(pack(b"MGET", *[entries + key.encode() for key in batch]))
            found.update(parse_values(self.url, batch, cells))
        return found

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys that start with `prefix`."""
        try:
            wanted = prefix.encode()
        except UnicodeEncodeError:
            self._pool.require_open()
            return []  # no key holds a lone surrogate
        # The server may name a key several times, while the index grows.
        found: dict[bytes, None] = {}
        for names in self._scan(scripts.SCAN, _BATCH_KEYS, wanted, b"1" if self.capabilities.evicts else b""):
            found.update(dict.fromkeys(names))
        return [name.decode() for name in found]

    def count(self, prefix: str = "") -> int:
        """Return how many entries start with `prefix`."""
        if prefix or self.capabilities.evicts:
            return len(self.keys(prefix))
        found: int = self._run(scripts.COUNT)[0]
        return found

    def _scan(self, script: scripts.Script, batch: int, prefix: bytes, *more: bytes) -> Iterator[list[Any]]:
        cursor = b"0"
        while True:
            cursor, *found = self._run(script, (), cursor, prefix, b"%d" % batch, *more)
            yield found
            if cursor == b"0":
                return

    # --- Writing one key ----------------------------------------------------

    def set(self, key: str, value: Any, ttl_s: float | None = None) -> None:
        """Store `value`, whatever was there."""
        check_key(key)
        self._commit([key], [b"", b"p", _ttl_us(ttl_s), pack_value(self.url, value)])

    def add(self, key: str, value: Any, ttl_s: float | None = None) -> bool:
        """Store `value` if `key` is absent; return whether it was."""
        check_key(key)
        return self._try_commit([key], [b"0", b"p", _ttl_us(ttl_s), pack_value(self.url, value)]) is None

    def compare_and_set(self, key: str, value: Any, expected: int, ttl_s: float | Keep | None = None) -> int:
        """Store `value` if `key` is at generation `expected`; return the new one."""
        return self.commit({key: Put(value, ttl_s)}, {key: expected})[key]

    def increment(
        self, key: str, by: int | float = 1, initial: int | float = 0, ttl_s: float | None = None
    ) -> int | float:
        """Add `by` to the number at `key` and return the sum."""
        check_key(key)
        until = _ttl_us(ttl_s)
        if not (_can_be_added(by) and _can_be_added(initial)):
            return super().increment(key, by, initial, ttl_s)  # which says what is wrong, if that matters here
        arguments = (pack_value(self.url, by), pack_value(self.url, initial), until)
        status, *found = self._run_raw(scripts.INCREMENT, [key], *arguments)
        if status == scripts.REFUSED:
            return super().increment(key, by, initial, ttl_s)
        total: int | float = unpack_value(self.url, key, found[0])
        return total

    def touch(self, key: str, ttl_s: float | None) -> bool:
        """Let `key` expire at another time."""
        check_key(key)
        return bool(self._run(scripts.TOUCH, [key], _ttl_us(ttl_s))[0])

    def delete(self, key: str) -> bool:
        """Remove `key`; return whether it was there."""
        check_key(key)
        return bool(self._run(scripts.REMOVE, [key])[0])

    def take(self, key: str) -> Entry | None:
        """Remove `key` and return what it was."""
        check_key(key)
        cells = self._run(scripts.TAKE, [key])
        return parse_entry(self.url, key, cells[0]) if cells else None

    # --- Writing several keys -----------------------------------------------

    def commit(self, writes: Mapping[str, Write], expected: Mapping[str, int] = _NOTHING_EXPECTED) -> dict[str, int]:
        """Apply all of `writes` if every key of `expected` is at that generation."""
        keys = list(dict.fromkeys((*writes, *expected)))
        for key in keys:
            check_key(key)
        if len(keys) > MAX_TRANSACTION_KEYS:
            raise CapacityError(
                url=self.url, reason=f"a transaction has at most {MAX_TRANSACTION_KEYS} keys", advice="Split it."
            )
        arguments: list[bytes] = []
        for key in keys:
            arguments.append(b"%d" % expected[key] if key in expected else b"")
            arguments += self._describe(writes.get(key), expected.get(key, ABSENT))
        generation = self._commit(keys, arguments, any(isinstance(write, Put) for write in writes.values()))
        return {key: generation if isinstance(write, Put) else ABSENT for key, write in writes.items()}

    def _describe(self, write: Write | None, expected: int) -> tuple[bytes, bytes, bytes]:
        if write is None:
            return b"", b"", b""
        if not isinstance(write, Put):
            return b"d", b"", b""
        value = pack_value(self.url, write.value)
        if keeps_deadline(write.ttl_s, expected):
            return b"k", b"", value
        return b"p", _ttl_us(write.ttl_s), value

    def _commit(self, keys: list[str], arguments: list[bytes], puts: bool = True) -> int:
        """Commit and return the generation, or raise `ConflictError`."""
        status, *found = self._run_raw(scripts.COMMIT if puts else scripts.COMMIT_FREEING, keys, *arguments)
        if status == scripts.REFUSED:
            at = int(found[0])
            raise ConflictError(key=keys[at], expected=int(arguments[4 * at]), found=int(found[1]))
        return int(found[0])

    def _try_commit(self, keys: list[str], arguments: list[bytes]) -> ConflictError | None:
        try:
            self._commit(keys, arguments)
        except ConflictError as conflict:
            return conflict
        return None

    def set_many(self, values: Mapping[str, Any], ttl_s: float | None = None) -> None:
        """Store all of `values`, each atomically; a refused one leaves those after it unwritten."""
        until = _ttl_us(ttl_s)
        keys: list[str] = []
        arguments: list[bytes] = []
        size = 0
        try:
            for key, value in values.items():
                check_key(key)
                packed = pack_value(self.url, value)
                keys.append(key)
                arguments += (b"", b"p", until, packed)
                size += len(packed)
                if len(keys) == _BATCH_KEYS or size > _BATCH_BYTES:
                    full, whole = keys, arguments
                    keys, arguments, size = [], [], 0
                    self._commit(full, whole)
        finally:
            if keys:
                self._commit(keys, arguments)  # those before a refused one, too

    def delete_many(self, keys: Iterable[str]) -> int:
        """Remove `keys`, each atomically; return how many were there."""
        return sum(self._run(scripts.REMOVE, batch)[0] for batch in batches_of(keys, _BATCH_KEYS))

    # --- Scripts --------------------------------------------------------------

    def _run(self, script: scripts.Script, keys: Iterable[str] = (), *arguments: bytes) -> list[Any]:
        return self._run_raw(script, keys, *arguments)[1:]

    def _run_raw(self, script: scripts.Script, keys: Iterable[str], *arguments: bytes) -> list[Any]:
        place = self._place
        names = [place.store, place.entries, *map(place.entry, keys)]
        reply = self._pool.run(script, names, [place.id, *arguments])
        if reply[0] == scripts.GONE:
            raise gone(self.url)
        if reply[0] == scripts.FOREIGN:
            culprit = names[2 + int(reply[1])][len(place.entries) :].decode(errors="replace")
            raise CorruptError(url=self.url, reason=f"R2: {culprit!r} is no entry")
        return reply

    # --- Waiting and locks --------------------------------------------------

    def change_token(self) -> int:
        """Return the last generation that was given to anything."""
        return self._token(self._pool.read(self._question()))

    def _question(self) -> bytes:
        return pack(b"HMGET", self._place.store, b"id", b"last")

    def _token(self, reply: list[Any]) -> int:
        identity, last = reply
        if identity != self._place.id:
            raise gone(self.url)
        return int(last)

    def wait(self, token: int, timeout_s: float | None = None) -> bool:
        """Wait until `change_token()` differs from `token`; the server tells of each change, where it may."""
        deadline = Deadline(timeout_s)
        tries = 0
        while self._is_told:
            try:
                return self._wait_to_be_told(token, deadline)
            except (LostError, LateError) as error:
                tries += 1
                if tries == 3:
                    raise UnavailableError(url=self.url, reason=str(error), advice="Try again later.") from error
            except ResponseError as error:
                if self._pool.is_moving(error):
                    self.change_token()  # waits until the store is to be had again
                else:
                    self._is_told = False  # it may not: then look now and then
        return super().wait(token, timeout_s if timeout_s is None else deadline.remaining_s(timeout_s))

    def _wait_to_be_told(self, token: int, deadline: Deadline) -> bool:
        session = self._pool.take_watching()
        try:
            while self._token(session.exchange(self._question())) == token:
                if deadline.has_passed():
                    break
                session.wait_for_push(max(deadline.remaining_s(_LOOK_S), 1e-3))
                self._pool.require_open()
            else:
                self._pool.give_back_watching(session)
                return True
        except BaseException:
            session.close()
            raise
        self._pool.give_back_watching(session)
        return False

    def lock(self, name: str, timeout_s: float | None = None) -> Lock:
        """Return the lock of this name.

        Raises:
            UnavailableError: the server evicts what never expires, so it would forget who holds it.
        """
        check_key(name)
        self._pool.require_open()
        if self._server.evicts_anything:
            raise UnavailableError(
                url=self.url,
                reason=f"the server evicts anything when it is full ({self._server.policy}), locks too",
                advice="Set its maxmemory-policy to noeviction or a volatile one.",
            )
        return RedisLock(self._anchors, name, timeout_s)

    def locks(self) -> list[LockRecord]:
        """Return what each lock says of itself."""
        return claims.locks(self._anchors)

    def announce(self, facts: Mapping[str, Any]) -> Presence:
        """Make the caller one of the sharers, as long as its connection lives."""
        return claims.announce(self._anchors, facts)

    def readmit(self, token: str, facts: Mapping[str, Any]) -> Presence:
        """Make the caller a sharer under the token that it had where this store was before."""
        return claims.announce(self._anchors, facts, token)

    def sharers(self) -> list[Sharer]:
        """Return those who are present now."""
        return claims.sharers(self._anchors)

    def is_present(self, token: str) -> bool:
        """Return whether the sharer of that token is present."""
        return claims.is_present(self._anchors, token)

    # --- Figures and the end ------------------------------------------------

    def now(self) -> float:
        """Return the time on the server's clock."""
        seconds, microseconds = self._pool.read(pack(b"TIME"))
        return int(seconds) + int(microseconds) / 1e6

    def stats(self) -> dict[str, int | float | str]:
        """Return the number of entries, their bytes as some of them tell, and the server's own figures."""
        told = figures(self._pool)
        entries = self.count()
        return {
            "entries": entries,
            "bytes": round(entries * self._mean_bytes()),
            "capacity_bytes": int(told.get("maxmemory", "0")),
            "evicted": int(told.get("evicted_keys", "0")),
            "server": told.get("server_name", "redis"),
            "version": told.get("valkey_version", told.get("redis_version", "")),
            "persistence": self._server.describe_persistence(),
            "maxmemory_policy": told.get("maxmemory_policy", ""),
            "role": told.get("role", ""),
            "clients": int(told.get("connected_clients", "0")),
            "server_hits": int(told.get("keyspace_hits", "0")),
            "server_misses": int(told.get("keyspace_misses", "0")),
            "server_commands": int(told.get("total_commands_processed", "0")),
        }

    def _mean_bytes(self) -> float:
        """Return how long the names and values of some entries are; the server's memory is not this store's alone."""
        names: list[bytes] = self._read(pack(b"ZRANDMEMBER", self._entries, b"%d" % _SAMPLE))
        sizes: list[int] = [len(name) + self._read(pack(b"STRLEN", self._entries + name)) for name in names]
        return sum(sizes) / max(len(sizes), 1)

    def check(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Verify R1 to R5 of what the index names."""
        total, done = self.count() if progress is not None else 0, 0
        self.change_token()  # R1
        for *found, last in self._scan(scripts.INSPECT, _BATCH_CELLS, b""):
            for name, deadline, cell, expiry in found:
                self._check_entry(name, deadline, cell, expiry, int(last))
            done += len(found)
            if progress is not None:
                progress(done, max(total, done))
        self.locks()
        self.sharers()

    def _check_entry(self, name: bytes, deadline: bytes, cell: bytes | None, expiry: int, last: int) -> None:
        try:
            key = name.decode()
            check_key(key)
        except (UnicodeDecodeError, KeyFormatError) as error:
            raise CorruptError(url=self.url, reason=f"R3: the index names {name!r}") from error
        if cell is None:
            if self.capabilities.evicts or (self._moves and deadline != b"inf"):
                return
            raise CorruptError(url=self.url, reason=f"R3: the index names {key!r}, which is not there")
        entry = parse_entry(self.url, key, cell)
        if not ABSENT < entry.generation <= last:
            raise CorruptError(url=self.url, reason=f"R2: {key!r} is at generation {entry.generation} of {last}")
        indexed = None if deadline == b"inf" else float(deadline) / 1000
        expires = None if expiry == -1 else (expiry + 1) / 1000
        if self._moves and expires is not None and indexed is not None:
            expires = indexed  # a node that is given a key is told how long it has to live, and counts anew
        if not entry.expires_at == indexed == expires:
            reason = f"R3: {key!r} expires at {entry.expires_at}, by the index {indexed}, by the server {expires}"
            raise CorruptError(url=self.url, reason=reason)

    def close(self) -> None:
        """Close the connections; those that calls have out, when these end."""
        self._pool.close()
        self._anchors.close()

    def __del__(self) -> None:
        if hasattr(self, "_pool"):  # not if the constructor was interrupted
            self._pool.close()


def _can_be_added(number: Any) -> bool:
    return type(number) in _NUMBERS and (type(number) is float or _LEAST <= number <= _MOST)


def _ttl_us(ttl_s: float | None) -> bytes:
    """Return a time to live in whole microseconds, b"" for ever."""
    if ttl_s is None:
        return b""
    check_ttl(ttl_s)
    return b"%d" % int(ttl_s * 1e6)
