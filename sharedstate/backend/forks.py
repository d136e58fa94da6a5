"""What a handle must know about fork: that it happened, and which descriptors not to inherit.

`fork_epoch()` changes in the child.  The native module counts in a
pthread_atfork handler, because uWSGI forks without Python's at-fork hooks;
without it the pid serves, which costs a system call.

`close_on_fork(fd)` has the child close `fd`: a flock belongs to the open file
description, which fork shares, so a child that merely inherits a descriptor
keeps its parent's lock alive after the parent's death.  `blank_on_fork(fd)` is
for what Python may close by itself, a socket say: the child keeps the number,
with nothing behind it.  `open_unshared` opens a descriptor that no child has
inherited, not even one forked meanwhile.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["blank_on_fork", "close_on_fork", "fork_epoch", "keep_on_fork", "open_unshared"]

try:
    from sharedstate._native import blank_on_fork, close_on_fork, fork_epoch, forks_made, keep_on_fork
except ImportError:
    import socket

    _inherited: dict[int, bool] = {}  # fd -> whether the child keeps the number
    _forks = 0

    def fork_epoch() -> int:
        """Return a number that is another one in each process."""
        return os.getpid()

    def close_on_fork(fd: int, /) -> None:
        """Have every forked child close `fd`."""
        _inherited[fd] = False

    def blank_on_fork(fd: int, /) -> None:
        """Have every forked child find an unconnected socket in place of `fd`."""
        _inherited[fd] = True

    def keep_on_fork(fd: int, /) -> None:
        """Take `close_on_fork(fd)` or `blank_on_fork(fd)` back; call it before closing `fd`."""
        _inherited.pop(fd, None)

    def forks_made() -> int:
        """Return how many forks this process has begun."""
        return _forks

    def _count() -> None:
        global _forks  # noqa: PLW0603  it is the process's, as a fork is
        _forks += 1

    def _close_inherited() -> None:
        while _inherited:
            fd, keeps_number = _inherited.popitem()
            os.close(fd)
            if keeps_number:
                blank = socket.socket(socket.AF_UNIX).detach()
                if blank != fd:
                    os.dup2(blank, fd, inheritable=False)
                    os.close(blank)

    os.register_at_fork(before=_count, after_in_child=_close_inherited)


def open_unshared(open_file: Callable[[], int], register: Callable[[int], None] = close_on_fork) -> int:
    """Return the descriptor that `open_file` opens, registered with `close_on_fork` or what is given.

    A fork by another thread between the two would leave the child with the
    description: then it is opened anew, before anyone could lock it.
    """
    while True:
        before = forks_made()
        fd = open_file()
        register(fd)
        if forks_made() == before:
            return fd
        keep_on_fork(fd)
        os.close(fd)
