"""The entries of a diskcache directory, brought into a store.

    I1  Nothing in the cache is changed, also while it is in use (D1 to D4, in
        `cache_directory`).
    I2  No pickle is executed, unless the caller said so (K1, in `pickles`).
    I3  What cannot be brought over as it is stays behind, and is named with the
        reason; so does each of several entries that would have the same key.
    I4  In the target nothing is replaced unasked, and what is there and the same is
        not written: Y1 to Y3, in `copying`.  An import that was interrupted is
        begun again.

Each entry is read at its own moment.  Of what the cache's users write meanwhile,
some is there and some is not: stop them, and import once more with `overwrite`.
The module needs no diskcache, and its name is no clash: imports are absolute.
"""

from __future__ import annotations

import math
import os
import reprlib
import sys
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sharedstate.backend.waiting import MAX_TTL_S
from sharedstate.errors import KeyFormatError, ValueTypeError
from sharedstate.migration.cache_directory import CacheDirectory, UnfitError, printable
from sharedstate.migration.comparing import Lasting
from sharedstate.migration.copying import Outcome, put_entry
from sharedstate.values import check_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate.migration.cache_directory import Row, Shard
    from sharedstate.store import Store

__all__ = ["ImportReport", "LeftBehind", "import_cache", "import_diskcache"]

# Of the column `mode`: what `value`, or the file, is.
_RAW: Final = 1
_BINARY: Final = 2
_TEXT: Final = 3
_PICKLE: Final = 4


class LeftBehind(NamedTuple):
    """An entry that was not brought over.

    Attributes:
        key: of the cache, as it is if a store's can be so, else as Python writes it.
        reason: why not.
    """

    key: str
    reason: str


class ImportReport(NamedTuple):
    """What `import_diskcache` did; the keys in alphabetical order.

    Attributes:
        written: how many entries were written.
        same: how many were there already.
        expired: how many had expired, or were gone when their turn came.
        tags: how many of those that are in the target now had a tag, which a store's entries have not.
        refused: keys that differ in the target and were left as they are.
        too_large: keys whose values the target does not take.
        left_behind: entries that a store cannot have, and why.
    """

    written: int
    same: int
    expired: int
    tags: int
    refused: tuple[str, ...]
    too_large: tuple[str, ...]
    left_behind: tuple[LeftBehind, ...]

    def is_complete(self) -> bool:
        """Return whether all that the cache had is in the target."""
        return not (self.refused or self.too_large or self.left_behind)


