"""Apache with mod_wsgi 4.9 to 6: the modules `mod_wsgi` and `apache` that it makes in each of its interpreters.

Nothing of Python's runs in Apache's own process, so what runs here serves.
"""

from __future__ import annotations

import os

from sharedstate._light import NamedTuple
from sharedstate.deployment import surroundings
from sharedstate.deployment.model import MANY, Deployment, Fact, Incarnation, known, likely, unknown
from sharedstate.model import boot_id

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

    from sharedstate.deployment.surroundings import Process

__all__ = ["application", "incarnate", "recognise", "serves"]

_SCRIPT: Final = "_mod_wsgi_"  # and the MD5 of the path: what it names a script's module


def recognise(environ: Mapping[str, Any] | None) -> Deployment | None:
    """Return what Apache says of itself in this interpreter."""
    here = surroundings.module("mod_wsgi")
    # The package from PyPI has that name too, and may be imported anywhere.
    if here is None or not hasattr(here, "process_group"):
        return None
    group: str = here.process_group
    mpm: str = getattr(surroundings.module("apache"), "mpm_name", "") or "of an unknown MPM"
    return Deployment(
        server=known("mod_wsgi", "sys.modules['mod_wsgi'].process_group"),
        version=_version(here),
        mode=known(f"daemon {group!r}", f"mod_wsgi.process_group is {group!r}")
        if group
        else known(f"embedded {mpm}", "mod_wsgi.process_group is '', apache.mpm_name"),
        processes=_processes(here),
        interpreters=_interpreters(here),
        gil=surroundings.gil(),
        threads=known(int(here.threads_per_process), "mod_wsgi.threads_per_process"),
        recycled=known(True, "mod_wsgi replaces daemons at a touch of the script, and Apache its children at will"),
        preloaded=known(False, "Apache's own process runs no Python"),
        application=application(environ),
    )


def serves() -> bool:
    """Return True: each of its interpreters is made to serve."""
    return True


def _version(here: Any) -> Fact:
    numbers = getattr(here, "version", ())
    return known(".".join(map(str, numbers)), "mod_wsgi.version") if numbers else unknown("mod_wsgi.version is missing")


def _processes(here: Any) -> Fact:
    if not here.process_group:
        # In embedded mode it is how many children there were at most when this interpreter was made.
        return known(MANY, "embedded: as many children as Apache's MPM sees fit")
    groups = {socket.number for socket in _daemon_sockets() if socket.parent == os.getppid()}
    if len(groups) > 1:
        return unknown(f"{len(groups)} groups of daemons listen; the same script may be mounted in several")
    return likely(
        int(here.maximum_processes),
        f"mod_wsgi.maximum_processes of {here.process_group!r}, the one group of daemons to be seen",
    )


def _interpreters(here: Any) -> Fact:
    group: str = here.application_group
    if not group:
        return likely(1, "application group %{GLOBAL}")
    # The default group is one mount's; a named one may be one of several too.
    return unknown(f"application group {group!r}; the script may be mounted in others too")


# --- Which script --------------------------------------------------------------


def application(environ: Mapping[str, Any] | None) -> Fact:
    """Return the path of the script: its own where one interpreter runs several."""
    if environ is not None and "mod_wsgi.process_group" in environ and environ.get("SCRIPT_FILENAME"):
        return known(str(environ["SCRIPT_FILENAME"]), "SCRIPT_FILENAME of the request")
    calling = surroundings.file_on_stack(_SCRIPT)
    if calling is not None:
        return known(calling, "the script is on the caller's stack")
    scripts = surroundings.files_loaded(_SCRIPT)
    if len(scripts) == 1:
        return likely(scripts.pop(), "the one script in this interpreter")
    return unknown(f"{len(scripts)} scripts in this interpreter, and none on the caller's stack")


# --- Which start ---------------------------------------------------------------


def incarnate() -> Incarnation:
    """Return Apache's process, and how often it was told to restart: its generation."""
    own = _own_socket()
    parent, started, seen = _apache(own)
    if own is not None and own.generation:
        return Incarnation(boot_id(), parent, started, own.generation, f"{seen}; the name of this daemon's socket")
    generation, told = _generation()
    return Incarnation(boot_id(), parent, started, generation, f"{seen}; {told}")


def _apache(own: _Socket | None) -> tuple[int, int, str]:
    """Return pid and start of Apache's process, and how it was found; the start is 0 if Apache is dead."""
    parent = os.getppid()
    if own is not None and own.parent != parent:
        return own.parent, 0, "Apache's process, dead, by this daemon's socket"
    here, process = surroundings.read_process(os.getpid()), surroundings.read_process(parent)
    if process is None or (own is None and here is not None and not _is_family(here, process)):
        return os.getpgrp(), 0, "Apache's process, dead, by its process group"
    return parent, process.started, "Apache's process"


def _is_family(here: Process, parent: Process) -> bool:
    # A daemon's display-name changes its command, but nothing puts it into a group of its own.
    return here.group == parent.group or surroundings.is_forked_copy(here, parent)


class _Socket(NamedTuple):
    """A listening socket of a group of daemons, which mod_wsgi names after Apache's process and generation."""

    inode: int
    parent: int
    generation: str  # "" with WSGISocketRotation Off
    number: int  # of the group


def _daemon_sockets() -> list[_Socket]:
    found: list[_Socket] = []
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="replace") as file:
            for line in file:
                fields = line.split(None, 7)
                if len(fields) < 8 or not fields[7].rstrip().endswith(".sock"):
                    continue
                # <prefix>.<parent>.<generation, or u and the user's id>.<number>.sock
                words = os.path.basename(fields[7].rstrip()).split(".")[-4:-1]
                if len(words) == 3 and all(map(str.isdigit, (words[0], words[1].removeprefix("u"), words[2]))):
                    generation = words[1] if words[1].isdigit() else ""
                    found.append(_Socket(int(fields[6]), int(words[0]), generation, int(words[2])))
    except OSError:
        pass
    return found


def _own_socket() -> _Socket | None:
    """Return the socket that this process listens on, if it is a daemon whose socket is named so."""
    named = {socket.inode: socket for socket in _daemon_sockets()}
    if not named:
        return None
    try:
        descriptors = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return None
    for descriptor in descriptors:
        try:
            found = named.get(os.fstat(descriptor).st_ino)
        except OSError:
            continue
        if found is not None:
            return found
    return None


def _generation() -> tuple[str, str]:
    metrics: Any = getattr(surroundings.module("mod_wsgi"), "server_metrics", None)
    found: Any = metrics() if metrics is not None else None  # None unless it is on
    for process in found["processes"] if found else ():
        if process["pid"] == os.getpid():
            return str(process["generation"]), "mod_wsgi.server_metrics()"
    return _ask_apache()


def _ask_apache() -> tuple[str, str]:
    """Ask the MPM itself: Apache's program is this process's, and its functions are there for its modules."""
    try:
        import ctypes

        answer = ctypes.c_int(-1)
        query = ctypes.CDLL(None).ap_mpm_query
        if query(15, ctypes.byref(answer)) == 0 and answer.value >= 0:  # AP_MPMQ_GENERATION
            return str(answer.value), "ap_mpm_query(AP_MPMQ_GENERATION)"
    except (ImportError, OSError, AttributeError):
        pass
    return "", "its generation is hidden"
