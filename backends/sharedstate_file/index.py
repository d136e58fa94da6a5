"""What a handle knows: the entries as of one place in the log, ready to hand out.

    payload = [generation, operation, ...]      msgpack, by sharedstate.values
    operation = [key]                                   delete
              | [key, expires_at]                       touch
              | [key, expires_at, value]                put
              | [key, expires_at, generation, value]    put of a checkpoint
              | number                                  the log ends; `log-<number>` goes on

`generation` is the store's before this frame.  A frame's operations take the
next ones in turn, except a checkpoint's, which keep their own.  A value is the
msgpack `bin` of its own encoding, so that it can be kept without being decoded.

Thread safety: none of its own; the backend holds its index lock.  An entry is
one tuple, replaced and never changed, so a single look-up needs no lock.
"""

from __future__ import annotations

import os
from zlib import crc32

from sharedstate.errors import CorruptError
from sharedstate.model import ABSENT, Entry
from sharedstate.values import decode, encode
from sharedstate_file.log import LOG_HEADER_BYTES

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any, Final, TypeAlias

    from sharedstate_file.log import Log

__all__ = [
    "LOCATED",
    "LOCATED_FROM",
    "apply",
    "encoding_of",
    "entry_of",
    "follow",
    "is_same",
    "live_bytes",
    "load",
    "parse",
    "replay",
    "value_of",
]

try:
    from sharedstate_file._replay import replay
except ImportError:

    def replay(entries: Entries, payload: bytes, generation: int, /) -> int:
        """Leave every frame to `parse` and `apply`."""
        del entries, payload, generation
        return -1


PLAIN: Final = 0  # the value itself, which nobody can change
ENCODED: Final = 1  # its encoding, decoded at each get
LOCATED: Final = 2  # where its encoding stands in the log

LOCATED_FROM: Final = 16 * 1024
"""Larger values stay in the log."""
_ENTRY_BYTES: Final = 24  # of a frame, around the key and the value

# The encodings that begin so are containers and extensions (tuple, datetime).
_COMPOSITE: Final = frozenset({*range(0x80, 0xA0), *range(0xC7, 0xCA), *range(0xD4, 0xD9), *range(0xDC, 0xE0)})


if TYPE_CHECKING:
    # Kept value, form, generation, expires_at, encoded bytes.  A plain tuple and
    # no class: a get unpacks it, which is several times faster for an exact tuple.
    Stored: TypeAlias = tuple[Any, int, int, float | None, int]
    Entries: TypeAlias = dict[str, Stored]

    # A large value's place: log, offset, length, checksum.  It keeps the log
    # open, even when that is not the current one any more.
    Located: TypeAlias = tuple[Log, int, int, int]


def parse(payload: bytes, generation: int, log: Log, end: int) -> tuple[list[Any], int]:
    """Return a frame's operations and the store's generation after them.

    Args:
        payload: of the frame.
        generation: the store's before it.
        log: that holds it, for errors.
        end: where it ends there.

    Raises:
        CorruptError: it breaks the grammar, or is not the next one.
    """
    try:
        first, *operations = decode(payload)
    except (CorruptError, TypeError, ValueError) as error:
        raise log.damaged(end - len(payload), "a payload outside the grammar") from error
    if type(first) is not int or first != generation:
        raise log.damaged(end - len(payload), f"a frame after generation {first!r} where {generation} is due")
    for operation in operations:
        kind = operation.__class__
        if kind is int and len(operations) == 1:
            generation += 1  # the end of the log
        elif kind is not list:
            raise log.damaged(end - len(payload), "an operation outside the grammar")
        elif len(operation) != 4:
            generation += 1
        elif type(operation[2]) is not int or not ABSENT < operation[2] <= generation:
            raise log.damaged(end - len(payload), "a generation from the future")
    return operations, generation


