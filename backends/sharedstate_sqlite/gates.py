"""The gate of a store's locks: a file beside them, closed by whoever holds its flock.

A mover closes it, and its death opens it.  The file stays where a mover was
refused or died, until the next who takes a lock finds that the store is still
here, and for good where it has moved.  While it is there, who takes a lock pays
for a look into the database; without it, for a look for the file.

Which lock is seen by whom: L6 of `sharedstate.backend.locks`.
"""

from __future__ import annotations

import os
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock

from sharedstate.backend import (
    Backoff,
    Deadline,
    Gate,
    has_name,
    keep_on_fork,
    open_private,
    open_unshared,
    translate_os_error,
)
from sharedstate.errors import UnavailableError
from sharedstate_sqlite import place

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

    from sharedstate.backend import LockDirectory
    from sharedstate_sqlite.connections import Pool

__all__ = ["MovingGate"]

_PATIENCE_S: Final = 1.0  # those who only look at it do so for microseconds


class MovingGate(Gate):
    """The gate of the locks in one directory.

    Args:
        url: of the store, for errors.
        directory: the locks' path.
        pool: asked whether the store has moved.
    """

    def __init__(self, url: str, directory: str, pool: Pool) -> None:
        self._url = url
        self._path = os.path.join(directory, place.GATE)
        self._pool = pool
        self._fd = -1  # open while it is closed by us

    def is_open(self) -> bool:
        """Return whether a lock may be taken now; raises `MovedError` once the store has moved."""
        if not os.path.lexists(self._path):
            return True  # nobody is moving it, nor has
        try:
            fd = open_unshared(lambda: open_private(self._url, self._path, os.O_RDONLY))
        except FileNotFoundError:
            return True
        try:
            flock(fd, LOCK_SH | LOCK_NB)
            self._pool.require_unmoved()
            if _is_alone(fd) and has_name(fd):  # so nobody else removes it now, and no mover closes another of its name
                os.unlink(self._path)
        except BlockingIOError:
            return False
        except (FileNotFoundError, PermissionError):
            pass  # another has removed it; or one who may shall
        except OSError as error:
            raise translate_os_error(self._url, error) from error
        finally:
            _close(fd)
        return True

    def close(self, directory: LockDirectory) -> None:
        """Let nobody take a lock of `directory` until `open`, or the death of this process.

        Raises:
            UnavailableError: somebody else has it closed.
        """
        deadline, backoff = Deadline(_PATIENCE_S), Backoff()
        while not self._try_to_close(directory):
            if deadline.has_passed():
                reason = "somebody else keeps its locks from being taken, to move it"
                raise UnavailableError(url=self._url, reason=reason, advice="Wait for who does that.")
            backoff.sleep(deadline)

    def _try_to_close(self, directory: LockDirectory) -> bool:
        fd = open_unshared(lambda: directory.open(self._path))
        try:
            flock(fd, LOCK_EX | LOCK_NB)
            if has_name(fd):
                self._fd = fd
        except BlockingIOError:
            pass
        finally:
            if self._fd != fd:
                _close(fd)
        return self._fd == fd

    def open(self) -> None:
        """Let locks be taken again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _close(fd)


def _is_alone(fd: int) -> bool:
    try:
        flock(fd, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False  # another looks at it; or a mover has just closed it, and sees our record
    return True


def _close(fd: int) -> None:
    flock(fd, LOCK_UN)  # before a fork at the lines below could inherit it
    keep_on_fork(fd)
    os.close(fd)
