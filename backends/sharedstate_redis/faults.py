"""What the server, or the way to it, has against a call, in the words of `sharedstate.errors`.

By class, or by the protocol's error code, the first word of a refusal; never by
what a message says.  A refusal is never "unknown": who refuses has not written.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from sharedstate.errors import CapacityError, CorruptError, StateError, StoreAccessError, UnavailableError
from sharedstate_redis.cluster import NoNodeError, Standing, is_moving
from sharedstate_redis.sentinels import NoPrimaryError, Verdict
from sharedstate_redis.sessions import LostError

if TYPE_CHECKING:
    from sharedstate_redis.address import Address

__all__ = ["MemberError", "gone", "is_refusal", "is_temporary", "translate"]

_WRONG_TYPE: Final = "WRONGTYPE"
_TRY_AGAIN: Final = frozenset({"BUSY", "MISCONF", "NOREPLICAS", "MASTERDOWN"})
_ABOUT_SENTINELS: Final = {
    Verdict.NO_PRIMARY: "Try again when the failover is over; with a timeout= above what that takes, calls wait.",
    Verdict.UNKNOWN: "Name a service that they monitor: redis+sentinel://host:port/service/name.",
    Verdict.REFUSED: "Give sentinel_password=, and sentinel_username= if they have users.",
    Verdict.STRANGER: "Name the sentinels, not the servers; their port is 26379 if no other is given.",
}
_ABOUT_CLUSTER: Final = {
    Standing.REFUSED: "Give the user and the password in the URL, and the user the rights that FORMAT.md names.",
    Standing.UNOWNED: "Give the slot to a node: redis-cli --cluster fix host:port.",
    Standing.DOWN: "Try again when it has recovered; with a timeout= above what a failover takes, calls wait.",
    Standing.AWAY: "Try again when the failover is over; with a timeout= above what that takes, calls wait. "
    "If that node is well, see that it can be reached by the name that it is known by (cluster-announce-ip).",
    Standing.STRANGER: "Open redis://, or redis+sentinel://, for a server that is of no cluster.",
}

# X.509's own numbers of what is wrong with a certificate; others mean that nobody whom we trust has signed it.
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_OTHER_HOST: Final = 62
_OTHER_ADDRESS: Final = 64


class MemberError(ResponseError):
    """The server is a node of a cluster, where scripts and locks need other care than at a server by itself."""


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
        advice = "Name its primary, or its sentinels: redis+sentinel://host:port/service."
        if address.may_change:
            advice = "Try again when the failover is over."
        return UnavailableError(url=url, reason="the server is a replica", advice=advice)
    if (found := _look_at_the_place(address, error, reason)) is not None:
        return found
    code = getattr(error, "status_code", None) or reason.partition(" ")[0]  # where redis-py has taken it off
    if code == _WRONG_TYPE:
        return CorruptError(url=url, reason=f"a key of the store is of another kind ({reason})")
    if code in _TRY_AGAIN:
        return UnavailableError(url=url, reason=f"the server is busy or unwell ({reason})", advice="Try again later.")
    return UnavailableError(url=url, reason=reason, advice=_look_at_the_way(address, error))


def _look_at_the_place(address: Address, error: RedisError, reason: str) -> StateError | None:
    """Return the error for a store that is to be had elsewhere, or not yet; None if that is not what is wrong."""
    url = address.url
    advice = ""
    is_denied = False
    if isinstance(error, NoPrimaryError) and error.verdict is not Verdict.SILENT:
        advice, is_denied = _ABOUT_SENTINELS[error.verdict], error.verdict is Verdict.REFUSED
    elif isinstance(error, NoNodeError) and error.standing is not Standing.SILENT:
        advice, is_denied = _ABOUT_CLUSTER[error.standing], error.standing is Standing.REFUSED
    if advice:
        kind = StoreAccessError if is_denied else UnavailableError
        return kind(url=url, reason=reason, advice=_look_at_certificates(address, _cause(error)) or advice)
    if isinstance(error, MemberError) or (isinstance(error, AskError) and not address.nodes):
        advice = "Open redis+cluster://host:port/name; several hosts may be named, one is enough."
        return UnavailableError(url=url, reason="the server is a node of a cluster", advice=advice)
    if isinstance(error, ClusterDownError):
        return UnavailableError(url=url, reason=f"the cluster is down ({reason})", advice=_ABOUT_CLUSTER[Standing.DOWN])
    if is_moving(error):
        advice = "Try again when it is there; with a timeout= above what that takes, calls wait."
        reason = f"the slot of the store is being moved to another node ({reason})"
        return UnavailableError(url=url, reason=reason, advice=advice)
    return None


def _look_at_the_way(address: Address, error: RedisError) -> str:
    """Return what to do about a server that cannot be reached, or does not talk to us."""
    cause = _cause(error)
    server = "nodes run" if address.nodes else "sentinels run" if address.service else "server runs"
    advice = f"See that the {server} and can be reached, then try again."
    if address.has_tls:
        return _look_at_certificates(address, cause) or _look_at_tls(address, cause) or advice
    if address.socket or not _has_hung_up(error, cause):
        return advice
    return f"{advice} If it speaks TLS there, {'give tls=yes' if address.may_change else 'open rediss://'}."


def _cause(error: BaseException) -> OSError | None:
    """Return what the operating system, or TLS, has said, which redis-py tells in words of its own."""
    if isinstance(error, (NoPrimaryError, NoNodeError)) and error.__cause__ is not None:
        error = error.__cause__
    cause = error.__cause__ or error.__context__
    return cause if isinstance(cause, OSError) else None


def _has_hung_up(error: RedisError, cause: OSError | None) -> bool:
    """Return whether somebody was there, but ended the connection, or said what is no reply."""
    if isinstance(error, InvalidResponse):
        return True
    is_ended = cause is None or (isinstance(cause, ConnectionError) and not isinstance(cause, ConnectionRefusedError))
    return isinstance(error, LostError) and is_ended


# What `ssl` raises is told by what it has; an import of it here would fail where Python was built without.
def _look_at_certificates(address: Address, cause: OSError | None) -> str | None:
    """Return what to do about a certificate, None if there is none to blame."""
    for parameter, path in zip(("ca", "cert", "key"), address.certificates, strict=True):
        if path and not os.access(path, os.R_OK):
            return f"Name by {parameter}= a file that can be read."
    code = getattr(cause, "verify_code", None)
    if code in {_OTHER_HOST, _OTHER_ADDRESS}:
        return "Name the server as its certificate does, or give it one with the name that it is called by."
    if code in {_NOT_YET_VALID, _EXPIRED}:
        return "Give the server a certificate that is valid now, and look at the clocks."
    return None if code is None else "Give by ca= the certificate of the CA that has signed the server's."


def _look_at_tls(address: Address, cause: OSError | None) -> str | None:
    """Return what to do about a server that ends the talk, or does not understand it; None if none was there."""
    if cause is not None and not hasattr(cause, "library") and not isinstance(cause, (ConnectionError, TimeoutError)):
        return None
    if isinstance(cause, ConnectionRefusedError):
        return None
    _, cert, _ = address.certificates
    ours = "trusts who signed what cert= names" if cert else "asks for no certificate of ours; else give cert= and key="
    return f"See that the server runs, speaks TLS at that port, and {ours}."


def gone(url: str) -> UnavailableError:
    """Return the error for a handle whose store is not there any more."""
    return UnavailableError(
        url=url,
        reason="the store is gone: it was removed, or the server has lost it",
        advice="Open it again: that makes a new one.",
    )
