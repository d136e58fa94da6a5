"""Tasks whose owners are killed, stopped, raced and deposed; and judges that were seen to fail."""

from __future__ import annotations

import gc
import random
import signal
from typing import TYPE_CHECKING

import pytest
from judges import judge_effects, judge_tasks

import sharedstate
from crew import depose
from sharedstate.coordination import Leader, Tasks

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from crew import Crew, Member
    from sharedstate.store import Store

JOURNAL = "sharedstate:tasks/j/"


def _running(store: Store) -> Tasks:
    return Tasks(store, "j", is_stopping=lambda: False)


# --- Death, stopping and late writes ----------------------------------------------------------


def test_a_killed_owners_task_is_claimed_from_its_checkpoint(crew: Crew, process_kind: str) -> None:
    """After kill -9 behind the first checkpoint at once the next owner has it, with the state."""
    owner = crew.start(process_kind, "hold_task", "j", "t", {"checkpoint": [1, "half"], "payload": b"p"})
    crew.log.wait("checkpointed")
    with sharedstate.open(crew.url) as store:
        assert _running(store).claim() is None
        owner.kill()

        (record,) = _running(store).abandoned()
        assert (record.id, record.status) == ("t", "abandoned")
        task = _running(store).claim()
        assert task is not None
        assert (task.payload, task.state, task.attempt) == (b"p", [1, "half"], 2)
        assert task.token > crew.log.find("begun")[0].facts[2]
        task.finish()


def test_killed_between_claim_and_first_checkpoint(crew: Crew) -> None:
    """Nothing was recorded but the claim: the next owner begins anew."""
    owner = crew.start("forked", "hold_task", "j", "t", {})
    crew.log.wait("begun")
    owner.kill()

    with sharedstate.open(crew.url) as store:
        task = _running(store).claim("t")
        assert task is not None
        assert (task.state, task.attempt) == (None, 2)
        task.finish()


def test_a_destroyed_interpreter_leaves_its_task(crew: Crew, interpreter_kind: str) -> None:
    """It ended in the middle, its process went on to the end: its task is free."""
    crew.start(interpreter_kind, "leave_task", "j", "t").wait()

    with sharedstate.open(crew.url) as store:
        assert [record.status for record in _running(store).records()] == ["abandoned"]
        assert len(_running(store).resume(lambda _: None)) == 1


def test_a_process_that_cannot_end_keeps_its_task_and_begins_no_other(crew: Crew) -> None:
    """Its main thread is over, as in a shutdown that hangs: the task in hand goes on, nothing new is begun (K5)."""
    with sharedstate.open(crew.url) as store:
        tasks = _running(store)
        tasks.add("other")
        hanging = crew.start("spawned", "outlive_the_main_thread", "j")
        (stopping,) = crew.log.wait("stopping")
        crew.log.wait("refused to begin")

        assert stopping.facts == ("None", False, True)
        assert sorted(record.id for record in tasks.abandoned()) == ["other", "refused"]
        assert tasks.claim("held") is None
        assert Leader(store, "l", is_stopping=lambda: False).try_lead()
        crew.log.tell("end it")
        assert hanging.wait() == 0
        assert judge_tasks(crew.log.read(), ["held"]) == []


@pytest.mark.parametrize("late", ["checkpoint", "effects", "finish"])
def test_a_stopped_owner_keeps_its_task(crew: Crew, late: str) -> None:
    """SIGSTOP: nobody can claim it, however long that takes; after SIGCONT it goes on as if nothing had been."""
    owner = crew.start("forked", "hold_task", "j", "t", {"gate": "end it", "late": late})
    crew.log.wait("begun")
    owner.stop()
    with sharedstate.open(crew.url) as store:
        for _ in range(50):
            assert _running(store).claim() is None
        crew.log.tell("end it")
        assert _running(store).abandoned() == []
        owner.go_on()
        crew.wait()
        assert judge_tasks(crew.log.read(), ["t"]) == []
        assert store["done:t"] == 1


