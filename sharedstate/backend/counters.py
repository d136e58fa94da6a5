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
    "PAGES_AT",
    "PAGE_BYTES",
    "TABLE_AT",
    "TOKEN_BYTES",
    "CounterPage",
    "Counts",
    "counters_path",
]

COUNTERS: Final = ".counters"
"""The end of the file's name."""

MAGIC: Final = b"sharedstate counters 1\n"
TABLE_AT: Final = 64
TOKEN_BYTES: Final = 32
PAGES_AT: Final = 32768
PAGE_BYTES: Final = 4096
_PAGES: Final = 1000
_NOBODY: Final = bytes(TOKEN_BYTES)
_LOOKED_AT: Final = 4  # before a page is added: so those of the dead do not pile up
_PATIENCE_S: Final = 1.0  # for a process that was stopped with the file in its hands


class CounterPage:
    """One sharer's page.

    Attributes:
        counts: those of the sharer's handle, which count here.
    """

    def __init__(self, counts: Counts, directory: LockDirectory, token: str, number: int) -> None:
        self.counts = counts
        self._directory = directory
        self._token = token.encode()
        self._number = number

    @classmethod
    def claim(
        cls, counts: Counts, directory: LockDirectory, token: str, is_dead: Callable[[str], bool]
    ) -> CounterPage | None:
        """Have a handle count where others can look, if there is a page for it.

        Args:
            counts: the handle's.
            directory: of the store's locks and sharers.
            token: of the sharer, who is present.
            is_dead: tells of a token whether that sharer is gone.
        """
        try:
            fd = open_unshared(lambda: directory.open(counters_path(directory)))
        except (OSError, StateError):
            return None
        try:
            if not _try_to_lock(fd):
                return None
            number = _find(fd, is_dead)
            if number is None:
                return None
            at = PAGES_AT + PAGE_BYTES * number
            os.posix_fallocate(fd, at, PAGE_BYTES)  # K3
            os.pwrite(fd, token.encode(), TABLE_AT + TOKEN_BYTES * number)
            counts.attach(fd, at)
        except OSError:
            return None
        else:
            return cls(counts, directory, token, number)
        finally:
            _close(fd)

    def leave(self) -> None:
        """Let somebody else have the page, who counts on in it."""
        self.counts.detach()
        try:
            fd = open_unshared(
                lambda: os.open(counters_path(self._directory), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            )
        except OSError:
            return  # removed, with the store
        try:
            at = TABLE_AT + TOKEN_BYTES * self._number
            if _try_to_lock(fd) and os.pread(fd, TOKEN_BYTES, at) == self._token:
                os.pwrite(fd, _NOBODY, at)
        except OSError:
            pass  # whoever needs a page finds out that this one's owner is gone
        finally:
            _close(fd)


def counters_path(directory: LockDirectory) -> str:
    """Return the path of a store's counters."""
    return os.path.join(directory.path, "sharers" + COUNTERS)


def _find(fd: int, is_dead: Callable[[str], bool]) -> int | None:
    """Return the number of a page that is nobody's any more, None if there is none."""
    count = max((os.fstat(fd).st_size - PAGES_AT) // PAGE_BYTES, 0)
    head = os.pread(fd, TABLE_AT + TOKEN_BYTES * min(count, _PAGES), 0)
    if not head.strip(b"\0"):  # new, or what a power loss left of it
        os.pwrite(fd, MAGIC, 0)
        return 0
    if not head.startswith(MAGIC):
        return None  # `check` says so
    tokens = [head[at : at + TOKEN_BYTES] for at in range(TABLE_AT, len(head), TOKEN_BYTES)]
    if _NOBODY in tokens:
        return tokens.index(_NOBODY)
    may_add = len(tokens) < _PAGES
    start = int.from_bytes(os.urandom(2), "big") % max(len(tokens), 1)
    order: list[int] = [*range(start, len(tokens)), *range(start)]
    for number in order[:_LOOKED_AT] if may_add else order:
        if is_dead(tokens[number].decode(errors="replace")):
            os.pwrite(fd, _NOBODY, TABLE_AT + TOKEN_BYTES * number)
            return number
    return len(tokens) if may_add else None


def _try_to_lock(fd: int) -> bool:
    deadline, backoff = Deadline(_PATIENCE_S), Backoff()
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
    flock(fd, LOCK_UN)  # before a fork at the lines below could inherit it
    keep_on_fork(fd)
    os.close(fd)
