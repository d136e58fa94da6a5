"""What one interpreter can see of what surrounds it: frames, processes, other interpreters.

Only looks, decides nothing, and imports nothing that is not loaded: a module
that is not in `sys.modules` runs nobody.
"""

from __future__ import annotations

import gc
import os
import sys

from sharedstate.deployment.model import MANY, Certainty, Fact, unknown
from sharedstate.model import interpreter_id

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import Any, Final

__all__ = [
    "Process",
    "callers",
    "file_on_stack",
    "files_loaded",
    "find_frame",
    "frames",
    "gil",
    "interpreters",
    "is_forked_copy",
    "is_of_multiprocessing",
    "list_interpreters",
    "local",
    "module",
    "module_of",
    "os_environment",
    "read_process",
    "root_process",
]

_OURS: Final = "sharedstate."


def module(name: str) -> Any:
    """Return the loaded module of that name, or None."""
    return sys.modules.get(name)


def os_environment(name: str) -> str:
    """Return an environment variable, "" without it."""
    return os.environ.get(name, "")


# --- Frames -------------------------------------------------------------------


def module_of(frame: FrameType) -> str:
    """Return the name of the module whose code runs in a frame, "" if it has none."""
    name: object = frame.f_globals.get("__name__")
    return name if isinstance(name, str) else ""


def callers() -> Iterator[FrameType]:
    """Yield the frames that led to this call from outside of the library, innermost first."""
    # inspect would cost 20 ms and do the same
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        if not module_of(frame).startswith(_OURS):
            yield frame
        frame = frame.f_back


def frames() -> Iterator[FrameType]:
    """Yield the caller's frames, then those of this interpreter's other threads, and of gevent's main greenlet.

    Where the process has other interpreters, the caller's only: up to CPython
    3.13 sys._current_frames() walks over the threads of all of them, and with
    one among them that has a GIL of its own it corrupts the process's memory.
    """
    yield from callers()
    if len(list_interpreters()) != 1:
        return
    yield from _of_other_threads()
    greenlet = module("greenlet")
    if greenlet is not None:
        root = greenlet.getcurrent()
        while root.parent is not None:
            root = root.parent
        yield from _outward(root.gr_frame)  # None while it runs


def _of_other_threads() -> Iterator[FrameType]:
    # Up to CPython 3.11.8 a garbage collection amid sys._current_frames() can deadlock with another thread.
    collects = gc.isenabled()
    gc.disable()
    try:
        # No name may hold this frame, or it would hold itself, and with it whoever opens a store just now.
        mine = id(sys._getframe())  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        tops = [
            top
            for top in sys._current_frames().values()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            if id(top) != mine
        ]
    finally:
        if collects:
            gc.enable()
    while tops:
        yield from _outward(tops.pop())


