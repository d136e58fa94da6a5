"""Who is ours, who is the reference, and in which colour each is drawn."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["BASELINE", "colour_of", "mark_losing", "ours_of", "plain_name"]

BASELINE: Final = "dict+Lock"

_COLOURS: Final = {"shm": "ours-1", "file": "ours-2", "sqlite": "ours-3", "memory": "ours-4"}
_OTHERS: Final = "ours-1"
_NOT_ATOMIC: Final = "[not atomic]"  # a read and a write that others may come between


def ours_of(report: dict[str, Any]) -> list[str]:
    """Return the names of our backends, as the report knows them."""
    named = [str(backend.get("name", "")) for backend in report.get("backends", [])]
    return named or list(_COLOURS)


def plain_name(contestant: str) -> str:
    """Return a contestant's name without what tells one form of its call from the first one."""
    return contestant.partition(" [")[0]


def colour_of(contestant: str, ours: list[str], *, is_losing: bool = False) -> str:
    """Return the CSS variable of its colour: ours in colours, who loses updates in red, the others in grey."""
    if is_losing or contestant.endswith(_NOT_ATOMIC):
        return "lost"
    name = plain_name(contestant)
    if name in ours or name.startswith("sharedstate "):
        return _COLOURS.get(name, _OTHERS)
    return "reference" if name.startswith((BASELINE, "dict")) else "peer"


def mark_losing(contestant: str) -> str:
    """Return its name for a chart, marked if others may come between its read and its write."""
    return f"✗ {plain_name(contestant)}" if contestant.endswith(_NOT_ATOMIC) else contestant
