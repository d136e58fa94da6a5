"""The parts by their names, in the order in which they run.

Each takes a room and yields rows; a failure is a row, and never ends the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.parts.contention import measure_contention
from benchmarks.parts.crash import measure_crash
from benchmarks.parts.group_commit import measure_group_commit
from benchmarks.parts.growth import measure_growth
from benchmarks.parts.opening import measure_open_again, measure_open_large
from benchmarks.parts.stall import measure_stall
from benchmarks.parts.waiting import measure_hand_over, measure_watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks.parts.room import Room

__all__ = ["MORE_PARTS"]

MORE_PARTS: Final[dict[str, Callable[[Room], Iterable[Any]]]] = {
    "hand-over": measure_hand_over,
    "watch": measure_watch,
    "open-again": measure_open_again,
    "open-large": measure_open_large,
    "crash": measure_crash,
    "group-commit": measure_group_commit,
    "stall": measure_stall,
    "contention": measure_contention,
    "growth": measure_growth,
}
"""Beside scaling, light-open and codec-isolated, which `run` calls itself."""
