"""Judges: pure functions from what actors saw to what that proves.

They know no actor, backend or clock, so a test can hand them any history.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sharedstate.probe.findings import Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "is_same",
    "judge_acknowledged",
    "judge_counter",
    "judge_delays",
    "judge_guarded",
    "judge_reads",
    "judge_separation",
    "judge_sums",
    "judge_survival",
]


def is_same(left: Any, right: Any) -> bool:
    """Return whether two values are equal in every type and bit, nan and -0.0 included."""
    kind: type = type(left)  # pyright: ignore[reportUnknownVariableType]  the type of Any
    other: type = type(right)  # pyright: ignore[reportUnknownVariableType]  the type of Any
    if kind is not other:
        return False
    if kind in {list, tuple}:
        return len(left) == len(right) and all(map(is_same, left, right))
    if kind is dict:
        return left.keys() == right.keys() and all(is_same(item, right[key]) for key, item in left.items())
    if kind is float:
        return repr(left) == repr(right)  # tells -0.0 from 0.0, and nan from everything else
    return bool(left == right)


def judge_counter(receipts: Sequence[Sequence[int]], final: int) -> Outcome:
    """Each side's totals handed out, and the total at the end: none lost, none twice, each side's ascending."""
    handed = [total for side in receipts for total in side]
    lost = len(handed) - final
    twice = len(handed) - len(set(handed))
    order = sorted((total, side) for side, totals in enumerate(receipts) for total in totals)
    turns = sum(left[1] != right[1] for left, right in pairwise(order))
    figures: dict[str, int | float | str] = {
        "increments": len(handed),
        "lost": lost,
        "handed_out_twice": twice,
        "turns": turns,
    }
    if lost or twice:
        return Outcome(
            Verdict.UNSUPPORTED, f"{lost} of {len(handed)} increments lost, {twice} totals handed out twice", figures
        )
    if any(list(side) != sorted(side) for side in receipts):
        return Outcome(Verdict.UNSUPPORTED, "one side saw the total go down", figures)
    if not all(receipts):
        return Outcome(Verdict.UNSUPPORTED, "one side did not get a single increment done", figures)
    return Outcome(
        Verdict.SUPPORTED, f"none of {len(handed)} lost, each total handed out once, in {turns} turns", figures
    )


def judge_reads(written: int, reads: int, distinct: int, torn: Sequence[str]) -> Outcome:
    """What a reader saw of values that prove themselves."""
    figures: dict[str, int | float | str] = {
        "written": written,
        "reads": reads,
        "distinct": distinct,
        "torn": len(torn),
    }
    if torn:
        return Outcome(Verdict.UNSUPPORTED, f"a torn value was read, among {reads} reads: {torn[0]}", figures)
    if not reads or not written:
        return Outcome(Verdict.UNSUPPORTED, f"{reads} reads of {written} writes: the value never arrived", figures)
    return Outcome(
        Verdict.SUPPORTED, f"none torn of {reads} reads of {distinct} different values, {written} written", figures
    )


def judge_sums(
    expected: int, *, committed: Sequence[int], conflicts: int, audits: int, sums: Sequence[int], final: int
) -> Outcome:
    """Sums that transfers must not change, as transactions saw them and as it is at the end."""
    figures: dict[str, int | float | str] = {
        "transfers": sum(committed),
        "conflicts": conflicts,
        "audits": audits,
        "final_sum": final,
    }
    wrong = [total for total in (*sums, final) if total != expected]
    if wrong:
        return Outcome(
            Verdict.UNSUPPORTED, f"the sum of {expected} became {wrong[0]} after {sum(committed)} transfers", figures
        )
    if not all(committed) or not audits:
        return Outcome(Verdict.UNSUPPORTED, "one side never got a transaction committed", figures)
    return Outcome(
        Verdict.SUPPORTED,
        f"the sum held in {audits} audits and after {sum(committed)} transfers; {conflicts} lost a race, wrote nothing",
        figures,
    )


def judge_guarded(
    added: Sequence[int], final: int, intruders: Sequence[str], tokens: Sequence[Sequence[int]]
) -> Outcome:
    """Sections under a lock that add 1 by reading and writing, with their fencing tokens."""
    every = [token for side in tokens for token in side]
    figures: dict[str, int | float | str] = {
        "sections": sum(added),
        "lost": sum(added) - final,
        "intrusions": len(intruders),
        "tokens_twice": len(every) - len(set(every)),
    }
    if intruders or final != sum(added):
        return Outcome(
            Verdict.UNSUPPORTED,
            f"both held the lock: {len(intruders)} intrusions, {sum(added) - final} of {sum(added)} additions lost",
            figures,
        )
    if len(every) != len(set(every)) or any(list(side) != sorted(side) for side in tokens):
        return Outcome(Verdict.UNSUPPORTED, "a fencing token came twice, or went down", figures)
    return Outcome(Verdict.SUPPORTED, f"{sum(added)} sections under the lock, none overlapped, tokens grew", figures)


def judge_acknowledged(
    told: Sequence[int], found: dict[int, int | None], twins: tuple[Any, Any], slots: int
) -> Outcome:
    """What remains of a killed writer's numbers, written in turn to `slots` keys.

    Args:
        told: the numbers acknowledged, in order.
        found: by slot, the number that is there, -1 if it is damaged, None if absent.
        twins: the two values that each transaction set to the same.
        slots: how many keys the writer goes round.
    """
    last = told[-1] if told else -1
    lost, damaged, invented = 0, 0, 0
    for slot in range(slots):
        acknowledged = last - (last - slot) % slots
        number = found.get(slot)
        if number == -1:
            damaged += 1
        elif number is None or number < acknowledged:
            lost += acknowledged >= 0
        elif number > last + 1:  # one more may have been written and not told
            invented += 1
    figures: dict[str, int | float | str] = {
        "acknowledged": len(told),
        "lost": lost,
        "damaged": damaged,
        "halves": int(twins[0] != twins[1]),
    }
    if lost or damaged or invented:
        return Outcome(
            Verdict.UNSUPPORTED,
            f"after {len(told)} acknowledged writes {lost} lost, {damaged} damaged, {invented} invented",
            figures,
        )
    if twins[0] != twins[1]:
        return Outcome(Verdict.UNSUPPORTED, f"half a transaction remained: {twins[0]} and {twins[1]}", figures)
    return Outcome(Verdict.SUPPORTED, f"all of {len(told)} acknowledged writes were there, whole", figures)


def judge_survival(written: int, found: int, *, must: bool, durability: str) -> Outcome:
    """How many entries a newcomer found after every process that used the store was killed."""
    figures: dict[str, int | float | str] = {"written": written, "found": found}
    if must and found == written:
        return Outcome(
            Verdict.SUPPORTED,
            f"a newcomer found all {found} entries; a reboot was not tried (claim: {durability})",
            figures,
        )
    if must:
        return Outcome(
            Verdict.UNSUPPORTED, f"a newcomer found {found} of {written} entries (claim: {durability})", figures
        )
    if found:
        return Outcome(
            Verdict.BEYOND, f"{found} of {written} entries outlived every process (claim: {durability})", figures
        )
    return Outcome(Verdict.SUPPORTED, f"gone with its process, as claimed ({durability})", figures)


def judge_separation(seen: Sequence[str]) -> Outcome:
    """What crossed a boundary beyond the backend's scope, after each side was seen to work on its own."""
    figures: dict[str, int | float | str] = {"crossed": len(seen)}
    if seen:
        return Outcome(Verdict.BEYOND, f"crossed a boundary beyond its scope: {', '.join(seen)}", figures)
    return Outcome(
        Verdict.NOT_SHARED, "each side saw its own writes, counter and lock, and nothing of the other's", figures
    )


def judge_delays(delays_ns: Sequence[int], sent: int) -> Outcome:
    """How long after each write a waiting reader saw it."""
    if not delays_ns:
        return Outcome(Verdict.UNSUPPORTED, f"a waiting reader saw none of {sent} writes", {"sent": sent, "seen": 0})
    ordered = sorted(delays_ns)
    median_ms, worst_ms = ordered[len(ordered) // 2] / 1e6, ordered[-1] / 1e6
    figures: dict[str, int | float | str] = {
        "sent": sent,
        "seen": len(ordered),
        "median_ms": round(median_ms, 4),
        "max_ms": round(worst_ms, 4),
    }
    return Outcome(
        Verdict.SUPPORTED, f"median {median_ms:.3g} ms, longest {worst_ms:.3g} ms, of {len(ordered)} writes", figures
    )
