"""What a handle must know about fork: that it happened, and which descriptors not to inherit.

`fork_epoch()` changes in the child.  The native module counts in a
pthread_atfork handler, because uWSGI forks without Python's at-fork hooks;
without it the pid serves, which costs a system call.

`close_on_fork(fd)` has the child close `fd`: a flock belongs to the open file
description, which fork shares, so a child that merely inherits a descriptor
keeps its parent's lock alive after the parent's death.  `open_unshared` opens a
descriptor that no child has inherited, not even one forked meanwhile.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["close_on_fork", "fork_epoch", "keep_on_fork", "open_unshared"]

try:
    from sharedstate._native import close_on_fork, fork_epoch, forks_made, keep_on_fork
except ImportError:
    _inherited: set[int] = set()
    _forks = 0

    def fork_epoch() -> int:
        """Return a number that is another one in each process."""
        return os.getpid()

    def close_on_fork(fd: int, /) -> None:
        """Have every forked child close `fd`."""
        _inherited.add(fd)

    def keep_on_fork(fd: int, /) -> None:
        """Take `close_on_fork(fd)` back; call it before closing `fd`."""
        _inherited.discard(fd)

    def forks_made() -> int:
        """Return how many forks this process has begun."""
        return _forks

    def _count() -> None:
        global _forks  # noqa: PLW0603  it is the process's, as a fork is
        _forks += 1

    def _close_inherited() -> None:
        while _inherited:
            os.close(_inherited.pop())

    os.register_at_fork(before=_count, after_in_child=_close_inherited)


def open_unshared(open_file: Callable[[], int]) -> int:
    """Return the descriptor that `open_file` opens, registered with `close_on_fork`.

    A fork by another thread between the two would leave the child with the
    description: then it is opened anew, before anyone could lock it.
    """
    while True:
        before = forks_made()
        fd = open_file()
        close_on_fork(fd)
        if forks_made() == before:
            return fd
        keep_on_fork(fd)
        os.close(fd)
