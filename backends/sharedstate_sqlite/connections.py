"""Who uses which connection, when, and for how long.

A `Pool` is a handle's connections.  A call takes one, runs its statements and
puts it back; so there are as many as there were calls at one time, a thread
that ends leaves nothing behind, and a signal handler or finaliser that comes in
between gets another one.  (A connection per thread can do none of that.)

Thread safety: every function.  A list's `pop` and `append` are atomic, also
without the GIL, and are the only lock that a call takes.

Invariants: C1 to C4, in `sessions`.
"""

from __future__ import annotations

import os
from _weakrefset import WeakSet
from time import monotonic, monotonic_ns

from sharedstate.backend import Backoff, Deadline, fork_epoch
from sharedstate.errors import ClosedError, MovedError, UnavailableError
from sharedstate_sqlite import place, schema
from sharedstate_sqlite import statements as sql
from sharedstate_sqlite.faults import FAULTS, is_beyond_use, is_busy, translate
from sharedstate_sqlite.sessions import (
    Session,
    first_row,
    inherited,
    no_fork,
    note_inherited_locked,
    open_connection,
    pools,
)

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from _sqlite3 import Error
    from collections.abc import Callable
    from sqlite3 import Connection, Cursor
    from typing import Any, Final, NoReturn, SupportsIndex, TypeVar

    _T = TypeVar("_T")

__all__ = ["LOOK_EVERY_S", "Pool"]

LOOK_EVERY_S: Final = 0.1  # how long a call may go on with a database whose file was removed by hand
_DRAIN_S: Final = 5.0


class _Closed(list["Session"]):
    """What a closed pool has in place of its idle sessions: none to take, none kept."""

    def __init__(self, url: str, to: str | None = None) -> None:
        super().__init__()
        self._url = url
        self._to = to

    def pop(self, _index: SupportsIndex = -1) -> NoReturn:
        """Refuse: there is nothing to take any more."""
        if self._to is not None:
            raise MovedError(url=self._url, to=self._to)
        raise ClosedError(url=self._url)

    def append(self, session: Session) -> None:
        """Close what a call that was under way gives back."""
        session.close()


class _Draining(list["Session"]):
    """What a pool has in place of its idle sessions while it is drained: none to take, and what comes is closed."""

    def __init__(self, sessions: WeakSet[Session]) -> None:
        super().__init__()
        self._sessions = sessions

    def append(self, session: Session) -> None:
        """Close what a call gives back."""
        session.close()
        self._sessions.discard(session)  # only now: who drains waits for that


