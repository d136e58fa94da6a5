"""How far a command is, drawn on stderr; for a terminal only."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["draw_progress"]


@contextmanager
def draw_progress(what: str) -> Generator[Callable[[int, int], None] | None]:
    """Draw a bar while the block runs; yield what is to be told how much is done, and of how much."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(what), total=None)  # a path may look like markup
        yield lambda done, total: bar.update(task, completed=done, total=total)
