"""Locks: who held them when, with which token, and what the tokens kept out.

L1  No two hold one lock at a time.  A hold lasts at least from a moment after it was acquired to the last moment
    at which its holder was seen in it, or to a moment before it was released.
L3  Also if a holder is killed: the next one has it soon, and none before.
L4  Tokens grow from each acquisition to the next one in time; none is given out twice, also if nobody knows
    which of two came first.
L6  Writes that carry a token to a resource that refuses smaller ones than it has seen: those that were accepted
    have an order, that of time, in which tokens never fall; and one was refused only for a greater token.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from judged.search import MOST_STATES, Verdict, explain, returned_ns
from sharedstate.model import MISSING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sharedstate.testing.histories import Operation

__all__ = ["ACCEPTED", "STALE", "Held", "judge_fenced_writes", "judge_holds"]

ACCEPTED = True
STALE = False


class Held(NamedTuple):
    """One time that somebody had the lock.

    Attributes:
        actor: who.
        token: what it was told.
        asked_ns: a moment before it asked.
        had_ns: a moment at which it had it.
        left_ns: the last moment at which it surely had it.
        freed_ns: a moment after it was released; None if it was killed in it.
    """

    actor: str
    token: int
    asked_ns: int
    had_ns: int
    left_ns: int
    freed_ns: int | None


def judge_holds(holds: Iterable[Held]) -> list[str]:
    """Judge the holds of one lock: L1 to L4."""
    faults: list[str] = []
    ordered = sorted(holds, key=lambda held: held.had_ns)
    latest: Held | None = None  # who, of those before, had it longest
    greatest: list[Held] = []  # by their end: the greatest token of those that ended so early
    for held in ordered:
        if latest is not None and held.had_ns < latest.left_ns:
            faults.append(f"two held it at a time: {latest}; {held}")
        if latest is None or held.left_ns > latest.left_ns:
            latest = held
    for before, after in pairwise(sorted(ordered, key=lambda held: held.token)):
        if before.token == after.token:
            faults.append(f"the token {before.token} was handed out twice: {before}; {after}")
    # A hold that was over before another was acquired has the smaller token.
    for held in ordered:
        older = [each for each in greatest if each.left_ns <= held.had_ns]
        faults += [f"the token fell: {each}; {held}" for each in older if each.token > held.token][:1]
        greatest.append(held)
        greatest = sorted(greatest, key=lambda each: each.token)[-64:]
    return faults


def judge_fenced_writes(writes: Iterable[Operation], most_states: int = MOST_STATES) -> Verdict:
    """Judge writes, each `write` with its token, which were accepted (True) or refused as stale (False): L6."""
    return explain(writes, 0, _step, lambda op: op.result is STALE, most_states)


def _step(greatest: int, op: Operation, _now_ns: int) -> list[int]:
    token = op.argument
    if op.result is MISSING:
        return [max(greatest, token)]
    if op.result is STALE:
        return [greatest] if token < greatest else []
    return [token] if token >= greatest and returned_ns(op) >= op.called_ns else []
