"""A proof that cannot fail is worth nothing: each planted bug is found, and its absence is not.

The bugs are those of planted/sharedstate_planted.py.  Everything here opens it
by URL, as a stranger's plug-in, so the actors of other processes find it too.
"""

from __future__ import annotations

import inspect
import os
import random
import signal
import sys
import time
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

import sharedstate
from sharedstate import registry
from sharedstate.errors import StateError
from sharedstate.probe.actors import Actor, Kind, Stage
from sharedstate.testing.conformance import BackendConformance, support
from sharedstate.testing.histories import (
    Operation,
    judge_counter,
    judge_locks,
    judge_register,
    judge_transfers,
    record_holds,
    record_rounds,
)
from sharedstate.testing.machine import check_agreement

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_HERE = os.path.dirname(os.path.abspath(__file__))
_BITTEN = (AssertionError, StateError, KeyError, pytest.fail.Exception)
"""How a claim fails; pytest.fail's exception is that of pytest.raises too."""

_CLAIMS = {
    "AddInTwoSteps": ["test_add_is_won_by_one", "test_setdefault_agrees"],
    "CommitKeyByKey": ["test_transfers_keep_the_sum"],
    "CountTheExpired": ["test_expired_is_absent_to_readers", "test_expiry_needs_no_visit"],
    "CountTrueAsOne": ["test_only_numbers_are_incremented"],
    "ForgetTheType": ["test_value_comes_back_as_itself", "test_every_writing_verb_keeps_the_type"],
    "GenerationOfTheDead": ["test_generation_is_that_of_the_entry"],
    "HandOutTheObject": ["test_what_comes_out_is_the_callers"],
    "IncrementInTwoSteps": ["test_counter_loses_no_increment", "test_child_uses_the_inherited_handle"],
    "KeepTheDeadline": ["test_overwriting_ends_the_deadline"],
    "KeepWhatWasRead": ["test_touch_amid_a_change_holds"],
    "KeepWhatIsNotThere": ["test_keep_is_refused_where_no_generation_is_expected"],
    "LockOutlivesItsHolder": ["test_lock_of_a_dead_child_is_free", "test_end_of_the_object_releases"],
    "LockPerHandle": ["test_excludes_another_lock_object", "test_mutual_exclusion"],
    "NotShared": ["test_scope_is_what_it_says", "test_child_uses_the_inherited_handle"],
    "OpenForEver": ["test_every_verb_of_a_closed_store_says_so", "test_closed_backend_says_so"],
    "PrefixAsPattern": ["test_views_under_a_prefix"],
    "ProlongTheWindow": ["test_increment_keeps_the_deadline"],
    "ReadAheadOfOthers": ["test_another_handle_sees_it_at_once"],
    "RemovalsUntold": ["test_change_token_differs_after_every_change"],
    "ReuseGenerations": [
        "test_generation_grows_across_removal",
        "test_compare_and_set_refuses_a_generation_that_came_back",
        "test_a_version_that_came_back_is_another",
    ],
    "SharersAreTheirPids": ["test_tokens_are_never_used_twice"],
    "SharersDieOfSlowness": ["test_an_opened_store_has_its_handle_among_the_sharers"],
    "SharersOutliveTheirDeath": ["test_a_killed_process_is_present_no_more", "test_a_closed_handle_is_present_no_more"],
    "TakeInTwoSteps": ["test_popitem_hands_out_each_item_once", "test_delete_and_pop_succeed_once"],
    "TokensThatFall": ["test_tokens_grow"],
    "ValidateOnlyWhatIsWritten": ["test_write_skew_is_refused", "test_mixed_reads_are_refused"],
    "ValidateOutsideTheLock": ["test_update_with_loses_no_update", "test_compare_and_set_is_won_by_one"],
    "WriteInTwoHalves": ["test_reads_are_never_torn"],
}
_FOUND_BY_THE_MACHINE = [
    "ReuseGenerations",
    "ReadAheadOfOthers",
    "NotShared",
    "KeepTheDeadline",
    "ForgetTheType",
    "TokensThatFall",
]


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example and the planted plug-in can be found, by this process and its actors."""
    monkeypatch.syspath_prepend(os.path.join(_HERE, "planted"))
    monkeypatch.syspath_prepend(os.path.join(_HERE, "..", "..", "docs", "plugin-example"))
    yield
    for name in ("sharedstate_planted", "sharedstate_onefile"):
        sys.modules.pop(name, None)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


def _arguments_of(claim: str) -> dict[str, Any]:
    """Return arguments for those parameters of a claim that are no fixtures."""
    from sharedstate.testing.conformance.values import VALUES

    return {
        "test_value_comes_back_as_itself": {"index": VALUES.index((), 0)},
        "test_only_numbers_are_incremented": {"value": True},
        "test_touch_amid_a_change_holds": {"ttl_s": None},
        "test_views_under_a_prefix": {"prefix": "a*"},
    }.get(claim, {})


def _run_claim(claim: str, url: str) -> None:
    """Run one claim of the suite on a fresh store, as pytest would."""
    suite = BackendConformance()
    with ExitStack() as stack:
        witness = stack.enter_context(sharedstate.open(url))
        store = stack.enter_context(sharedstate.open(url))

        def open_another() -> sharedstate.Store:
            return stack.enter_context(sharedstate.open(url))

        fixtures = {
            "store": lambda: store,
            "url": lambda: url,
            "open_another": lambda: open_another,
            "handles": lambda: [open_another() for _ in range(8)],
            "backend": lambda: registry.connect(url),
        }
        method = getattr(suite, claim)
        given = _arguments_of(claim)
        method(
            **{
                name: given[name] if name in given else fixtures[name]()
                for name in inspect.signature(method).parameters
            }
        )
        witness.check()


# --- The claims -------------------------------------------------------------------


@pytest.mark.parametrize(("bug", "claim"), [(bug, claim) for bug, claims in _CLAIMS.items() for claim in claims])
def test_claim_fails_on_the_bug(bug: str, claim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim that is about this bug fails on it."""
    monkeypatch.setattr(support, "PATIENCE_S", 3.0)  # what the bug prevents would be waited for

    with pytest.raises(_BITTEN):
        _run_claim(claim, f"planted:{tmp_path}/store?bug={bug}")


