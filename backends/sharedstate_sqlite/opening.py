"""The plug-in's functions: a URL to a handle, and a store's end."""

from __future__ import annotations

import os
from _sqlite3 import sqlite_version

from sharedstate.backend import StoreUrl
from sharedstate.errors import BackendMissingError
from sharedstate_sqlite import place, schema
from sharedstate_sqlite.backend import SqliteBackend
from sharedstate_sqlite.connections import Pool
from sharedstate_sqlite.faults import FAULTS, translate
from sharedstate_sqlite.sessions import no_fork, open_connection

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

__all__ = ["connect", "discover", "exists", "read_url", "remove", "temporary_url"]

_OLDEST: Final = (3, 35, 0)  # RETURNING


def connect(url: StoreUrl) -> SqliteBackend:
    """Open the database that `url` names, creating it if there is none.

    Parameters: `sync` os or disk, `mode` of new files, `timeout` in seconds for
    other writers.

    No connection stays open, so a server may open the store and then fork.
    """
    sync = url.choice("sync", ("os", "disk"))
    mode = url.mode()
    timeout_s = url.seconds("timeout", 5.0)
    path = url.path()
    url.finish()
    text = url.canonical(path)
    if tuple(map(int, sqlite_version.split("."))) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise BackendMissingError(
            url=text,
            reason=f"this Python has SQLite {sqlite_version}, the backend needs {oldest}",
            advice="Use a newer Python or SQLite, or another backend.",
        )
    place.require_local(text, path)
    if place.look(text, path) is None:
        with no_fork():
            place.create(text, path, mode, timeout_s, open_connection)
    pool = Pool(text, path, "FULL" if sync == "disk" else "NORMAL", timeout_s)
    try:
        pool.visit(lambda connection: schema.admit(text, connection))
    except BaseException:
        pool.close()
        raise
    return SqliteBackend(text, pool, mode)


def discover() -> list[str]:
    """Return nothing: a database may lie anywhere."""
    return []


def exists(url: StoreUrl) -> bool:
    """Return whether there is something at that path; it is looked at, not opened."""
    return os.path.lexists(url.path())


def temporary_url(directory: str) -> str:
    """Return the URL of a database that does not exist yet, below `directory`."""
    return StoreUrl("", "sqlite", "", {}).canonical(os.path.join(directory, f"state-{os.urandom(6).hex()}.db"))


def read_url(url: StoreUrl) -> tuple[str, str, float]:
    """Return the canonical URL, the path, and how long to wait, for what goes by no other parameter."""
    url.choice("sync", ("os", "disk"))
    url.mode()
    timeout_s = url.seconds("timeout", 5.0)
    path = url.path()
    url.finish()
    return url.canonical(path), path, timeout_s


def remove(url: StoreUrl) -> None:
    """Remove the database and its locks; handles that are open see it as gone."""
    text, path, timeout_s = read_url(url)
    try:
        with no_fork():
            place.remove(text, path, timeout_s, lambda name: open_connection(name, timeout_s))
    except FAULTS as error:
        raise translate(text, error, is_writing=True) from error