def _make_zombie(crew: Crew, late: str, bug: str = "") -> Store:
    """Stop an owner, take its place among the sharers away, have another do the task, and let the owner go on."""
    owner = crew.start("forked", "hold_task", "j", "t", {"gate": "end it", "late": late, "bug": bug})
    crew.log.wait("begun")
    owner.stop()
    store = sharedstate.open(crew.url)
    token = store[JOURNAL + "t"]["owner"]
    depose(store, token)
    second = crew.start("forked", "hold_task", "j", "t", {"gate": "end the second"})
    crew.log.wait("begun", second.name)
    crew.log.tell("end it")
    owner.go_on()
    owner.wait()
    crew.log.tell("end the second")
    crew.wait()
    return store


@pytest.mark.parametrize("late", ["checkpoint", "effects", "finish"])
def test_a_zombies_late_write_is_refused(crew: Crew, late: str) -> None:
    """An owner whose place was taken away wakes up after another has begun: whatever it writes is refused (T1)."""
    with _make_zombie(crew, late) as store:
        assert [event.actor for event in crew.log.find("lost")] == [crew.members[0].name]
        assert [event.actor for event in crew.log.find("finished")] == [crew.members[1].name]
        assert store["done:t"] == 1
        assert "effect" not in store


def _race_for_tasks(crew: Crew, bug: str = "", count: int = 24) -> list[str]:
    """Have 6 processes claim `count` tasks at once."""
    with sharedstate.open(crew.url) as store:
        for number in range(count):
            Tasks(store, "j").add(str(number))
        for kind in ("forked", "spawned") * 3:
            crew.start(kind, "claim_race", "j", {"bug": bug})
        crew.log.wait("ready", count=6)
        crew.log.tell("go")
        crew.wait()
        ids = [str(number) for number in range(count)]
        return judge_tasks(crew.log.read(), ids) + judge_effects(store, ids, 1)


def test_of_many_processes_each_task_goes_to_one(crew: Crew) -> None:
    """6 processes, 24 tasks: each claimed and finished exactly once, each effect there once."""
    assert _race_for_tasks(crew) == []


def test_of_many_interpreters_each_task_goes_to_one(crew: Crew, interpreter_kind: str) -> None:
    """4 interpreters of one process, 12 tasks: the same."""
    ids = [str(number) for number in range(12)]
    with sharedstate.open(crew.url) as store:
        for task_id in ids:
            Tasks(store, "j").add(task_id)
        crew.start_interpreters(interpreter_kind, 4, "claim_race", "j", {})
        crew.log.wait("ready", count=4)
        crew.log.tell("go")
        crew.wait()
        assert judge_tasks(crew.log.read(), ids) == []
        assert judge_effects(store, ids, 1) == []


_STEPS = 120