@pytest.mark.parametrize("claim", sorted({claim for claims in _CLAIMS.values() for claim in claims}))
def test_claim_passes_without_the_bug(claim: str, tmp_path: Path) -> None:
    """The same claims pass on the same backend without a bug: it is the bug that they find."""
    _run_claim(claim, f"planted:{tmp_path}/store?bug=none")


def test_every_bug_is_claimed_against() -> None:
    """No bug is planted that no claim is named for."""
    from sharedstate_planted import BUGS

    assert set(BUGS) == set(_CLAIMS)


# --- The machine --------------------------------------------------------------------


def _agree(bug: str, tmp_path: Path) -> None:
    numbers = count()
    check_agreement(
        lambda: f"planted:{tmp_path}/{next(numbers)}?bug={bug}",
        [Kind.THREAD, Kind.THREAD, Kind.FORKED],
        examples=60,
        steps=25,
        explain=False,
    )


@pytest.mark.parametrize("bug", _FOUND_BY_THE_MACHINE)
def test_machine_fails_on_the_bug(bug: str, tmp_path: Path) -> None:
    """Random programs by three actors, two of them threads of one process, disagree with the model."""
    with pytest.raises(_BITTEN):
        _agree(bug, tmp_path)


def test_machine_passes_without_a_bug(tmp_path: Path) -> None:
    """The same programs on the same backend without a bug agree."""
    _agree("none", tmp_path)


# --- The judges -----------------------------------------------------------------------


