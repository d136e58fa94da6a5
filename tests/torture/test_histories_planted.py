"""Every judge of histories can fail: on bugs planted into real runs, and on histories that no store can have made.

And it fails where it should, nowhere else: on thousands of tiny random
histories it agrees with a judge that tries every order.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from campaign import record, scale
from judged.brute import has_order, has_serial_order
from judged.campaigns import play
from judged.evidence import judge_again, keep
from judged.holding import Held, judge_fenced_writes, judge_holds
from judged.many_keys import find_idle_conflicts, judge_many_keys
from judged.one_key import NOT_THERE, REFUSED, UNTOLD, Rules, judge_one_key
from judged.plants import PLANTS
from sharedstate.model import ABSENT, MISSING
from sharedstate.testing.histories import CONFLICT, Operation

if TYPE_CHECKING:
    import random
    from pathlib import Path

_CAUGHT = {
    "commits in parts": ("transactions", "memory", False),
    "compares nothing": ("keys", "memory", False),
    "counts generations again": ("keys", "file", False),
    "excludes nobody": ("holds", "shm", False),
    "fences nothing": ("holds", "memory", False),
    "keeps what was refused": ("transactions", "memory", False),
    "lets live": ("leases", "memory", False),
    "loses updates": ("keys", "shm", False),
    "raises the dead": ("leases", "memory", False),
    "reads stale": ("keys", "sqlite", False),
    "repeats tokens": ("holds", "file", True),
    "reverts at opening": ("keys", "shm", True),
    "skews writes": ("transactions", "memory", False),
    "writes behind": ("keys", "file", True),
}
"""By bug, the campaign that catches it: kind, backend, and whether actors are killed."""


@pytest.mark.parametrize("bug", _CAUGHT)
def test_campaign_catches(bug: str, dice: random.Random, tmp_path: Path) -> None:
    """A store with one of the bugs of `judged.plants` is found out by what its actors were told."""
    kind, scheme, kills = _CAUGHT[bug]

    outcome = play(kind, scheme, 16, dice, tmp_path, kills=kills, plant=bug)

    record("planted bugs in histories", bug, bad=0, faults=len(outcome.faults), histories=outcome.histories)
    assert outcome.faults


def test_campaign_catches_what_comes_back_after_eviction(dice: random.Random, tmp_path: Path) -> None:
    """An evicted entry that is answered from a cache is found out, although anything may vanish at any time."""
    assert play("evicted keys", "shm", 16, dice, tmp_path, plant="raises the dead").faults


def test_every_plant_is_caught() -> None:
    """No bug is planted that no campaign is asked to catch."""
    assert _CAUGHT.keys() == PLANTS.keys()


# --- Histories written by hand --------------------------------------------------------


def op(  # noqa: PLR0917
    verb: str, argument: Any, result: Any, called: int, returned: int | None, key: str = "k"
) -> Operation:
    return Operation("a", verb, key, argument, result, called, returned)


def tx(reads: dict[str, Any], steps: list[tuple[str, str, int]], called: int, returned: int | None) -> Operation:
    """Return a committed transaction that saw `reads`; of unknown result if `returned` is None."""
    result = MISSING if returned is None else tuple(reads.values())
    return op("transact", (tuple(reads), tuple(steps)), result, called, returned, "")


_MS = 1_000_000

_KEYS_LEGAL = {
    "a dead write that took effect": [op("set", (1, None), MISSING, 0, None), op("get", None, 1, 5, 6)],
    "a dead write that did not": [op("set", (1, None), MISSING, 0, None), op("get", None, None, 5, 6)],
    "pop, of two one gets it": [
        op("set", (1, None), None, 0, 1),
        op("pop", None, 1, 2, 9),
        op("pop", None, None, 2, 9),
    ],
    "setdefault gives all the same": [op("setdefault", 1, 2, 0, 9), op("setdefault", 2, 2, 0, 9)],
    "update_with replaces what is no number": [op("set", ("s", None), None, 0, 1), op("update_with", 3, 3, 2, 3)],
    "there before its deadline": [op("set", (1, 1e-3), None, 0, 10), op("get", None, 1, _MS - 5, _MS + 90)],
    "gone after it": [op("set", (1, 1e-3), None, 0, 10), op("get", None, None, _MS, _MS + 90)],
    "touched, and there": [
        op("set", (1, 1e-3), None, 0, 10),
        op("touch", None, True, 20, 30),
        op("get", None, 1, 9 * _MS, 9 * _MS + 1),
    ],
}
_KEYS_ILLEGAL = {
    "two pops of one write": [op("set", (1, None), None, 0, 1), op("pop", None, 1, 2, 9), op("pop", None, 1, 2, 9)],
    "setdefault gives two values": [op("setdefault", 1, 1, 0, 9), op("setdefault", 2, 2, 0, 9)],
    "a lost update_with": [op("update_with", 1, 1, 0, 9), op("update_with", 1, 1, 0, 9)],
    "a generation that skips no write": [
        op("read", None, (1, 5, None), 2, 3),
        op("set", (1, None), None, 0, 1),
        op("set", (2, None), None, 4, 5),
        op("set", (3, None), None, 6, 7),
        op("read", None, (3, 6, None), 8, 9),
    ],
    "a generation that came back after a delete": [
        op("compare_and_set", (1, ABSENT, None), 5, 0, 1),
        op("delete", None, UNTOLD, 2, 3),
        op("add", (2, None), True, 4, 5),
        op("read", None, (2, 5, None), 6, 7),
    ],
    "a dead write that took effect twice": [
        op("set", (1, None), MISSING, 0, None),
        op("get", None, 1, 5, 6),
        op("delete", None, True, 7, 8),
        op("get", None, 1, 9, 10),
    ],
    "an acknowledged write that is gone": [op("set", (1, None), None, 0, 1), op("get", None, None, 2, 3)],
    "a refused write that wrote": [op("set", (1, None), (REFUSED, "CapacityError"), 0, 1), op("get", None, 1, 2, 3)],
    "there after its deadline": [op("set", (1, 1e-3), None, 0, 10), op("get", None, 1, _MS + 11, _MS + 90)],
    "gone before it": [op("set", (1, 1e-3), None, 0, 10), op("get", None, None, 20, _MS - 1)],
    "gone, and back": [
        op("set", (1, 1e-3), None, 0, 10),
        op("get", None, None, _MS + 1, _MS + 2),
        op("get", None, 1, _MS + 3, _MS + 5),
    ],
    "another deadline than was asked": [
        op("set", (1, 1e-3), None, 0, 10),
        op("read", None, (1, 1, (3 * _MS, 3 * _MS)), 20, 30),
    ],
    "a ttl of what is gone": [op("set", (1, None), None, 0, 1), op("ttl", None, NOT_THERE, 2, 3)],
    "an increment that lost the deadline": [
        op("set", (1, 1e-3), None, 0, 10),
        op("increment", (1, None), 2, 20, 30),
        op("get", None, 2, 5 * _MS, 5 * _MS + 1),
    ],
}
_EVICTED = [op("set", (1, None), None, 0, 1), op("get", None, None, 2, 3)]
_EVICTED_AND_BACK = [*_EVICTED, op("get", None, 1, 4, 5)]
_EVICTED_AND_OLD = [
    op("set", (1, None), None, 0, 1),
    op("set", (2, None), None, 2, 3),
    op("get", None, None, 4, 5),
    op("get", None, 1, 6, 7),
]


@pytest.mark.parametrize("name", _KEYS_LEGAL)
def test_key_with_an_explanation(name: str) -> None:
    """What a correct store can answer is legal."""
    assert judge_one_key(_KEYS_LEGAL[name]).order is not None


@pytest.mark.parametrize("name", _KEYS_ILLEGAL)
def test_key_without_an_explanation(name: str) -> None:
    """What it cannot is illegal, decidedly."""
    verdict = judge_one_key(_KEYS_ILLEGAL[name])

    assert verdict.order is None
    assert verdict.is_decided
    assert verdict.stuck


def test_eviction_explains_absence_and_nothing_else() -> None:
    """What was evicted is absent; it does not come back, neither as it was nor older."""
    assert judge_one_key(_EVICTED).order is None
    assert judge_one_key(_EVICTED, Rules(evicts=True)).order is not None
    assert judge_one_key(_EVICTED_AND_BACK, Rules(evicts=True)).order is None
    assert judge_one_key(_EVICTED_AND_OLD, Rules(evicts=True)).order is None


_WRITTEN = tx({}, [("put", "x", 10), ("put", "y", 10)], 0, 1)
_SERIAL = {
    "both or neither": [_WRITTEN, tx({"x": 10, "y": 10}, [], 2, 3)],
    "a dead one that committed": [tx({}, [("put", "x", 1), ("put", "y", 1)], 0, None), tx({"x": 1, "y": 1}, [], 5, 6)],
    "a dead one that did not": [tx({}, [("put", "x", 1)], 0, None), tx({"x": None}, [], 5, 6)],
    "one after the other": [
        _WRITTEN,
        tx({"x": 10, "y": 10}, [("sum", "x", 100)], 2, 9),
        tx({"x": 120, "y": 10}, [("sum", "y", 100)], 2, 9),
    ],
}
_NOT_SERIAL = {
    "half of a transaction": [_WRITTEN, tx({"x": 10, "y": None}, [], 0, 3)],
    "write skew": [
        _WRITTEN,
        tx({"x": 10, "y": 10}, [("sum", "x", 100)], 2, 9),
        tx({"x": 10, "y": 10}, [("sum", "y", 100)], 2, 9),
    ],
    "a lost update": [
        _WRITTEN,
        tx({"x": 10}, [("sum", "x", 1)], 2, 9),
        tx({"x": 10}, [("sum", "x", 2)], 2, 9),
    ],
    "readers that disagree about the order": [
        tx({}, [("put", "x", 1)], 0, 9),
        tx({}, [("put", "y", 1)], 0, 9),
        tx({"x": 1, "y": None}, [], 1, 8),
        tx({"x": None, "y": 1}, [], 1, 8),
    ],
    "serial, but not in the order of time": [_WRITTEN, tx({"x": None, "y": None}, [], 2, 3)],
    "an effect of one that lost a race": [
        op("transact", ((), (("put", "x", 5),)), CONFLICT, 0, 1, ""),
        tx({"x": 5}, [], 2, 3),
    ],
    "half of a dead one": [tx({}, [("put", "x", 1), ("put", "y", 1)], 0, None), tx({"x": 1, "y": None}, [], 5, 6)],
}


@pytest.mark.parametrize("name", _SERIAL)
def test_transactions_with_a_serial_order(name: str) -> None:
    """What correct transactions can have seen is legal."""
    assert judge_many_keys(_SERIAL[name]).order is not None


@pytest.mark.parametrize("name", _NOT_SERIAL)
def test_transactions_without_a_serial_order(name: str) -> None:
    """What they cannot is illegal."""
    assert judge_many_keys(_NOT_SERIAL[name]).order is None


def test_conflict_with_nobody_is_found() -> None:
    """A ConflictError needs another writer of what was read, at that time."""
    lost = op("transact", (("x",), (("put", "x", 5),)), CONFLICT, 10, 20, "")

    assert find_idle_conflicts([_WRITTEN, lost]) == [lost]
    assert find_idle_conflicts([_WRITTEN._replace(returned_ns=12), lost]) == []


def test_holds_that_meet_are_found() -> None:
    """Two at a time, a token twice, and a token that falls; also where the first holder was killed."""
    first = Held("a", 1, 0, 1, 5, None)

    assert judge_holds([first, Held("b", 2, 0, 6, 7, 8)]) == []
    assert "two held" in judge_holds([first, Held("b", 2, 0, 4, 7, 8)])[0]
    assert "twice" in judge_holds([first, Held("b", 1, 0, 6, 7, 8)])[0]
    assert "fell" in judge_holds([first._replace(token=3), Held("b", 2, 0, 6, 7, 8)])[0]


def test_stale_writes_that_were_accepted_are_found() -> None:
    """A smaller token after a greater one; and one that was refused although none was greater."""
    assert judge_fenced_writes([op("write", 1, True, 0, 9), op("write", 2, True, 0, 9)]).order is not None
    assert judge_fenced_writes([op("write", 2, True, 0, 1), op("write", 1, False, 2, 3)]).order is not None
    assert judge_fenced_writes([op("write", 2, True, 0, 1), op("write", 1, True, 2, 3)]).order is None
    assert judge_fenced_writes([op("write", 1, False, 2, 3), op("write", 2, True, 4, 5)]).order is None


# --- Against every order --------------------------------------------------------------


def _span(dice: random.Random) -> tuple[int, int]:
    called = dice.randrange(12)
    return called, called + dice.randrange(1, 8)


def _random_key(dice: random.Random, *, is_leased: bool) -> list[Operation]:
    """Return few operations with results that may well have happened."""
    found = []
    for number in range(dice.randint(2, 5)):
        called, returned = _span(dice)
        ttl_s = dice.choice((None, 3e-9, 5e-9)) if is_leased else None
        value, seen = number + 1, dice.choice((None, 1, 2, 3))
        made: list[tuple[str, Any, Any]] = [
            ("get", None, seen),
            ("set", (value, ttl_s), None),
            ("add", (value, ttl_s), dice.random() < 0.6),
            ("delete", None, dice.choice((True, False, UNTOLD))),
            ("pop", None, seen),
            ("increment", (1, ttl_s), dice.randint(1, 4)),
        ]
        if not is_leased:
            made += [
                ("read", None, None if seen is None else (seen, dice.randint(1, 5), None)),
                ("compare_and_set", (value, dice.randint(0, 3), None), dice.choice((CONFLICT, 1, 2, 3, 4))),
            ]
        verb, argument, result = dice.choice(made)
        if dice.random() < 0.15:
            found.append(op(verb, argument, MISSING, called, None))
        else:
            found.append(op(verb, argument, result, called, returned))
    return found


def _random_transactions(dice: random.Random) -> list[Operation]:
    found = []
    for number in range(dice.randint(2, 5)):
        called, returned = _span(dice)
        if dice.random() < 0.3:
            seen = dice.choice((None, 100, 200))
            choices = [("get", None, seen), ("set", (100 * number, None), None), ("delete", None, dice.random() < 0.5)]
            found.append(op(*dice.choice(choices), called, returned, dice.choice("xy")))
            continue
        reads = {key: dice.choice((None, None, 100, 200, 300)) for key in dice.sample("xy", dice.randint(0, 2))}
        steps = [
            (dice.choice(("put", "sum")), key, 100 * number) for key in dice.sample("xy", dice.randint(not reads, 2))
        ]
        found.append(tx(reads, steps, called, None if dice.random() < 0.15 else returned))
    return found


@pytest.mark.parametrize("rules", ["plain", "evicts", "leased"])
def test_key_judge_agrees_with_every_order(rules: str, dice: random.Random) -> None:
    """On random tiny histories the search finds an explanation exactly where one order of all is one."""
    evicts, is_leased = rules == "evicts", rules == "leased"
    legal = 0
    total = scale(1500, 30_000)
    for _ in range(total):
        history = _random_key(dice, is_leased=is_leased)
        expected = has_order(history, evicts=evicts, is_leased=is_leased)
        found = judge_one_key(history, Rules(evicts=evicts)).order is not None
        assert found == expected, "\n".join(map(str, history))
        legal += expected

    record("judges against every order", f"key, {rules}", bad=0, histories=total, legal=legal)
    assert total // 20 < legal < total - total // 20


def test_transaction_judge_agrees_with_every_order(dice: random.Random) -> None:
    """The same for transactions."""
    legal = 0
    total = scale(1500, 30_000)
    for _ in range(total):
        history = _random_transactions(dice)
        expected = has_serial_order(history)
        assert (judge_many_keys(history).order is not None) == expected, "\n".join(map(str, history))
        legal += expected

    record("judges against every order", "transactions", bad=0, histories=total, legal=legal)
    assert total // 20 < legal < total - total // 20


# --- Evidence --------------------------------------------------------------------------


def test_illegal_history_is_kept_small_and_judged_again(tmp_path: Path) -> None:
    """Of forty operations few remain besides those of the lost update; the command says so, from the file alone."""
    noise = [op("update_with", 1, number + 1, 10 * number, 10 * number + 5) for number in range(38)]
    lost = [op("update_with", 1, 39, 400, 409), op("update_with", 1, 39, 401, 410)]

    path = keep(tmp_path, "one key", [*noise, *lost])

    with open(path, encoding="utf-8") as file:
        small = json.load(file)["small"]
    assert sum(each["result"] is not None for each in small) <= 10
    assert judge_again(path).order is None
    assert judge_again(path, "small").order is None
    here = os.path.dirname(os.path.abspath(__file__))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, *sys.path])}
    run = subprocess.run(
        [sys.executable, "-m", "judged", path], capture_output=True, text=True, check=True, env=environment
    )
    assert run.stdout.count("illegal: no order explains it") == 2
