"""When an interpreter begins to serve, and when it ends in an orderly way.

A module that a server imports in its master, and then forks, runs before there
is a worker: threads that it starts are dead in the workers, and locks that it
takes are inherited by all.  `when_serving` waits for the worker.

No server calls atexit at every end, so `when_stopping` registers with whatever
the server offers besides.  After kill -9 nothing is called: who must know of a
death asks the kernel (`Store.is_present`).

Thread safety: any thread.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock

from sharedstate.backend.forks import fork_epoch
from sharedstate.deployment.detection import listeners, recogniser
from sharedstate.model import interpreter_id

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["is_stopping", "when_serving", "when_stopping"]

_turn = RLock()  # made anew in a forked child: another thread of the parent may have held it
_waiting: list[Callable[[], object]] = []  # guarded by _turn; what is to be called in each worker
_begun: list[int] = []  # guarded by _turn; [the epoch in which _waiting was called]
_stopping: list[tuple[int | None, Callable[[], object]]] = []  # guarded by _turn; with whose it is: see when_stopping
_hooked: set[str] = set()  # guarded by _turn; what calls us already
_ended: list[int] = []  # [the epoch of the process that is ending]


# --- Beginning -------------------------------------------------------------------


def when_serving(fn: Callable[[], object]) -> None:
    """Call `fn` once in each interpreter that serves: now if this one does, else in each worker once it is forked.

    uWSGI tells a worker's main interpreter only that it was forked; any other
    one of several mounts calls `fn` when it next opens a store, detects or asks
    for its incarnation.

    Raises:
        Exception: whatever `fn` raises if it is called now; in a worker that a
            server has forked it is printed instead, and the worker goes on.
    """
    if recogniser().serves():
        fn()
        return
    with _turn:
        _waiting.append(fn)
        _hook_fork()


def _begin_serving() -> None:
    """Call what waits for this worker, unless it was called."""
    if not _waiting or not recogniser().serves():
        return
    with _turn:
        epoch = fork_epoch()
        if _begun == [epoch]:
            return
        _begun[:] = [epoch]
        waiting = list(_waiting)
    for fn in waiting:
        _call_safely(fn)


def _hook_fork() -> None:
    if "fork" in _hooked:
        return
    _hooked.add("fork")
    os.register_at_fork(after_in_child=_after_fork)
    listeners.append(_begin_serving)
    # uWSGI runs no hooks of Python's when it forks, but one of its own.
    uwsgi: Any = sys.modules.get("uwsgi")
    if uwsgi is not None:
        earlier = getattr(uwsgi, "post_fork_hook", None)

        def after_uwsgi_fork() -> None:
            if earlier is not None:
                earlier()
            _after_fork()

        uwsgi.post_fork_hook = after_uwsgi_fork


def _after_fork() -> None:
    global _turn  # noqa: PLW0603  the parent's may be held for ever
    _turn = RLock()
    _begin_serving()


# --- Ending ----------------------------------------------------------------------


def when_stopping(fn: Callable[[], object]) -> None:
    """Call `fn` at the orderly end of each interpreter that serves, at most once in each.

    By mod_wsgi's subscription and by atexit, since neither alone is reliable;
    and where multiprocessing ends a child without atexit, by multiprocessing.
    A process that this one forks is another, unless this is a master and so the
    fork its worker: then it is the worker that is told.

    What `fn` raises is printed.  Nothing is called after kill -9; by a server
    that ends its processes without running atexit (uvicorn, waitress); in a
    process that was busy when it was told to end (Apache's prefork, uWSGI); in
    uWSGI's interpreters of further mounts.
    """
    epoch = fork_epoch() if recogniser().serves() else None
    with _turn:
        _stopping.append((epoch, fn))
        _hook_end()


def is_stopping() -> bool:
    """Return whether this interpreter's orderly end has begun, as far as it is told.

    Known from the first call of this or of `when_stopping` on, or from what the
    server itself says.
    """
    with _turn:
        _hook_end()
    if _ended == [fork_epoch()]:
        return True
    ask: Callable[[], bool] | None = getattr(recogniser(), "is_stopping", None)
    return (ask is not None and ask()) or _is_main_thread_over()


def _is_main_thread_over() -> bool:
    """Return whether this main interpreter waits for its other threads, as it does before it calls atexit.

    A thread that asked nothing else would be waited for, for ever.  Of other
    interpreters the threading module calls any thread the main one.
    """
    threading: Any = sys.modules.get("threading")
    main_thread = getattr(threading, "main_thread", None)  # None while it is being imported
    return main_thread is not None and interpreter_id() == 0 and not main_thread().is_alive()


def _hook_end() -> None:
    if "atexit" not in _hooked:
        import atexit

        _hooked.add("atexit")
        atexit.register(_end)
        mod_wsgi = sys.modules.get("mod_wsgi")
        subscribe: Any = getattr(mod_wsgi, "subscribe_shutdown", None)
        if subscribe is not None:
            subscribe(_end)
    # A forked child of multiprocessing ends by os._exit, and empties this list of its parent's when it begins.
    util: Any = sys.modules.get("multiprocessing.util")
    process: Any = sys.modules.get("multiprocessing.process")
    key = f"multiprocessing {fork_epoch()}"
    if util is not None and process is not None and key not in _hooked and process.parent_process() is not None:
        _hooked.add(key)
        util.Finalize(None, _end, exitpriority=100)


def _end(*_event: object, **_details: object) -> None:
    epoch = fork_epoch()
    if _ended == [epoch]:
        return
    _ended[:] = [epoch]
    if not recogniser().serves():
        return  # a master that ends after its workers
    for owner, fn in reversed(_stopping):
        if owner in {None, epoch}:
            _call_safely(fn)


def _call_safely(fn: Callable[[], object]) -> None:
    try:
        fn()
    except Exception as error:  # noqa: BLE001  what it raises must not end the server
        sys.excepthook(type(error), error, error.__traceback__)