def _outward(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def find_frame(name: str, function: str = "") -> FrameType | None:
    """Return the first frame of that module (and function) in `frames`, or None."""
    for frame in frames():
        if module_of(frame) == name and function in {"", frame.f_code.co_name}:
            return frame
    return None


def local(frame: FrameType | None, name: str) -> Any:
    """Return a frame's local variable, or None."""
    return None if frame is None else frame.f_locals.get(name)


def file_on_stack(prefix: str) -> str | None:
    """Return the file of the innermost caller whose module's name begins with `prefix`, or None."""
    for frame in callers():
        if module_of(frame).startswith(prefix) and "__file__" in frame.f_globals:
            return str(frame.f_globals["__file__"])
    return None


def files_loaded(prefix: str) -> set[str]:
    """Return the files of the loaded modules whose names begin with `prefix`."""
    found: set[str] = set()
    for name, loaded in list(sys.modules.items()):
        if name.startswith(prefix):
            file: Any = getattr(loaded, "__file__", None)
            if file is not None:
                found.add(str(file))
    return found


# --- Processes ----------------------------------------------------------------


class Process:
    """A process as /proc shows it to everybody.

    Attributes:
        pid: its id.
        parent: its parent's; a process whose parent died has another.
        group: its process group's.
        session: its session's.
        started: when, in clock ticks since boot.
        image: where the kernel put its code and stack when it was executed, which
            a forked child inherits; None where the kernel does not tell us.
        command: its command line.
    """

    # Not a NamedTuple, whose making costs each fresh interpreter 0.2 ms.
    __slots__ = ("command", "group", "image", "parent", "pid", "session", "started")

    def __init__(self, pid: int, stat: list[bytes], command: bytes) -> None:
        self.pid = pid
        self.parent = int(stat[1])
        self.group = int(stat[2])
        self.session = int(stat[3])
        self.started = int(stat[19])
        code, stack = int(stat[23]), int(stat[25])
        self.image = (code, stack) if code > 1 and stack > 1 else None
        self.command = command


def read_process(pid: int) -> Process | None:
    """Return the process of that id, or None if there is none, it is dead, or hidden from us."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # proc(5); the second field, the name, may itself hold spaces and parentheses.
            stat = file.read().rpartition(b")")[2].split()
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read()
    except OSError:
        return None
    return None if stat[0] in {b"Z", b"X"} else Process(pid, stat, command)


def is_forked_copy(child: Process, parent: Process) -> bool:
    """Return whether `child` was forked from `parent` without executing a program anew."""
    if child.image is not None and parent.image is not None:
        return child.image == parent.image
    return child.command == parent.command  # of another user's process, root's say, only this is to be seen


def root_process(process: Process, *, forks_only: bool = False) -> Process:
    """Return the process that started it all: up through forks, and multiprocessing's other ways to start a child."""
    while process.parent > 0:
        parent = read_process(process.parent)
        ours = parent is not None and (
            is_forked_copy(process, parent) or (not forks_only and is_of_multiprocessing(process))
        )
        if parent is None or not ours:
            break
        process = parent
    return process


def is_of_multiprocessing(process: Process) -> bool:
    """Return whether multiprocessing executed it: by spawn, or as its fork server."""
    return b"--multiprocessing-fork" in process.command or b"from multiprocessing." in process.command


# --- Interpreters -------------------------------------------------------------


def interpreters() -> Fact:
    """Return how many interpreters this process has, if it says so: `MANY`, or a likely 1."""
    alive = list_interpreters()
    if len(alive) > 1:
        return Fact(MANY, Certainty.KNOWN, f"{len(alive)} interpreters live in this process")
    if module("concurrent.interpreters") is not None or module("concurrent.futures.interpreter") is not None:
        return Fact(MANY, Certainty.LIKELY, "concurrent.interpreters is loaded")
    return Fact(1, Certainty.LIKELY, "no other interpreter lives in this process now")


def gil() -> Fact:
    """Return this interpreter's kind of GIL; see `Deployment.gil`."""
    enabled: Any = getattr(sys, "_is_gil_enabled", None)
    if enabled is not None and not enabled():
        return Fact("absent", Certainty.KNOWN, "sys._is_gil_enabled() is False")
    here = interpreter_id()
    if here == 0:
        others = [identity for identity in list_interpreters() if identity != 0]
        if not others:
            return Fact("only", Certainty.LIKELY, "the main interpreter, and no other lives in this process now")
        kinds = {_configured_gil(identity) for identity in others}
        if kinds == {"own"}:
            return Fact("own", Certainty.LIKELY, "the main interpreter; the others have GILs of their own")
        if sys.version_info < (3, 12) or "shared" in kinds:
            return Fact("shared", Certainty.KNOWN, "the main interpreter, whose GIL others share")
        return unknown("the main interpreter; this Python does not tell whether the others share its GIL")
    if sys.version_info < (3, 12):
        return Fact("shared", Certainty.KNOWN, "a sub-interpreter; up to Python 3.11 all share one GIL")
    found = _configured_gil(here)
    if found:
        return Fact(found, Certainty.KNOWN, "_interpreters.get_config()")
    import _thread

    allowed: Any = getattr(_thread, "daemon_threads_allowed", None)
    if allowed is None:
        return unknown("this Python does not tell whether the sub-interpreter has a GIL of its own")
    # Isolated interpreters of 3.12 forbid them, legacy ones allow them; both settings usually come together.
    return Fact("shared" if allowed() else "own", Certainty.LIKELY, f"daemon_threads_allowed() is {allowed()}")


def list_interpreters() -> list[int]:
    """Return the ids of this process's interpreters, [] if Python does not tell."""
    try:
        found: list[Any] = _control().list_all()
    except (ImportError, AttributeError, RuntimeError):
        return []
    return [int(item[0] if sys.version_info >= (3, 13) else item) for item in found]


def _configured_gil(identity: int) -> str:
    try:
        kind: str = _control().get_config(identity).gil
    except (ImportError, AttributeError, RuntimeError, ValueError, TypeError):
        return ""
    return kind if kind in {"own", "shared"} else ""


def _control() -> Any:
    return __import__("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
