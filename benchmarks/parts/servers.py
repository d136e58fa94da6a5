"""Servers that contestants need: started on a socket in the run's directory, ended by pid."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from benchmarks.parts.room import ROOT

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["running_manager", "running_redis"]

_PATIENCE_S: Final = 10.0


def running_manager(directory: str) -> Any:
    """Run a manager; yields its socket."""
    path = os.path.join(directory, "manager")
    return _running([sys.executable, "-m", "benchmarks.parts.manager", path], path)


def running_redis(directory: str) -> Any:
    """Run a Redis that keeps nothing; yields its socket.

    Raises:
        FileNotFoundError: it is not installed.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise FileNotFoundError("not installed: redis-server")
    path = os.path.join(directory, "redis")
    options = {"port": "0", "unixsocket": path, "save": "", "appendonly": "no", "dir": directory}
    return _running([program, *(word for name, value in options.items() for word in (f"--{name}", value))], path)


@contextmanager
def _running(command: list[str], path: str) -> Generator[str, None, None]:
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(path, server)
        yield path
    finally:
        server.terminate()
        try:
            server.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_for(path: str, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _PATIENCE_S
    while server.poll() is None and time.monotonic() < until:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            return
        time.sleep(0.005)
    raise RuntimeError(f"{server.args!r:.60} did not answer within {_PATIENCE_S:g} s")
