"""What a handle must know about fork: that it happened, and which descriptors not to inherit.

`fork_epoch()` changes in the child.  The native module counts in a
pthread_atfork handler, because uWSGI forks without Python's at-fork hooks;
without it the pid serves, which costs a system call.

`close_on_fork(fd)` has the child close `fd`: a flock belongs to the open file
description, which fork shares, so a child that merely inherits a descriptor
keeps its parent's lock alive after the parent's death.
"""

from __future__ import annotations

import os

__all__ = ["close_on_fork", "fork_epoch", "keep_on_fork"]

try:
    from sharedstate._native import close_on_fork, fork_epoch, keep_on_fork
except ImportError:
    _inherited: set[int] = set()

    def fork_epoch() -> int:
        """Return a number that is another one in each process."""
        return os.getpid()

    def close_on_fork(fd: int) -> None:
        """Have every forked child close `fd`."""
        _inherited.add(fd)

    def keep_on_fork(fd: int) -> None:
        """Take `close_on_fork(fd)` back; call it before closing `fd`."""
        _inherited.discard(fd)

    def _close_inherited() -> None:
        while _inherited:
            os.close(_inherited.pop())

    os.register_at_fork(after_in_child=_close_inherited)
