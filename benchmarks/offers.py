"""What our backends promise, as their plug-ins say it: how far they share, and what they outlive."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.peers import BACKENDS
from sharedstate import StateError
from sharedstate.backend.urls import parse_url
from sharedstate.registry import find_plugin

__all__ = ["DURABILITIES", "SCOPES", "describe_backends"]

SCOPES: Final = {
    "INTERPRETER": "threads of one interpreter",
    "PROCESS": "interpreters of one process",
    "HOST": "processes and interpreters of one host",
    "CLUSTER": "hosts",
}
"""Who shares, by `Scope`; narrowest first."""

DURABILITIES: Final = {
    "PROCESS": "nothing",
    "BOOT": "every process, not a reboot",
    "DISK": "a reboot",
}
"""What state outlives, by `Durability`; shortest first."""


def describe_backends() -> list[dict[str, Any]]:
    """Return each backend of ours with its capabilities, for `json.dump`; one that cannot be asked is left out."""
    found: list[dict[str, Any]] = []
    for name, url in BACKENDS.items():
        try:
            given = find_plugin(parse_url(f"{url.partition(':')[0]}:any")).CAPABILITIES
        except StateError:
            continue
        found.append({"name": name, "scope": given.scope.name, "durability": given.durability.name})
    return found