def import_diskcache(
    directory: str | os.PathLike[str],
    target: Store,
    *,
    overwrite: bool = False,
    int_keys: bool = False,
    allow_pickle: bool = False,
    timeout_s: float = 10.0,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Bring the entries of a `diskcache.Cache`, or `FanoutCache`, into a store, or namespace.

    Keys that are str come over as they are, and others stay behind.  Values come
    over as what they were, pickled ones if they are plain: of None, bool, int,
    float, str, bytes, list, tuple and dict.  Deadlines come over as the time that
    is left; one that no store has, since it is decades off, is dropped.  Tags, and
    what diskcache knows of accesses, stay behind.

    Args:
        directory: what `diskcache.Cache` or `FanoutCache` was given.  It may be in use, and is only read.
        target: written to.
        overwrite: replace what differs in the target.
        int_keys: bring over entries whose keys are int, under the number as text.
        allow_pickle: execute pickles that are not plain.  Whoever could write to the directory can then do all that
            the caller can.
        timeout_s: how long to wait for somebody who locked the database.
        progress: called now and then with how many entries are done, and of how many.

    Raises:
        UnavailableError: there is no such cache, or it is locked or out of reach.
        CorruptError: its database is damaged.
        CapacityError: the target is full.  What was written stays; make room and import again.
    """
    with CacheDirectory(os.fsdecode(directory), timeout_s) as cache:
        return import_cache(
            cache, target, overwrite=overwrite, int_keys=int_keys, allow_pickle=allow_pickle, progress=progress
        )


def import_cache(
    cache: CacheDirectory,
    target: Store,
    *,
    overwrite: bool,
    int_keys: bool,
    allow_pickle: bool,
    progress: Callable[[int, int], None] | None,
) -> ImportReport:
    """Do what `import_diskcache` does, with a cache that is open."""
    listing = _Listing(cache, int_keys)
    left_behind = listing.left_behind
    outcomes: dict[Outcome, list[str]] = {outcome: [] for outcome in Outcome}
    tags = 0
    for done, (key, source) in enumerate(sorted(listing.sources.items())):
        if progress is not None:
            progress(done, len(listing.sources))
        entry = _Entry(*source, allow_pickle, target.capabilities.max_value_bytes)
        try:
            outcome = put_entry(target, key, entry.read, overwrite=overwrite)
        except (KeyFormatError, UnfitError) as error:
            left_behind.append(LeftBehind(_shown(key), str(error)))
        except ValueTypeError as error:
            left_behind.append(LeftBehind(_shown(key), f"{error.path} is {error.found}"))
        except _TooLargeError:
            outcomes[Outcome.TOO_LARGE].append(key)
        else:
            outcomes[outcome].append(key)
            tags += entry.has_tag and outcome in {Outcome.WRITTEN, Outcome.SAME}
    return ImportReport(
        written=len(outcomes[Outcome.WRITTEN]),
        same=len(outcomes[Outcome.SAME]),
        expired=listing.expired + len(outcomes[Outcome.GONE]),
        tags=tags,
        refused=tuple(outcomes[Outcome.REFUSED]),
        too_large=tuple(outcomes[Outcome.TOO_LARGE]),
        left_behind=tuple(sorted(left_behind)),
    )


# --- Keys ---------------------------------------------------------------------------


class _Listing:
    """What is in a cache, by the key that it is to have in a store.

    Attributes:
        sources: where to read what is to come over: shard, and key there.
        left_behind: what cannot.
        expired: how many entries had.
    """

    def __init__(self, cache: CacheDirectory, int_keys: bool) -> None:
        self.left_behind: list[LeftBehind] = []
        self.expired = 0
        places: dict[str, list[tuple[Shard, str | int]]] = {}
        for shard in cache.shards:
            for stored, raw, expires_at in shard.list_keys():
                if _has_expired(expires_at):
                    self.expired += 1
                elif raw != 1:
                    self.left_behind.append(LeftBehind(_shown_pickle(stored), "its key is a pickle"))
                elif type(stored) is str or (int_keys and type(stored) is int):
                    places.setdefault(str(stored), []).append((shard, stored))
                else:
                    self.left_behind.append(LeftBehind(_shown(stored), f"its key is {_kind_of(stored)}"))
        for key in [key for key, found in places.items() if len(found) > 1]:
            # 1 and "1", or shards of a time when there were more of them: nobody knows which one counts.
            where = ", ".join(f"{stored!r} in {shard.name}" for shard, stored in places.pop(key))
            self.left_behind.append(LeftBehind(_shown(key), f"several entries would have this key: {printable(where)}"))
        self.sources = {key: found for key, (found,) in places.items()}


def _kind_of(key: object) -> str:
    kinds: dict[object, str] = {int: "an int", float: "a float", bytes: "bytes"}
    return kinds.get(type(key), "a float that is no number")  # which SQLite has as NULL


_REPR: Final = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 100


def _shown(key: Any) -> str:
    """Return a key as it is if a store's can be so, else as Python writes it."""
    try:
        check_key(key)
    except KeyFormatError:
        return printable(_REPR.repr(key))
    return str(key)


def _shown_pickle(key: Any) -> str:
    """Return a pickled key as Python writes it, if it is plain."""
    from sharedstate.migration.pickles import read_plain

    try:
        return printable(_REPR.repr(read_plain(key)))
    except Exception:  # noqa: BLE001  a malformed pickle raises anything
        return f"a pickle of {len(key)} bytes" if type(key) is bytes else printable(_REPR.repr(key))


# --- Values -------------------------------------------------------------------------


class _TooLargeError(Exception):
    """A file is longer than any value of the target."""


class _Entry:
    """One entry of the cache, as it is whenever `put_entry` asks for it.

    Attributes:
        has_tag: whether it had one when it was read last.
    """

    def __init__(self, shard: Shard, key: str | int, allow_pickle: bool, max_value_bytes: int) -> None:
        self.has_tag = False
        self._shard = shard
        self._key = key
        self._allow_pickle = allow_pickle
        self._max_value_bytes = max_value_bytes

    def read(self) -> Lasting | None:
        """Return the value and the time left, or None if the entry is gone.

        Raises:
            UnfitError: no store can have it.
            _TooLargeError: nor can the target.
        """
        missing = None
        while True:
            row = self._shard.row(self._key)
            if row is None or _has_expired(row.expires_at):
                return None
            try:
                value = self._value(row)
            except FileNotFoundError:
                # Somebody wrote the entry anew, and its new value is in another file; or the file is lost.
                if row.filename == missing:
                    raise UnfitError(f"its file {printable(row.filename)} is missing") from None
                missing = row.filename
            else:
                self.has_tag = row.tag is not None
                left_s = _left_s(row.expires_at)
                return None if left_s is not None and left_s <= 0 else Lasting(value, left_s)

    def _value(self, row: Row) -> Any:
        if row.mode == _RAW:
            return math.nan if row.value is None else row.value  # SQLite has no NaN, and diskcache pickles None
        if row.mode == _BINARY:
            return self._file(row, self._max_value_bytes)
        if row.mode == _TEXT:
            try:
                return self._file(row, self._max_value_bytes).decode()
            except UnicodeDecodeError as error:
                raise UnfitError(f"its text is no UTF-8: {error.reason} at byte {error.start}") from None
        if row.mode == _PICKLE:
            return self._unpickled(self._file(row, sys.maxsize) if row.value is None else row.value)
        raise UnfitError(f"its mode is {printable(repr(row.mode))}, which is none of diskcache's")

    def _file(self, row: Row, at_most: int) -> bytes:
        content = self._shard.read_file(row, at_most)
        if content is None:
            raise _TooLargeError
        return content

    def _unpickled(self, pickled: Any) -> Any:
        from pickle import loads

        from sharedstate.migration.pickles import NamingError, read_plain

        load = loads if self._allow_pickle else read_plain  # the caller said so (I2)
        try:
            return load(pickled)
        except NamingError as error:
            raise UnfitError(f"its pickle names {printable(error.name)}") from None
        except Exception as error:  # noqa: BLE001  a malformed pickle raises anything, and so does one that is executed
            raise UnfitError(f"its pickle raises {printable(f'{type(error).__name__}: {error}')}") from None


def _has_expired(expires_at: Any) -> bool:
    return type(expires_at) in {int, float} and expires_at <= time.time()


def _left_s(expires_at: Any) -> float | None:
    """Return the seconds until a deadline; None if there is none, or none that a store could have."""
    if expires_at is None:
        return None
    if type(expires_at) not in {int, float}:
        raise UnfitError("its deadline is no number")
    left_s = float(expires_at - time.time())
    return left_s if left_s <= MAX_TTL_S else None
