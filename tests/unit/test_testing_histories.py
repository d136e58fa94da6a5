"""Each judge accepts what a correct store can do, and nothing else: hand-written histories."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from sharedstate import ABSENT, Entry
from sharedstate.model import MISSING
from sharedstate.testing.histories import (
    CONFLICT,
    Hold,
    Operation,
    judge_counter,
    judge_locks,
    judge_register,
    judge_transfers,
)


def op(
    verb: str, argument: Any, result: Any, called: int, returned: int | None, *, actor: str = "a", key: str = "k"
) -> Operation:
    return Operation(actor, verb, key, argument, result, called, returned)


def died(verb: str, argument: Any, called: int) -> Operation:
    return op(verb, argument, MISSING, called, None)


# --- judge_counter --------------------------------------------------------------

_COUNTED = {
    "one after another": ([op("increment", 1, 1, 0, 1), op("increment", 1, 2, 2, 3)], 2),
    "overlapping, in either order": ([op("increment", 1, 2, 0, 5), op("increment", 1, 1, 1, 6)], 2),
    "nothing": ([], 0),
    "a dead one that counted": ([op("increment", 1, 2, 5, 6), died("increment", 1, 0)], 2),
    "a dead one that did not": ([op("increment", 1, 1, 5, 6), died("increment", 1, 0)], 1),
    "other verbs are left alone": ([op("increment", 1, 1, 0, 1), op("set", 5, None, 2, 3)], 1),
}
_MISCOUNTED = {
    "the same total twice": ([op("increment", 1, 1, 0, 5), op("increment", 1, 1, 1, 6)], 2, "twice"),
    "one lost in the end": ([op("increment", 1, 1, 0, 1), op("increment", 1, 2, 2, 3)], 1, "ended at 1"),
    "one too many": ([op("increment", 1, 1, 0, 1)], 2, "ended at 2"),
    "a later call with a smaller total": (
        [op("increment", 1, 2, 0, 1), op("increment", 1, 1, 2, 3)],
        2,
        "back in time",
    ),
    "far back in time": (
        [op("increment", 1, 3, 0, 1), op("increment", 1, 2, 0, 9), op("increment", 1, 1, 2, 3)],
        3,
        "back in time",
    ),
    "a total beyond the end": ([op("increment", 1, 7, 0, 1)], 1, "totals from 7"),
}


@pytest.mark.parametrize("name", _COUNTED)
def test_counter_that_counted(name: str) -> None:
    """judge_counter finds nothing wrong with a history that a correct counter can make."""
    operations, final = _COUNTED[name]

    assert judge_counter(operations, final) == []


@pytest.mark.parametrize("name", _MISCOUNTED)
def test_counter_that_miscounted(name: str) -> None:
    """judge_counter names the fault of one that it cannot."""
    operations, final, fault = _MISCOUNTED[name]

    faults = judge_counter(operations, final)

    assert any(fault in found for found in faults), faults


# --- judge_register -------------------------------------------------------------

_LINEARIZABLE = {
    "nothing": [],
    "read what was set": [op("set", 1, None, 0, 1), op("get", None, 1, 2, 3)],
    "read of an absent key": [op("get", None, None, 0, 1)],
    "overlapping read sees the old value": [op("set", 1, None, 0, 5), op("get", None, None, 1, 2)],
    "overlapping read sees the new value": [op("set", 1, None, 0, 5), op("get", None, 1, 1, 2)],
    "two sets, then both agree": [
        op("set", 1, None, 0, 5),
        op("set", 2, None, 0, 5),
        op("get", None, 1, 6, 7),
        op("get", None, 1, 8, 9),
    ],
    "reads that order the writes": [
        op("set", 1, None, 0, 9),
        op("set", 2, None, 0, 9),
        op("get", None, 2, 1, 2),
        op("get", None, 1, 3, 4),
    ],
    "a dead write that took effect late": [died("set", 1, 0), op("get", None, None, 1, 2), op("get", None, 1, 3, 4)],
    "a dead write that never did": [died("set", 1, 0), op("get", None, None, 1, 2), op("get", None, None, 3, 4)],
    "one of two deletes finds it": [
        op("set", 1, None, 0, 1),
        op("delete", None, True, 2, 9),
        op("delete", None, False, 2, 9),
    ],
    "one of two adds wins": [op("add", 1, True, 0, 9), op("add", 2, False, 0, 9), op("get", None, 1, 10, 11)],
    "increments in some order": [
        op("increment", 1, 3, 0, 9),
        op("increment", 2, 2, 0, 9),
        op("increment", 4, 7, 10, 11),
    ],
    "a compare_and_set that follows a read": [
        op("set", 1, None, 0, 1),
        op("read", None, Entry(1, 5), 2, 3),
        op("compare_and_set", (2, 5), 6, 4, 5),
        op("read", None, Entry(2, 6), 6, 7),
    ],
    "one of two compare_and_sets wins": [
        op("compare_and_set", (1, ABSENT), 3, 0, 9),
        op("compare_and_set", (2, ABSENT), CONFLICT, 0, 9),
        op("get", None, 1, 10, 11),
    ],
    "keys are judged alone": [op("set", 1, None, 0, 1), op("get", None, None, 2, 3, key="other")],
}
_NOT_LINEARIZABLE = {
    "stale read": [op("set", 1, None, 0, 1), op("set", 2, None, 2, 3), op("get", None, 1, 4, 5)],
    "read of what nobody wrote": [op("set", 1, None, 0, 1), op("get", None, 7, 2, 3)],
    "read from the future": [op("get", None, 1, 0, 1), op("set", 1, None, 2, 3)],
    "new, then old again": [op("set", 1, None, 0, 9), op("get", None, 1, 1, 2), op("get", None, None, 3, 4)],
    "readers that disagree about the order": [
        op("set", 1, None, 0, 1),
        op("set", 2, None, 0, 1),
        op("get", None, 1, 2, 3),
        op("get", None, 2, 4, 5),
    ],
    "both deletes find it": [
        op("set", 1, None, 0, 1),
        op("delete", None, True, 2, 9),
        op("delete", None, True, 2, 9),
    ],
    "both adds win": [op("add", 1, True, 0, 9), op("add", 2, True, 0, 9)],
    "lost increment": [op("increment", 1, 1, 0, 9), op("increment", 1, 1, 0, 9)],
    "both compare_and_sets win": [
        op("compare_and_set", (1, ABSENT), 3, 0, 9),
        op("compare_and_set", (2, ABSENT), 4, 0, 9),
    ],
    "compare_and_set at a generation that is gone": [
        op("read", None, None, 0, 1),
        op("compare_and_set", (1, ABSENT), 5, 2, 3),
        op("delete", None, True, 4, 5),
        op("set", 1, None, 6, 7),
        op("compare_and_set", (2, 5), 9, 8, 9),
    ],
    "a generation that came back": [
        op("compare_and_set", (1, ABSENT), 5, 0, 1),
        op("delete", None, True, 2, 3),
        op("set", 1, None, 4, 5),
        op("read", None, Entry(1, 5), 6, 7),
    ],
    "a generation that changed without a write": [
        op("set", 1, None, 0, 1),
        op("read", None, Entry(1, 5), 2, 3),
        op("read", None, Entry(1, 6), 4, 5),
    ],
    "a conflict without a reason": [op("compare_and_set", (1, ABSENT), CONFLICT, 0, 1)],
    "another type": [op("set", 1, None, 0, 1), op("get", None, True, 2, 3)],
    "a value half from each write": [
        op("set", (1, 1), None, 0, 9),
        op("set", (2, 2), None, 0, 9),
        op("get", None, (1, 2), 1, 2),
    ],
}


@pytest.mark.parametrize("name", _LINEARIZABLE)
def test_history_with_an_explanation(name: str) -> None:
    """judge_register finds the order, in whatever order the operations were recorded."""
    operations = _LINEARIZABLE[name]

    assert all(judge_register(order) == [] for order in permutations(operations))


@pytest.mark.parametrize("name", _NOT_LINEARIZABLE)
def test_history_without_an_explanation(name: str) -> None:
    """judge_register says which key, and which operations fit nowhere."""
    (fault,) = judge_register(_NOT_LINEARIZABLE[name])

    assert fault.startswith("'k': no order explains")


def test_history_starts_where_it_is_said_to() -> None:
    """A first read is explained by the initial value, and by no other."""
    operations = [op("get", None, 5, 0, 1)]

    assert judge_register(operations, initial=5) == []
    assert judge_register(operations, initial=6)
    assert judge_register(operations)


def test_long_history_is_judged_in_reasonable_time() -> None:
    """800 operations, four at a time, whose every round has 24 orders: the memory keeps the search small."""
    rounds = [[op("set", (r, i), None, 10 * r, 10 * r + 9, actor=str(i)) for i in range(4)] for r in range(200)]
    good = [operation for one in rounds for operation in one]

    assert judge_register(good) == []
    assert judge_register([*good, op("get", None, (0, 0), 5000, 5001)])


# --- judge_locks, judge_transfers -------------------------------------------------

_EXCLUSIVE = {
    "nothing": [],
    "one after another": [Hold("a", "l", 1, 0, 5), Hold("b", "l", 2, 5, 9)],
    "two locks at a time": [Hold("a", "l", 1, 0, 5), Hold("b", "m", 1, 1, 4)],
    "after a death": [Hold("a", "l", 1, 0, None), Hold("b", "l", 2, 3, 4)],
}
_NOT_EXCLUSIVE = {
    "overlap": ([Hold("a", "l", 1, 0, 5), Hold("b", "l", 2, 4, 9)], "two held"),
    "one within another": ([Hold("a", "l", 1, 0, 9), Hold("b", "l", 2, 4, 5)], "two held"),
    "the same token twice": ([Hold("a", "l", 1, 0, 5), Hold("b", "l", 1, 6, 9)], "did not grow"),
    "a smaller token later": ([Hold("a", "l", 2, 0, 5), Hold("b", "l", 1, 6, 9)], "did not grow"),
    "a token that fell after a death": ([Hold("a", "l", 2, 0, None), Hold("b", "l", 1, 6, 9)], "did not grow"),
}


@pytest.mark.parametrize("name", _EXCLUSIVE)
def test_holds_that_exclude(name: str) -> None:
    """judge_locks finds nothing wrong, in whatever order the holds were recorded."""
    assert all(judge_locks(order) == [] for order in permutations(_EXCLUSIVE[name]))


@pytest.mark.parametrize("name", _NOT_EXCLUSIVE)
def test_holds_that_do_not(name: str) -> None:
    """judge_locks names the fault."""
    holds, fault = _NOT_EXCLUSIVE[name]

    assert any(fault in found for found in judge_locks(reversed(holds)))


def test_transfers_are_judged_by_their_sum() -> None:
    """An audit that saw another sum is a fault; a dead one, or a transfer, is not."""
    sound = [op("audit", None, [60, 40], 0, 1), died("audit", None, 2), op("transfer", 5, None, 0, 1)]
    broken = op("audit", None, [60, 45], 0, 1)

    assert judge_transfers(sound, 100) == []
    assert len(judge_transfers([*sound, broken], 100)) == 1
