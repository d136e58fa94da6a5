"""uWSGI: the module `uwsgi` that it makes in each of its interpreters, and its options in there.

By default the application is imported in the master, in one interpreter per
mount, and the workers are forked from it, without Python's at-fork hooks.
"""

from __future__ import annotations

import os

from sharedstate.deployment import programs, surroundings
from sharedstate.deployment.model import MANY, Deployment, Fact, Incarnation, known, likely, unknown
from sharedstate.model import boot_id

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

__all__ = ["application", "incarnate", "recognise", "serves"]

_FILE: Final = "uwsgi_file_"  # and the path, with underscores: what it names a file's module


def recognise(environ: Mapping[str, Any] | None) -> Deployment | None:
    """Return what uWSGI says of itself in this interpreter."""
    here = surroundings.module("uwsgi")
    if here is None or not hasattr(here, "numproc"):
        return None
    processes = int(here.numproc)
    threads = int(here.cores)
    extras = [name for name in ("lazy-apps", "lazy", "single-interpreter") if _option(name) is not None]
    return Deployment(
        server=known("uwsgi", "sys.modules['uwsgi'].numproc"),
        version=_version(here),
        mode=known(", ".join([f"{processes} x {threads}", *extras]), "uwsgi.numproc, uwsgi.cores, uwsgi.opt"),
        processes=known(processes, "uwsgi.numproc")
        if _option("cheaper") is None
        else known(MANY, "uwsgi.opt: cheaper, so the number varies"),
        interpreters=_interpreters(),
        gil=_gil(),
        threads=known(threads, "uwsgi.cores"),
        recycled=_recycled(here),
        preloaded=known(not _is_lazy() and bool(int(here.masterpid()) or processes > 1), "uwsgi.opt: lazy-apps"),
        application=application(environ),
    )


def serves() -> bool:
    """Return whether this is a worker already; the one process of a server without a master becomes it later."""
    return int(surroundings.module("uwsgi").worker_id()) > 0


def _is_lazy() -> bool:
    return any(_option(name) is not None for name in ("lazy-apps", "lazy"))


def _option(name: str) -> Any:
    return surroundings.module("uwsgi").opt.get(name)


def _version(here: Any) -> Fact:
    version: Any = getattr(here, "version", b"")
    return known(version.decode() if isinstance(version, bytes) else str(version), "uwsgi.version")


def _interpreters() -> Fact:
    if _option("single-interpreter") is not None:
        return known(1, "uwsgi.opt: single-interpreter")
    found = surroundings.interpreters()
    if found.value == MANY or not _may_grow():
        return found
    # uwsgi.opt keeps the last of several mounts only.
    return unknown("uwsgi.opt: mount; there may be others, each in an interpreter of its own")


def _gil() -> Fact:
    found = surroundings.gil()
    if found.value == "only" and _may_grow():
        return unknown("the main interpreter; those of other mounts would share its GIL")
    return found


def _may_grow() -> bool:
    """Return whether more applications may yet be loaded, each into an interpreter of its own."""
    loaded_in_master = serves() and not _is_lazy()
    return _option("mount") is not None and _option("single-interpreter") is None and not loaded_in_master


def _recycled(here: Any) -> Fact:
    if int(here.masterpid()) == 0:
        return known(False, "no master, which could replace a worker")
    return known(True, "the master replaces workers at a reload, and by its options")


# --- Which application ----------------------------------------------------------

_entry: list[Fact] = []  # what was seen on the stack once: without single-interpreter one interpreter has one


def application(environ: Mapping[str, Any] | None) -> Fact:
    """Return the application's file, or its module as uWSGI was given it."""
    del environ  # names the mount, not what is mounted
    targets = _targets()
    modules = {target.partition(":")[0]: target for target in targets if not _is_file(target)}
    calling = surroundings.file_on_stack(_FILE)
    if calling is not None:
        return _remember(known(os.path.abspath(calling), "the file is on the caller's stack"))
    for frame in surroundings.callers():
        target = modules.get(surroundings.module_of(frame))
        if target is not None:
            return _remember(known(programs.locate(target), "the module is on the caller's stack"))
    if _entry and _option("single-interpreter") is None:
        return _entry[0]
    files = set(map(os.path.abspath, surroundings.files_loaded(_FILE)))
    if len(files) == 1 and not modules:
        return likely(files.pop(), "the one file in this interpreter")
    if not files and len(modules) == 1 and _interpreters().value == 1:
        return likely(programs.locate(next(iter(modules.values()))), "uwsgi.opt")
    return unknown(f"{len(files)} files and {len(modules)} modules to serve, and none on the caller's stack")


def _remember(found: Fact) -> Fact:
    if not _entry:
        _entry.append(found)
    return found


def _targets() -> list[str]:
    """Return the modules and files that uWSGI was told to serve, as far as its options tell."""
    found: list[str] = []
    for name in ("module", "wsgi", "wsgi-file", "file", "mount"):
        given = _option(name)
        values: list[Any] = [given] if isinstance(given, bytes) else given or []  # pyright: ignore[reportAssignmentType]
        for value in values:
            if isinstance(value, bytes):
                text = value.decode("utf-8", "replace")
                found.append(text.partition("=")[2] if name == "mount" else text)
    return [target for target in found if target]


def _is_file(target: str) -> bool:
    return os.sep in target or target.endswith((".py", ".wsgi"))


# --- Which start ----------------------------------------------------------------


def incarnate() -> Incarnation:
    """Return the master, and how often it was told to reload: it executes itself anew, under its pid."""
    here = surroundings.module("uwsgi")
    reloads = surroundings.os_environment("UWSGI_RELOADS")
    master = int(here.masterpid())
    own = surroundings.read_process(os.getpid())
    if master == 0:
        # Without a master the first worker is the process that was started, and the others are forked from it.
        process = surroundings.root_process(own) if own is not None else None
        master = os.getpid() if process is None else process.pid
    else:
        process = own if own is not None and own.pid == master else surroundings.read_process(master)
    return Incarnation(
        boot_id(), master, 0 if process is None else process.started, reloads, "uwsgi.masterpid(), UWSGI_RELOADS"
    )
