"""Which start of the server this is, where one worker alone cannot see it: the workers agree through the store.

Two things are hidden from a worker.  When its supervisor was dead before anyone
asked, nothing tells when that had started (`Incarnation.started` is 0).  And an
older gunicorn lets a worker see whether a reload spawned it, but a worker that
replaces a dead one not which reload was the latest (`Incarnation.age`).  Those
who know write it down; those who do not read it.

    I1  Who knows keeps what he knows: agreement never changes a settled token.
    I2  A record is of one supervisor, its pid and boot; one that a later process
        of the same pid finds is replaced, since that knows when it started.
    I3  A replacing worker belongs to the latest reload whose first worker is
        not younger than itself.

How it fails: if every worker that a reload spawned ends before one of them has
agreed, their replacements count themselves to the start before that reload.
"""

from __future__ import annotations

from sharedstate.coordination.claims import KEYS

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any, Final

    from sharedstate.deployment.model import Incarnation
    from sharedstate.store import Store

__all__ = ["agree"]

_KEPT_S: Final = 90 * 86400.0  # longer than most servers run, and each agreement prolongs it


def agree(store: Store, incarnation: Incarnation) -> Incarnation:
    """Return `incarnation` with what the other workers of this server know, and tell them what this one knows.

    Args:
        store: shared by all of them.
        incarnation: the caller's, from `sharedstate.deployment.incarnation`.
    """
    key = f"{KEYS}incarnation:{incarnation.boot}.{incarnation.supervisor}"
    record = _as_record(store.get(key))
    merged = _merge(record, incarnation)
    if merged != record:
        record = _as_record(store.update_with(key, lambda found: _merge(_as_record(found), incarnation), None, _KEPT_S))
    elif merged["started"] and (store.ttl(key) or 0.0) < _KEPT_S / 2:
        store.touch(key, _KEPT_S)
    return _settle(record, incarnation)


def _as_record(found: Any) -> dict[str, Any]:
    """Return what is stored, or an empty record for what no version of ours wrote."""
    try:
        started, reloads = found["started"], list(found["reloads"])
    except (TypeError, KeyError):
        return {"started": 0, "reloads": []}
    whole = [started, *reloads]
    return {"started": started, "reloads": reloads} if all(type(item) is int for item in whole) else _as_record(None)


def _merge(record: dict[str, Any], incarnation: Incarnation) -> dict[str, Any]:
    started, reloads = record["started"], list(record["reloads"])
    if incarnation.started not in {0, started}:
        started, reloads = incarnation.started, []
    first = _first_of_reload(incarnation)
    if first and first not in reloads:
        reloads = sorted([*reloads, first])
    return {"started": started, "reloads": reloads}


def _first_of_reload(incarnation: Incarnation) -> int:
    """Return the age of the first worker of the reload that spawned this one, 0 if it does not know of one."""
    return int(incarnation.restart) if incarnation.age and incarnation.restart.isdecimal() else 0


def _settle(record: dict[str, Any], incarnation: Incarnation) -> Incarnation:
    if incarnation.is_settled:
        return incarnation
    restart = incarnation.restart
    if incarnation.age:
        latest = max((first for first in record["reloads"] if first <= incarnation.age), default=0)
        restart = str(latest or restart)
    return incarnation._replace(
        started=incarnation.started or record["started"],
        restart=restart,
        age=0,
        evidence=f"{incarnation.evidence}; agreed with the other workers",
    )
