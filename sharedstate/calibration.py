"""What the backends cost on this machine, as measured here: one small file that `choose` reads.

The shipped `COSTS` come from somebody else's machine.  `sharedstate bench
--calibrate` measures again and keeps the result where every process of this
machine finds it; a process that finds none pays one failed `open` for it.

    sharedstate calibration 1
    host app1 x86_64 8
    version 0.1.0
    python CPython 3.13.0
    date 2026-11-26
    cost file 611 17400
    cost shm 171 210

Who could write the file could make an application choose badly, so it counts
only if it is root's, and nobody else may write to it; where the environment
names the file, also if it is our own.  (Were one's own believed in the common
place, root's processes and a server's could choose differently, and not share.)
It also has to be of this host, this version and this form.  Else the shipped
costs hold, and the choice says so in one line.

Plain text and not JSON, whose module costs a fresh interpreter more than the
whole choice.
"""

from __future__ import annotations

import os
import stat

from sharedstate._light import NamedTuple
from sharedstate.backend.files import make_directory, translate_os_error
from sharedstate.model import Costs

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

__all__ = ["PLACE", "VERSION", "Calibration", "calibration_path", "read_calibration", "write_calibration"]

VERSION: Final = "0.1.0"
"""Of this library, as in pyproject.toml; importlib.metadata would cost a fresh interpreter tens of milliseconds."""

_FIRST_LINE: Final = "sharedstate calibration 1"
_VARIABLE: Final = "SHAREDSTATE_CALIBRATION"
PLACE: Final = "/var/lib/sharedstate/calibration"
"""Where all users of a machine look, and only root may calibrate."""

_MOST_BYTES: Final = 65536
_MOST_DIGITS: Final = 15  # of a number of nanoseconds; int() raises ValueError for one of thousands


class Calibration(NamedTuple):
    """Costs that were measured on this machine.

    Attributes:
        costs: by scheme.
        date: of the measurement, year first.
        python: that measured.
    """

    costs: Mapping[str, Costs]
    date: str
    python: str


def calibration_path() -> str:
    """Return where the calibration lies: the machine's own place, or what SHAREDSTATE_CALIBRATION names.

    One place for all, and not one below HOME: a machine is as fast for each of
    its users, and under Apache HOME is unset.
    """
    return os.environ.get(_VARIABLE) or PLACE


def read_calibration() -> tuple[Calibration | None, str]:
    """Return the calibration of this machine, if there is one, and why one that is there is ignored, or ""."""
    path = calibration_path()
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)  # a FIFO must not block us
    except (FileNotFoundError, NotADirectoryError):
        return None, ""
    except OSError as error:
        return None, _ignored(path, str(error.strerror))
    try:
        doubt = _distrust(path, os.fstat(fd))
        text = "" if doubt else os.read(fd, _MOST_BYTES).decode("utf-8", "replace")
    except OSError as error:
        doubt, text = str(error.strerror), ""
    finally:
        os.close(fd)
    if doubt:
        return None, _ignored(path, doubt)
    found = _parse(text)
    return (None, _ignored(path, found)) if isinstance(found, str) else (found, "")


def _ignored(path: str, why: str) -> str:
    return f"the calibration {path} is ignored: {why}"


def _distrust(path: str, found: os.stat_result) -> str:
    if not stat.S_ISREG(found.st_mode):
        return "it is no regular file"
    if found.st_uid != 0 and (path == PLACE or found.st_uid != os.geteuid()):
        return f"it belongs to uid {found.st_uid} and not to root"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write to it (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""


def _parse(text: str) -> Calibration | str:
    """Return what the file says, or why that is of no use here."""
    first, *lines = text.splitlines() or [""]
    if first != _FIRST_LINE:
        return "it has another form than this version reads; calibrate again"
    stamps: dict[str, str] = {}
    costs: dict[str, Costs] = {}
    for number, line in enumerate(lines, 2):
        name, _, rest = line.partition(" ")
        if name != "cost":
            stamps[name] = rest
            continue
        cost = _parse_cost(rest.split(" "))
        if cost is None:
            return f"its line {number} is damaged; calibrate again"
        costs[cost[0]] = cost[1]
    if stamps.get("host") != _host():
        return f"it was measured on another host ({stamps.get('host', '?')}); calibrate here"
    if stamps.get("version") != VERSION:
        return f"it was measured with version {stamps.get('version', '?')}, this is {VERSION}; calibrate again"
    return Calibration(costs, stamps.get("date", "?"), stamps.get("python", "?"))


def _parse_cost(words: list[str]) -> tuple[str, Costs] | None:
    if len(words) != 3 or not all(_is_cost(word) for word in words[1:]):
        return None
    return words[0], Costs(float(words[1]), float(words[2]))


def _is_cost(word: str) -> bool:
    return len(word) <= _MOST_DIGITS and word.isascii() and word.isdigit() and int(word) > 0


def _host() -> str:
    # What tells machines apart and yet stays the same over reboots and updates of the kernel.  Not os.cpu_count(),
    # which from Python 3.13 on is what PYTHON_CPU_COUNT or -X cpu_count says.
    here = os.uname()
    return f"{here.nodename} {here.machine} {os.sysconf('SC_NPROCESSORS_CONF')}"


def write_calibration(calibration: Calibration) -> str:
    """Put the calibration in its place, whole or not at all; return its path.

    Raises:
        StateError: it cannot be written there; says why and what to do.
    """
    path = calibration_path()
    lines = [
        _FIRST_LINE,
        f"host {_host()}",
        f"version {VERSION}",
        f"python {calibration.python}",
        f"date {calibration.date}",
        *(
            f"cost {scheme} {max(round(costs.get_ns), 1)} {max(round(costs.set_ns), 1)}"
            for scheme, costs in sorted(calibration.costs.items())
        ),
    ]
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory):
        make_directory(path, directory, 0o755)
    # Not open_private: that hands what root makes to the directory's owner, and then nobody would believe it.  A random
    # name, since nobody can have planted that, and two containers may have one process number.
    beside = os.path.join(directory, f"{os.path.basename(path)}.{os.urandom(8).hex()}")
    try:
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            os.fchmod(fd, 0o644)  # readable for all: a machine's speed is no secret, and its workers have other uids
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(fd)
        os.rename(beside, path)
    except BaseException as error:
        try:  # noqa: SIM105  contextlib would cost each fresh interpreter its import
            os.unlink(beside)
        except OSError:
            pass  # it was not made, or is in its place
        if isinstance(error, OSError):
            raise translate_os_error(path, error) from error
        raise
    return path