def _cast(stage: Stage, tmp_path: Path, bug: str) -> dict[str, Actor]:
    url = f"planted:{tmp_path}/store?bug={bug}"
    return {f"{kind.value} {i}": stage.actor(kind, url) for kind in (Kind.FORKED, Kind.THREAD) for i in range(2)}


def _judge_counter(stage: Stage, tmp_path: Path, bug: str) -> list[str]:
    cast = _cast(stage, tmp_path, bug)
    history = record_rounds(cast, [[("increment", "n", 1)] * len(cast)] * 60)
    return judge_counter(history, next(iter(cast.values())).call("get", "n"))


def _judge_register(stage: Stage, tmp_path: Path, bug: str) -> list[str]:
    cast, dice = _cast(stage, tmp_path, bug), random.Random(1)
    steps = [("get", "k", None), ("read", "k", None), ("delete", "k", None)]
    steps += [(verb, "k", number) for verb in ("set", "add") for number in range(4)]
    history = record_rounds(cast, [[dice.choice(steps) for _ in cast] for _ in range(60)])
    return judge_register(history)


def _judge_locks(stage: Stage, tmp_path: Path, bug: str) -> list[str]:
    return judge_locks(record_holds(_cast(stage, tmp_path, bug), "l", 5))


def _judge_transfers(stage: Stage, tmp_path: Path, bug: str) -> list[str]:
    cast = list(_cast(stage, tmp_path, bug).values())
    accounts = ["a", "b", "c"]
    cast[0].call("set_many", dict.fromkeys(accounts, 100))
    now_ns = time.monotonic_ns()
    span = (now_ns, now_ns + 10**10, 60)
    for step, actor in enumerate(cast[:2]):
        # Not the same moves: of two that are equal, a lost one leaves the sum right.
        actor.start("transfer_many", accounts, 1 + step, span)
    for actor in cast[2:]:
        actor.start("audit_many", accounts, span)
    results = [actor.result() for actor in cast]
    sums = [total for _, totals in results[2:] for total in totals] + [sum(cast[0].call("get_many", accounts).values())]
    audits = [Operation("auditor", "audit", "", None, [total], now_ns, now_ns) for total in sums]
    return judge_transfers(audits, 300)


_JUDGES = {
    "counter": (_judge_counter, ["IncrementInTwoSteps", "NotShared", "ValidateOutsideTheLock"]),
    "register": (_judge_register, ["ReadAheadOfOthers", "NotShared", "AddInTwoSteps", "ReuseGenerations"]),
    "locks": (_judge_locks, ["LockPerHandle", "TokensThatFall"]),
    "transfers": (_judge_transfers, ["CommitKeyByKey", "ValidateOutsideTheLock"]),
}


@pytest.mark.parametrize(("judge", "bug"), [(judge, bug) for judge, (_, bugs) in _JUDGES.items() for bug in bugs])
def test_judge_finds_the_bug(judge: str, bug: str, stage: Stage, tmp_path: Path) -> None:
    """What forked processes and threads did at the same time has no explanation, and the judge says so."""
    assert _JUDGES[judge][0](stage, tmp_path, bug)


@pytest.mark.parametrize("judge", _JUDGES)
def test_judge_finds_nothing_without_a_bug(judge: str, stage: Stage, tmp_path: Path) -> None:
    """The same experiment on the same backend without a bug is explained."""
    assert _JUDGES[judge][0](stage, tmp_path, "none") == []


def test_interrupt_ends_though_an_exception_is_swallowed() -> None:
    """As in a finalizer: the next signal ends the round, the helper ends with its rounds, and no signal comes after."""
    swallowed = []

    def body() -> None:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})  # none came before this line
            support.until(lambda: False)
        except BaseException as interruption:  # noqa: BLE001  as Python does
            swallowed.append(interruption)
        support.until(lambda: False)

    before = signal.getsignal(signal.SIGALRM)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    support.interrupt(body, times=1)

    assert len(swallowed) == 1
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) is before