def _work_under_kill(crew: Crew, bug: str = "", *, seed: int = 1) -> list[str]:
    """Have 4 processes at a time do 6 tasks of 120 steps, each killed somewhere; return the faults.

    Where too few died before all was done, 6 more are done in the same way.
    """
    ids, dice = list[str](), random.Random(seed)
    with sharedstate.open(crew.url) as store:

        def start() -> Member:
            # Longer and longer, so that a machine that is busy gets there too.
            lives_us = dice.randrange(500, 20_000) * (1 + deaths // 20)
            return crew.start("forked", "work_until_done", "j", _STEPS, {"bug": bug, "lives_us": lives_us})

        deaths = 0
        while deaths < 4 and len(ids) < 300:
            for task_id in (more := [f"t{len(ids) + number}" for number in range(6)]):
                Tasks(store, "j").add(task_id)
            ids += more
            at_work = [start() for _ in range(4)]
            while at_work:
                member = at_work.pop(0)
                if member.wait():
                    crew.log.tell("died", member.name)
                    deaths += 1
                    at_work.append(start())
        assert deaths > 3, "too few died at work"
        # One may die after its task finished and before it could tell so: the effects say that it did.
        told = [fault for fault in judge_tasks(crew.log.read(), ids) if " finished 0 times" not in fault]
        return told + judge_effects(store, ids, _STEPS)


@pytest.mark.parametrize("seed", [1, 2])
def test_effects_are_exactly_once_under_kill(crew: Crew, seed: int) -> None:
    """4 workers at a time, each dead within 20 ms: never two owners, and each effect counted exactly once."""
    assert _work_under_kill(crew, seed=seed) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a signal may come in a __del__
def test_a_signal_at_any_line_leaves_the_task_to_somebody(open_any: Callable[[], Store]) -> None:
    """Exceptions out of a signal handler, anywhere in run, checkpoint and end: afterwards everything can be resumed."""
    store = open_any()
    tasks = _running(store)
    number = iter(range(10**9))

    class Interruption(BaseException): ...

    def handle(*_: Any) -> None:
        raise Interruption

    before = signal.signal(signal.SIGALRM, handle)
    interrupted = 0
    try:
        for i in range(50):
            try:
                signal.setitimer(signal.ITIMER_REAL, (50 + i * 37 % 1500) * 1e-6)
                for _ in range(20):
                    with tasks.run(f"t{next(number) % 7}") as task:
                        task.checkpoint((task.state or 0) + 1, lambda transaction: transaction.increment("steps"))
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interruption:
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    task = None  # the last claim's object
    gc.collect()

    assert interrupted > 10
    assert len(tasks.abandoned()) == tasks.count()
    tasks.resume(lambda _: None)
    assert tasks.count() == 0


# --- The judges bite ----------------------------------------------------------------------------


def _claim_from_a_slow_owner(crew: Crew, bug: str) -> list[str]:
    owner = crew.start("forked", "hold_task", "j", "t", {"gate": "end it"})
    crew.log.wait("begun")
    owner.stop()
    thief = crew.start("forked", "work_until_done", "j", 1, {"bug": bug})
    if bug:
        thief.wait()
    crew.log.tell("end it")
    owner.go_on()
    crew.wait()
    return judge_tasks(crew.log.read(), ["t"])


def _zombie(crew: Crew, bug: str) -> list[str]:
    with _make_zombie(crew, "finish", bug) as store:
        # Its place was taken away by force, so the two may overlap; what they wrote may not.
        return [fault for fault in judge_tasks(crew.log.read(), ["t"]) if "at a time" not in fault] + judge_effects(
            {"steps:t": 1, "done:t": store.get("done:t")}, ["t"], 1
        )


_BITES = {
    "claim-without-comparing": _race_for_tasks,
    "claim-from-the-living": _claim_from_a_slow_owner,
    "claim-by-timeout": _claim_from_a_slow_owner,
    "write-unfenced": _zombie,
    "effects-beside-the-checkpoint": _work_under_kill,
}


@pytest.mark.parametrize("bug", _BITES)
def test_the_judge_finds_the_bug(shm_crew: Crew, bug: str) -> None:
    """What a planted bug did has no excuse, and the judge says so."""
    assert _BITES[bug](shm_crew, bug)


@pytest.mark.parametrize("bug", _BITES)
def test_the_judge_finds_nothing_without_it(shm_crew: Crew, bug: str) -> None:
    """The same scenes without the bug are faultless."""
    assert _BITES[bug](shm_crew, "") == []


def test_the_dead_must_be_found_dead(shm_crew: Crew) -> None:
    """Planted: nobody is ever found absent.  Then the killed owner's task is claimed by nobody."""
    owner = shm_crew.start("forked", "hold_task", "j", "t", {})
    shm_crew.log.wait("begun")
    owner.kill()
    shm_crew.start("forked", "claim_race", "j", {"bug": "never-claim-from-the-dead"})
    shm_crew.log.tell("go")
    shm_crew.wait()

    assert judge_tasks(shm_crew.log.read(), ["t"])
