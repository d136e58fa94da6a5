"""What may be left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SLACK_BYTES", "judge_calls", "judge_interpreters"]

SLACK_BYTES: Final = 1 << 14
"""Caches of CPython and of the C library vary by less; a leak of one block per call is more."""
_SLACK: Final = {"bytes": SLACK_BYTES, "objects": 200, "descriptors": 0, "mappings": 0, "entries": 2, "references": 5}


def judge_calls(grown: Mapping[str, Any]) -> list[str]:
    """Return what grew with the number of calls, as sentences; none: nothing did."""
    return [
        f"{name}: {what} grew by {found[what]} in {found['calls']} calls; {grown.get(f'where {name}', '')}"
        for name, found in grown.items()
        if not name.startswith("where ")
        for what, slack in _SLACK.items()
        if found[what] > slack
    ]


_SHARE: Final = 1.25
_SLACK_PER_INTERPRETER: Final = 1 << 17


def judge_interpreters(ours: Mapping[str, int], others: Mapping[str, int], times: int) -> list[str]:
    """Return what interpreters that used stores left behind, beyond what CPython keeps of others.

    Args:
        ours: what grew with them.
        others: what grew with as many that had the same code.
        times: how many there were.
    """
    faults = [
        f"{ours[what]} {what} are left of {times} interpreters"
        for what in ("descriptors", "regions", "threads")
        if ours[what] > 0
    ]
    allowed = _SHARE * others["resident_bytes"] / times + _SLACK_PER_INTERPRETER
    each = ours["resident_bytes"] / times
    if each > allowed:
        faults.append(f"{each:.0f} bytes are left of each interpreter, {allowed:.0f} allowed")
    return faults
