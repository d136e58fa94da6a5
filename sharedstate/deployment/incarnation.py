"""Placeholder until incarnations are told: this process."""

from __future__ import annotations

import os

from sharedstate.deployment.model import Incarnation
from sharedstate.model import boot_id, process_start_time


def incarnation() -> Incarnation:
    """Return this process as its own supervisor."""
    pid = os.getpid()
    return Incarnation(boot_id(), pid, process_start_time(pid), "", "this process")
