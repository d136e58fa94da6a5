"""What every experiment of the torture campaign shares: how long it runs, its seed, its figures, its evidence.

An experiment is a test in `tests/torture/`.  It runs in a short form with all
other tests, and in its full form by `make torture`, which sets

    SHAREDSTATE_TORTURE=full            long forms
    SHAREDSTATE_TORTURE_HOURS=1.0       shares this time between those that have no end of their own
    SHAREDSTATE_TORTURE_SEED=…          replays one campaign
    SHAREDSTATE_TORTURE_FIGURES=FILE    where the figures go, a JSON object per line
"""

from __future__ import annotations

import json
import os
import time
from typing import Final, TypeVar

__all__ = ["FIGURES", "HOURS", "IS_FULL", "SEED", "record", "scale", "span_s"]

T = TypeVar("T")

IS_FULL: Final = os.environ.get("SHAREDSTATE_TORTURE", "short") == "full"
HOURS: Final = float(os.environ.get("SHAREDSTATE_TORTURE_HOURS", "1"))
SEED: Final = int(os.environ.get("SHAREDSTATE_TORTURE_SEED") or (time.time_ns() & 0xFFFF_FFFF if IS_FULL else 0))
"""The same on every short run, since a failure that no change caused helps nobody; full ones look for new ones."""
FIGURES: Final = os.environ.get("SHAREDSTATE_TORTURE_FIGURES")


def scale(short: T, full: T) -> T:
    """Return what fits this run: `short` beside all other tests, `full` by `make torture`."""
    return full if IS_FULL else short


def span_s(short_s: float, share: float) -> float:
    """Return how long to go on, in seconds: `short_s`, or `share` (0 to 1) of the full campaign's hours."""
    return scale(short_s, share * HOURS * 3600)


def record(experiment: str, subject: str, *, bad: int, **figures: float) -> None:
    """Add one row of figures, which the summary and docs/guarantees.md show.

    Args:
        experiment: what was done, as the table names it: "kill at every byte".
        subject: what it was done to: "file", "shm", "codec".
        bad: results that broke a promise; the test that records them fails too.
        figures: what was counted, by name: `kills=…, histories=…, seconds=…`.
            Rows of one experiment and subject are added up.
    """
    row = {"experiment": experiment, "subject": subject, "bad": bad, "full": IS_FULL, "figures": figures}
    if FIGURES:
        with open(FIGURES, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    print(f"{experiment} · {subject}: {figures}, bad {bad}")  # noqa: T201  `make torture` shows it
