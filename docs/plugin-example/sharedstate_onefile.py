"""`onefile:/path`: a whole store in one file, rewritten at every change.

The least that a backend can be: the primitives, and nothing else.  Every other
verb comes from `Backend`.  It keeps every promise of the contract, slowly.
docs/writing-a-backend.md walks through it.

Thread safety, forks: a handle keeps nothing in memory, so there is nothing to guard.
Invariants: O1  every stored generation is at most `last`, which only grows.
Crash: the new file is complete before it replaces the old one.
"""

# ruff: noqa: INP001  a plug-in may be one module

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from sharedstate.backend import (
    Backend,
    Lock,
    LockDirectory,
    Presence,
    PresenceFiles,
    check_ttl,
    keeps_deadline,
    open_private,
)
from sharedstate.errors import CapacityError, ClosedError, ConflictError, CorruptError, UnavailableError
from sharedstate.model import (
    ABSENT,
    KEEP,
    Capabilities,
    Clock,
    Durability,
    Entry,
    Keep,
    LockRecord,
    Put,
    Scope,
    Sharer,
    Write,
)
from sharedstate.values import check_key, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sharedstate.backend import StoreUrl

    Stored = tuple[bytes, int, float | None]  # encoded value, generation, deadline

CAPABILITIES: Final = Capabilities(
    scope=Scope.HOST,
    durability=Durability.BOOT,  # not DISK: nothing is fsynced
    clock=Clock.WALL,
    max_value_bytes=2**20,
    max_transaction_keys=100,
)


def connect(url: StoreUrl) -> OneFileBackend:
    """Open the store at a path, making it if there is none."""
    path = url.path()
    url.finish()
    return OneFileBackend(url.canonical(path), path)


def discover() -> list[str]:
    """Return no URL: a file may be anywhere."""
    return []


def remove(url: StoreUrl) -> None:
    """Remove the file, then the locks."""
    path = url.path()
    try:
        os.unlink(path)
    except FileNotFoundError:
        raise UnavailableError(url=url.text, reason="there is no such store", advice="Nothing to remove.") from None
    for name in os.listdir(f"{path}.locks"):
        os.unlink(f"{path}.locks/{name}")
    os.rmdir(f"{path}.locks")


