"""once: O1 to O5 of `sharedstate.coordination.runs`, on every backend."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
from judges import judge_once

import sharedstate
from sharedstate.coordination import forget_once, once
from sharedstate.errors import (
    AttemptsExhaustedError,
    ClaimLostError,
    ClosedError,
    CorruptError,
    KeyFormatError,
    LockOwnershipError,
    LockTimeoutError,
    ScopeError,
)
from sharedstate.testing.conformance.support import fork_and_run, run_together

if TYPE_CHECKING:
    from collections.abc import Callable

    from crew import Crew, Member
    from sharedstate.store import Store


class BoomError(Exception): ...


def _boom() -> None:
    raise BoomError("so")


# --- One caller ------------------------------------------------------------------


def test_first_call_runs_the_body_and_later_ones_do_not(open_any: Callable[[], Store]) -> None:
    """The first call runs it and gets its result; later ones, also by other handles, are told that it is done."""
    store, calls = open_any(), []

    first = once(store, "warm-up", lambda: calls.append(1) or "warm", per="r1")
    second = once(open_any(), "warm-up", lambda: calls.append(2), per="r1")

    assert calls == [1]
    assert (first.state, first.ran, first.result, first.attempt) == ("done", True, "warm", 1)
    assert (second.state, second.ran, second.result, second.attempt) == ("done", False, None, 1)
    assert second.started_at == first.started_at
    assert second.ended_at is not None
    assert str(os.getpid()) in second.who


def test_periods_and_names_are_apart(open_any: Callable[[], Store]) -> None:
    """Each of server, boot, ever and any release runs by itself; so does each name, whatever slashes it holds."""
    store, calls = open_any(), []
    cases = [
        ("n", "boot", None),
        ("n", "ever", None),
        ("n", "r1", None),
        ("n", "r2", None),
        ("n", "server", "start 1"),
        ("n", "server", "start 2"),
        ("b/n", "a", None),
        ("n", "a/b", None),
        ("n", "a%2Fb", None),
        ("m", "ever", None),
    ]

    for _ in range(2):
        for name, per, incarnation in cases:
            once(store, name, lambda: calls.append(1), per=per, incarnation=incarnation)

    assert len(calls) == len(cases)


def test_a_raising_body_is_recorded_and_retried_up_to_the_limit(open_any: Callable[[], Store]) -> None:
    """The exception reaches its caller; after `attempts` of them every caller is told the last, and nothing runs."""
    store = open_any()
    for _ in range(2):
        with pytest.raises(BoomError):
            once(store, "n", _boom, per="r", attempts=2)

    for caller in (store, open_any()):
        with pytest.raises(AttemptsExhaustedError, match="BoomError: so") as raised:
            once(caller, "n", lambda: pytest.fail("it ran"), per="r", attempts=2)
        assert raised.value.attempts == 2

    third = once(store, "n", lambda: "fine", per="r", attempts=3)
    assert (third.ran, third.attempt) == (True, 3)


def test_forgetting_lets_it_run_again(open_any: Callable[[], Store]) -> None:
    """After `forget_once` a body that is done, or failed for good, may be run."""
    store = open_any()
    with pytest.raises(BoomError):
        once(store, "n", _boom, per="r", attempts=1)

    assert forget_once(store, "n", per="r")
    assert not forget_once(store, "n", per="r")
    assert once(store, "n", lambda: 1, per="r", attempts=1).ran


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interruption_is_no_failure(open_any: Callable[[], Store], interruption: type[BaseException]) -> None:
    """Ctrl-C in the body leaves it to the next caller, and uses up no attempt."""
    store = open_any()

    def interrupted() -> None:
        raise interruption

    for _ in range(3):
        with pytest.raises(interruption):
            once(store, "n", interrupted, per="r", attempts=1)

    run = once(store, "n", lambda: 1, per="r", attempts=1)
    assert (run.ran, run.attempt) == (True, 4)


def test_a_body_that_calls_itself_is_refused(open_any: Callable[[], Store]) -> None:
    """It would wait for itself: LockOwnershipError instead; another name, or another period that is done, is fine."""
    store = open_any()
    once(store, "n", lambda: None, per="r0")

    def body() -> None:
        assert once(store, "n", lambda: None, per="r0").state == "done"
        once(store, "other", lambda: None, per="r1")
        once(store.namespace("another"), "n", lambda: None, per="r1")
        once(store, "n", lambda: None, per="r1")

    with pytest.raises(LockOwnershipError):
        once(store, "n", body, per="r1")
    assert once(store.namespace("another"), "n", lambda: None, per="r1").state == "done"


def test_bad_arguments_are_refused(open_any: Callable[[], Store]) -> None:
    """Names and periods are str; nothing is run and nothing is written."""
    store = open_any()
    for name, per in (("", "r"), ("n", ""), (7, "r"), ("n", 7), ("n" * 600, "r")):
        with pytest.raises(KeyFormatError):
            once(store, name, lambda: pytest.fail("it ran"), per=per)  # type: ignore[arg-type]
    assert len(store) == 0


def test_a_foreign_value_is_not_guessed_at(open_any: Callable[[], Store]) -> None:
    """What is no record of ours raises CorruptError, which names the key; the body does not run."""
    store = open_any()
    once(store, "n", lambda: 1, per="ever")
    (key,) = store
    assert key.startswith("sharedstate:once/")
    for value in (1, {"format": 2, "runs": []}, {"runs": []}, {"format": 1, "runs": [{"period": "ever"}]}, [], None):
        store[key] = value
        with pytest.raises(CorruptError, match=key):
            once(store, "n", lambda: pytest.fail("it ran"), per="ever")


def test_an_evicting_store_is_refused() -> None:
    """A store that may forget the record cannot promise anything."""
    url = f"shm://once-evicts-{os.getpid()}?size=1MiB&full=evict"
    with sharedstate.open(url) as store:
        with pytest.raises(ScopeError, match="evict"):
            once(store, "n", lambda: 1, per="ever")
        sharedstate.remove(store.url)


def test_this_start_of_the_server_is_found_out(open_any: Callable[[], Store]) -> None:
    """Without a period it is this start of the server, as `sharedstate.incarnation` names it."""
    store = open_any()

    first, second = once(store, "n", lambda: None), once(open_any(), "n", lambda: None, per="server")

    assert (first.ran, second.ran) == (True, False)
    assert first.period == second.period == f"server {sharedstate.incarnation().token}"


# --- Starts of the server -----------------------------------------------------------


def test_a_late_caller_of_an_old_start_changes_nothing(open_any: Callable[[], Store]) -> None:
    """Old and new workers overlap: whoever calls in whatever order, each start's body runs once (O5)."""
    store, calls = open_any(), []
    order = ["1", "2", "1", "2", "3", "1", "2", "3", "3", "1"]

    runs = [once(store, "n", lambda: calls.append(1), incarnation=start) for start in order]

    assert [run.ran for run in runs] == [True, True, False, False, True, False, False, False, False, False]
    assert len(calls) == 3


