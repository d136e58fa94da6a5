"""When two stores hold the same, key by key.

    C1  Values are the same if they are to the bit: their types, the order of a
        dict and the payload of a NaN included.  `1 == True` is no help here.
    C2  Deadlines are the same if as much time is left until them, give or take
        `TOLERANCE_S`: the two clocks are read one after the other, and one of
        them may be stepped.
    C3  An entry that expires within `TOLERANCE_S` is as good as gone, so that an
        entry that expires in both stores is never found in one of them only.

Generations are of their store, and compared with nobody else's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sharedstate.values import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate.model import Entry
    from sharedstate.store import Store

__all__ = ["TOLERANCE_S", "Differences", "Lasting", "are_same", "find_differences", "lasting"]

TOLERANCE_S: Final = 1.0


class Lasting(NamedTuple):
    """What of an entry can be carried to another store: the value, and how long it lasts.

    Attributes:
        value: the entry's.
        left_s: seconds until it expires, or None.
    """

    value: Any
    left_s: float | None


class Differences(NamedTuple):
    """What `find_differences` found; the keys in alphabetical order.

    Attributes:
        only_left: keys that only the first store has.
        only_right: keys that only the second one has.
        differing: keys whose values or deadlines differ.
        same: how many entries are the same in both.
    """

    only_left: tuple[str, ...]
    only_right: tuple[str, ...]
    differing: tuple[str, ...]
    same: int

    def is_empty(self) -> bool:
        """Return whether both stores hold the same."""
        return not (self.only_left or self.only_right or self.differing)


def find_differences(
    left: Store, right: Store, prefix: str = "", progress: Callable[[int, int], None] | None = None
) -> Differences:
    """Compare the entries of two stores, or namespaces, whose keys start with `prefix`.

    Each key is read at its own moment: of stores that are written meanwhile, the
    answer is true of each key at some moment, and of the whole at none.

    Args:
        left: one store.
        right: the other.
        prefix: of the keys.
        progress: called now and then with how many keys are compared, and of how many.
    """
    keys = sorted({*left.keys(prefix), *right.keys(prefix)})
    only_left: list[str] = []
    only_right: list[str] = []
    differing: list[str] = []
    same = 0
    for done, key in enumerate(keys):
        if progress is not None:
            progress(done, len(keys))
        ours, theirs = lasting(left, left.read(key)), lasting(right, right.read(key))
        if are_same(ours, theirs):
            same += ours is not None and theirs is not None
        elif theirs is None:
            only_left.append(key)
        elif ours is None:
            only_right.append(key)
        else:
            differing.append(key)
    return Differences(tuple(only_left), tuple(only_right), tuple(differing), same)


def lasting(store: Store, entry: Entry | None) -> Lasting | None:
    """Return what of `entry`, just read from `store`, another store can have; None if it has expired since."""
    if entry is None:
        return None
    if entry.expires_at is None:
        return Lasting(entry.value, None)
    left_s = entry.expires_at - store.now()
    return Lasting(entry.value, left_s) if left_s > 0 else None


def are_same(left: Lasting | None, right: Lasting | None) -> bool:
    """Return whether two stores hold the same of one key (C1 to C3)."""
    if left is None or right is None:
        rest = left or right
        return rest is None or (rest.left_s is not None and rest.left_s <= TOLERANCE_S)
    if left.left_s is None or right.left_s is None:
        if left.left_s is not right.left_s:
            return False
    elif abs(left.left_s - right.left_s) > TOLERANCE_S:
        return False
    return encode(left.value) == encode(right.value)
