"""Servers that contestants of the parts need, each with its socket in a directory of its own."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks.parts.room import ROOT
from benchmarks.peers.process import find_program, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["running_manager", "running_redis"]


@contextmanager
def running_manager(directory: str) -> Iterator[str]:
    """Run a manager; yields its socket."""
    own, path = _make_place(directory, "manager")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((ROOT, os.path.join(ROOT, "backends")))}
    with serving([sys.executable, "-m", "benchmarks.parts.manager", path], own, path, environment):
        yield path


@contextmanager
def running_redis(directory: str) -> Iterator[str]:
    """Run a Redis that keeps nothing; yields its socket.

    Raises:
        FileNotFoundError: it is not installed.
    """
    program = find_program("redis-server")
    own, path = _make_place(directory, "redis")
    options = {"port": "0", "unixsocket": path, "save": "", "appendonly": "no", "dir": own}
    with serving([program, *(word for name, value in options.items() for word in (f"--{name}", value))], own, path):
        yield path


def _make_place(directory: str, name: str) -> tuple[str, str]:
    own = os.path.join(directory, name)
    os.makedirs(own, exist_ok=True)
    return own, os.path.join(own, "socket")
