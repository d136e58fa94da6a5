"""Who this interpreter is, in the words that it announces itself with to a store's other sharers."""

from __future__ import annotations

import os
import sys

from sharedstate.deployment.detection import detect
from sharedstate.deployment.incarnation import incarnation

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any

__all__ = ["describe_self"]


def describe_self() -> dict[str, Any]:
    """Return the facts that a sharer tells of itself; None for what is unknown.

    `server`, `mode`, `processes`, `interpreters`, `threads`, `gil` and
    `application` are the values of `Deployment`.  `incarnation` is the token, and
    `boot`, `supervisor`, `started`, `restart` its parts; `group` is the process
    group, by which workers whose supervisor is dead know each other.
    """
    found = detect()
    start = incarnation()
    return {
        "server": found.server.value,
        "mode": found.mode.value,
        "processes": found.processes.value,
        "interpreters": found.interpreters.value,
        "threads": found.threads.value,
        "gil": found.gil.value,
        "application": found.application.value,
        "incarnation": start.token,
        "boot": start.boot,
        "supervisor": start.supervisor,
        "started": start.started,
        "restart": start.restart,
        "group": os.getpgrp(),
        "program": sys.argv[0] if sys.argv else "",
    }
