"""Work that one interpreter of all does for as long as it leads: a scheduler, a poller, a listener.

    D1  Of the candidates for one name at most one is inside its scope at a time.
    D2  Who was inside has left before the next one enters, unless it died.
    D3  A candidate that is told to stop, or whose process is, leaves its scope,
        then resigns, and competes no more.
    D4  A candidate that cannot reach the store leaves its scope, and competes on.

How it fails: as a `Leader` does.  The next one enters within `LOOK_S` of a death.
A candidate that was deposed from outside, or was out of reach of its store (D4),
may be inside for up to `LOOK_S` longer: what must not be done by two needs
`leader.transaction()`, or the term checked where it takes effect.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sharedstate.coordination.claims import find_stopping
from sharedstate.coordination.leader import Leader
from sharedstate.errors import ClosedError, StateError
from sharedstate.events import tell

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Final

    from sharedstate.store import Store

__all__ = ["Candidacy", "while_leading"]

LOOK_S: Final = 0.25
"""A death changes no key that would wake who waits."""


class Candidacy:
    """A thread that competes for the leadership, and is inside its scope while it leads; see `while_leading`."""

    def __init__(
        self,
        store: Store,
        name: str,
        scope: Callable[[Leader], AbstractContextManager[object]],
        *,
        is_stopping: Callable[[], bool] | None = None,
    ) -> None:
        self._store = store
        self._name = name
        self._scope = scope
        self._is_stopping = is_stopping or find_stopping()
        # It must not resign by itself at the process's end, before the scope was left (D2).
        self._leader = Leader(store, name, is_stopping=lambda: False)
        self._is_inside = False  # written by the thread
        self._told = threading.Event()
        # No daemon: an interpreter of its own GIL allows none.
        self._thread = threading.Thread(target=self._compete, name=f"sharedstate leading {name}")
        self._thread.start()

    def is_inside(self) -> bool:
        """Return whether this candidate leads and is inside its scope."""
        return self._is_inside

    def stop(self) -> None:
        """Leave the scope, resign, and compete no more; return when that is done.  Stopping twice is no error."""
        self._told.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _is_to_end(self) -> bool:
        return self._told.is_set() or self._is_stopping() or not threading.main_thread().is_alive()

    def _compete(self) -> None:
        was_reached = True
        while not self._is_to_end():
            failure: StateError | None = None
            try:
                if self._leader.try_lead():
                    failure = self._lead()
            except StateError as error:
                failure = error
            if isinstance(failure, ClosedError):
                return
            if failure is not None and was_reached:  # and not at every look
                tell("leader.unreachable", store=self._store.url, leader=self._name, error=str(failure))
            was_reached = failure is None
            self._told.wait(LOOK_S)

    def _lead(self) -> StateError | None:
        """Be inside the scope while this candidate leads; return what kept it from knowing."""
        failure: StateError | None = None
        try:
            with self._scope(self._leader):
                self._is_inside = True
                failure = self._stay()
        finally:
            self._is_inside = False
            try:
                self._leader.resign()
            except StateError as error:
                failure = error
        return failure

    def _stay(self) -> StateError | None:
        try:
            while self._leader.is_leader() and not self._is_to_end():
                self._told.wait(LOOK_S)
        except StateError as error:  # none of the scope's affairs: it is left as ever
            return error
        return None


def while_leading(
    store: Store,
    name: str,
    scope: Callable[[Leader], AbstractContextManager[object]],
    *,
    is_stopping: Callable[[], bool] | None = None,
) -> Candidacy:
    """Compete, in a thread, for the leadership of `name`; enter `scope` when it is won, leave it before it is given up.

        @contextmanager
        def scheduling(leader):
            scheduler = BackgroundScheduler()
            scheduler.add_job(clean, "interval", minutes=5)
            scheduler.start()

    Yield:
            scheduler.shutdown()

        sharedstate.when_serving(lambda: sharedstate.while_leading(store, "scheduler", scheduling))

    Call it where the program serves, once in each interpreter: a forked child has
    no thread of its parent's.

    Args:
        store: shared by all candidates.
        name: of what is led; a `Leader` of that name competes with them.
        scope: called with the leader; returns a context manager.  If it raises,
            this candidate resigns and competes no more, and the error is
            printed as of any thread.
        is_stopping: whether this process has been told to stop; None asks
            `sharedstate.is_stopping`.

    Raises:
        ScopeError: the store may forget who leads.
        KeyFormatError: the name is none.
    """
    return Candidacy(store, name, scope, is_stopping=is_stopping)
