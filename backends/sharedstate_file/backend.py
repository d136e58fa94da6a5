"""The verbs of a store in a directory.

A read compares the head's word with the one last seen and looks in a dict: no
lock, no system call.  A write is one frame appended to the log under the
writers' lock; its frame is the transaction.  See FORMAT.md for the bytes.

Thread safety: every method, from any thread.  Its invariants, and why a fork
and a crash do no harm, are those of `sharedstate_file.handle`.
"""

from __future__ import annotations

import os
import stat
import time
from time import time as _now

from sharedstate.backend import (
    Backend,
    Counts,
    Deadline,
    Presence,
    PresenceFiles,
    StoreUrl,
    add_numbers,
    check_ttl,
    keeps_deadline,
    translate_os_error,
)
from sharedstate.errors import (
    CapacityError,
    ConflictError,
    CorruptError,
    StateError,
    StoreAccessError,
    UnavailableError,
)
from sharedstate.model import (
    ABSENT,
    DELETE,
    KEEP,
    MISSING,
    Entry,
    LockRecord,
    Put,
    Sharer,
    Write,
    boot_id,
)
from sharedstate.values import check_key, encode
from sharedstate_file.handle import Handle
from sharedstate_file.head import Head, length_of, number_of
from sharedstate_file.index import entry_of, is_same, live_bytes, load, value_of
from sharedstate_file.offer import CAPABILITIES
from sharedstate_file.place import COMPACTION_LOCK, Place, StoreLocks
from sharedstate_file.recovery import attach, finish_removal
from sharedstate_file.writers import WriterLock

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, Final

    from sharedstate.backend import Lock
    from sharedstate.backend.activity import Activity
    from sharedstate_file.index import Entries
    from sharedstate_file.log import Log

__all__ = ["FileBackend", "connect", "discover", "exists", "remove", "temporary_url"]

_MAX_VALUE_BYTES: Final = CAPABILITIES.max_value_bytes
_BATCH_BYTES: Final = 2**20
_BATCH_KEYS: Final = 10_000
_TRIES: Final = 20


def connect(url: StoreUrl) -> FileBackend:
    """Open the store in the directory that `url` names, made if there is none.

    Parameters: `mode` (octal, of the files; 0600), `sync` (os: survives the
    process; disk: survives a power loss), `timeout` (seconds that a writer
    waits for its turn; 5).
    """
    path = url.path()
    place = Place(url.canonical(path), path, url.mode(), url.seconds("timeout", 5.0))
    sync = url.choice("sync", ("os", "disk"))
    url.finish()
    for _ in range(_TRIES):
        try:
            place.make()
            writers = WriterLock(place)
            head = attach(place, writers)
            if head is not None:
                return FileBackend(place, writers, head, sync == "disk")
        except OSError as error:
            if isinstance(error, StateError):
                raise
            raise translate_os_error(place.url, error) from error
    raise place.gone()  # each time somebody removed it at this very moment


def temporary_url(directory: str) -> str:
    """Return the URL of a store that does not exist yet, below `directory`."""
    return StoreUrl("", "file", "", {}).canonical(os.path.join(directory, f"store-{os.urandom(6).hex()}"))


def exists(url: StoreUrl) -> bool:
    """Return whether there is something at that path."""
    return os.path.lexists(url.path())


def discover() -> list[str]:
    """Return nothing: a store may be in any directory, and no list of them is kept."""
    return []


def remove(url: StoreUrl) -> None:
    """Remove the store; handles that are open see it as gone.

    Raises:
        UnavailableError: there is none.
        CorruptError: what is there is no store; it is left as found.
    """
    path = url.path()
    place = Place(url.canonical(path), path, url.mode(), url.seconds("timeout", 5.0))
    url.choice("sync", ("os", "disk"))
    url.finish()
    if not os.path.lexists(place.lock):
        raise UnavailableError(url=place.url, reason=f"there is no store in {path}", advice="Nothing to remove.")
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise StoreAccessError(url=place.url, reason=f"{path} is a symbolic link", advice="Name the directory itself.")
    try:
        WriterLock(place).run(lambda: _remove(place))
    except OSError as error:
        if isinstance(error, StateError):
            raise
        raise translate_os_error(place.url, error) from error


