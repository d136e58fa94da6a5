"""When an interpreter begins to serve, and when it ends in an orderly way.

A module that a server imports in its master, and then forks, runs before there
is a worker: threads that it starts are dead in the workers, and locks that it
takes are inherited by all.  `when_serving` waits for the worker.

No server calls atexit at every end, so `when_stopping` registers with whatever
the server offers besides.  After kill -9 nothing is called: who must know of a
death asks the kernel (`Store.is_present`).

What is asked for in a master is its workers' affair: each is called for, and the
master is not.  Other processes that a process forks are none of it.

Thread safety: any thread, and no lock that a fork could leave held: lists are
appended to, and who puts the first claim into a dict is the one that calls.
"""

from __future__ import annotations

import os
import sys

from sharedstate.backend.forks import fork_epoch
from sharedstate.deployment.detection import listeners, recogniser
from sharedstate.deployment.incarnation import incarnation
from sharedstate.deployment.servers import WITHOUT_SERVER
from sharedstate.events import Silence
from sharedstate.model import interpreter_id

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["is_stopping", "when_serving", "when_stopping"]


class _Request:
    """What was asked for, and in which process."""

    __slots__ = ("fn", "pid")

    def __init__(self, fn: Callable[[], object]) -> None:
        self.fn = fn
        self.pid = os.getpid()

    def is_ours(self) -> bool:
        """Return whether it was asked for here, or in the master of which this is a worker."""
        if self.pid == os.getpid():
            return True
        server: str = recogniser().__name__
        return server.rpartition(".")[2] not in WITHOUT_SERVER and self.pid == incarnation().supervisor

    def claim(self) -> bool:
        """Return True to the first who asks in this process."""
        mine = object()
        return _claims.setdefault((fork_epoch(), id(self)), mine) is mine


_serving: list[_Request] = []
_stopping: list[_Request] = []
_claims: dict[tuple[int, int], object] = {}  # (epoch, id of a request): whoever calls it
_hooked: set[str] = set()  # what calls us already; twice does no harm
_ended: list[int] = []  # [the epoch of the process that is ending]


# --- Beginning -------------------------------------------------------------------


def when_serving(fn: Callable[[], object]) -> None:
    """Call `fn` once in each interpreter that serves: now if this one does, else in each worker once it is forked.

    Also in workers that the calling program itself forks later as a server.
    uWSGI tells a worker's main interpreter only that it was forked; any other
    one of several mounts calls `fn` when it next opens a store, detects or asks
    for its incarnation.

    Raises:
        Exception: whatever `fn` raises if it is called now; in a worker that a
            server has forked it is printed instead, and the worker goes on.
    """
    request = _Request(fn)
    serves = recogniser().serves()
    if serves:
        request.claim()
    _serving.append(request)
    _hook_fork()
    if serves:
        fn()


def _begin_serving() -> None:
    """Call what waits for this worker, unless it was called."""
    if _serving and recogniser().serves():
        for request in _serving:
            if request.is_ours() and request.claim():
                _call_safely(request.fn)


def _begin_serving_in_child() -> None:
    with Silence():
        _begin_serving()


def _hook_fork() -> None:
    if "fork" in _hooked:
        return
    _hooked.add("fork")
    os.register_at_fork(after_in_child=_begin_serving_in_child)
    listeners.append(_begin_serving)
    # uWSGI runs no hooks of Python's when it forks, but one of its own.
    uwsgi: Any = sys.modules.get("uwsgi")
    if uwsgi is not None:
        earlier = getattr(uwsgi, "post_fork_hook", None)

        def after_uwsgi_fork() -> None:
            if earlier is not None:
                earlier()
            _begin_serving_in_child()

        uwsgi.post_fork_hook = after_uwsgi_fork


# --- Ending ----------------------------------------------------------------------


def when_stopping(fn: Callable[[], object]) -> None:
    """Call `fn` at the orderly end of each interpreter that serves, at most once in each.

    By mod_wsgi's subscription and by atexit, since neither alone is reliable;
    and where multiprocessing ends a child without atexit, by multiprocessing.

    What `fn` raises is printed.  Nothing is called after kill -9; by a server
    that ends its processes without running atexit (uvicorn, waitress); in a
    process that was busy when it was told to end (Apache's prefork, uWSGI); in
    uWSGI's interpreters of further mounts.

    Have `fn` tell your threads to end, and join them: mod_wsgi 6 destroys an
    interpreter without waiting for them, and one that goes on, were it only to
    end a moment later, crashes the process.
    """
    _stopping.append(_Request(fn))
    _hook_end()


def is_stopping() -> bool:
    """Return whether this interpreter's orderly end has begun, as far as it is told.

    Known from the first call of this or of `when_stopping` on, or from what the
    server itself says.
    """
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
    _ended[:] = [fork_epoch()]
    if recogniser().serves():  # not a master, which ends after its workers
        for request in reversed(_stopping):
            if request.is_ours() and request.claim():
                _call_safely(request.fn)


def _call_safely(fn: Callable[[], object]) -> None:
    try:
        fn()
    except Exception as error:  # noqa: BLE001  what it raises must not end the server
        sys.excepthook(type(error), error, error.__traceback__)
