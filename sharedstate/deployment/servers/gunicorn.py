"""gunicorn: its Arbiter and Worker objects, which stand on the main thread's stack below the application.

With --preload the application is imported in the arbiter, and the workers are
forked from it.
"""

from __future__ import annotations

import os

from sharedstate.deployment import programs, surroundings
from sharedstate.deployment.model import MANY, Deployment, Fact, Incarnation, known
from sharedstate.model import boot_id

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

__all__ = ["incarnate", "is_stopping", "recognise", "serves"]

_ARBITER: Final = "gunicorn.arbiter"


def recognise(environ: Mapping[str, Any] | None) -> Deployment | None:
    """Return what the arbiter that forked us, or that we are, was configured with."""
    del environ
    arbiter, worker = _find()
    owner = worker or arbiter
    if owner is None:
        return None
    cfg: Any = owner.cfg
    kind = _kind(cfg)
    limit = int(getattr(cfg, "max_requests", 0))
    return Deployment(
        server=known("gunicorn", "gunicorn's Worker" if worker is not None else "gunicorn's Arbiter"),
        version=known(str(surroundings.module("gunicorn").__version__), "gunicorn.__version__"),
        mode=known(f"{kind}, preload" if cfg.preload_app else kind, "cfg.worker_class, cfg.preload_app"),
        processes=_processes(arbiter, cfg),
        interpreters=surroundings.interpreters(),
        gil=surroundings.gil(),
        threads=_threads(kind, cfg),
        recycled=known(True, f"max_requests {limit}" if limit else "the arbiter replaces workers, all of them at HUP"),
        preloaded=known(bool(cfg.preload_app), "cfg.preload_app"),
        application=programs.application_of_target(getattr(owner.app, "app_uri", None), "the arbiter's app_uri"),
    )


def serves() -> bool:
    """Return whether this is a worker: with --preload the application is imported in the arbiter first."""
    worker = _find()[1]
    return worker is not None and worker.pid in {os.getpid(), "[booting]"}  # a child that a worker forks is none


def is_stopping() -> bool:
    """Return whether this worker was told to end."""
    worker = _find()[1]
    return worker is not None and not worker.alive


def _kind(cfg: Any) -> str:
    text = str(cfg.worker_class_str)
    return text.rpartition(".")[2]


def _processes(arbiter: Any, cfg: Any) -> Fact:
    number = getattr(arbiter, "num_workers", None)
    if number is not None and number != cfg.workers:
        return known(MANY, f"{number} workers now, {cfg.workers} configured: somebody changes it by TTIN or TTOU")
    return known(int(cfg.workers), "cfg.workers")


def _threads(kind: str, cfg: Any) -> Fact:
    if kind == "gthread":
        return known(int(cfg.threads), "cfg.threads")
    if kind == "sync":
        return known(1, "worker class sync")
    return known(MANY, f"worker class {kind}: as many requests at once as connections")


_found: list[Any] = []  # [epoch of the fork, arbiter, worker], once they were seen


def _find() -> tuple[Any, Any]:
    """Return gunicorn's Arbiter, or a worker's copy of it, and the Worker; None for what is not to be seen.

    In the arbiter itself there is no Worker that is this process.
    """
    from sharedstate.backend.forks import fork_epoch

    epoch = fork_epoch()
    if not _found or _found[0] != epoch or _found[2] is None:
        arbiter, worker = _look()
        if arbiter is None and _found:  # of the arbiter that we were forked from
            arbiter = _found[1]
        _found[:] = [epoch, arbiter, worker]
    return _found[1], _found[2]


def _look() -> tuple[Any, Any]:
    spawning = surroundings.find_frame(_ARBITER, "spawn_worker")
    arbiter = surroundings.local(spawning or surroundings.find_frame(_ARBITER), "self")
    worker = surroundings.local(spawning, "worker") or _bound_worker()
    if getattr(arbiter, "pid", None) == os.getpid():
        worker = None  # about to be forked
    return arbiter, worker


def _bound_worker() -> Any:
    """Return the worker whose method handles SIGTERM here."""
    signals = surroundings.module("_signal")
    handler = None if signals is None else signals.getsignal(signals.SIGTERM)
    owner = getattr(handler, "__self__", None)
    return owner if hasattr(owner, "age") and hasattr(owner, "cfg") else None


# --- Which start ----------------------------------------------------------------


def incarnate() -> Incarnation:
    """Return the arbiter, and how often it was told to reload: it counts that itself, from 25.1 on."""
    arbiter, worker = _find()
    pid = os.getpid() if worker is None else int(worker.ppid)
    started = _started(pid)
    stats: Any = getattr(arbiter, "_stats", None)
    if stats is not None and "reloads" in stats:
        return Incarnation(boot_id(), pid, started, _restart(stats["reloads"]), "the arbiter, and its count of reloads")
    if worker is None:
        return Incarnation(boot_id(), pid, started, "", "the arbiter, before its first reload")
    first = _first_of_reload(worker)
    seen = "the arbiter, and its reload on the stack" if first else "the arbiter, which hides its reloads"
    return Incarnation(boot_id(), pid, started, _restart(first), seen, int(worker.age))


def _restart(number: int) -> str:
    # A program that runs gunicorn may have asked before there was an arbiter: it got "".
    return str(number) if number else ""


def _started(pid: int) -> int:
    """Return when the arbiter started, 0 if it is dead: then another process may have its pid."""
    process = surroundings.read_process(os.getpid())
    while process is not None and process.pid != pid:  # a worker is its child, what a worker forks its grandchild
        process = surroundings.read_process(process.parent)
    return 0 if process is None else process.started


def _first_of_reload(worker: Any) -> int:
    """Return the age of the first worker of the reload that spawned this one, 0 if none did."""
    reloading = surroundings.find_frame(_ARBITER, "reload")
    latest = surroundings.local(reloading, "last_worker_age")  # from 24 on
    if isinstance(latest, int):
        return latest + 1
    position = surroundings.local(reloading, "_")  # of the loop that spawns them
    by_loop = isinstance(position, int) and surroundings.find_frame(_ARBITER, "spawn_workers") is None
    return int(worker.age) - position if by_loop else 0
