"""What a run is at: on a terminal one line that changes, with a bar; else a line for each step."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Steps"]


class Steps:
    """The steps of a run, by what it tells of them.

    The bar counts the workloads and parts whose turn has come: a line that
    begins with a name of them says so.
    """

    def __init__(self, names: Sequence[str], console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._pending = set(names)
        self._total = len(names)
        self._started = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=len(names))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def tell(self, line: str) -> None:
        """Say what is about to be done."""
        if self._console.is_terminal:
            self._bar.update(self._task, description=f"{line:60.60}", completed=self.done())
        else:
            print(f"[{time.monotonic() - self._started:5.1f} s] {line}", file=sys.stderr, flush=True)
        # "scaling shm, ..." and "get-int: 20 rounds" both begin with their name.
        self._pending -= {name for name in self._pending if f"{line} ".startswith((f"{name} ", f"{name}:", f"{name},"))}

    def done(self) -> int:
        """Return how many of the names have been told of."""
        return self._total - len(self._pending)
