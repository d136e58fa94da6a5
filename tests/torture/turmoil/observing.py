"""Who looks at the store from a process of his own, while all work and when all are dead."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

import sharedstate
from turmoil import plants
from turmoil.contents import ABSENT_VERSION, is_absence, version_of
from turmoil.hand import ACCOUNTS, BALANCE
from turmoil.page import LOCKS, VALUES, Page

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["found_store", "look", "look_at_the_end"]

_BYTES: Final = ("bytes", "log_bytes", "wal_bytes")
_EVENTS: Final = ("recoveries", "sweeps", "compactions")


def found_store(orders: dict[str, Any]) -> None:
    """Make the store and open the accounts."""
    with sharedstate.open(orders["url"]) as store:
        store.set_many(dict.fromkeys(ACCOUNTS, BALANCE))
        store.set("bell", 0)


def look(orders: dict[str, Any]) -> dict[str, Any]:
    """Check the store while others work; return its figures, the files it consists of, and the sum."""
    with sharedstate.open(orders["url"]) as store:
        store.check()
        figures = _sizes(store.stats(), ("entries", *_BYTES, *_EVENTS))
        balances = store.transact(lambda tx: [tx[account] for account in ACCOUNTS], timeout_s=orders["bound_s"])
        store.increment("bell")
        assert store.sharers(), "this handle is a sharer"
        files = _files_of(orders["directory"], orders["url"])
    return {"figures": figures, "files": files, "sum": sum(balances)}


def look_at_the_end(orders: dict[str, Any]) -> dict[str, Any]:
    """With all hands dead, compare what is stored with what was acknowledged, and see that nothing is held.

    Returns:
        What `look` returns, and `faults`, each a sentence.
    """
    page = Page(orders["page"])
    began = time.monotonic()
    seen = look(orders)
    faults = []
    with sharedstate.open(orders["url"]) as store:
        plants.plant(orders["plant"], store)
        seen["hits"] = store.get("hits", 0)
        for lane in page.lanes:
            me = lane.number
            counters = (
                ("receipts", store.get(f"receipt:{me}", 0), lane.receipts),
                ("moved", store.get(f"moved:{me}", 0), lane.moved),
            )
            for what, stored, acknowledged in counters:
                if not acknowledged <= stored <= acknowledged + 1:
                    faults.append(f"lane {me}: {what} is {stored}, acknowledged {acknowledged}")
            for number in range(VALUES):
                key, acknowledged = f"value:{me}:{number}", lane.versions[number]
                possible = (acknowledged, acknowledged + 1)
                version = version_of(key, store.get(key))
                if not (is_absence(key, possible) if version == ABSENT_VERSION else version in possible):
                    faults.append(f"{key} is at version {version}, acknowledged {acknowledged}")
        for number in range(LOCKS):
            lock = store.lock(f"guard {number}", timeout_s=0)
            try:
                if lock.acquire() <= page.tokens[number]:
                    faults.append(f"lock {number}: the token did not grow")
                lock.release()
            except sharedstate.LockTimeoutError:
                faults.append(f"lock {number} is held, and nobody lives")
        faults += [f"lock {record.name!r} is held by {record.owner}" for record in store.locks() if record.held]
        faults += _sharers_but_one(store)
        store.clear()
        store.check()
        seen["emptied"] = _sizes(store.stats(), _BYTES)
        faults += [f"{key!r} is left behind by clear" for key in list(store)]
    seen["faults"] = faults
    seen["seconds"] = time.monotonic() - began
    return seen


def _sharers_but_one(store: sharedstate.Store) -> list[str]:
    present = [sharer.owner.pid for sharer in store.sharers()]
    return [] if present == [os.getpid()] else [f"sharers of an abandoned store: {present}"]


def _sizes(figures: dict[str, Any], names: Iterable[str]) -> dict[str, int]:
    return {name: int(figures[name]) for name in names if name in figures}


def _files_of(directory: str, url: str) -> int:
    """Return how many files the store consists of, locks and sharers among them."""
    if not url.startswith("shm:"):
        return sum(len(files) for _, _, files in os.walk(directory))
    name = url.removeprefix("shm://").partition("?")[0]
    return sum(len(files) for place, _, files in os.walk("/dev/shm") if name in place) + 1
