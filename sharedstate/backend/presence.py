"""Who shares a store just now: what every backend promises of it, and how files do it.

    S1  A sharer is present from `announce` until its `Presence` ends: by
        `leave`, by the end of the object, or by the death of its process at the
        latest; by the kernel, never by a timeout.  Slow is not dead.
    S2  A token is never used twice.
    S3  Who is found absent stays absent: so what an absent sharer has left
        behind may be taken over.
    S4  A forked child is none of its parent's presences.
    S5  A sharer of a store that moves is one of the new store's by the same token
        before its handle does anything there (`Backend.readmit`).

As files: `<token>.sharer` beside the store's lock files, under a flock that its
maker holds as long as it lives.  The file gets its name only once it is locked
and complete, so a file of that name without a lock is one whose maker is gone
(S3).  Whoever finds such a file may remove it.  Whoever is present has a page of
the store's counters, too (`counters`), where there is one to be had.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock

from sharedstate.backend.counters import COUNTERS, CounterPage
from sharedstate.backend.files import has_name, open_private, translate_os_error
from sharedstate.backend.forks import fork_epoch, keep_on_fork, open_unshared
from sharedstate.errors import CorruptError, StateError, StoreAccessError
from sharedstate.model import Owner, Sharer
from sharedstate.values import decode, encode

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

    from sharedstate.backend.counters import Counts
    from sharedstate.backend.locks import LockDirectory

__all__ = ["Presence", "PresenceFiles", "new_sharer"]

_NAMED: Final = ".sharer"
_UNNAMED: Final = ".joining"
_FORMAT: Final = 1
_TOKEN_LENGTH: Final = 32
_TRIES: Final = 100
_SWEPT_AT_ONCE: Final = 8  # by who joins: each adds one file, so the dead never pile up


def new_sharer(facts: Mapping[str, Any], token: str = "") -> Sharer:
    """Return the record of the calling thread, with a token of its own if none is given."""
    owner = Owner.current()
    return Sharer(token or f"{owner.token}{os.urandom(8).hex()}", owner, time.time(), dict(facts))


class Presence(ABC):
    """A place among the sharers of a store, held until `leave` or the end of this object.

    Attributes:
        token: its name there.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        self._epoch = fork_epoch()
        self._has_left = False

    @abstractmethod
    def _leave(self) -> None:
        """Give the place back; called at most once, and never in a forked child."""

    def is_held(self) -> bool:
        """Return whether the caller is still there; False in a forked child (S4)."""
        return not self._has_left and self._epoch == fork_epoch()

    def leave(self) -> None:
        """Give the place back.  Leaving twice is no error."""
        if self.is_held():
            self._has_left = True
            self._leave()

    def forget(self) -> None:
        """Let the place be, for another presence of the same token has it now."""
        self._has_left = True

    def __del__(self) -> None:
        if hasattr(self, "_has_left"):  # not if the constructor was interrupted
            self.leave()