class OneFileBackend(Backend):
    """One handle: a path, and whether it was closed."""

    capabilities = CAPABILITIES

    def __init__(self, url: str, path: str) -> None:
        self.url = url
        self._path = path
        self._is_open = True
        self._locks = LockDirectory(url, f"{path}.locks")
        with self._writing():
            if not os.path.lexists(path):
                self._save(ABSENT, {})

    # --- Reading ------------------------------------------------------------

    def read(self, key: str) -> Entry | None:
        """Return the entry of `key`, or None."""
        check_key(key)
        stored = self._load()[1].get(key)
        return None if stored is None else Entry(decode(stored[0]), stored[1], stored[2])

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys that start with `prefix`."""
        return [key for key in self._load()[1] if key.startswith(prefix)]

    def change_token(self) -> int:
        """Return the number of the newest change."""
        return self._load()[0]

    # --- Writing ------------------------------------------------------------

    def commit(self, writes: Mapping[str, Write], expected: Mapping[str, int] = {}) -> dict[str, int]:
        """Apply all of `writes` if every key of `expected` is at that generation."""
        self._check_size({**writes, **expected})
        packed = {
            key: self._pack(write, expected.get(key, ABSENT)) for key, write in writes.items() if isinstance(write, Put)
        }
        with self._writing():
            last, entries = self._load()
            for key, generation in expected.items():
                found = entries[key][1] if key in entries else ABSENT
                if found != generation:
                    raise ConflictError(key=key, expected=generation, found=found)
            for key in writes:
                last += 1
                stored = entries.pop(key, None)
                if key in packed:
                    value, ttl_s = packed[key]
                    if ttl_s is KEEP:
                        expires_at = stored and stored[2]
                    else:
                        expires_at = None if ttl_s is None else self.now() + ttl_s
                    entries[key] = (value, last, expires_at)
            if writes:
                self._save(last, entries)
        return {key: entries[key][1] if key in packed else ABSENT for key in writes}

    def touch(self, key: str, ttl_s: float | None) -> bool:
        """Let `key` expire at another time."""
        check_key(key)
        check_ttl(ttl_s)
        with self._writing():
            last, entries = self._load()
            if key not in entries:
                return False
            value, generation, _ = entries[key]
            entries[key] = (value, generation, None if ttl_s is None else self.now() + ttl_s)
            self._save(last + 1, entries)
        return True

    # --- Locks, figures, the end --------------------------------------------

    def lock(self, name: str, timeout_s: float | None = None) -> Lock:
        """Return the lock of this name: a file, so that the kernel frees it when its holder dies."""
        check_key(name)
        self._require_open()
        return self._locks.lock(name, timeout_s)

    def locks(self) -> list[LockRecord]:
        """Return what each lock says of itself; not the writers' own, which has no name."""
        self._require_open()
        return [record for record in self._locks.records() if record.name]

    def announce(self, facts: Mapping[str, Any]) -> Presence:
        """Make the caller one of the sharers: a file beside the locks, flocked while it lives."""
        self._require_open()
        return PresenceFiles(self._locks).announce(facts)

    def sharers(self) -> list[Sharer]:
        """Return those who are present now."""
        self._require_open()
        return PresenceFiles(self._locks).sharers()

    def stats(self) -> dict[str, int | float | str]:
        """Return the number of entries and the size of the file."""
        return {"entries": self.count(), "bytes": os.stat(self._path).st_size, "capacity_bytes": 0}

    def check(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Verify O1, and that every value decodes."""
        last, entries = self._load()
        for done, (key, (value, generation, _)) in enumerate(entries.items()):
            if progress is not None and done % 1000 == 0:
                progress(done, len(entries))
            decode(value)
            if not ABSENT < generation <= last:
                raise CorruptError(url=self.url, reason=f"O1: {key!r} is at generation {generation} of {last}")

    def close(self) -> None:
        """Refuse every verb from now on."""
        self._is_open = False

    # --- The file -----------------------------------------------------------

    def _writing(self) -> Lock:
        self._require_open()
        return self._locks.lock("")  # a name that no user's lock can have

    def _load(self) -> tuple[int, dict[str, Stored]]:
        """Return the newest generation, and what has not expired."""
        self._require_open()
        try:
            fd = open_private(self.url, self._path, os.O_RDONLY)
        except FileNotFoundError:
            raise UnavailableError(url=self.url, reason="the store was removed", advice="Open it again.") from None
        with os.fdopen(fd, "rb") as file:
            last, entries = decode(file.read())
        now = self.now()
        return last, {key: stored for key, stored in entries.items() if stored[2] is None or stored[2] > now}

    def _save(self, last: int, entries: dict[str, Stored]) -> None:
        fd = open_private(self.url, f"{self._path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with os.fdopen(fd, "wb") as file:
            file.write(encode((last, entries)))
        os.replace(f"{self._path}.new", self._path)

    def _pack(self, write: Put, expected: int) -> tuple[bytes, float | Keep | None]:
        if not keeps_deadline(write.ttl_s, expected):
            check_ttl(write.ttl_s)
        value = encode(write.value)
        if len(value) > CAPABILITIES.max_value_bytes:
            raise CapacityError(url=self.url, reason=f"a value of {len(value)} bytes", advice="Store it in parts.")
        return value, write.ttl_s

    def _check_size(self, keys: Mapping[str, Any]) -> None:
        for key in keys:
            check_key(key)
        if len(keys) > CAPABILITIES.max_transaction_keys:
            raise CapacityError(url=self.url, reason=f"{len(keys)} keys in one commit", advice="Use fewer.")

    def _require_open(self) -> None:
        if not self._is_open:
            raise ClosedError(url=self.url)
