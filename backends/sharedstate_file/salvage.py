"""`repair`: what is certain of a damaged store goes on in a new log; a copy of the old files is kept first.

Certain is the history up to the first damage: a prefix, as after a power loss.
Whole frames beyond it are counted, and their keys named, but not applied: they
may rest on what the damaged ones said.

Writers wait at their lock meanwhile.  Afterwards every open handle meets a new
log, and so sees what was kept; whoever goes on from a generation that it saw
before is refused, since every entry gets a new one.

Invariants:
    G1  the new log begins above every generation that was ever given out: those
        of damaged frames are bounded, for an operation takes three bytes or more
    G2  nothing is changed before the copy is on the disk, nor what the old log
        holds ever
Crash: until the head is made true the damaged log is still the store, and can be
repaired again.
"""

from __future__ import annotations

import os
import stat
from time import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from zlib import crc32

from sharedstate.backend import open_private, translate_os_error
from sharedstate.backend.repairs import Repair, copy_file, copy_name, make_copy_directory, sync_copies
from sharedstate.errors import CorruptError, StateError, StoreAccessError, UnavailableError
from sharedstate.model import ABSENT, boot_id
from sharedstate.values import decode
from sharedstate_file.compaction import write_checkpoint
from sharedstate_file.head import REMOVED, Head, length_of, next_number, number_of, word_of
from sharedstate_file.index import apply, entry_of, load, parse
from sharedstate_file.log import FRAME_BYTES, LOG_HEADER_BYTES, MAX_PAYLOAD_BYTES, Log
from sharedstate_file.place import Place, remove_file
from sharedstate_file.recovery import settle, survey
from sharedstate_file.writers import WriterLock

if TYPE_CHECKING:
    from sharedstate.backend import StoreUrl
    from sharedstate_file.index import Entries

__all__ = ["repair"]

_LEAST_OPERATION_BYTES: Final = 3  # a list of one key of one byte


def repair(url: StoreUrl, copy_to: str | None = None) -> Repair:
    """Mend the store; see `sharedstate.backend.plugin`."""
    path = url.path()
    place = Place(url.canonical(path), path, url.mode(), url.seconds("timeout", 5.0))
    url.choice("sync", ("os", "disk"))
    url.finish()
    if not os.path.lexists(path):
        raise UnavailableError(url=place.url, reason=f"there is no store in {path}", advice="Nothing to repair.")
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise StoreAccessError(url=place.url, reason=f"{path} is no directory", advice="Name the directory itself.")
    place.make()  # looks at its owner
    copy = copy_to or copy_name(path)
    try:
        return WriterLock(place).run(lambda: _repair(place, copy))
    except OSError as error:
        if isinstance(error, StateError):
            raise
        raise translate_os_error(place.url, error) from error


def _repair(place: Place, copy: str) -> Repair:
    place.mode = stat.S_IMODE(os.stat(place.lock).st_mode)
    try:
        return _require_whole(place)
    except (CorruptError, FileNotFoundError) as error:
        if not place.log_numbers():
            if isinstance(error, CorruptError):
                raise
            raise CorruptError(url=place.url, reason=f"{place.path} holds no log") from error
        damage = error.reason if isinstance(error, CorruptError) else f"{error.filename} is missing"
    found = _find(place)
    make_copy_directory(place.url, copy, place.path)
    for name in place.names():
        if name == "head" or name.startswith("log-"):
            copy_file(place.url, os.path.join(place.path, name), os.path.join(copy, name))
    sync_copies(copy)
    kept, undecodable = _go_on(place, found)
    lost = sorted({*found.keys, *undecodable})
    return Repair(copy, kept, found.dropped + len(undecodable), tuple(lost), (damage, *found.notes))


