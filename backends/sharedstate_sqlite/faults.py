"""SQLite's result codes, in the words of `sharedstate.errors`.

Always by code (`sqlite_errorcode`), never by message.  "database is locked"
ends here: it becomes another try, or `LockTimeoutError`.
"""

from __future__ import annotations

import os
from _sqlite3 import Error

from sharedstate.backend import advise_on_denial, parse_url
from sharedstate.errors import (
    CapacityError,
    CorruptError,
    LockTimeoutError,
    OutcomeUnknownError,
    StateError,
    StoreAccessError,
    UnavailableError,
)

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

__all__ = ["FAULTS", "code_of", "is_beyond_use", "is_busy", "is_damage", "translate"]

FAULTS: Final = (Error, UnicodeDecodeError)
"""What a statement may raise: SQLite quotes a damaged schema, which Python cannot read where it is no UTF-8."""

# sqlite3.h; Python's module has these names too, but not all of them in 3.11.
_ERROR: Final = 1
_PERM: Final = 3
_BUSY: Final = 5
_LOCKED: Final = 6
_READONLY: Final = 8
_IOERR: Final = 10
_CORRUPT: Final = 11
_FULL: Final = 13
_CANTOPEN: Final = 14
_PROTOCOL: Final = 15
_TOOBIG: Final = 18
_CONSTRAINT: Final = 19
_MISMATCH: Final = 20
_AUTH: Final = 23
_NOTADB: Final = 26


def code_of(error: Error | UnicodeDecodeError) -> int | None:
    """Return SQLite's primary result code, None if Python raised `error` by itself."""
    extended = getattr(error, "sqlite_errorcode", None)
    return None if extended is None else extended & 0xFF


def is_busy(error: Error | UnicodeDecodeError) -> bool:
    """Return whether another connection was in the way, so that trying again may work.

    PROTOCOL is the same for a reader that lost many races for the WAL's index.
    """
    return code_of(error) in {_BUSY, _LOCKED, _PROTOCOL}


def is_damage(error: Error | UnicodeDecodeError) -> bool:
    """Return whether pages of a database, that is one, are damaged."""
    return code_of(error) == _CORRUPT or isinstance(error, UnicodeDecodeError)


def is_beyond_use(error: Error | UnicodeDecodeError) -> bool:
    """Return whether a statement that is right for a store's tables fails because they, or their pages, are damaged."""
    return is_damage(error) or code_of(error) == _ERROR


def translate(url: str, error: Error | UnicodeDecodeError, is_writing: bool) -> StateError:
    """Return the error of ours that tells what SQLite's means for the caller."""
    code = code_of(error)
    reason = str(error)
    if is_busy(error):
        return LockTimeoutError(url=url, what="the database", timeout_s=0)
    if code in {_FULL, _TOOBIG}:
        return CapacityError(url=url, reason=reason, advice="Free space on its file system, or store less.")
    if code in {_READONLY, _CANTOPEN, _PERM, _AUTH}:
        usual = (
            f"Make the file and its directory writable for uid {os.geteuid()}: SQLite makes files beside the database. "
            "If they are, raise the limit of open files (ulimit -n)."
        )
        advice = advise_on_denial(url, parse_url(url).path(), usual)
        return StoreAccessError(url=url, reason=reason, advice=advice)
    if code == _IOERR:
        if is_writing:
            return OutcomeUnknownError(url=url, reason=f"{reason} ({_name_of(error)})")
        advice = "Look into the kernel's log for what ails the disk."
        return UnavailableError(url=url, reason=f"{reason} ({_name_of(error)})", advice=advice)
    if code == _ERROR:
        # Our statements are right for our tables: so the tables are not ours any more.
        advice = "Somebody changed its tables, or removes it just now; look with sharedstate.open() anew."
        return UnavailableError(url=url, reason=reason, advice=advice)
    # CORRUPT, NOTADB; CONSTRAINT and MISMATCH, which our statements cannot cause; and None: text that is no UTF-8.
    if code in {_CORRUPT, _NOTADB, _CONSTRAINT, _MISMATCH, None}:
        return CorruptError(url=url, reason=reason)
    return UnavailableError(url=url, reason=f"{reason} ({_name_of(error)})", advice="Mend that and try again.")


def _name_of(error: Error | UnicodeDecodeError) -> str:
    return getattr(error, "sqlite_errorname", "no SQLite code")
