"""Is there an order in which operations explain one another?

The search of Wing and Gong: take any operation that none of the remaining ones
precedes in time, apply it, and go back where that leads nowhere.  With what
Lowe added: never enter the same set of operations done and the same state
twice; and an operation that can have no effect is taken as soon as it fits,
since no order needs it later.

    G1  An operation takes effect at one instant between its call and its return.
    G2  One whose result is unknown (its actor died) took effect once, or never.
    G3  Steps say which states may follow; several, if things happen by themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sharedstate.model import MISSING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sharedstate.testing.histories import Operation

__all__ = ["MOST_STATES", "NEVER_NS", "Verdict", "explain", "is_unknown", "returned_ns"]

NEVER_NS: Final = 2**63
MOST_STATES: Final = 200_000


class Verdict(NamedTuple):
    """What a search found.

    Attributes:
        order: the operations in an order that explains them; None if there is none.
        is_decided: False if the search was given up: neither legal nor illegal.
        stuck: what no order can place, after the longest one that was found.
        held: the state after that longest order.
        states: how many the search entered.
    """

    order: list[Operation] | None
    is_decided: bool
    stuck: list[Operation]
    held: Any
    states: int


def is_unknown(operation: Operation) -> bool:
    """Return whether nobody was told what became of it."""
    return operation.result is MISSING


def returned_ns(operation: Operation) -> int:
    """Return when it had ended at the latest."""
    return NEVER_NS if operation.returned_ns is None else operation.returned_ns


def explain(
    operations: Iterable[Operation],
    state: Any,
    step: Callable[[Any, Operation, int], Iterable[Any]],
    has_no_effect: Callable[[Operation], bool],
    most_states: int = MOST_STATES,
) -> Verdict:
    """Search for an order.

    Args:
        operations: in any order.
        state: hashable; before the first of them.
        step: the states that may follow when an operation takes effect not before the moment given.
        has_no_effect: whether an operation, having had its result, changed nothing in any state.
        most_states: when to give up.
    """
    ordered = sorted(operations, key=lambda operation: operation.called_ns)
    calls = [operation.called_ns for operation in ordered]
    returns = [returned_ns(operation) for operation in ordered]
    needed = sum(1 << i for i, operation in enumerate(ordered) if not is_unknown(operation))
    idle = [not is_unknown(operation) and has_no_effect(operation) for operation in ordered]
    # A path: what is done, the latest call among it, the state, and the path it came from.
    first: tuple[int, int, Any, Any, int] = (0, 0, state, None, -1)
    paths = [first]
    seen: set[tuple[int, Any]] = set()
    best = first
    while paths:
        path = paths.pop()
        done, now_ns, state, _, _ = path
        if done & needed == needed:
            return Verdict(_order_of(path, ordered), True, [], state, len(seen))
        if (done, state) in seen:
            continue
        seen.add((done, state))
        if len(seen) > most_states:
            break
        if done.bit_count() > best[0].bit_count():
            best = path
        candidates = _candidates(calls, returns, needed, done, now_ns)
        found: list[tuple[int, int, Any, Any, int]] = []
        for i in candidates:
            at_ns = max(now_ns, calls[i])
            for after in step(state, ordered[i], at_ns):
                if idle[i] and after is state:
                    found = [(done | 1 << i, at_ns, after, path, i)]
                    break
                found.append((done | 1 << i, at_ns, after, path, i))
            else:
                continue
            break
        # Who returned first is tried first.
        found.sort(key=lambda each: -returns[each[4]])
        paths += found
    is_decided = not paths and len(seen) <= most_states
    stuck = [ordered[i] for i in _candidates(calls, returns, needed, best[0], best[1])]
    return Verdict(None, is_decided, stuck, best[2], len(seen))


def _candidates(calls: Sequence[int], returns: Sequence[int], needed: int, done: int, now_ns: int) -> list[int]:
    """Return which may come next: those called before any other remaining one returned, and not over yet."""
    found: list[int] = []
    first_ns = NEVER_NS
    left = ~done
    # The lowest bit of `left` is the first that is not done: all before it are.
    for i in range((left & -left).bit_length() - 1, len(calls)):
        if done >> i & 1:
            continue
        if calls[i] > first_ns:
            break  # ordered by call: neither may any after it
        if needed >> i & 1:
            first_ns = min(first_ns, returns[i])
        elif returns[i] < now_ns:
            continue  # of unknown result, and too late for it
        found.append(i)
    return [i for i in found if calls[i] <= first_ns]


def _order_of(path: Any, ordered: Sequence[Operation]) -> list[Operation]:
    order: list[Operation] = []
    while path is not None and path[4] >= 0:
        order.append(ordered[path[4]])
        path = path[3]
    return order[::-1]
