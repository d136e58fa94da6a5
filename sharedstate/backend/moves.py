"""What a backend that can move is asked, and answers: `Backend.move_to`.

A page of its own, which who only opens a store does not load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from sharedstate.backend.presence import Presence

__all__ = ["MoveOrder", "Moved"]


class MoveOrder(NamedTuple):
    """How a store is to be moved.

    Attributes:
        prepare: called once nobody else can move, mend or remove the store: makes the target empty, or refuses it.
        find_claims: names, for people, what somebody who lives owns under some keys; called while nobody writes.
        timeout_s: how long to wait for a moment at which nothing is owned and no lock held.
        progress: called now and then with how many entries are brought, and of how many.
    """

    prepare: Callable[[], None]
    find_claims: Callable[[Iterable[str]], list[str]]
    timeout_s: float
    progress: Callable[[int, int], None]


class Moved(NamedTuple):
    """What a move did.

    Attributes:
        entries: how many there were at the end.
        brought: how many were brought; some more than once, where they changed.
        places: in the target, by their tokens, of those who share the store that has moved; the mover's to give back.
        left: returns the tokens of those who have neither come along nor ended.
    """

    entries: int
    brought: int
    places: Collection[Presence]
    left: Callable[[], set[str]]
