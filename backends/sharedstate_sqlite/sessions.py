"""One connection to a database, and what a fork does to it.

SQLite keeps, per process and file, which POSIX locks it holds.  A forked child
inherits that belief but not the locks.  Seen: a connection opened *anew* in the
child of a parent that had one open takes no lock at all, so that a third process
may truncate the -shm under it, or delete the -wal.  Not using the inherited
connection, as SQLite's documentation asks, is therefore not enough.

    C1  A connection serves one call at a time.
    C2  Nobody waits while it has a connection out, so `drain` ends soon.
    C3  At a fork no connection is open: Python's at-fork hooks close those of
        every pool first, and let none be opened meanwhile.
    C4  A child of a fork that ran no hook (uWSGI, C code) neither uses nor closes
        what it inherited, and refuses to open that database.

Not covered: connections that other interpreters of the process, or other
libraries, have open on the same database at a fork.
"""

from __future__ import annotations

import os
import sys
from _sqlite3 import Connection, Cursor
from _sqlite3 import connect as _connect

from sharedstate.backend import Mutex, fork_epoch

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

    from sharedstate_sqlite.connections import Pool

__all__ = [
    "Session",
    "all_rows",
    "first_row",
    "inherited",
    "no_fork",
    "note_inherited_locked",
    "open_connection",
    "pools",
    "rows_changed",
]

_CLOSED: Final = -1
_STATEMENTS: Final = 128  # room for all of the backend's
_RESERVED: Final = {"%": "%25", "?": "%3F", "#": "%23"}

# What `Pool.run` takes from a cursor.  C methods, not functions of ours: a frame costs 60 ns.
first_row = Cursor.fetchone  # and so complete a statement of at most one
all_rows = Cursor.fetchall


def rows_changed(cursor: Cursor) -> int:
    """Return how many rows an INSERT, UPDATE or DELETE wrote."""
    return cursor.rowcount


def open_connection(path: str, busy_s: float = 0.0) -> Connection:
    """Open the database at `path`, which exists."""
    # mode=rw: a database that is gone must not come back empty.
    uri = f"file:{''.join(_RESERVED.get(char, char) for char in path)}?mode=rw"
    if sys.hexversion < 0x030D0000:
        # By position: any keyword given to this function in an isolated
        # interpreter makes CPython 3.12.1 abort at exit (`free(): invalid
        # pointer`).  From 3.13 on they work, and position is deprecated.
        return _connect(uri, busy_s, 0, None, False, Connection, _STATEMENTS, True)
    return _connect(
        uri,
        timeout=busy_s,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_STATEMENTS,
        uri=True,
    )


class Session:
    """One connection, and the process that may use it.

    One cursor serves every statement, which C1 allows: a new one costs 0.2 µs.
    """

    __slots__ = ("__weakref__", "connection", "epoch", "execute")

    def __init__(self, connection: Connection) -> None:
        self.epoch = _CLOSED  # until it is complete, should a signal handler raise before
        self.connection = connection
        self.execute = connection.cursor().execute
        self.epoch = fork_epoch()

    def interrupt(self) -> None:
        """End the statement that an exception from outside, as KeyboardInterrupt, left half fetched.

        It would keep its locks until the cursor's next use.
        """
        self.execute = self.connection.cursor().execute

    def close(self) -> None:
        """Close the connection, or in a forked child never (C4); twice is no error."""
        if self.epoch == _CLOSED:
            return
        if self.epoch == fork_epoch():
            # First let go of the cursor: in 3.11 it keeps a statement that failed,
            # and while there is one, SQLite only pretends to close.
            self.execute = self.connection.execute
            self.connection.close()
        else:
            _keep_for_ever(self.connection)
        self.epoch = _CLOSED

    def __del__(self) -> None:
        self.close()


def _keep_for_ever(connection: Connection) -> None:
    # A reference from Python would end with the interpreter, and closing in the
    # child may delete the -wal that others use.
    from ctypes import py_object, pythonapi

    pythonapi.Py_IncRef(py_object(connection))


# --- Forks ----------------------------------------------------------------------

_gates: dict[int, Mutex] = {}  # by fork epoch: a lock of the parent's may be held by a thread that is not here
pools: set[Pool] = set()  # guarded by no_fork(); those of every open handle of this interpreter
inherited: set[tuple[int, int]] = set()  # guarded by no_fork(); databases that C4 forbids


def no_fork() -> Mutex:
    """Return this process's gate, a lock to hold while opening a connection, or while one exists outside a pool.

    A fork waits for it.
    """
    epoch = fork_epoch()
    gate = _gates.get(epoch)
    return _gates.setdefault(epoch, Mutex()) if gate is None else gate


def _before_fork() -> None:
    no_fork().acquire()
    for pool in pools:
        pool.drain()


def _after_fork_in_parent() -> None:
    no_fork().release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)


def note_inherited_locked() -> None:
    """Remember which databases were open across a fork without hooks (C4)."""
    epoch = fork_epoch()
    for pool in pools:
        if any(session.epoch != epoch for session in pool.sessions):
            inherited.add(pool.identity)