class FilePresence(Presence):
    """A flock on a file of its own.

    Attributes:
        page: what the handle counts in meanwhile.
    """

    def __init__(self, token: str, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path
        self.page: CounterPage | None = None
        super().__init__(token)

    def is_held(self) -> bool:
        """Return whether the caller is still there: not if the file was removed, with the store."""
        return super().is_held() and has_name(self._fd)

    def _leave(self) -> None:
        if self.page is not None:
            self.page.leave()
        _remove(self._path)
        _close(self._fd)

    def leave(self) -> None:
        """Give the place back.  Leaving twice is no error."""
        if Presence.is_held(self):  # also one whose file has gone: the descriptor is still ours
            self._has_left = True
            self._leave()


class PresenceFiles:
    """The sharers of one store, as files in the directory of its locks."""

    ENDINGS: Final = (_NAMED, _UNNAMED, COUNTERS)
    """Of its files' names."""

    def __init__(self, directory: LockDirectory, counts: Counts | None = None) -> None:
        self._directory = directory
        self._counts = counts  # the handle's, of whoever is announced; None: nobody counts

    def announce(self, facts: Mapping[str, Any]) -> FilePresence:
        """Make the caller a sharer.

        Raises:
            CapacityError: no room for its file.
            StoreAccessError: the directory is not ours to write to.
        """
        for _ in range(_TRIES):
            sharer = new_sharer(facts)
            presence = self._try_to_join(sharer, encode((_FORMAT, *sharer[:1], tuple(sharer.owner), *sharer[2:])))
            if presence is not None:
                self._sweep_some()
                if self._counts is not None and not self._counts.is_attached:
                    presence.page = CounterPage.claim(self._counts, self._directory, sharer.token, self._is_gone)
                return presence
        reason = f"files of {self._directory.path} vanish as soon as they are made"
        raise StoreAccessError(url=self._directory.url, reason=reason, advice="Look for a program that removes them.")

    def sharers(self) -> list[Sharer]:
        """Return those who are present now, in the order in which they came; remove what the dead left."""
        present = [sharer for path in self._paths(_NAMED) if (sharer := self._look(path)) is not None]
        return sorted(present, key=lambda sharer: sharer.since)

    def is_present(self, token: str) -> bool:
        """Return whether the sharer of that token is present."""
        if len(token) != _TOKEN_LENGTH or not token.isalnum():
            return False  # nobody's: the token may come from stored bytes, so it must not lead out of the directory
        return not self._is_dead(os.path.join(self._directory.path, token + _NAMED))

    # --- Joining ------------------------------------------------------------

    def _try_to_join(self, sharer: Sharer, record: bytes) -> FilePresence | None:
        path = os.path.join(self._directory.path, sharer.token)
        fd = open_unshared(lambda: self._directory.open(path + _UNNAMED))
        try:
            try:
                # Whoever looks at it now takes it for left behind and removes it: then once more.
                flock(fd, LOCK_EX | LOCK_NB)
                os.pwrite(fd, record, 0)
                if os.fstat(fd).st_size != len(record):
                    raise translate_os_error(self._directory.url, OSError(28, os.strerror(28), path))
                os.rename(path + _UNNAMED, path + _NAMED)
            except (BlockingIOError, FileNotFoundError):
                _close(fd)
                return None
            except OSError as error:
                raise translate_os_error(self._directory.url, error) from error
        except BaseException:
            _remove(path + _UNNAMED)
            _close(fd)
            raise
        return FilePresence(sharer.token, fd, path + _NAMED)

    def _is_gone(self, token: str) -> bool:
        try:
            return not self.is_present(token)
        except StateError:
            return False  # somebody else's file: not ours to judge

    # --- Looking ------------------------------------------------------------

    def _paths(self, *endings: str) -> list[str]:
        try:
            names = os.listdir(self._directory.path) if self._directory.is_there() else []
        except FileNotFoundError:
            return []
        except OSError as error:
            if isinstance(error, StateError):
                raise
            raise translate_os_error(self._directory.url, error) from error
        return [os.path.join(self._directory.path, name) for name in names if name.endswith(endings)]

    def _is_dead(self, path: str) -> bool:
        """Return whether nobody holds the file; then it is removed."""
        fd = self._open(path)
        if fd is None:
            return True
        try:
            return self._bury(fd, path)
        finally:
            _close(fd)

    def _look(self, path: str) -> Sharer | None:
        fd = self._open(path)
        if fd is None:
            return None
        try:
            return None if self._bury(fd, path) else self._parse(os.pread(fd, os.fstat(fd).st_size, 0), path)
        finally:
            _close(fd)

    def _bury(self, fd: int, path: str) -> bool:
        try:
            flock(fd, LOCK_SH | LOCK_NB)
        except BlockingIOError:
            return False
        _remove(path)
        return True

    def _open(self, path: str) -> int | None:
        try:
            return open_unshared(lambda: open_private(self._directory.url, path, os.O_RDONLY))
        except FileNotFoundError:
            return None

    def _parse(self, record: bytes, path: str) -> Sharer:
        try:
            form, token, owner, since, facts = decode(record)
            sharer = Sharer(token, Owner(*owner), float(since), dict(facts))
            is_ours = form == _FORMAT and path == os.path.join(self._directory.path, token + _NAMED)
        except (TypeError, ValueError) as error:
            raise self._foreign(path) from error
        if not is_ours:
            raise self._foreign(path)
        return sharer

    def _foreign(self, path: str) -> CorruptError:
        advice = "If no program uses that file as its own, remove it."
        return CorruptError(url=self._directory.url, reason=f"{path} holds no sharer's record", advice=advice)

    def _sweep_some(self) -> None:
        paths = self._paths(_NAMED, _UNNAMED)
        start = int.from_bytes(os.urandom(2), "big") % max(len(paths), 1)
        for path in (paths[start:] + paths[:start])[:_SWEPT_AT_ONCE]:
            try:
                self._is_dead(path)
            except StoreAccessError:
                continue  # somebody else's, which is not ours to bury


def _remove(path: str) -> None:
    try:  # noqa: SIM105  contextlib would cost each fresh interpreter its import
        os.unlink(path)
    except (FileNotFoundError, PermissionError):
        pass


def _close(fd: int) -> None:
    flock(fd, LOCK_UN)  # before a fork at the lines below could inherit it
    keep_on_fork(fd)
    os.close(fd)
