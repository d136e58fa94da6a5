"""What the server, or the way to it, has against a call, in the words of `sharedstate.errors`.

By class, or by the protocol's error code, the first word of a refusal; never by
what a message says.  A refusal is never "unknown": who refuses has not written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)

from sharedstate.errors import CapacityError, CorruptError, StateError, StoreAccessError, UnavailableError

if TYPE_CHECKING:
    from sharedstate_redis.address import Address

__all__ = ["gone", "is_refusal", "is_temporary", "translate"]

_WRONG_TYPE: Final = "WRONGTYPE"
_TRY_AGAIN: Final = frozenset({"BUSY", "MISCONF", "NOREPLICAS", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN"})


def is_refusal(error: RedisError) -> bool:
    """Return whether the server has answered, and so written nothing, though to redis-py the connection is lost."""
    return isinstance(error, (AuthenticationError, BusyLoadingError))


def is_temporary(error: RedisError) -> bool:
    """Return whether it is worth trying to connect again."""
    return not isinstance(error, AuthenticationError)


def translate(address: Address, error: RedisError) -> StateError:
    """Return the error of ours that tells what `error` means for the caller; nothing was written."""
    url, reason = address.url, str(error).rstrip(".") or type(error).__name__
    if isinstance(error, OutOfMemoryError):
        advice = "Raise its maxmemory, or delete something; deleting works."
        return CapacityError(url=url, reason=f"the server is full ({reason})", advice=advice)
    if isinstance(error, (AuthenticationError, NoPermissionError)):
        advice = "Give the user and the password in the URL, and the user the rights that FORMAT.md names."
        return StoreAccessError(url=url, reason=f"the server refuses us ({reason})", advice=advice)
    if isinstance(error, ReadOnlyError):
        return UnavailableError(url=url, reason="the server is a replica", advice="Name its primary.")
    if isinstance(error, AskError):  # or MovedError, which derives from it
        advice = "Clusters are not served yet: name a server that is none of a cluster."
        return UnavailableError(
            url=url, reason=f"the store belongs to another server of a cluster ({reason})", advice=advice
        )
    code = reason.partition(" ")[0]
    if code == _WRONG_TYPE:
        return CorruptError(url=url, reason=f"a key of the store is of another kind ({reason})")
    if code in _TRY_AGAIN:
        return UnavailableError(url=url, reason=f"the server is busy or unwell ({reason})", advice="Try again later.")
    advice = "See that the server runs and can be reached, then try again."
    return UnavailableError(url=url, reason=reason, advice=advice)


def gone(url: str) -> UnavailableError:
    """Return the error for a handle whose store is not there any more."""
    return UnavailableError(
        url=url,
        reason="the store is gone: it was removed, or the server has lost it",
        advice="Open it again: that makes a new one.",
    )
