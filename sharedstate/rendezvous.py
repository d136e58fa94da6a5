"""Do those meet here who should?  What the server announces, beside who is present.

A worker that opens the right store by the wrong name, in another mount
namespace or as another user shares it with nobody, and nothing fails.  So a
worker that opens its store late, when the others must long be there, counts
them, and warns once if they are not.
"""

from __future__ import annotations

import os

from sharedstate.deployment.model import Certainty

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

    from sharedstate.deployment.model import Deployment
    from sharedstate.store import Store

__all__ = ["SharersMissingWarning", "count_missing", "look_around"]

_SETTLED_AFTER_S: Final = 30.0
"""How long a server may take to start: before that, others may yet have to come."""

_warned: set[str] = set()  # of this interpreter; URLs


class SharersMissingWarning(UserWarning):
    """The server announces more workers than share the store."""


def count_missing(store: Store, deployment: Deployment, incarnation: str) -> tuple[int, int]:
    """Return how many processes share `store` in this start of the server, and how many should.

    The second is 0 where that cannot be known: the server does not say how many
    it runs, or it loads the application only for the first request that a
    worker gets.
    """
    announced = deployment.processes
    if announced.certainty is not Certainty.KNOWN or type(announced.value) is not int or not loads_at_start(deployment):
        return 0, 0
    here = {
        (sharer.owner.pid, sharer.owner.started)
        for sharer in store.sharers()
        if sharer.facts.get("incarnation") == incarnation
    }
    return len(here), announced.value


def loads_at_start(deployment: Deployment) -> bool:
    """Return whether each worker loads the application when it starts, and not at its first request."""
    return deployment.server.value not in {"mod_wsgi", "python", "multiprocessing", "interpreters"}


def look_around(store: Store, deployment: Deployment) -> None:
    """Warn, once for each store, if most of those who should share it are not there."""
    if store.url in _warned or deployment.processes.value in {1, None}:
        return
    from sharedstate.deployment.incarnation import incarnation

    start = incarnation()
    if not start.started or _uptime_s(start.started) < _SETTLED_AFTER_S:
        return
    present, announced = count_missing(store, deployment, start.token)
    # Half: workers that are replaced just now are no reason to cry.
    if announced and present * 2 <= announced:
        _warned.add(store.url)
        import warnings

        warnings.warn(
            f"{store.url}: {deployment.server.value} announces {announced} workers "
            f"({deployment.processes.evidence}), but only {present} share this store. The others may have opened "
            "another name, run as another user, or see another /dev/shm or directory. "
            "Run `sharedstate doctor`, or `sharedstate who` with this URL.",
            SharersMissingWarning,
            stacklevel=3,
        )


def _uptime_s(started: int) -> float:
    import time

    ticks = os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / ticks