def test_the_history_of_starts_is_pruned(open_any: Callable[[], Store]) -> None:
    """32 starts are remembered, and no more; those of `ever` and of releases are never forgotten for them."""
    store, calls = open_any(), []
    once(store, "n", lambda: None, per="ever")
    once(store, "n", lambda: None, per="r")
    for start in range(100):
        once(store, "n", lambda: None, incarnation=str(start))

    for start in range(68, 100):
        once(store, "n", lambda: calls.append(1), incarnation=str(start))
    for per in ("ever", "r"):
        once(store, "n", lambda: calls.append(1), per=per)
    assert calls == []
    assert len(store["sharedstate:once/server/n"]["runs"]) == 32


# --- Many at a time -----------------------------------------------------------------


def test_of_many_threads_one_runs_it_and_all_wait(open_any: Callable[[], Store]) -> None:
    """8 threads over 8 handles: one runs the body, and none returns before it has ended."""
    handles = [open_any() for _ in range(8)]
    calls: list[int] = []

    def body() -> None:
        calls.append(1)

    runs = run_together(*(lambda handle=handle: (once(handle, "n", body, per="r"), len(calls)) for handle in handles))

    assert [seen for _, seen in runs] == [1] * 8
    assert sorted(run.ran for run, _ in runs) == [False] * 7 + [True]
    assert {run.state for run, _ in runs} == {"done"}


