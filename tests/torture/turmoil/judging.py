"""The judge of a run: a pure function of what the supervisor has seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from turmoil.hand import ACCOUNTS, BALANCE, MOST_KEYS
from turmoil.page import LANES, LOCKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["judge"]

_MOST_FILES: Final = 80
"""Logs, locks, sharers, and what the last dead left behind: never one for each kill."""
_SLACK_BYTES: Final = 1 << 22


def judge(seen: Mapping[str, Any]) -> list[str]:
    """Return each promise that was broken, as a sentence; none: all were kept."""
    return list(_faults(seen))


def _faults(seen: Mapping[str, Any]) -> Iterator[str]:
    yield from seen["faults"]
    for finding in seen["findings"]:
        yield f"found by a hand: {finding}"
    kills = seen["kills"]
    last = seen["last"]
    if last is None:
        yield "nobody could look at the store in the end"
        return
    yield from last["faults"]
    # Both hands of a killed process may have been at an increment, or inside a lock.
    if not seen["acknowledged_hits"] <= last["hits"] <= seen["acknowledged_hits"] + 2 * kills:
        yield f"hits are {last['hits']}, acknowledged {seen['acknowledged_hits']}, with {kills} kills"
    for number in range(LOCKS):
        if abs(seen["tallies"][number] - seen["entries"][number]) > 2 * kills:
            yield f"lock {number}: {seen['tallies'][number]} turns counted, {seen['entries'][number]} acknowledged"
    for look in (*seen["looks"], last):
        if look["sum"] != BALANCE * len(ACCOUNTS):
            yield f"the sum was {look['sum']} of {BALANCE * len(ACCOUNTS)}"
        if look["figures"]["entries"] > MOST_KEYS:
            yield f"growth: {look['figures']['entries']} entries, where at most {MOST_KEYS} are written"
        if look["files"] > _MOST_FILES + LANES:
            yield f"growth: {look['files']} files"
    yield from _growth(seen["looks"], last)


def _growth(looks: list[dict[str, Any]], last: dict[str, Any]) -> Iterator[str]:
    early = [look["figures"] for look in looks if look["share"] <= 0.25]
    for name in ("bytes", "log_bytes", "wal_bytes"):
        before = max((figures[name] for figures in early if name in figures), default=None)
        after = last["figures"].get(name)
        if before is not None and after is not None and after > 1.5 * before + _SLACK_BYTES:
            yield f"growth: {name} from {before} at a quarter to {after}"
    # What was emptied may keep pages for its next entries, as shm does, but needs no more of them.
    if last["emptied"]["bytes"] > last["figures"]["bytes"] + _SLACK_BYTES // 4:
        yield f"growth: {last['emptied']['bytes']} bytes without an entry, {last['figures']['bytes']} before"
