"""A cache of diskcache's, as the tests of reading one make it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any, Final

from diskcache import Cache

__all__ = ["LONG", "fill", "statement"]

LONG: Final = 40_000  # diskcache keeps what is longer than 32 KiB in a file


def fill(directory: str, **values: Any) -> None:
    """Put values into the cache, which is made if there is none, and close it."""
    with Cache(directory) as cache:
        for key, value in values.items():
            cache[key] = value


def statement(directory: str, text: str, *parameters: Any) -> None:
    """Have the database say what diskcache never would."""
    with closing(sqlite3.connect(f"{directory}/cache.db", isolation_level=None)) as connection:
        connection.execute(text, parameters)