def _require_whole(place: Place) -> Repair:
    """Return the report of a store of which nothing is damaged, but for a head that its log makes good.

    Raises:
        CorruptError: something is.
        FileNotFoundError: the log that the head names is missing.
    """
    notes: tuple[str, ...] = ()
    head = Head.open(place.url, place.head)
    if head is None or not head.is_true(boot_id()):
        head = settle(place)
        notes = ("the head was made anew from the log",)
    if head is None or head.words[0] == REMOVED:
        raise place.gone()
    word = head.words[0]
    log = place.open_log(number_of(word))
    entries, generation = load(log, length_of(word))
    _, _, successor = survey(log, length_of(word), generation)
    if successor:  # a compaction that died: the next writer goes on there
        log = place.open_log(successor)
        entries, _ = load(log, survey(log, LOG_HEADER_BYTES, log.base)[0])
    for stored in entries.values():
        entry_of(stored)
    return Repair("", len(entries), notes=notes)


# --- What is certain ----------------------------------------------------------------


class _Found(NamedTuple):
    """What one log says: the entries of its whole beginning, and what was seen beyond.

    Attributes:
        entries: as of the last whole frame before any damage.
        reached: the generation of the last whole frame, wherever.
        bound: no generation above it was given out.
        dropped: changes beyond the damage that are known to have been made.
        keys: of those whose frames are whole.
        successor: the log that a whole frame names, or 0.
        notes: for the report.
    """

    entries: Entries
    reached: int
    bound: int
    dropped: int
    keys: set[str]
    successor: int
    notes: tuple[str, ...]


def _find(place: Place) -> _Found:
    head = Head.open(place.url, place.head)
    word = head.words[0] if head is not None and head.is_sealed() else 0
    if word == REMOVED:
        raise place.gone()
    logs = {number: log for number in place.log_numbers() if (log := _open_log(place, number)) is not None}
    if not logs:
        raise CorruptError(url=place.url, reason=f"no log in {place.path} has a whole beginning: nothing is certain")
    if head is not None and head.is_true(boot_id()) and number_of(word) in logs:
        log = logs[number_of(word)]
        others: list[Log] = []
    else:
        log = min(logs.values(), key=lambda candidate: candidate.base)
        others = list(logs.values())
    seen: list[int] = []
    notes: tuple[str, ...] = ()
    while True:
        seen.append(log.number)
        committed = length_of(word) if log.number == number_of(word) else 0
        found = _read(log, committed)
        if not found.successor or found.successor in seen:
            break
        if found.successor not in logs:
            notes = (f"log-{found.successor}, which goes on from {log.path}, is missing: its changes are lost",)
            break
        log = logs[found.successor]  # a complete copy of what lived, whatever ails its predecessor
    bound = found.bound
    if word and number_of(word) not in seen:
        bound += length_of(word) // _LEAST_OPERATION_BYTES
    for other in others:
        if other.number not in seen and _read(other, 0).bound > max(other.base, found.reached):
            raise CorruptError(url=place.url, reason=f"{log.path} and {other.path} both hold the latest entries")
    return found._replace(bound=bound, notes=(*notes, *found.notes))


def _open_log(place: Place, number: int) -> Log | None:
    """Open a log; with a damaged header by its first frame, whose checksum proves the mark."""
    try:
        return place.open_log(number)
    except CorruptError:
        path = place.log(number)
    fd = open_private(place.url, path, os.O_RDWR)
    start = os.pread(fd, FRAME_BYTES, LOG_HEADER_BYTES)
    mark, length, crc = start[:4], int.from_bytes(start[4:8], "little"), int.from_bytes(start[8:], "little")
    if len(start) == FRAME_BYTES and length <= MAX_PAYLOAD_BYTES:
        payload = os.pread(fd, length, LOG_HEADER_BYTES + FRAME_BYTES)
        if len(payload) == length and crc32(payload, int.from_bytes(mark, "little") ^ length) == crc:
            first = _parts(payload)
            if first:
                return Log(place.url, path, number, fd, mark=mark, base=first[0])
    os.close(fd)
    return None


def _parts(payload: bytes) -> list[Any]:
    """Return a whole frame's generation and operations, [] if it is none of ours."""
    try:
        parts: Any = decode(payload)
    except CorruptError:
        return []
    return parts if parts.__class__ is list and parts and type(parts[0]) is int and parts[0] >= ABSENT else []