def test_threads_of_one_handle_take_turns_at_a_failing_body(open_any: Callable[[], Store]) -> None:
    """8 threads, 3 attempts: three get the exception, the others are told so."""
    store = open_any()

    def call() -> str:
        try:
            once(store, "n", _boom, per="r", attempts=3)
        except (BoomError, AttemptsExhaustedError) as error:
            return type(error).__name__
        return "done"

    ends = run_together(*[call] * 8)

    assert sorted(ends) == ["AttemptsExhaustedError"] * 5 + ["BoomError"] * 3


def test_of_many_processes_one_runs_it(crew: Crew) -> None:
    """6 processes, forked and spawned, all at once: one body, everybody told."""
    for kind in ("forked", "spawned") * 3:
        crew.start(kind, "run_once", "n", "r", {"start": "go"})
    crew.log.wait("ready", count=6)
    crew.log.tell("go")
    crew.wait()

    events = crew.log.read()
    assert judge_once(events) == []
    assert len(crew.log.find("begun")) == 1
    assert len(crew.log.find("returned")) == 6


def test_interpreters_share_one_run(crew: Crew, interpreter_kind: str) -> None:
    """4 interpreters of one process, all at once: one body, everybody told."""
    crew.start_interpreters(interpreter_kind, 4, "run_once", "n", "r", {"start": "go"})
    crew.log.wait("ready", count=4)
    crew.log.tell("go")
    crew.wait()

    assert judge_once(crew.log.read()) == []
    assert len(crew.log.find("begun")) == 1
    assert len(crew.log.find("returned")) == 4


def test_who_will_not_wait_is_told_that_it_runs(crew: Crew) -> None:
    """wait=False returns "running" at once; a timeout raises LockTimeoutError that names the runner."""
    runner = crew.start("forked", "run_once", "n", "r", {"gate": "end it"})
    crew.log.wait("begun")
    with sharedstate.open(crew.url) as store:
        run = once(store, "n", lambda: pytest.fail("it ran"), per="r", wait=False)
        assert (run.state, run.ran, run.attempt) == ("running", False, 1)
        assert str(runner.pid) in run.who
        with pytest.raises(LockTimeoutError, match=f"once 'n'.*pid {runner.pid}"):
            once(store, "n", lambda: pytest.fail("it ran"), per="r", timeout_s=0.02)

        crew.log.tell("end it")
        assert once(store, "n", lambda: pytest.fail("it ran"), per="r").state == "done"
    crew.wait()
    assert judge_once(crew.log.read()) == []


def test_a_run_of_the_old_start_goes_before_that_of_the_new_one(crew: Crew) -> None:
    """A graceful restart: the new start's body waits for the old one's, and each runs once (O1)."""
    crew.start("forked", "run_once", "n", "server", {"incarnation": "old", "gate": "end it"})
    crew.log.wait("begun")
    for _ in range(2):
        crew.start("forked", "run_once", "n", "server", {"incarnation": "new", "start": "go"})
        crew.start("forked", "run_once", "n", "server", {"incarnation": "old", "start": "go"})
    crew.log.wait("ready", count=4)
    crew.log.tell("go")
    crew.log.tell("end it")
    crew.wait()

    assert judge_once(crew.log.read()) == []
    assert sorted(event.facts[1] for event in crew.log.find("begun")) == ["new", "old"]


# --- Death and stopping ---------------------------------------------------------------


