"""A store that moves while it is used, and not one write of anybody is lost.

    M1  Every write is done once: before the move at the old store, from which it is
        brought along, or at the new one.
    M2  The old store serves until the one transaction that ends it.  A mover that is
        killed, or refused, leaves it as it was; what it had brought lies in the new
        store, where nobody looks, and is to be replaced (`overwrite`).
    M3  Who uses the old store learns of the move from its next statement, and does
        that at the new one (`sharedstate.following`); so does who opens it by its
        old URL, as long as the old store is not removed.
    M4  Nobody is torn from what he holds: nothing moves while a lock is held, a task
        runs, a permit is out, or somebody leads.
        And who shares the old store is present in the new one, the mover standing
        in for him until he comes.
    M5  What was read before the move conflicts after it, and a fencing token is
        greater than all before: generations and tokens go by the new store's clock.

How a store is brought and ended is its backend's (`Backend.move_to`).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from sharedstate.backend.moves import MoveOrder
from sharedstate.backend.waiting import Backoff, Deadline
from sharedstate.coordination.claims import KEYS, find_owners
from sharedstate.errors import CapacityError, StateError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sharedstate.backend.moves import Moved
    from sharedstate.store import Store

__all__ = ["MoveReport", "move_store", "require_movable"]


class MoveReport(NamedTuple):
    """What `move_store` did.

    Attributes:
        entries: how many the store has, where it is now.
        brought: how many were carried there; more than `entries` where they changed meanwhile, or were deleted.
        waiting: how many handles have made no call since, for whom nobody stands in any more.
    """

    entries: int
    brought: int
    waiting: int


def move_store(
    source: Store,
    target: Store,
    *,
    overwrite: bool = False,
    timeout_s: float = 30.0,
    linger_s: float | None = 30.0,
    progress: Callable[[int, int], None] | None = None,
    when_moved: Callable[[MoveReport], None] | None = None,
) -> MoveReport:
    """Move all of one store to another while it is used; then `source` is where `target` is.

    All who have the old store open go along with their next call, which they
    notice by nothing but its duration, the scope, durability and limits of the
    new store, and that a generation read before conflicts.  Restart them with the
    new URL when it suits you; keep the old store until then.

    Do not fork while it runs.

    Args:
        source: of a backend that can move (`sqlite:`).
        target: of one that can take it (`redis:`), empty, and used by nobody else until then.
        overwrite: remove first what the target has.
        timeout_s: how long to wait for a moment at which nobody holds anything.
        linger_s: how long to stay after that, so that handles which make no call are not taken for absent in the new
            store; None: until all have come along, or ended.
        progress: called now and then with how many entries are brought, and of how many.
        when_moved: called once the store has moved, with the report as it is then; the rest may be interrupted.

    Raises:
        LockTimeoutError: there was no such moment; `holder` says who holds what.
        CapacityError: the target is full, or does not take one of the values.
        UnavailableError: such a store cannot move, or not there; the target is not empty, or its server has lost
            what was brought.
        MovedError: somebody else has moved it.
        StateError: what either store says.  The old one is in service, whatever is raised before `when_moved` is
            called, but for `OutcomeUnknownError`: then look by opening it.
    """
    require_movable(source, target)

    def prepare() -> None:
        if overwrite:
            target.clear()
        elif len(target):
            raise UnavailableError(
                url=target.url,
                reason=f"it holds {len(target)} entries",
                advice="Name an empty store; or replace what it has with overwrite=True (--overwrite).",
            )

    def find_claims(keys: Iterable[str]) -> list[str]:
        return find_owners(source, keys)

    order = MoveOrder(prepare, find_claims, timeout_s, progress or _tell_nobody)
    moved = source.backend.move_to(target.backend, order)
    with suppress(StateError):  # it has moved, whatever comes now
        source.generation(KEYS)  # so our own handle goes along
    report = MoveReport(moved.entries, moved.brought, len(_find_waiting(moved)))
    if when_moved is not None:
        when_moved(report)
    return report._replace(waiting=_linger(moved, linger_s))


def _tell_nobody(_done: int, _total: int) -> None:
    pass


def _linger(moved: Moved, linger_s: float | None) -> int:
    """Stand in for the handles that are to come along; return how many have not when the time is over."""
    deadline, backoff = Deadline(linger_s), Backoff(0.1)
    try:
        while waiting := _find_waiting(moved):
            for place in moved.places:
                if place.token not in waiting:  # it has come, and this leaves it alone; or it has ended
                    place.leave()
            if deadline.has_passed():
                break
            backoff.sleep(deadline)
    finally:
        for place in moved.places:
            place.leave()
    return len(waiting)


def _find_waiting(moved: Moved) -> set[str]:
    return {place.token for place in moved.places} & moved.left()


def require_movable(source: Store, target: Store) -> None:
    """Refuse what no move can be between, before anything is done.

    Raises:
        CapacityError: the target forgets entries.
        UnavailableError: such a store cannot move, or not there.
    """
    if source.prefix or target.prefix:
        raise UnavailableError(
            url=source.url, reason="a namespace is a part of a store", advice="Move the store, or copy the namespace."
        )
    if not source.backend.can_move:
        raise UnavailableError(
            url=source.url,
            reason="it cannot move while it is used",
            advice="Stop who uses it, and copy it: sharedstate copy.",
        )
    if not target.backend.is_clocked:
        raise UnavailableError(
            url=target.url,
            reason="a store that is used cannot move here",
            advice="Name a server, redis://host/name; or stop who uses it, and copy it: sharedstate copy.",
        )
    if target.capabilities.evicts:
        raise CapacityError(
            url=target.url,
            reason="it evicts entries, and would forget what was moved there",
            advice="Set the server's maxmemory-policy to noeviction.",
        )
