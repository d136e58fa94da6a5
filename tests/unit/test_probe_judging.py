"""The judges: each accepts a good history and names what is wrong with a bad one."""

from __future__ import annotations

import pytest

from sharedstate.probe import judging
from sharedstate.probe.findings import Verdict
from sharedstate.probe.loops import SLOTS, proof, proves_itself


def test_counter_is_supported_when_each_total_came_once() -> None:
    """Two sides that share the totals 1 to 6 between them lost nothing."""
    outcome = judging.judge_counter(([1, 2, 5], [3, 4, 6]), 6)

    assert outcome.verdict is Verdict.SUPPORTED
    assert outcome.figures == {"increments": 6, "lost": 0, "handed_out_twice": 0, "turns": 3}


@pytest.mark.parametrize(
    ("receipts", "final", "evidence"),
    [
        (([1, 2, 3], [3, 4]), 4, "1 of 5 increments lost, 1 totals handed out twice"),
        (([1, 3, 2], [4]), 4, "one side saw the total go down"),
        (([1, 2], []), 2, "one side did not get a single increment done"),
        (([1, 2], [3]), 4, "-1 of 3 increments lost"),
    ],
)
def test_counter_names_lost_updates(receipts: tuple[list[int], list[int]], final: int, evidence: str) -> None:
    """A total handed out twice, gone down, or beyond what was added fails, and so does a side that stood still."""
    outcome = judging.judge_counter(receipts, final)

    assert outcome.verdict is Verdict.UNSUPPORTED
    assert evidence in outcome.evidence


def test_torn_values_are_recognised() -> None:
    """A value that proves itself is recognised, and no mixture of two passes for one."""
    whole, other = proof(7), proof(8)

    assert proves_itself(whole)
    assert not proves_itself([whole[0], other[1], whole[2]])
    assert not proves_itself([whole[0], whole[1], other[2]])
    assert not proves_itself(whole[:2])
    assert not proves_itself("text")
    assert judging.judge_reads(10, 5, 3, ["half"]).verdict is Verdict.UNSUPPORTED
    assert judging.judge_reads(10, 0, 0, []).verdict is Verdict.UNSUPPORTED
    assert judging.judge_reads(10, 5, 3, []).verdict is Verdict.SUPPORTED


def test_sums_that_changed_condemn_transactions() -> None:
    """One audit, or a final sum, that differs from what transfers keep is half a transaction."""
    good = judging.judge_sums(60, committed=[5, 5, 5], conflicts=2, audits=4, sums=[60], final=60)
    audit = judging.judge_sums(60, committed=[5, 5, 5], conflicts=2, audits=4, sums=[59, 60], final=60)
    final = judging.judge_sums(60, committed=[5, 5, 5], conflicts=2, audits=4, sums=[60], final=61)
    still = judging.judge_sums(60, committed=[5, 0, 5], conflicts=2, audits=4, sums=[60], final=60)

    assert good.verdict is Verdict.SUPPORTED
    assert [bad.verdict for bad in (audit, final, still)] == [Verdict.UNSUPPORTED] * 3
    assert "became 59" in audit.evidence


def test_guarded_sections_that_overlapped_condemn_the_lock() -> None:
    """An intruder, a lost addition, or a fencing token that came twice shows that two held the lock."""
    good = judging.judge_guarded((2, 2), 4, [], ([1, 3], [2, 4]))
    lost = judging.judge_guarded((2, 2), 3, [], ([1, 3], [2, 4]))
    intruder = judging.judge_guarded((2, 2), 4, ["other"], ([1, 3], [2, 4]))
    token = judging.judge_guarded((2, 2), 4, [], ([1, 3], [3, 4]))

    assert good.verdict is Verdict.SUPPORTED
    assert [bad.verdict for bad in (lost, intruder, token)] == [Verdict.UNSUPPORTED] * 3


def test_acknowledged_writes_must_all_be_there() -> None:
    """After numbers 0 to 400 were told, each slot holds its last one; number 401 may be there untold, 402 may not."""
    told = list(range(401))
    kept: dict[int, int | None] = {number % SLOTS: number for number in told}

    def judge(**changed: int | None) -> Verdict:
        found = {**kept, **{int(slot[1:]): number for slot, number in changed.items()}}
        return judging.judge_acknowledged(told, found, (400, 400), SLOTS).verdict

    assert judge() is Verdict.SUPPORTED
    assert judge(_101=401) is Verdict.SUPPORTED
    assert judge(_102=402) is Verdict.UNSUPPORTED
    assert judge(_5=5) is Verdict.UNSUPPORTED
    assert judge(_7=None) is Verdict.UNSUPPORTED
    assert judge(_9=-1) is Verdict.UNSUPPORTED
    assert judging.judge_acknowledged(told, kept, (400, 396), SLOTS).verdict is Verdict.UNSUPPORTED


def test_survival_is_held_to_the_claim_in_both_directions() -> None:
    """What must outlive its processes and does not fails; what outlives them beyond its claim is reported too."""
    assert judging.judge_survival(9, 9, must=True, durability="BOOT").verdict is Verdict.SUPPORTED
    assert judging.judge_survival(9, 8, must=True, durability="BOOT").verdict is Verdict.UNSUPPORTED
    assert judging.judge_survival(9, 0, must=False, durability="PROCESS").verdict is Verdict.SUPPORTED
    assert judging.judge_survival(9, 9, must=False, durability="PROCESS").verdict is Verdict.BEYOND


def test_crossing_a_boundary_beyond_the_scope_is_reported() -> None:
    """Nothing seen of the other side is the negative result; anything seen is a wrong claim."""
    assert judging.judge_separation([]).verdict is Verdict.NOT_SHARED
    assert judging.judge_separation(["a lock"]).verdict is Verdict.BEYOND


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (float("nan"), float("nan"), True),
        (0.0, -0.0, False),
        (1, True, False),
        (1, 1.0, False),
        ((1,), [1], False),
        ({"a": [()]}, {"a": [()]}, True),
        ({"a": [()]}, {"a": [[]]}, False),
        (b"", "", False),
    ],
)
def test_same_means_type_and_bits(left: object, right: object, same: bool) -> None:
    """Equality that `==` would grant across types, or refuse to nan, does not count."""
    assert judging.is_same(left, right) is same
