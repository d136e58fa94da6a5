"""One move of a store, as the tests of it begin it."""

from __future__ import annotations

from typing import Any

import sharedstate

__all__ = ["move"]


def move(old_url: str, url: str, **options: Any) -> sharedstate.MoveReport:
    """Move the store, by handles of the mover's own; do not linger."""
    options.setdefault("linger_s", 0.0)
    with sharedstate.open(old_url) as source, sharedstate.open(url) as target:
        return sharedstate.move_store(source, target, **options)
