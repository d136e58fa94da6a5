"""Where the handles of a store count: a page for each, in one file beside its locks.

0       the line "sharedstate counters 1", and zeros up to 64
64      of each of 1,000 pages the token of the sharer whose it is, 32 bytes; zeros: nobody's
32768   the pages, 4,096 bytes each; `c/counts.h` says what is in one

K1  Whoever writes to a page has its token in the table, and is a sharer; only
    under the file's flock is a page given to anybody.
K2  What was counted in a page stays: its next owner counts on.  So the sum over
    all pages only grows, whoever comes, leaves or dies.
K3  A page has its blocks before anybody maps it: a full disk is told then, and
    not by a signal at a write.
K4  No verb rests on any of it.  Where there is no page to be had, as on a full
    disk, the handle counts for itself alone.
"""

from __future__ import annotations

import os
from errno import ENOSPC
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock

from sharedstate.backend.forks import keep_on_fork, open_unshared
from sharedstate.backend.waiting import Backoff, Deadline
from sharedstate.errors import StateError

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from sharedstate.backend.locks import LockDirectory

try:
    from sharedstate._native import Counts  # pyright: ignore[reportAssignmentType]
except ImportError:
    from sharedstate.backend.counts import Counts  # type: ignore[assignment]

__all__ = [
    "COUNTERS",
    "MAGIC",
    "PAGES",
    "PAGES_AT",
    "PAGE_BYTES",
    "TABLE_AT",
    "TOKEN_BYTES",
    "CounterPage",
    "Counts",
    "counters_path",
    "is_begun",
]

COUNTERS: Final = ".counters"
"""The end of the file's name."""

MAGIC: Final = b"sharedstate counters 1\n"
TABLE_AT: Final = 64
TOKEN_BYTES: Final = 32
PAGES_AT: Final = 32768
PAGE_BYTES: Final = 4096
PAGES: Final = 1000
_NOBODY: Final = bytes(TOKEN_BYTES)
_LOOKED_AT_WHEN_FULL: Final = 32  # each look opens a file, and others wait meanwhile
_LOOKED_AT: Final = 4  # before a page is added: so those of the dead do not pile up
_PATIENCE_S: Final = 0.5  # for a process that was stopped with the file in its hands


class CounterPage:
    """One sharer's page, once it was claimed.

    Args:
        counts: those of the sharer's handle, which count here.
        directory: of the store's locks and sharers.
        token: of the sharer, who is present.
    """

    def __init__(self, counts: Counts, directory: LockDirectory, token: str) -> None:
        self.counts = counts
        self._directory = directory
        self._token = token.encode()
        self._number = -1  # none yet

    def claim(self, is_dead: Callable[[str], bool]) -> None:
        """Have the handle count where others can look, if there is a page for it.

        Args:
            is_dead: tells of a token whether that sharer is gone.
        """
        try:
            fd = open_unshared(lambda: self._directory.open(counters_path(self._directory)))
        except (OSError, StateError):
            return
        try:
            if not _try_to_lock(fd, _PATIENCE_S):
                return
            number = _find(fd, is_dead)
            if number is None:
                return
            at = PAGES_AT + PAGE_BYTES * number
            os.posix_fallocate(fd, at, PAGE_BYTES)  # K3
            self._number = number
            _write(fd, self._token, TABLE_AT + TOKEN_BYTES * number)
            self.counts.attach(fd, at)
        except OSError:
            pass
        finally:
            flock(fd, LOCK_UN)  # not by a function of Python: on the way into it an exception would skip it
            _close(fd)

    def leave(self) -> None:
        """Let somebody else have the page, who counts on in it; after the sharer has left."""
        if self._number < 0:
            return
        try:
            fd = open_unshared(
                lambda: os.open(counters_path(self._directory), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            )
        except OSError:
            return  # removed, with the store
        try:
            at = TABLE_AT + TOKEN_BYTES * self._number
            # Without a wait, for this may be a finalizer's, of the thread that has the file locked: whoever needs a
            # page finds out that this one's owner is gone.
            if _try_to_lock(fd, 0) and os.pread(fd, TOKEN_BYTES, at) == self._token:
                os.pwrite(fd, _NOBODY, at)
        except OSError:
            pass
        finally:
            flock(fd, LOCK_UN)  # as above
            _close(fd)


def counters_path(directory: LockDirectory) -> str:
    """Return the path of a store's counters."""
    return os.path.join(directory.path, "sharers" + COUNTERS)


def is_begun(head: bytes) -> bool:
    """Return whether a file that begins so is new, or what a power loss or a full disk has left of its first line."""
    written = head.rstrip(b"\0")
    return len(written) < len(MAGIC) and MAGIC.startswith(written)


def _write(fd: int, line: bytes, at: int) -> None:
    if os.pwrite(fd, line, at) < len(line):
        raise OSError(ENOSPC, os.strerror(ENOSPC))


def _find(fd: int, is_dead: Callable[[str], bool]) -> int | None:
    """Return the number of a page that is nobody's any more, None if there is none."""
    count = max((os.fstat(fd).st_size - PAGES_AT) // PAGE_BYTES, 0)
    head = os.pread(fd, TABLE_AT + TOKEN_BYTES * min(count, PAGES), 0)
    if is_begun(head):
        _write(fd, MAGIC, 0)
        return 0
    if not head.startswith(MAGIC):
        return None  # `check` says so
    tokens = [head[at : at + TOKEN_BYTES] for at in range(TABLE_AT, len(head), TOKEN_BYTES)]
    if _NOBODY in tokens:
        return tokens.index(_NOBODY)
    may_add = len(tokens) < PAGES
    start = int.from_bytes(os.urandom(2), "big") % max(len(tokens), 1)
    order: list[int] = [*range(start, len(tokens)), *range(start)]
    for number in order[: _LOOKED_AT if may_add else _LOOKED_AT_WHEN_FULL]:
        if is_dead(tokens[number].decode(errors="replace")):
            os.pwrite(fd, _NOBODY, TABLE_AT + TOKEN_BYTES * number)
            return number
    return len(tokens) if may_add else None


def _try_to_lock(fd: int, patience_s: float) -> bool:
    deadline, backoff = Deadline(patience_s), Backoff()
    while True:
        try:
            flock(fd, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            if deadline.has_passed():
                return False
            backoff.sleep(deadline)
        else:
            return True


def _close(fd: int) -> None:
    keep_on_fork(fd)
    os.close(fd)
