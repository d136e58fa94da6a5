"""Every cut of one trace: what may be left at each, opened and judged."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from typing import TYPE_CHECKING

from power.disk import Disk, lay_out
from power.history import Bounds
from power.trial import accept_loss, open_disk

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from power.disk import Tree
    from power.history import Content
    from power.trace import Step
    from power.trial import Outcome

__all__ = ["Cuts", "is_incidental"]


def is_incidental(path: str) -> bool:
    """Tell a file on which no content rests after a reboot: the head, named locks and sharers, SQLite's -shm."""
    return ".locks" in path or "/locks/" in path or path.endswith(("/head", "-shm"))


class Cuts:
    """One trace, cut wherever a cut can make a difference.

    What may be left only grows until a sync returns, and what is due only
    changes at a note.  So it is enough to look just before each sync returns,
    behind each note and at the end.

    Attributes:
        wrong: what was wrong, with the state that was.
        figures: cuts, states, refused (a loss that must be accepted by hand first).
    """

    def __init__(
        self, steps: list[Step], at: str, url_below: str, *, may_refuse: bool, begun: Tree, inodes: dict[str, int]
    ) -> None:
        """Take a trace.

        Args:
            steps: of the trace.
            at: an existing directory, for the states.
            url_below: of the store, with `{root}` for the place of the state.
            may_refuse: a CorruptError is no fault if what it advises leaves a right content.
            begun: what lay below the root before; by path, parents first.
            inodes: of that, by path.
        """
        self._steps = steps
        self._begun = begun, inodes
        self._at = at
        self._url_below = url_below
        self._may_refuse = may_refuse
        self._outcomes: dict[int, tuple[Outcome, bool]] = {}
        self.wrong: list[str] = []
        self.kept: Tree = {}  # the first state that was wrong
        self.figures: Counter[str] = Counter()

    def run(self, judge: Callable[[Content, Bounds], str], most: int, dice: random.Random, wanted: str = "$^") -> None:
        """Judge every state, or `most` of them, at each cut; up to a complaint that matches `wanted`."""
        disk, bounds = Disk(is_incidental), Bounds()
        disk.begin_with(*self._begun)
        for number, step in enumerate(self._steps):
            if self.wrong and re.search(wanted, self.wrong[-1]):
                return
            if step.kind == "SYNC_END":
                self._cut(disk, bounds, judge, most, dice, where=f"before step {number}")
            disk.take(step)
            if step.kind == "NOTE":
                bounds.take(step.content)
                self._cut(disk, bounds, judge, most, dice, where=f"behind step {number}, {step.content!r}")

    def some_disk(self, dice: random.Random) -> Tree:
        """Return what one cut may leave, amid a sync."""
        disk = Disk(is_incidental)
        disk.begin_with(*self._begun)
        stop = dice.choice([number for number, step in enumerate(self._steps) if step.kind == "SYNC_END"])
        for step in self._steps[:stop]:
            disk.take(step)
        return dice.choice(list(disk.states(16, dice)))

    def _cut(self, disk: Disk, bounds: Bounds, judge, most: int, dice: random.Random, *, where: str) -> None:
        self.figures["cuts"] += 1
        for tree in disk.states(most, dice):
            self.figures["states"] += 1
            outcome, was_refused = self._open(tree)
            complaint = outcome.error if outcome.content is None else judge(outcome.content, bounds)
            self.figures["refused"] += was_refused
            if complaint or (was_refused and not self._may_refuse):
                self.kept = self.kept or tree
                self.wrong.append(f"{where}: {complaint or 'refused'}")

    def _open(self, tree: Tree) -> tuple[Outcome, bool]:
        key = hash(tuple(sorted(tree.items())))
        known = self._outcomes.get(key)
        if known is None:
            known = self._outcomes[key] = self._open_anew(tree)
        return known

    def _open_anew(self, tree: Tree) -> tuple[Outcome, bool]:
        self.figures["opened"] += 1
        root = os.path.join(self._at, f"state-{self.figures['opened']}")
        lay_out(tree, root)
        url = self._url_below.format(root=root)
        outcome, was_refused = open_disk(url), False
        if accept_loss(outcome, url):
            outcome, was_refused = open_disk(url), True
        shutil.rmtree(root)
        return outcome, was_refused
