"""Which log is the truth, and how much of it: answered from the logs alone.

Needed when a store is made, after a reboot or a power loss, when the head is
missing or damaged, and for what a killed writer left beyond the committed
length.  Everything here needs the writers' lock.

Invariants:
    V1  a log that has a number is complete: it was made as a draft, synced and
        then renamed
    V2  of several logs the one with the least base is the oldest; an end frame
        in it names the one that goes on; a log that none names is an
        unfinished compaction, and holds nothing but a copy: no generation that
        the oldest one has not reached
    V3  only the last write may be torn: a damaged frame before a whole one is
        never cut, since what follows it was acknowledged; nor is a frame of the
        checkpoint, by V1
Crash: each step leaves a store that this module settles to the same content.
"""

from __future__ import annotations

import os

from sharedstate.backend import PresenceFiles, make_directory, translate_os_error
from sharedstate.errors import CorruptError
from sharedstate.model import ABSENT, boot_id
from sharedstate_file.durability import sync_log
from sharedstate_file.head import REMOVED, Head, length_of, word_of
from sharedstate_file.index import parse
from sharedstate_file.log import LOG_HEADER_BYTES, Log
from sharedstate_file.place import remove_file

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from sharedstate_file.place import Place
    from sharedstate_file.writers import WriterLock

__all__ = ["attach", "finish_removal", "mend", "settle", "survey"]


def survey(log: Log, start: int, generation: int) -> tuple[int, int, int]:
    """Read the frames from `start` to the end of the file, up to a torn tail.

    Returns:
        Where the last whole frame that changes entries ends, the store's
        generation there, and the number of the log that goes on, or 0.

    Raises:
        CorruptError: something other than the last write is damaged.
    """
    size = log.size()
    end, successor = start, 0
    synced = log.checkpoint if start == LOG_HEADER_BYTES else 0  # frames that are not there yet
    frames = log.frames(start, size)
    while end < size:
        try:
            payload, stop = next(frames)
        except CorruptError as damage:
            later = log.find_frame(end + 1, size)
            if later is None:
                if synced > 0:
                    raise
                break
            raise CorruptError(
                url=log.url,
                reason=f"{damage.reason}, and a whole one at offset {later}",
                advice=f"Restore a backup; or accept the loss of all that follows: truncate {log.path} to {end} bytes.",
            ) from damage
        operations, generation = parse(payload, generation, log, stop)
        if operations and type(operations[0]) is int:
            if log.find_frame(stop, size) is not None:
                raise log.damaged(stop, "a frame after the end of the log")
            successor = operations[0]
            break
        end = stop
        synced -= 1
    if synced > 0:
        raise log.damaged(end, f"the log ends here, amid its checkpoint of {log.checkpoint} frames")
    return end, generation, successor


# --- Opening ------------------------------------------------------------------------


def attach(place: Place, writers: WriterLock) -> Head | None:
    """Return the store's head, made or mended first if need be; None if the store was removed meanwhile.

    Raises:
        CorruptError: the directory is foreign, or the store is damaged.
        UnavailableError: it is of another version, or cannot be reached.
        CapacityError: there is no room to make it.
    """
    head = Head.open(place.url, place.head)
    if head is not None and head.is_true(boot_id()) and head.words[0] != REMOVED:
        return head

    def body() -> Head | None:
        if not writers.is_current():
            return None
        try:
            return settle(place)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not os.path.exists(place.lock):
                return None
            raise translate_os_error(place.url, error) from error

    return writers.run(body)


def settle(place: Place) -> Head | None:
    """Do what `attach` does, inside the writers' section; None if the store was removed."""
    boot = boot_id()
    head = Head.open(place.url, place.head)
    if head is not None and head.is_sealed() and head.words[0] == REMOVED:
        finish_removal(place)
        return None
    if head is not None and head.is_true(boot):
        return head
    numbers = place.log_numbers()
    word = _derive(place, numbers) if numbers else _create(place)
    # Before others take the head for true, and write to a log whose name may not
    # last; and before there is a head, which without a log would be a damaged store.
    place.sync_directory()
    head = Head.make(place.url, place.head, place.mode)
    head.make_true(boot, word)
    return head


def _create(place: Place) -> int:
    place.require_free(place.names())
    if os.stat(place.lock).st_size:
        reason = f"{place.lock} holds something, and is no lock file of a store"
        raise CorruptError(url=place.url, reason=reason, advice="Name another directory.")
    make_directory(place.url, place.locks, 0o100 | place.mode | (place.mode & 0o444) >> 2)
    place.drop_logs()
    place.sync_directory()  # a log without the lock file would be a damaged store
    try:
        log = Log.create(place.url, place.draft, ABSENT, place.mode)
        os.fsync(log.fd)
        os.rename(place.draft, place.log(1))
    except OSError:
        place.drop_logs()
        raise
    return word_of(1, LOG_HEADER_BYTES)


def _derive(place: Place, numbers: list[int]) -> int:
    logs = {number: place.open_log(number) for number in numbers}
    log = min(logs.values(), key=lambda candidate: candidate.base)
    seen = [log.number]
    end, generation, successor = survey(log, LOG_HEADER_BYTES, log.base)
    while successor:
        if successor in seen or successor not in logs:
            reason = f"{log.path} is followed by log-{successor}, which is missing"
            raise CorruptError(url=place.url, reason=reason)
        log = logs[successor]
        seen.append(log.number)
        end, generation, successor = survey(log, LOG_HEADER_BYTES, log.base)
    for other in logs.values():
        # V2: losing a log that holds more than a copy would be a guess.
        if other.number in seen:
            continue
        if survey(other, LOG_HEADER_BYTES, other.base)[1] > max(generation, other.base):
            raise CorruptError(url=place.url, reason=f"{log.path} and {other.path} both hold the latest entries")
    log.cut(end)
    os.fsync(log.fd)
    place.drop_logs(keep=log.number)
    return word_of(log.number, end)


# --- What a killed writer left --------------------------------------------------------


def mend(place: Place, head: Head, log: Log, word: int, generation: int) -> int:
    """Adopt the whole frames beyond the committed length, cut a torn one, and return the word that is due.

    Raises:
        CorruptError: the log is shorter than its committed length, or damaged.
    """
    end = length_of(word)
    size = log.size()
    if size < end:
        raise log.damaged(size, f"the log ends here, and its head counts {end} bytes")
    if size > end:
        whole, _, successor = survey(log, end, generation)
        if successor:
            heir = place.open_log(successor)
            word = word_of(successor, survey(heir, LOG_HEADER_BYTES, heir.base)[0])
        else:
            log.cut(whole)
            word = word_of(log.number, whole)
        # What is adopted may be read, and so must last as long as any other write.
        sync_log(head, log)
    return word


def finish_removal(place: Place) -> None:
    """Remove what is left of a store whose head says REMOVED; the lock file goes last.

    The head outlives the logs, and the lock file both, through a power loss too.
    """
    place.drop_logs()
    remove_file(place.copy)  # its maker finds the store gone
    place.sync_directory()
    if os.path.isdir(place.locks) and not os.path.islink(place.locks):
        for name in os.listdir(place.locks):
            if name.endswith((".lock", *PresenceFiles.ENDINGS)):
                os.unlink(os.path.join(place.locks, name))
        _try_rmdir(place.locks)
    remove_file(place.head)
    place.sync_directory()
    remove_file(place.lock)
    _try_rmdir(place.path)


def _try_rmdir(path: str) -> None:
    try:  # noqa: SIM105  contextlib would cost each fresh interpreter its import
        os.rmdir(path)
    except OSError:
        pass  # somebody keeps files of his own there