def _read(log: Log, committed: int) -> _Found:
    """Read the log's whole beginning, and look at what is beyond."""
    size = log.size()
    entries: Entries = {}
    generation, end = log.base, LOG_HEADER_BYTES
    try:
        for payload, stop in log.frames(LOG_HEADER_BYTES, size):
            operations, after = parse(payload, generation, log, stop)
            if operations and type(operations[0]) is int:
                return _Found(entries, after, after, 0, set(), operations[0], ())
            apply(entries, operations, generation, log, stop)
            generation, end = after, stop
    except CorruptError:
        entries, generation = load(log, end)  # without a part of the frame that could not be applied
    beyond = _look_beyond(log, end, size, generation)
    notes = [f"kept: {log.path} up to offset {end}, generation {generation}"]
    # Of a damaged checkpoint, whose puts take no generation, at least the keys that were seen.
    dropped = max(beyond.generation - generation, len(beyond.keys))
    if beyond.frames:
        notes.append(f"dropped: {beyond.frames} whole frames beyond it, and what lay between, {dropped} changes")
    unread = max(size, committed) - beyond.end
    if unread > 0:
        notes.append(f"dropped: {unread} bytes from offset {beyond.end} on that are no whole frame")
    bound = beyond.generation + max(-(-unread // _LEAST_OPERATION_BYTES), 0)
    return _Found(entries, beyond.generation, bound, dropped, beyond.keys, beyond.successor, tuple(notes))


class _Beyond(NamedTuple):
    """The whole frames after a damaged one: how many, where the last ends, the generation there, and what they name."""

    frames: int
    end: int
    generation: int
    keys: set[str]
    successor: int


def _look_beyond(log: Log, end: int, size: int, generation: int) -> _Beyond:
    keys: set[str] = set()
    frames = successor = 0
    at = log.find_frame(end + 1, size) if end < size else None
    while at is not None:
        length = int.from_bytes(os.pread(log.fd, 4, at + 4), "little")
        end = at + FRAME_BYTES + length
        parts = _parts(os.pread(log.fd, length, at + FRAME_BYTES))
        if parts and parts[0] >= generation:  # else it is none that could follow
            frames += 1
            generation = parts[0]
            for operation in parts[1:]:
                kind = operation.__class__
                if kind is int:
                    successor = operation
                elif kind is list and operation and type(operation[0]) is str:
                    keys.add(operation[0])
                generation += kind is int or (kind is list and len(operation) != 4)
        at = log.find_frame(end, size) if end < size else None
    return _Beyond(frames, end, generation, keys, successor)


# --- The new log ----------------------------------------------------------------------


def _go_on(place: Place, found: _Found) -> tuple[int, list[str]]:
    """Write what was found into a new log; return how many entries it has, and the keys whose values are no values."""
    base = found.bound + 1
    entries: Entries = {}
    undecodable: list[str] = []
    now = time()
    for key, stored in found.entries.items():
        kept, form, _, expires_at, size = stored
        if expires_at is not None and expires_at <= now:
            continue
        try:
            entry_of(stored)
        except CorruptError:
            undecodable.append(key)
            continue
        entries[key] = (kept, form, base, expires_at, size)  # G1: also above what was lost of this key
    numbers = place.log_numbers()
    head = Head.open(place.url, place.head)
    if head is not None and head.is_sealed():
        numbers.append(number_of(head.words[0]))
    number = next_number(max(numbers))
    while number in numbers:
        number = next_number(number)
    remove_file(place.draft)
    heir = Log.create(place.url, place.draft, base, place.mode)
    try:
        length, frames = write_checkpoint(heir, entries, base, now)
        heir.note_checkpoint(frames)
        os.fsync(heir.fd)
        os.rename(place.draft, place.log(number))
    except BaseException:
        remove_file(place.draft)
        raise
    place.sync_directory()
    # The damaged ones go first, and for good: beside the new one, once that is
    # written to, nothing would tell which of them goes on.  Until the head is true
    # again, an opener finds the new one by itself.
    if head is not None:
        head.distrust()
    place.drop_logs(keep=number)
    place.sync_directory()
    head = Head.make(place.url, place.head, place.mode)
    head.make_true(boot_id(), word_of(number, length))
    return len(entries), undecodable
