"""What at least eight actors did at the same time has an explanation: on every backend, across every boundary.

Threads, legacy and isolated sub-interpreters, forked and unrelated processes
(`memory:`: threads) start together and then do what they do as fast as they
may, on few keys; each call is recorded with its moments on one monotonic clock.

    Per key (`judged.one_key`, R1 to R6)      values, generations, deadlines, eviction
    Transactions (`judged.many_keys`, S1 to S4)     strict serializability; who lost a race changed nothing
    Locks (`judged.holding`, L1 to L6)      one holder, growing tokens, and a stale token is refused

Each also with actors that are killed by SIGKILL in the middle: what they were
at may have happened or not, and histories go on with new processes.

An illegal history is kept as JSON, whole and made small, in the directory that
the failure names, and judged again by

    PYTHONPATH=tests/torture python -m judged FILE.json

That each judge can fail is shown by `test_histories_planted.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from campaign import IS_FULL, record, scale
from judged.campaigns import play

if TYPE_CHECKING:
    import random
    from pathlib import Path

_EVERY = ["memory", "file", "sqlite", "shm"]
_SHARED = _EVERY[1:]

every_backend = pytest.mark.parametrize("scheme", _EVERY)
shared_backends = pytest.mark.parametrize("scheme", _SHARED)

pytestmark = pytest.mark.timeout(scale(180, 3600))


def _hold(  # noqa: PLR0917
    experiment: str, kind: str, scheme: str, bursts: int, dice: random.Random, place: Path, **how: bool
) -> None:
    outcome = play(kind, scheme, bursts, dice, place, **how)

    record(experiment, scheme, bad=len(outcome.faults), **outcome.figures)
    assert not outcome.faults, "\n".join(outcome.faults[:5])
    assert outcome.histories == bursts
    # The test bit: there were races, deaths in the middle, evictions.
    assert outcome.overlapping or kind not in {"keys", "transactions"}
    assert outcome.killed or not how.get("kills")
    assert outcome.unexplained or kind != "evicted keys"
    # Of few deaths it may be that none was within a call.
    assert outcome.unknown or not (how.get("kills") and IS_FULL)


@every_backend
def test_each_key_is_linearizable(scheme: str, dice: random.Random, evidence: Path) -> None:
    """All verbs on two keys at a time: an order explains every value, and generations grow with every write."""
    _hold("histories of keys", "keys", scheme, scale(70, 1300), dice, evidence)


@every_backend
def test_transactions_are_strictly_serializable(scheme: str, dice: random.Random, evidence: Path) -> None:
    """Transactions that read, write or both, among verbs on one key: one order, that of time, explains all of them."""
    _hold("histories of transactions", "transactions", scheme, scale(50, 800), dice, evidence)


@every_backend
def test_deadlines_hold_for_every_verb(scheme: str, dice: random.Random, evidence: Path) -> None:
    """Entries that live for 0.5 to 8 ms, touched and kept alive: there until the deadline, then gone, never back."""
    _hold("histories of deadlines", "leases", scheme, scale(20, 300), dice, evidence)


@every_backend
def test_locks_have_one_holder_and_fence_the_last(scheme: str, dice: random.Random, evidence: Path) -> None:
    """Holders overlap never, tokens grow with time, and writes with a token that is out of date are refused."""
    _hold("histories of locks", "holds", scheme, scale(20, 300), dice, evidence)


def test_what_was_evicted_never_comes_back(dice: random.Random, evidence: Path) -> None:
    """While one actor fills the region: a key may vanish at any moment, and is then absent until it is written."""
    _hold("histories of eviction", "evicted keys", "shm", scale(40, 600), dice, evidence)


@shared_backends
def test_each_key_is_linearizable_across_deaths(scheme: str, dice: random.Random, evidence: Path) -> None:
    """Up to three of eight processes are killed: each write is whole or absent, and what was acknowledged stays."""
    _hold("histories of keys, kill -9", "keys", scheme, scale(20, 250), dice, evidence, kills=True)


@shared_backends
def test_transactions_are_all_or_nothing_across_deaths(scheme: str, dice: random.Random, evidence: Path) -> None:
    """The same for transactions: one that was killed took effect at one instant, or never."""
    _hold("histories of transactions, kill -9", "transactions", scheme, scale(15, 200), dice, evidence, kills=True)


@shared_backends
def test_locks_of_the_dead_go_on_with_greater_tokens(scheme: str, dice: random.Random, evidence: Path) -> None:
    """Holders are killed: none had the lock before they were dead, and the next token is greater."""
    _hold("histories of locks, kill -9", "holds", scheme, scale(15, 200), dice, evidence, kills=True)