def apply(entries: Entries, operations: list[Any], generation: int, log: Log, end: int) -> None:
    """Change `entries` as a frame's operations say; doing it twice does no harm.

    Args:
        entries: to change.
        operations: as `parse` returned them.
        generation: the store's before the frame.
        log: that holds the frame.
        end: where it ends there.
    """
    ends: dict[int, int] | None = None
    try:
        for operation in operations:
            count = len(operation)
            key = operation[0]
            if type(key) is not str or count > 4:
                raise TypeError(key)  # noqa: TRY301  every kind of nonsense ends below
            own = generation = generation + 1
            if count == 4:
                own = operation[2]
                generation -= 1
            if count == 1:
                entries.pop(key, None)
                continue
            expires_at = operation[1]
            if expires_at is not None and type(expires_at) is not float:
                raise TypeError(expires_at)  # noqa: TRY301
            if count == 2:
                value, form, own, _, size = entries[key]
                entries[key] = (value, form, own, expires_at, size)
            else:
                encoded = operation[-1]
                size = len(encoded)
                if size > LOCATED_FROM:
                    ends = ends or _ends(operations, end)
                    place = (log, ends[id(operation)] - size, size, crc32(encoded))
                    entries[key] = (place, LOCATED, own, expires_at, size)
                elif encoded[0] in _COMPOSITE:
                    entries[key] = (encoded, ENCODED, own, expires_at, size)
                else:
                    entries[key] = (decode(encoded), PLAIN, own, expires_at, size)
    except (CorruptError, LookupError, TypeError, ValueError) as error:
        raise log.damaged(end, "the frame that ends here holds an operation outside the grammar") from error


def _ends(operations: list[Any], end: int) -> dict[int, int]:
    """Return where each operation ends in the log, by its id(): the last one does where the frame does."""
    # An encoding is the shortest there is, so encoding them again gives the
    # lengths that were written.  Each value is its operation's last bytes.
    ends: dict[int, int] = {}
    for operation in reversed(operations):
        ends[id(operation)] = end
        end -= len(encode(operation))
    return ends


def load(log: Log, end: int) -> tuple[Entries, int]:
    """Return the entries as of `end`, and the store's generation there.

    Raises:
        CorruptError: the log is shorter, or something in it is damaged.
    """
    if log.size() < end:
        raise log.damaged(log.size(), f"the log ends here, and its head counts {end} bytes")
    entries: Entries = {}
    generation = log.base
    for payload, stop in log.frames(LOG_HEADER_BYTES, end):
        generation = follow(entries, payload, generation, log, stop)
    return entries, generation


def follow(entries: Entries, payload: bytes, generation: int, log: Log, end: int) -> int:
    """Change `entries` as a frame says, and return the store's generation after it; arguments and errors as `parse`."""
    after = replay(entries, payload, generation)
    if after < 0:
        operations, after = parse(payload, generation, log, end)
        apply(entries, operations, generation, log, end)
    return after


# --- Handing out ----------------------------------------------------------------


def value_of(kept: Any, form: int) -> Any:
    """Return a new copy of a kept value.

    Raises:
        CorruptError: a large value's bytes are not what they were.
    """
    if form == PLAIN:
        return kept
    return decode(kept if form == ENCODED else _read(kept))


def entry_of(stored: Stored) -> Entry:
    """Return what a caller may see of an entry."""
    kept, form, generation, expires_at, _ = stored
    return Entry(value_of(kept, form), generation, expires_at)


def encoding_of(stored: Stored) -> bytes:
    """Return the encoded value, as it stands in the log."""
    kept, form, _, _, _ = stored
    if form == PLAIN:
        return encode(kept)
    return kept if form == ENCODED else _read(kept)


def is_same(one: Stored | None, other: Stored | None) -> bool:
    """Return whether both are there and alike, to the bit: nan is unequal to itself, and 0.0 equals -0.0."""
    if one is None or other is None or one[1:] != other[1:]:
        return False
    return encode(one[0]) == encode(other[0]) if one[1] == PLAIN else one[0] == other[0]


def _read(place: Located) -> bytes:
    log, offset, length, crc = place
    encoded = os.pread(log.fd, length, offset)
    if len(encoded) != length or crc32(encoded) != crc:
        raise log.damaged(offset, "a damaged value")
    return encoded


def live_bytes(entries: Entries, now: float) -> tuple[int, int]:
    """Return how many entries have not expired, and about how many bytes of log they need."""
    count = size = 0
    for key, (_, _, _, expires_at, length) in entries.items():
        if expires_at is None or expires_at > now:
            count += 1
            size += len(key) + length + _ENTRY_BYTES
    return count, size
