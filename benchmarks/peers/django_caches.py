"""Django's caches, without a project around them."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from benchmarks.peers.base import Session

if TYPE_CHECKING:
    from collections.abc import Generator

    from benchmarks.peers.base import Place

__all__ = ["open_django_database", "open_django_file"]

# Nothing is evicted, and nothing expires.
_PARAMETERS: Final = {"TIMEOUT": None, "OPTIONS": {"MAX_ENTRIES": 10**9}}


def open_django_file(place: Place) -> Generator[Session, None, None]:
    """The cache of files."""
    version = _set_up()
    cache = import_module("django.core.cache.backends.filebased").FileBasedCache(place.directory, _PARAMETERS)
    yield Session(_verbs(cache), version, "FileBasedCache; at most 500 keys, as each set lists the directory")


def open_django_database(place: Place) -> Generator[Session, None, None]:
    """The cache in a table of SQLite."""
    version = _set_up()
    connections: Any = import_module("django.db").connections
    settings: dict[str, Any] = connections.settings["default"]
    settings["NAME"] = os.path.join(place.directory, "cache.db")
    connection = connections["default"]
    connection.settings_dict["NAME"] = settings["NAME"]
    import_module("django.core.management").call_command("createcachetable", "entries", verbosity=0)
    cache = import_module("django.core.cache.backends.db").DatabaseCache("entries", _PARAMETERS)
    try:
        note = "DatabaseCache on SQLite: WAL, synchronous=NORMAL, IMMEDIATE; each set counts the rows"
        yield Session(_verbs(cache), version, note)
    finally:
        connection.close()


def _verbs(cache: Any) -> dict[str, Any]:
    return {
        "get": cache.get,
        "set": cache.set,
        "delete": cache.delete,
        "increment_apart": cache.incr,
        "get_many": cache.get_many,
        "set_many": cache.set_many,
    }


def _set_up() -> str:
    """Configure Django once in this process; return its version."""
    django: Any = import_module("django")
    settings: Any = import_module("django.conf").settings
    if not settings.configured:
        options = {
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        }
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": "", "OPTIONS": options}
        # The table is made for a cache that the settings know.
        caches = {"default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "entries"}}
        settings.configure(DATABASES={"default": database}, CACHES=caches, USE_TZ=True)
        django.setup()
    return str(django.get_version())
