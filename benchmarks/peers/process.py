"""Servers that a run starts for itself, on a socket in its own directory, and ends by their process id."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["find_program", "serving", "version_of"]

_START_S: Final = 10.0
_END_S: Final = 5.0
_POLL_S: Final = 0.01


def find_program(name: str) -> str:
    """Return where a program is: among the scripts of this Python, or on the PATH.

    Raises:
        FileNotFoundError: nowhere.
    """
    scripts = (os.path.dirname(sys.executable), sysconfig.get_path("scripts"))
    found = shutil.which(name, path=os.pathsep.join((*scripts, os.environ.get("PATH", os.defpath), "/usr/sbin")))
    if not found:
        raise FileNotFoundError(f"there is no program {name}")
    return found


def version_of(program: str, *options: str) -> str:
    """Return the first word of what a program says about its version that begins with a digit."""
    said = subprocess.run([program, *options], capture_output=True, text=True, timeout=_START_S, check=False).stdout
    words = (word.removeprefix("v=") for word in said.split())
    return next((word for word in words if word[:1].isdigit()), "unknown")


@contextmanager
def serving(
    command: Sequence[str], directory: str, address: str = "", environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start `command`, wait until it listens at the unix socket `address`, and end it afterwards.

    Raises:
        RuntimeError: it ended, or did not listen in time; with the last line that it wrote.
    """
    log = os.path.join(directory, "log")
    with open(log, "wb") as output:
        # In a session of its own, so that a Ctrl-C reaches it only through us, when we are done with it.
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        if address:
            _wait_until_it_listens(process, address, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_listens(process: subprocess.Popen[bytes], address: str, log: str) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(address)
            except (FileNotFoundError, ConnectionRefusedError):
                pass
            else:
                return
        ended = process.poll()
        if ended is not None or time.monotonic() > deadline:
            with open(log, errors="replace") as file:
                said = file.read().strip().splitlines()
            raise RuntimeError(
                f"{os.path.basename(str(process.args[0]))} "  # type: ignore[index]
                f"{'does not listen' if ended is None else f'ended with status {ended}'}: {said[-1] if said else ''}"
            )
        time.sleep(_POLL_S)