def test_a_killed_runner_is_followed_by_a_waiter(crew: Crew, process_kind: str) -> None:
    """After kill -9 in the body one of those who wait begins it again, as attempt 2 (O3)."""
    runner = crew.start(process_kind, "run_once", "n", "r", {"gate": "never"})
    crew.log.wait("begun")
    waiters = [crew.start("forked", "run_once", "n", "r", {}) for _ in range(3)]

    runner.kill()
    for waiter in waiters:
        waiter.wait()

    assert judge_once(crew.log.read()) == []
    assert sorted(event.facts[3:5] for event in crew.log.find("returned")) == [(False, 2), (False, 2), (True, 2)]


def test_runners_killed_again_and_again_use_up_no_attempt(crew: Crew) -> None:
    """Deaths are not failures: five of them, and the sixth runs it with attempts=1."""
    for number in range(5):
        runner = crew.start("forked", "run_once", "n", "r", {"gate": "never", "attempts": 1})
        crew.log.wait("begun", count=number + 1)
        runner.kill()
    crew.start("forked", "run_once", "n", "r", {"attempts": 1}).wait()

    assert judge_once(crew.log.read()) == []
    assert crew.log.find("returned")[0].facts[2:5] == ("done", True, 6)


def _call_until_none_dies(crew: Crew, name: str, dice: random.Random) -> int:
    """Have 4 at a time call `once`, each killed at some moment, until 4 have lived to its end; return the deaths."""
    deaths = 0

    def start() -> Member:
        lives_us = dice.randrange(300, 8000) * (1 + deaths // 20)  # longer and longer, for a busy machine
        return crew.start("forked", "run_once", name, "r", {"lives_us": lives_us, "attempts": 1})

    at_work = [start() for _ in range(4)]
    while at_work:
        member = at_work.pop(0)
        if member.wait():
            deaths += 1
            crew.log.tell("died", member.name)
            at_work.append(start())
    return deaths


def test_callers_that_die_anywhere_leave_it_done_once(crew: Crew) -> None:
    """Callers killed at random instructions, for 4 names or more: never two bodies at a time, each done once."""
    dice, names, deaths = random.Random(1), list[str](), 0

    while len(names) < 4 or (deaths < 5 and len(names) < 200):
        names.append(f"n{len(names)}")
        deaths += _call_until_none_dies(crew, names[-1], dice)

    assert deaths > 4
    assert judge_once(crew.log.read()) == []
    assert {event.facts[0] for event in crew.log.find("returned")} == set(names)


def test_a_stopped_runner_is_not_replaced(crew: Crew) -> None:
    """SIGSTOP in the body: the others wait; after SIGCONT it ends, and nobody ran it twice."""
    runner = crew.start("forked", "run_once", "n", "r", {"gate": "end it"})
    crew.log.wait("begun")
    runner.stop()
    crew.log.tell("end it")
    with sharedstate.open(crew.url) as store:
        with pytest.raises(LockTimeoutError):
            once(store, "n", lambda: pytest.fail("it ran"), per="r", timeout_s=0.3)
        runner.go_on()
        assert not once(store, "n", lambda: pytest.fail("it ran"), per="r").ran
    crew.wait()
    assert judge_once(crew.log.read()) == []


def test_killed_while_it_waits_for_the_lock_harms_nobody(crew: Crew) -> None:
    """A waiter's death changes nothing for the runner and the other waiters."""
    crew.start("forked", "run_once", "n", "r", {"gate": "end it"})
    crew.log.wait("begun")
    doomed = crew.start("forked", "run_once", "n", "r", {"start": "at once"})
    crew.log.wait("ready")
    crew.log.tell("at once")
    doomed.kill()
    other = crew.start("forked", "run_once", "n", "r", {})
    crew.log.tell("end it")
    other.wait()
    crew.wait()

    assert judge_once(crew.log.read()) == []
    assert len(crew.log.find("begun")) == 1


def test_closing_the_store_in_the_body_leaves_it_to_the_next(open_any: Callable[[], Store]) -> None:
    """Nobody else runs it meanwhile; what it came to cannot be recorded, and says so; the next caller runs it again."""
    store, other = open_any(), open_any()

    def body() -> None:
        store.close()
        (seen,) = run_together(lambda: once(other, "n", lambda: pytest.fail("it ran"), per="r", wait=False))
        assert seen.state == "running"

    with pytest.raises(ClosedError):
        once(store, "n", body, per="r")
    assert once(other, "n", lambda: None, per="r").attempt == 2


def test_a_body_may_fork(open_any: Callable[[], Store]) -> None:
    """A child that the body forks may call `once` for other names, and harms its parent's run in no way."""
    store, answers = open_any(), []

    def body() -> None:
        answers.append(fork_and_run(lambda: once(store, "other", lambda: "mine", per="r").result)())

    assert once(store, "n", body, per="r").ran
    assert answers == ["mine"]
    assert not once(store, "n", body, per="r").ran


def test_leaving_the_body_in_a_forked_child_is_refused(open_any: Callable[[], Store]) -> None:
    """A body that forks and returns on both sides: the child gets ClaimLostError, the parent's run is done."""
    store = open_any()
    reader, writer = os.pipe()
    parent = os.getpid()

    def body() -> int:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return os.fork()

    try:
        run = once(store, "n", body, per="r")
    except ClaimLostError:
        if os.getpid() != parent:
            os.write(writer, b"refused")
            os._exit(0)
        raise
    finally:
        if os.getpid() != parent:
            os._exit(1)
    os.close(writer)
    os.waitpid(run.result, 0)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"refused"
    assert once(store, "n", lambda: pytest.fail("it ran"), per="r").state == "done"


def test_a_removed_lock_file_lets_no_two_succeed(shm_crew: Crew) -> None:
    """The one way to lose the lock: both bodies run, but the first's success is refused when it comes late."""
    first = shm_crew.start("forked", "run_once", "n", "r", {"gate": "end the first"})
    shm_crew.log.wait("begun", first.name)
    with sharedstate.open(shm_crew.url) as store:
        os.unlink(store.lock("sharedstate:once/n").path)  # type: ignore[attr-defined]
        assert once(store, "n", lambda: "second", per="r").ran

    shm_crew.log.tell("end the first")
    first.wait()

    (refusal,) = shm_crew.log.find("refused")
    assert refusal.facts[2] == "ClaimLostError"


# --- The judge bites --------------------------------------------------------------------


def _contend(crew: Crew, bug: str) -> list[str]:
    for _ in range(4):
        crew.start("forked", "run_once", "n", "r", {"start": "go", "bug": bug, "gate": "end"})
    crew.log.wait("ready", count=4)
    crew.log.tell("go")
    crew.log.wait("begun", count=2 if bug else 1)
    crew.log.tell("end")
    crew.wait()
    return judge_once(crew.log.read())


def _restart_gracefully(crew: Crew, bug: str) -> list[str]:
    for start in ("old", "new", "old"):
        crew.start("forked", "run_once", "n", "server", {"incarnation": start, "bug": bug}).wait()
    return judge_once(crew.log.read())


def _kill_the_runner(crew: Crew, bug: str) -> list[str]:
    runner = crew.start("forked", "run_once", "n", "r", {"gate": "never", "bug": bug})
    crew.log.wait("begun")
    runner.kill()
    crew.start("forked", "run_once", "n", "r", {"bug": bug}).wait()
    return judge_once(crew.log.read())


_BITES = {
    "once-without-lock": _contend,
    "once-without-history": _restart_gracefully,
    "once-done-before-the-body": _kill_the_runner,
}


@pytest.mark.parametrize("bug", _BITES)
def test_the_judge_finds_the_bug(shm_crew: Crew, bug: str) -> None:
    """What a planted bug did has no excuse, and the judge says so."""
    assert _BITES[bug](shm_crew, bug)


@pytest.mark.parametrize("bug", _BITES)
def test_the_judge_finds_nothing_without_it(shm_crew: Crew, bug: str) -> None:
    """The same scenes without the bug are faultless."""
    assert _BITES[bug](shm_crew, "") == []
