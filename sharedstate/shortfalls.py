"""Stores that are open although they fall short of what their deployment needs, listed for `sharedstate doctor`.

A narrow store cannot be seen from outside, that being its very fault.  So
whoever opens one by `allow_narrow=True` says so in a place that all processes
of the host see, for as long as it is open, by the same flocked files as a
store's sharers.  One place for each user.
"""

from __future__ import annotations

import os
import sys

from sharedstate.backend import LockDirectory, PresenceFiles
from sharedstate.errors import StateError
from sharedstate.membership import Membership

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

    from sharedstate.model import Sharer

__all__ = ["declare", "list_shortfalls"]

_DIRECTORY: Final = "/dev/shm"  # noqa: S108  seen by all processes of the host, PrivateTmp or not
_PREFIX: Final = "sharedstate-shortfalls-"


def declare(url: str, shortfall: list[str]) -> Membership:
    """List the store as open, until the returned place is left."""
    place = PresenceFiles(LockDirectory(url, f"{_DIRECTORY}/{_PREFIX}{os.geteuid()}"))
    membership = Membership(place.announce, {"url": url, "shortfall": list(shortfall), "program": sys.argv[:1]})
    membership.try_join()
    return membership


def list_shortfalls() -> list[Sharer]:
    """Return the openings that can be seen: one's own user's, and for root everybody's."""
    found: list[Sharer] = []
    try:
        names = os.listdir(_DIRECTORY)
    except OSError:
        return []
    for name in sorted(names):
        if name.startswith(_PREFIX):
            try:
                found += PresenceFiles(LockDirectory("shortfalls", os.path.join(_DIRECTORY, name))).sharers()
            except StateError:
                continue  # another user's
    return found
