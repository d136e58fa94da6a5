"""A child that multiprocessing or os.fork made of a plain program; and the root of such a family."""

from __future__ import annotations

import os
import sys

from sharedstate.deployment import programs, surroundings
from sharedstate.deployment.model import MANY, Deployment, Incarnation, known, likely, unknown
from sharedstate.model import boot_id

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["incarnate", "is_child", "parent_pid", "recognise", "serves"]


def recognise(environ: Mapping[str, Any] | None) -> Deployment | None:
    """Return what a child of multiprocessing sees of its family."""
    del environ
    if not is_child():
        return None
    method = _method()
    return Deployment(
        server=known("multiprocessing", "multiprocessing.parent_process(), or the command line"),
        version=known(sys.version.split()[0], "sys.version"),
        mode=known(method, "the command line"),
        processes=likely(MANY, "a child and its parent, and any number of siblings"),
        interpreters=surroundings.interpreters(),
        gil=surroundings.gil(),
        threads=unknown("any number that the program starts"),
        recycled=unknown("its parent may replace it"),
        preloaded=known(method == "fork", f"start method {method}"),
        application=programs.application_of_program(),
    )


def serves() -> bool:
    """Return True: it was made to work."""
    return True


def parent_pid() -> int | None:
    """Return the pid of the process that had multiprocessing start this one, None if it did not."""
    process = surroundings.module("multiprocessing.process")
    parent = process.parent_process() if hasattr(process, "parent_process") else None
    return None if parent is None else int(parent.pid)


def is_child() -> bool:
    """Return whether multiprocessing started this process, as seen from any of its interpreters."""
    if parent_pid() is not None:
        return True
    own = surroundings.read_process(os.getpid())
    return own is not None and surroundings.is_of_multiprocessing(own)


def _method() -> str:
    """Return the start method, by what the process was executed for."""
    own = surroundings.read_process(os.getpid())
    if own is None or not surroundings.is_of_multiprocessing(own):
        return "fork"
    return "forkserver" if b"multiprocessing.forkserver" in own.command else "spawn"


_inherited: list[Any] = []  # [the session, the root], as they were found before this process was forked


def incarnate(*, is_reloaded: bool = False) -> Incarnation:
    """Return the process that started it all: forks, and multiprocessing's children, are part of its family.

    Args:
        is_reloaded: whether multiprocessing starts a process for each change of
            the program's files: then each is a start of its own.
    """
    own = surroundings.read_process(os.getpid())
    if own is None:
        return Incarnation(boot_id(), os.getpid(), 0, "", "this process, and no /proc to look it up")
    if is_reloaded:
        root = surroundings.root_process(own, forks_only=True)
        return Incarnation(boot_id(), root.pid, root.started, "", "the process that the reloader started")
    # What an ancestor saw before it died: unless this is a daemon that has left its session.
    if _inherited and _inherited[0] == own.session:
        root = _inherited[1]
    else:
        root = surroundings.root_process(own)
        parent = parent_pid()
        if root.pid == own.pid and parent is not None and own.parent != parent:
            return Incarnation(boot_id(), parent, 0, "", "the parent of multiprocessing, dead")
        _inherited[:] = [own.session, root]
    return Incarnation(boot_id(), root.pid, root.started, "", "the process that started it all")
