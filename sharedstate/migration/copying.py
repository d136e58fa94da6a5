"""A copy of a store's entries into another one, while both may be in use.

    Y1  Nothing that the target has is replaced or removed unless the caller said
        so, whoever wrote it and whenever: each write expects the generation that
        was seen.
    Y2  The target's entry is read before the source's.  So of two copies at once
        the one that writes last has read last, and no value goes back in time
        (but for a key that one of them also removes: absences have no generation).
    Y3  What is there already and the same is not written: a copy that was
        interrupted is simply begun again.
    Y4  The report is of the end: both stores are read once more, and what is not
        the same then is named, be it that somebody wrote meanwhile.

A deadline travels as the time that is left.  A copy killed at any moment leaves
each entry whole or absent, since each is one write of the target's.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from sharedstate.backend.waiting import Backoff
from sharedstate.errors import ConflictError
from sharedstate.migration.comparing import Lasting, are_same, find_differences, lasting
from sharedstate.model import ABSENT
from sharedstate.values import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate.store import Store

__all__ = ["CopyReport", "Outcome", "copy_entries", "put_entry"]


class Outcome(Enum):
    """What became of one entry on its way into a store."""

    WRITTEN = "written"
    SAME = "same"  # it was there already
    REFUSED = "refused"  # another value or deadline is there
    TOO_LARGE = "too large"  # for the target
    GONE = "gone"  # deleted or expired before it could be written


class CopyReport(NamedTuple):
    """What `copy_entries` did and found; the keys in alphabetical order.

    Attributes:
        written: how many entries were written.
        same: how many were there already.
        deleted: how many were removed from the target, which alone had them.
        refused: keys that differ in the target and were left as they are.
        too_large: keys whose values the target does not take.
        changed: other keys that are not the same in both stores at the end: somebody wrote or removed them meanwhile.
        verified: how many entries were the same in both stores at the end.
    """

    written: int
    same: int
    deleted: int
    refused: tuple[str, ...]
    too_large: tuple[str, ...]
    changed: tuple[str, ...]
    verified: int

    def is_complete(self) -> bool:
        """Return whether all that the source has was in the target at the end."""
        return not (self.refused or self.too_large or self.changed)


def copy_entries(
    source: Store,
    target: Store,
    *,
    prefix: str = "",
    overwrite: bool = False,
    delete: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CopyReport:
    """Copy the entries of one store, or namespace, into another one.

    To move a service: copy while it runs, stop it, copy once more with
    `overwrite` and `delete`, which writes only what has changed since, and start
    it with the other store.

    Args:
        source: only read.
        target: written to.
        prefix: of the keys to copy.
        overwrite: replace what differs in the target.
        delete: remove from the target the keys with that prefix that the source does not have.
        progress: called now and then with how many steps are done, and of how many.

    Raises:
        CapacityError: the target is full.  What was written stays; make room and copy again.
    """
    keys = sorted(source.keys(prefix))
    surplus = sorted(set(target.keys(prefix)).difference(keys)) if delete else []
    steps = _Steps(2 * len(keys) + len(surplus), progress)
    outcomes: dict[Outcome, list[str]] = {outcome: [] for outcome in Outcome}
    for key in keys:
        steps.advance()
        outcomes[_copy_entry(source, target, key, overwrite)].append(key)
    deleted = 0
    for key in surplus:
        steps.advance()
        deleted += _delete_unless_in(source, target, key)
    end = find_differences(source, target, prefix, lambda _done, _total: steps.advance())
    named = {*outcomes[Outcome.REFUSED], *outcomes[Outcome.TOO_LARGE]}
    # What only the target has was either ours to remove, or is none of our business.
    ours = end.only_right if delete else set(end.only_right).intersection(keys)
    return CopyReport(
        written=len(outcomes[Outcome.WRITTEN]),
        same=len(outcomes[Outcome.SAME]),
        deleted=deleted,
        refused=tuple(outcomes[Outcome.REFUSED]),
        too_large=tuple(outcomes[Outcome.TOO_LARGE]),
        changed=tuple(sorted({*end.only_left, *end.differing, *ours} - named)),
        verified=end.same,
    )


def put_entry(target: Store, key: str, read: Callable[[], Lasting | None], *, overwrite: bool) -> Outcome:
    """Write what `read` returns under `key`, unless it is there or something else is (Y1 to Y3).

    Args:
        target: to write to.
        key: of the entry.
        read: returns what is to be there as it is now, or None if it is no more; called again if somebody else wrote
            to the target between.
        overwrite: replace what differs.
    """
    backoff = Backoff()
    while True:
        entry = target.read(key)
        there = lasting(target, entry)
        here = read()
        if here is None:
            return Outcome.GONE
        if there is not None and are_same(here, there):
            return Outcome.SAME
        if there is not None and not overwrite:
            return Outcome.REFUSED
        if len(encode(here.value)) > target.capabilities.max_value_bytes:
            return Outcome.TOO_LARGE
        expected = ABSENT if entry is None or there is None else entry.generation
        try:
            target.compare_and_set(key, here.value, expected, here.left_s)
        except ConflictError:
            backoff.sleep()
        else:
            return Outcome.WRITTEN


def _copy_entry(source: Store, target: Store, key: str, overwrite: bool) -> Outcome:
    return put_entry(target, key, lambda: lasting(source, source.read(key)), overwrite=overwrite)


def _delete_unless_in(source: Store, target: Store, key: str) -> bool:
    """Remove `key` from the target if the source still lacks it; return whether it was there."""
    backoff = Backoff()
    while True:
        try:
            with target.transaction() as transaction:
                return transaction.get(key, _NOTHING) is not _NOTHING and (
                    source.generation(key) == ABSENT and transaction.delete(key)
                )
        except ConflictError:
            backoff.sleep()


_NOTHING = object()


class _Steps:
    """How many steps are done; the total is known but for what comes and goes meanwhile."""

    def __init__(self, total: int, tell: Callable[[int, int], None] | None) -> None:
        self._done = 0
        self._total = total
        self._tell = tell

    def advance(self) -> None:
        """Count one step, and tell of it."""
        if self._tell is not None:
            self._tell(self._done, max(self._total, self._done))
        self._done += 1
