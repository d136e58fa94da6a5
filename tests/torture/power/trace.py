"""Running a program with `record.c` preloaded, and reading what it did."""

from __future__ import annotations

import os
import subprocess
import sys
from struct import Struct
from typing import NamedTuple

__all__ = ["KINDS", "Step", "build_recorder", "record_program"]

KINDS = (
    *("CREATE", "WRITE", "TRUNCATE", "SYNC_BEGIN", "SYNC_END", "RENAME", "UNLINK", "LINK", "MKDIR", "RMDIR"),
    *("STORE", "GROW", "NOTE"),
)
"""As `enum kind` in record.c, where the first is 1."""
_HEADER = Struct("<BHHQQQ")
_WITH_BYTES = {"WRITE", "STORE", "NOTE"}


class Step(NamedTuple):
    """One call."""

    kind: str
    file: int  # its inode
    offset: int
    length: int
    first: str  # a name that it makes, changes or removes
    second: str
    content: bytes


def build_recorder(directory: str) -> str:
    """Compile `record.c` and return the path of the library."""
    library = os.path.join(directory, "record.so")
    source = os.path.join(os.path.dirname(__file__), "record.c")
    command = [*["cc", "-std=gnu11", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra"], "-o", library, source, "-ldl"]
    subprocess.run(command, check=True, timeout=100)
    return library


def record_program(library: str, root: str, program: str, *arguments: str) -> list[Step]:
    """Run `program`, a text of Python, and return all that it did to files below `root`.

    Args:
        library: from `build_recorder`.
        root: an absolute path of an empty directory.
        program: finds `arguments` in sys.argv[1:]; what it writes to descriptor 1 becomes notes.
        arguments: for it.
    """
    trace = f"{root}.trace"
    paths = [path for path in sys.path if os.path.isdir(path)]
    prelude = f"import sys; sys.path[:0] = {paths!r}\n"
    environment = {
        **os.environ,
        "LD_PRELOAD": library,
        "POWER_ROOT": root,
        "POWER_TRACE": trace,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-c", prelude + program, *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    with open(trace, "rb") as file:
        content = file.read()
    os.unlink(trace)
    steps = list(_steps(content))
    assert steps[-1].content == b"end\n", "the program's last stores were not recorded"
    return steps


def _steps(content: bytes):
    at = 0
    while at < len(content):
        kind, first, second, file, offset, length = _HEADER.unpack_from(content, at)
        name = KINDS[kind - 1]
        at += _HEADER.size
        texts = content[at : at + first].decode(), content[at + first : at + first + second].decode()
        at += first + second
        count = length if name in _WITH_BYTES else 0
        yield Step(name, file, offset, length, *texts, content[at : at + count])
        at += count