def _remove(place: Place) -> None:
    head = Head.open(place.url, place.head)
    numbers = place.log_numbers()
    if numbers:
        place.open_log(numbers[0])  # refuses what is no log of ours
    elif head is None:
        place.require_free(place.names())
    if head is not None:
        head.end()
    finish_removal(place)


class FileBackend(Handle, Backend):
    """One handle on one store."""

    capabilities = CAPABILITIES

    def __init__(self, place: Place, writers: WriterLock, head: Head, is_synced: bool) -> None:
        super().__init__(place, writers, head, is_synced)
        self._locks = StoreLocks(place)
        self._counts = counts = Counts()
        self._presences = PresenceFiles(self._locks, counts)
        self._hit, self._miss, self._wrote = counts.hit, counts.miss, counts.wrote

    # --- Reading ------------------------------------------------------------

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, or `default`."""
        if self._words[0] != self._seen:
            self._catch_up()
        try:
            stored = self._entries.get(key)
        except TypeError:  # unhashable
            stored = None
        if stored is None:
            check_key(key)
            self._miss(key)
            return default
        kept, form, _, expires_at, _ = stored
        if expires_at is not None and expires_at <= _now():
            self._miss(key)
            return default
        self._hit(key)
        return value_of(kept, form) if form else kept

    def read(self, key: str) -> Entry | None:
        """Return the entry of `key`, or None."""
        check_key(key)
        if self._words[0] != self._seen:
            self._catch_up()
        stored = self._live(key)
        if stored is None:
            self._miss(key)
            return None
        self._hit(key)
        return entry_of(stored)

    def generation(self, key: str) -> int:
        """Return the generation of `key`, `ABSENT` if there is none."""
        check_key(key)
        if self._words[0] != self._seen:
            self._catch_up()
        stored = self._live(key)
        if stored is None:
            self._miss(key)
            return ABSENT
        self._hit(key)
        return stored[2]

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those of `keys` that are there."""
        get = self.get
        return {key: value for key in keys if (value := get(key, MISSING)) is not MISSING}

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys that start with `prefix`."""
        now = _now()
        return [
            key
            for key, (_, _, _, expires_at, _) in self._snapshot().items()
            if (expires_at is None or expires_at > now) and key.startswith(prefix)
        ]

    # --- Writing ------------------------------------------------------------

    def set(self, key: str, value: Any, ttl_s: float | None = None) -> None:
        """Store `value`, whatever was there."""
        check_key(key)
        encoded = encode(value)
        if len(encoded) > _MAX_VALUE_BYTES:
            raise self._too_large(len(encoded))
        expires_at = None if ttl_s is None else _deadline(ttl_s)
        self._write([[key, expires_at, encoded]])

    def increment(self, key: str, by: float = 1, initial: float = 0, ttl_s: float | None = None) -> int | float:
        """Add `by` to the number at `key` and return the sum."""
        check_key(key)
        created_until = None if ttl_s is None else _deadline(ttl_s)

        def body() -> int | float:
            self._refresh()
            stored = self._live(key)
            if stored is None:
                total, expires_at = add_numbers(key, initial, by), created_until
            else:
                total, expires_at = add_numbers(key, value_of(stored[0], stored[1]), by), stored[3]
            self._append([[key, expires_at, encode(total)]])
            return total

        total = self._run(body)
        self._wrote(key)
        return total

    def take(self, key: str) -> Entry | None:
        """Remove `key` and return what it was."""
        check_key(key)

        def body() -> Entry | None:
            self._refresh()
            stored = self._live(key)
            if stored is None:
                return None
            entry = entry_of(stored)
            self._append([[key]])
            return entry

        entry = self._run(body)
        if entry is not None:
            self._wrote(key)
        return entry

    def delete(self, key: str) -> bool:
        """Remove `key`; return whether it was there."""
        return self.delete_many((key,)) == 1

    def touch(self, key: str, ttl_s: float | None) -> bool:
        """Let `key` expire at another time."""
        check_key(key)
        expires_at = None if ttl_s is None else _deadline(ttl_s)

        def body() -> bool:
            self._refresh()
            if self._live(key) is None:
                return False
            self._append([[key, expires_at]])
            return True

        is_there = self._run(body)
        if is_there:
            self._wrote(key)
        return is_there

    def commit(self, writes: Mapping[str, Write], expected: Mapping[str, int] = {}) -> dict[str, int]:
        """Apply all of `writes`, in one frame, if every key of `expected` is at that generation."""
        for key in (*writes, *expected):
            check_key(key)
        if len(writes.keys() | expected.keys()) > CAPABILITIES.max_transaction_keys:
            raise CapacityError(
                url=self.url,
                reason=f"a transaction of more than {CAPABILITIES.max_transaction_keys} keys",
                advice="Split it.",
            )
        operations = [self._operation(key, write, expected.get(key, ABSENT)) for key, write in writes.items()]
        keeping = [operation for operation in operations if len(operation) == 3 and operation[1] is KEEP]
        if not operations:
            with self._writers.index():  # one state of the index is one point in time
                self._catch_up()
                self._require(expected)
            return {}

        def body() -> int:
            self._refresh()
            self._require(expected)
            for operation in keeping:
                operation[1] = self._entries[operation[0]][3]  # as it was found to be living; not asked again
            return self._append(operations)

        generation = self._run(body)
        for key in writes:
            self._wrote(key)
        return {
            key: ABSENT if write is DELETE else own for own, (key, write) in enumerate(writes.items(), generation + 1)
        }

    def set_many(self, values: Mapping[str, Any], ttl_s: float | None = None) -> None:
        """Store all of `values`; a refused one leaves those after it unwritten."""
        expires_at = None if ttl_s is None else _deadline(ttl_s)
        batch: list[list[Any]] = []
        size = 0
        try:
            for key, value in values.items():
                check_key(key)
                batch.append([key, expires_at, self._encode(value)])
                size += len(key) + len(batch[-1][2])
                if size > _BATCH_BYTES or len(batch) == _BATCH_KEYS:
                    full, batch, size = batch, [], 0
                    self._write(full)
        finally:
            if batch:
                self._write(batch)

    def delete_many(self, keys: Iterable[str]) -> int:
        """Remove `keys`; return how many were there."""
        wanted = list(keys)
        for key in wanted:
            check_key(key)
        unique = list(dict.fromkeys(wanted))
        return sum(
            self._delete_batch(unique[start : start + _BATCH_KEYS]) for start in range(0, len(unique), _BATCH_KEYS)
        )

    def _delete_batch(self, keys: list[str]) -> int:
        def body() -> list[str]:
            self._refresh()
            there = [key for key in keys if self._live(key) is not None]
            if there:
                self._append([[key] for key in there])
            return there

        removed = self._run(body)
        for key in removed:
            self._wrote(key)
        return len(removed)

    def _require(self, expected: Mapping[str, int]) -> None:
        for key, generation in expected.items():
            stored = self._live(key)
            found = ABSENT if stored is None else stored[2]
            if found != generation:
                raise ConflictError(key=key, expected=generation, found=found)

    def _write(self, operations: list[list[Any]]) -> None:
        def body() -> None:
            self._refresh()
            self._append(operations)

        self._run(body)
        for operation in operations:
            self._wrote(operation[0])

    def _operation(self, key: str, write: Write, expected: int) -> list[Any]:
        if not isinstance(write, Put):
            return [key]
        until = write.ttl_s
        if until is not None and not keeps_deadline(until, expected):
            until = _deadline(until)
        return [key, until, self._encode(write.value)]

    def _encode(self, value: Any) -> bytes:
        encoded = encode(value)
        if len(encoded) > _MAX_VALUE_BYTES:
            raise self._too_large(len(encoded))
        return encoded

    def _too_large(self, size: int) -> CapacityError:
        reason = f"a value of {size} encoded bytes, where {_MAX_VALUE_BYTES} is the most"
        return CapacityError(url=self.url, reason=reason, advice="Split it, or keep it in a file and store its name.")

    # --- Waiting, locks, figures, the end -------------------------------------------

    def change_token(self) -> int:
        """Return the head's word."""
        token: int = self._words[0]
        return token

    def wait(self, token: int, timeout_s: float | None = None) -> bool:
        return self._head.changed.wait_until(lambda: self._words[0] != token, Deadline(timeout_s))

    def count(self, prefix: str = "") -> int:
        """Return how many entries start with `prefix`."""
        return len(self.keys(prefix))

    def clear(self, prefix: str = "") -> int:
        """Remove the entries that start with `prefix`; return how many."""
        return self.delete_many(self.keys(prefix))

    def now(self) -> float:
        """Return the wall clock's time."""
        return time.time()

    def lock(self, name: str, timeout_s: float | None = None) -> Lock:
        """Return the lock of this name."""
        check_key(name)
        self._catch_up()
        return self._locks.lock(name, timeout_s)

    def locks(self) -> list[LockRecord]:
        """Return what each lock says of itself."""
        self._catch_up()
        return [record for record in self._locks.records() if record.name != COMPACTION_LOCK]

    def announce(self, facts: Mapping[str, Any]) -> Presence:
        """Make the caller one of the sharers."""
        self._catch_up()
        return self._presences.announce(facts)

    def sharers(self) -> list[Sharer]:
        """Return those who are present now."""
        self._catch_up()
        return self._presences.sharers()

    def is_present(self, token: str) -> bool:
        """Return whether the sharer of that token is present."""
        self._catch_up()
        return self._presences.is_present(token)

    def stats(self) -> dict[str, int | float | str]:
        """Return the number of entries, their encoded bytes, and how the log stands."""
        now = _now()
        with self._writers.index():
            known = self._snapshot()
            word, generation = self._mark
        entries, live = live_bytes(known, now)
        size = sum(stored[4] for stored in known.values() if stored[3] is None or stored[3] > now)
        return {
            "entries": entries,
            "bytes": size,
            "capacity_bytes": 0,
            "generation": generation,
            "log_number": number_of(word),
            "log_bytes": length_of(word),
            "dead_bytes": max(length_of(word) - live, 0),
            "compactions": number_of(word) - 1,
            "compactions_failed": self._compactions_failed,
            **self._totals(),
        }

    def _totals(self) -> dict[str, int | float | str]:
        from sharedstate.backend.activity import total_activity  # not by who only opens a store

        return total_activity(self._locks, self._counts)

    def activity(self) -> list[Activity]:
        """Return what each sharer has done here."""
        from sharedstate.backend.activity import read_activity

        self._catch_up()
        return read_activity(self._locks, with_samples=True)

    def check(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Verify every frame, that this handle knows what the log says, and the lock files.

        Writers wait while a copy of the index is taken, not while the log is read (F1).
        """
        log, word, generation, known = self._writers.run(self._begin_check)
        if progress is not None:
            progress(0, length_of(word))
        entries, reached = load(log, length_of(word))
        if reached != generation:
            reason = f"B1: this handle is at generation {generation}, the log at {reached}"
            raise CorruptError(url=self.url, reason=reason)
        for key in entries.keys() | known.keys():
            if not is_same(entries.get(key), known.get(key)):
                raise CorruptError(url=self.url, reason=f"B1: this handle has another {key!r} than the log")
        for done, (key, stored) in enumerate(entries.items()):
            if progress is not None and done % 10_000 == 0:
                progress(length_of(word) * done // len(entries), length_of(word))
            try:
                entry_of(stored)
            except CorruptError as error:
                reason = f"the value of {key!r} is damaged: {error.reason}"
                raise CorruptError(url=self.url, reason=reason) from error
        self._locks.records()
        self._presences.sharers()
        from sharedstate.backend.activity import check_activity  # not by who only opens a store

        check_activity(self._locks)

    def _begin_check(self) -> tuple[Log, int, int, Entries]:
        self._refresh()
        if not self._head.is_sealed():
            reason = f"H3: {self._place.head}, offset 64: the word does not agree with its seal"
            raise CorruptError(url=self.url, reason=reason)
        if not self._head.is_true(boot_id()):
            reason = f"H: {self._place.head}, offset 0: it does not say that it was made in this boot"
            raise CorruptError(url=self.url, reason=reason)
        self._require_own_log()
        word, generation = self._mark
        return self._log, word, generation, self._entries.copy()

    def _require_own_log(self) -> None:
        """Refuse a name that is not that of the log we have open; looks at its header too."""
        try:
            named = self._place.open_log(self._log.number)
        except FileNotFoundError:
            named = None
        if named is None or not os.path.samestat(os.fstat(named.fd), os.fstat(self._log.fd)):
            raise CorruptError(url=self.url, reason=f"{self._log.path}, which the head names, was removed or replaced")
        if (named.base, named.mark) != (self._log.base, self._log.mark):
            raise self._log.damaged(0, "another header than when it was opened")


def _deadline(ttl_s: float) -> float:
    check_ttl(ttl_s)
    return _now() + ttl_s