class Pool:
    """The connections of one handle on one database.

    Attributes:
        url: of the store, for errors.
        path: of the database.
        timeout_s: how long a call waits for other writers.
        identity: device and inode of the database.
        sessions: those not closed; guarded by the gate.
    """

    def __init__(self, url: str, path: str, synchronous: str, timeout_s: float) -> None:
        self.url = url
        self.path = path
        self.timeout_s = timeout_s
        self._synchronous = synchronous
        found = place.look(url, path)
        self.identity = (0, 0) if found is None else place.identity_of(found)
        self.sessions: WeakSet[Session] = WeakSet()
        self._look_at = 0.0  # monotonic; a race on it costs a second look
        self._idle: list[Session] = []
        self._watching: list[Session] = []  # the watcher, unless it is out
        self._watcher: Session | None = None  # guarded by the gate
        self._watchers = 0  # guarded by the gate; how many there have been
        with no_fork():
            pools.add(self)

    # --- Statements -----------------------------------------------------------

    def run(self, statement: str, parameters: tuple[Any, ...] = (), fetch: Callable[[Cursor], Any] = first_row) -> Any:
        """Run one statement, by itself a transaction, and return what `fetch` takes from it.

        Raises:
            LockTimeoutError: others kept the database locked; nothing was written.
            StateError: what else SQLite reports, in our words.
        """
        idle = self._idle
        try:
            session = idle.pop()
        except IndexError:
            session = self.take()
        else:
            if session.epoch != fork_epoch() or monotonic() >= self._look_at:  # as `take` asks, without its call
                idle.append(session)
                session = self.take()
        try:
            return fetch(session.execute(statement, parameters))
        except FAULTS as error:
            if not is_busy(error):
                raise self.explain(error, statement, session) from error
        except BaseException:
            session.interrupt()
            raise
        finally:
            self._idle.append(session)
        return self._run_when_free(statement, parameters, fetch)

    def _run_when_free(self, statement: str, parameters: tuple[Any, ...], fetch: Callable[[Cursor], Any]) -> Any:
        deadline, backoff = Deadline(self.timeout_s), Backoff()
        while True:
            if deadline.has_passed():
                raise deadline.timed_out(self.url, "the database")
            backoff.sleep(deadline)
            session = self.take()
            try:
                return fetch(session.execute(statement, parameters))
            except FAULTS as error:
                if not is_busy(error):
                    raise self.explain(error, statement, session) from error
            except BaseException:
                session.interrupt()
                raise
            finally:
                self._idle.append(session)

    def transact(self, body: Callable[[Connection], _T]) -> _T:
        """Run `body` between BEGIN IMMEDIATE and COMMIT; an exception rolls back.

        `body` gets the connection; it runs once, with the write lock held.

        Raises:
            LockTimeoutError: others kept the write lock; nothing was written.
            StateError: what else SQLite reports, in our words.
        """
        deadline: Deadline | None = None
        backoff = Backoff()
        while True:
            session, statement = self.take(), "BEGIN IMMEDIATE"
            # BEGIN is inside the try, and ROLLBACK the first call of the finally: an exception
            # of a signal handler comes after calls only, so none leaves the write lock held.
            try:
                session.execute(statement)
                statement = "COMMIT"
                result = body(session.connection)
                session.execute(statement)
            except FAULTS as error:
                if statement == "COMMIT" or not is_busy(error):
                    raise self.explain(error, statement, session) from error
            else:
                return result
            finally:
                session.connection.rollback()  # does nothing where there is no transaction
                self._idle.append(session)
            deadline = deadline or Deadline(self.timeout_s)
            if deadline.has_passed():
                raise deadline.timed_out(self.url, "the database's write lock")
            backoff.sleep(deadline)

    def visit(self, body: Callable[[Connection], None]) -> None:
        """Run `body` outside a transaction, again while the database is busy; leave no connection open."""
        deadline, backoff = Deadline(self.timeout_s), Backoff()
        while True:
            session = self.take()
            try:
                body(session.connection)
            except FAULTS as error:
                if not is_busy(error):
                    raise self.explain(error, "SELECT", session) from error
            else:
                break
            finally:
                self._idle.append(session)
            if deadline.has_passed():
                raise deadline.timed_out(self.url, "the database")
            backoff.sleep(deadline)
        with no_fork():
            self.drain()

    def explain(self, error: Error | UnicodeDecodeError, statement: str, session: Session | None = None) -> Exception:
        """Return the error of ours; that the store was removed, or has moved, if that is why.

        `session` is the one whose statement failed, where it is one of a store.
        """
        try:
            self.require_present()
            to = self._moved_to(session) if session is not None and is_beyond_use(error) else None
        except UnavailableError as removed:
            return removed
        if to is not None:
            return MovedError(url=self.url, to=to)
        return translate(self.url, error, is_writing=not statement.startswith(("SELECT", "PRAGMA", "BEGIN")))

    def _moved_to(self, session: Session) -> str | None:
        """Return where the store has moved, None if it has not; asked by the session whose statement failed."""
        deadline, backoff = Deadline(self.timeout_s), Backoff()
        while True:
            try:
                row = session.execute(schema.WHERE_TO).fetchone()
            except FAULTS as error:
                if not is_busy(error):
                    return None  # there is no such table
            else:
                return None if row is None else str(row[0])
            if deadline.has_passed():
                raise deadline.timed_out(self.url, "the database")
            backoff.sleep(deadline)

    def require_unmoved(self) -> None:
        """Return if the store has not moved; for what is done beside the database.

        A handle that has no connection open has none afterwards: it may be waiting for a fork without hooks (C4).

        Raises:
            MovedError: it has.
        """
        if self._idle:
            self.run(sql.ANY)
            return
        deadline, backoff = Deadline(self.timeout_s), Backoff()
        while True:
            self.require_open()
            session = self.open()
            try:
                session.execute(sql.ANY)
            except FAULTS as error:
                if not is_busy(error):
                    raise self.explain(error, "SELECT", session) from error
            else:
                return
            finally:
                self._idle.append(session)  # from where a fork that waits for it closes it
                with no_fork():
                    try:
                        self._idle.remove(session)
                    except ValueError:
                        pass  # a fork has closed it, or another call has it now
                    else:
                        self.sessions.discard(session)
                        session.close()
            if deadline.has_passed():
                raise deadline.timed_out(self.url, "the database")
            backoff.sleep(deadline)

    # --- Connections ----------------------------------------------------------

    def twin(self, synchronous: str) -> Pool:
        """Return a pool of the same database, whose commits are as durable as SQLite's `synchronous` says."""
        self.require_open()
        self.require_present()
        return Pool(self.url, self.path, synchronous, self.timeout_s)

    def take(self) -> Session:
        """Return a session that nobody else has; append it to `_idle` afterwards.

        Raises:
            ClosedError: the handle is closed.
            UnavailableError: the database is gone, or was open across a fork without hooks.
        """
        try:
            session = self._idle.pop()
        except IndexError:
            session = self.open()
        if session.epoch != fork_epoch():
            self._idle.append(session)
            self.open()  # raises, by C4
        now = monotonic()
        if now >= self._look_at:
            try:
                self.require_present()
            except BaseException:
                self._idle.append(session)
                raise
            self._look_at = now + LOOK_EVERY_S
        return session

    def open(self) -> Session:
        """Return a new session, in the end: SQLite is busy while another process closes its last connection."""
        deadline, backoff = Deadline(self.timeout_s), Backoff()
        while True:
            try:
                return self._connect()
            except FAULTS as error:
                if not is_busy(error):
                    raise self.explain(error, "SELECT") from error
            if deadline.has_passed():
                raise deadline.timed_out(self.url, "the database")
            backoff.sleep(deadline)

    def _connect(self) -> Session:
        with no_fork():
            note_inherited_locked()
            if self.identity in inherited:
                self._refuse_inherited()
            self.require_present()
            connection, session = open_connection(self.path), None
            try:
                session = Session(connection)
                self.sessions.add(session)
                session.execute(f"PRAGMA synchronous={self._synchronous}")
                # A file that was tampered with must end in CorruptError.
                session.execute("PRAGMA cell_size_check=ON")
                session.execute("PRAGMA trusted_schema=OFF")
            except BaseException:
                # Or it would be open, and unknown to a fork, for as long as somebody keeps the error.
                if session is not None:
                    self.sessions.discard(session)  # one that is closed would look like a parent's (C4)
                    session.close()
                connection.close()
                raise
        return session

    def require_open(self) -> None:
        """Return unless the handle is closed.

        Raises:
            ClosedError: it is.
        """
        if isinstance(self._idle, _Closed):
            self._idle.pop()

    def require_present(self) -> None:
        """Return if the path still names the database that this pool was made for.

        Raises:
            UnavailableError: it was removed, or replaced.
        """
        try:
            found = os.lstat(self.path)
        except OSError:
            self._refuse_ghost("the store was removed")
        if place.identity_of(found) != self.identity:
            self._refuse_ghost("another file has taken the store's place")

    def _refuse_inherited(self) -> NoReturn:
        raise UnavailableError(
            url=self.url,
            reason="this process was forked while the store was open, by a server that runs no at-fork hooks of "
            "Python's (uWSGI); SQLite's locks do not survive that",
            advice="Use the store in the workers only (uWSGI: lazy-apps), or close() it before the fork.",
        )

    def _refuse_ghost(self, reason: str) -> NoReturn:
        advice = "Close this handle and open the store again."
        raise UnavailableError(url=self.url, reason=f"{reason}; nothing was written", advice=advice)

    # --- Changes by anyone ------------------------------------------------------

    def change_token(self) -> int:
        """Return a number that differs after any commit, of whichever connection.

        SQLite's data_version counts the commits of *other* connections, so it
        is asked of one that never writes.  A new watcher, after a fork, starts
        another series: waiters then look once in vain.
        """
        session = self._take_watcher()
        serial = self._watchers
        try:
            (version,) = session.execute("PRAGMA data_version").fetchone()
        except FAULTS as error:
            if not is_busy(error):
                raise self.explain(error, "PRAGMA", session) from error
            version = -1
        finally:
            self._watching.append(session)
        # Busy: say "changed", so that the waiter looks for itself.
        return serial << 32 | int(version) if version >= 0 else -monotonic_ns()

    def _take_watcher(self) -> Session:
        deadline, backoff = Deadline(_DRAIN_S), Backoff()
        while True:
            watcher = self._watcher
            try:
                session = self._watching.pop()
            except IndexError:
                if watcher is None or deadline.has_passed():
                    self._replace_watcher(watcher)
                else:
                    backoff.sleep(deadline)  # another thread has it, for microseconds
            else:
                if session.epoch == fork_epoch():
                    return session
                self._watching.append(session)
                self.open()  # raises, by C4

    def _replace_watcher(self, old: Session | None) -> None:
        with no_fork():
            if self._watcher is old:
                self._watcher = self.open()
                self._watchers += 1
                self._watching.append(self._watcher)

    # --- The end --------------------------------------------------------------

    def drain(self) -> bool:
        """Close every connection as soon as its call has ended; return whether all are.

        The gate is held, so none is opened meanwhile, and none that comes back is
        handed out again: else a thread that makes one call after the other would
        have it out whenever we look.
        """
        if isinstance(self._idle, _Closed):
            return True
        deadline, backoff = Deadline(_DRAIN_S), Backoff()
        lists = self._idle, self._watching
        self._watcher = None
        draining = self._idle = self._watching = _Draining(self.sessions)
        try:
            while self.sessions:
                session = _pop_any(*lists)
                if session is not None:
                    self.sessions.discard(session)
                    session.close()
                elif deadline.has_passed():
                    # Its call is below us on this very stack: a signal handler that forks.
                    return False
                else:
                    backoff.sleep(deadline)
        finally:
            if self._idle is draining:  # else a signal handler has closed, or drained, the pool meanwhile
                self._idle, self._watching = [], []
        return True

    def close(self) -> None:
        """Refuse all further calls with `ClosedError`; those under way end, and then their connections."""
        self._end(_Closed(self.url))

    def leave(self, to: str) -> None:
        """Refuse all further calls with `MovedError`; those under way end, and then their connections."""
        self._end(_Closed(self.url, to))

    def _end(self, closed: _Closed) -> None:
        with no_fork():
            note_inherited_locked()
            pools.discard(self)
            lists = () if isinstance(self._idle, _Closed) else (self._idle, self._watching)
            self._idle = self._watching = closed
        for idle in lists:
            while idle:
                try:
                    idle.pop().close()
                except IndexError:
                    break  # a call took the last one; it comes back to _Closed


def _pop_any(*lists: list[Session]) -> Session | None:
    for sessions in lists:
        try:
            return sessions.pop()
        except IndexError:
            pass
    return None
