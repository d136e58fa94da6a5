"""Tasks: K1 to K5 and T1 to T4 of `sharedstate.coordination`, on every backend."""

# ruff: noqa: PT012  what raises is the end of a block, after all that led to it

from __future__ import annotations

import gc
import os
import random
import signal
from typing import TYPE_CHECKING

import pytest
from judges import judge_effects, judge_tasks

import sharedstate
from sharedstate.coordination import Outcome, Tasks
from sharedstate.errors import (
    AttemptsExhaustedError,
    ClaimLostError,
    ClaimTakenError,
    ClosedError,
    ConflictError,
    CorruptError,
    KeyFormatError,
    ScopeError,
    StoppingError,
    ValueTypeError,
)
from sharedstate.testing.conformance.support import fork_and_run, run_together, unchanged

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from crew import Crew, Member

    from sharedstate.coordination import Task
    from sharedstate.store import Store
    from sharedstate.transactions import Transaction

JOURNAL = "sharedstate:tasks/j/"


class BoomError(Exception): ...


def _running(store: Store, **options: Any) -> Tasks:
    return Tasks(store, "j", is_stopping=lambda: False, **options)


# --- The journal -------------------------------------------------------------------


def test_a_finished_task_leaves_the_journal(open_any: Callable[[], Store]) -> None:
    """While it runs its entry is there; at the end of the block nothing is left of it in the store."""
    store = open_any()
    tasks = _running(store)

    with tasks.run("a", {"n": 1}) as task:
        assert (task.id, task.payload, task.state, task.attempt) == ("a", {"n": 1}, None, 1)
        assert tasks.count() == 1
        assert "a" in tasks
        assert [record.status for record in _running(open_any()).records()] == ["running"]

    assert task.outcome == "finished"
    assert tasks.count() == 0
    assert len(store) == 0


def test_a_checkpoint_is_what_the_next_owner_goes_on_from(open_any: Callable[[], Store]) -> None:
    """State and payload come back as they were, the attempt grows, and so does the token."""
    tasks = _running(open_any())
    first = tasks.run("a", (1, b"2"))
    first.checkpoint({"row": 7})
    first.release()

    second = _running(open_any()).claim()

    assert second is not None
    assert (second.payload, second.state, second.attempt) == ((1, b"2"), {"row": 7}, 2)
    assert second.token > first.token


def test_adding_again_adds_nothing(open_any: Callable[[], Store]) -> None:
    """An id is one task until it has finished, whoever has it; the first payload stays."""
    tasks = _running(open_any())

    assert tasks.add("a", 1)
    assert not tasks.add("a", 2)
    with tasks.run("a", 3) as task:
        assert task.payload == 1
        assert not tasks.add("a", 4)
    assert tasks.add("a", 5)


def test_adding_in_a_transaction_is_all_or_nothing(open_any: Callable[[], Store]) -> None:
    """A task that is added in a transaction is there if that commits, and only then."""
    store = open_any()
    tasks = _running(store)

    with pytest.raises(BoomError), store.transaction() as transaction:
        transaction["order"] = 1
        assert tasks.add("mail", "order 1", transaction)
        raise BoomError
    assert "mail" not in tasks
    with store.transaction() as transaction:
        transaction["order"] = 1
        assert tasks.add("mail", "order 1", transaction)
        assert not tasks.add("mail", "order 2", transaction)

    assert [record.payload for record in tasks.records()] == ["order 1"]
    assert store["order"] == 1


def test_ids_and_names_may_hold_slashes(open_any: Callable[[], Store]) -> None:
    """No two pairs of journal and id share an entry."""
    store = open_any()
    pairs = [("a", "b/c"), ("a/b", "c"), ("a%2Fb", "c"), ("a", "b%2Fc"), ("a", "/"), ("a/", "x"), ("a", "é")]

    for name, task_id in pairs:
        assert Tasks(store, name).add(task_id, [name, task_id])

    for name in {name for name, _ in pairs}:
        records = Tasks(store, name).records()
        assert sorted(record.id for record in records) == sorted(task_id for other, task_id in pairs if other == name)
        assert all(record.payload == [name, record.id] for record in records)


def test_bad_input_writes_nothing(open_any: Callable[[], Store]) -> None:
    """A payload that is no value, an id that is no str, a journal without a name: refused before anything is there."""
    store = open_any()
    tasks = _running(store)

    for payload in (object(), {"a": [1, {2}]}, 2**70):
        with pytest.raises(ValueTypeError):
            tasks.add("a", payload)
        with pytest.raises(ValueTypeError):
            tasks.run("a", payload)
    for task_id in ("", 7, None, b"a", "a" * 600):
        with pytest.raises(KeyFormatError):
            tasks.run(task_id)  # type: ignore[arg-type]
    for name in ("", 7):
        with pytest.raises(KeyFormatError):
            Tasks(store, name)  # type: ignore[arg-type]
    for attempts in (0, -1, 1.5, True):
        with pytest.raises(ValueTypeError):
            Tasks(store, "j", attempts=attempts)  # type: ignore[arg-type]
    assert len(store) == 0


def test_a_state_that_is_no_value_changes_nothing(open_any: Callable[[], Store]) -> None:
    """The checkpoint before stays, its effects do not appear, and the task goes on."""
    store = open_any()
    with _running(store).run("a") as task:
        task.checkpoint(1)

        with pytest.raises(ValueTypeError), unchanged(store, JOURNAL + "a"):
            task.checkpoint({1, 2}, lambda transaction: transaction.set("effect", 1))

        assert task.state == 1
        assert "effect" not in store


def test_a_foreign_value_is_not_guessed_at(open_any: Callable[[], Store]) -> None:
    """What is no entry of ours raises CorruptError, which names the key."""
    store = open_any()
    tasks = _running(store)
    tasks.add("a")
    entry = store[JOURNAL + "a"]
    for value in (1, {}, {**entry, "format": 2}, {**entry, "more": 1}, {**entry, "attempt": "1"}, None):
        store[JOURNAL + "b"] = value
        for look in (tasks.records, tasks.abandoned, lambda: tasks.claim("b"), lambda: tasks.run("b")):
            with pytest.raises(CorruptError, match=JOURNAL + "b"):
                look()


def test_an_evicting_store_is_refused() -> None:
    """A journal that may forget its tasks is none."""
    with sharedstate.open(f"shm://tasks-evict-{os.getpid()}?size=1MiB&full=evict") as store:
        with pytest.raises(ScopeError, match="evict"):
            Tasks(store, "j")
        sharedstate.remove(store.url)


def test_listing_reads_only_the_journal(open_any: Callable[[], Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """With 1000 other keys in the store, listing 3 tasks reads 3 values, and counting them none."""
    store = open_any()
    store.set_many({f"other:{number}": number for number in range(1000)})
    tasks = _running(store)
    for task_id in "abc":
        tasks.add(task_id)
    reads: list[str] = []

    def get(key: str, default: Any = None) -> Any:
        reads.append(key)
        return type(store).get(store, key, default)

    monkeypatch.setattr(store, "get", get)

    assert len(tasks.records()) == 3
    assert sorted(reads) == [JOURNAL + task_id for task_id in "abc"]
    assert tasks.count() == 3
    assert len(reads) == 3


# --- Ends ----------------------------------------------------------------------------


def test_a_failed_task_is_left_to_others_until_its_attempts_are_used_up(open_any: Callable[[], Store]) -> None:
    """The exception propagates and is recorded; after the last attempt nobody runs it until `retry` or `discard`."""
    store = open_any()
    tasks = _running(store, attempts=2)
    with pytest.raises(BoomError), tasks.run("a", 1) as task:
        task.checkpoint("half")
        raise BoomError("first")
    (record,) = tasks.abandoned()
    assert (record.status, record.failures, record.error, record.state) == ("failed", 1, "BoomError: first", "half")

    with pytest.raises(BoomError), tasks.run("a") as task:
        assert (task.attempt, task.state) == (2, "half")
        raise BoomError("second")

    assert tasks.abandoned() == []
    assert [record.error for record in tasks.exhausted()] == ["BoomError: second"]
    assert tasks.claim() is None
    assert tasks.resume(lambda _: pytest.fail("it ran")) == []
    with pytest.raises(AttemptsExhaustedError, match=r"task 'a' of 'j' failed 2 times, lastly with BoomError: second"):
        tasks.run("a")
    assert tasks.retry("a")
    with tasks.run("a") as task:
        assert (task.payload, task.state, task.attempt) == (1, "half", 3)
    assert not tasks.retry("a")


def test_discarding_removes_what_nobody_runs(open_any: Callable[[], Store]) -> None:
    """A task in somebody's hands can be neither discarded nor retried; a waiting or failed one can."""
    tasks = _running(open_any())
    tasks.add("a")
    task = tasks.claim("a")
    assert task is not None

    assert not tasks.discard("a")
    assert not tasks.retry("a")
    task.fail("in words")
    assert task.outcome == "failed"
    assert [record.error for record in tasks.abandoned()] == ["in words"]
    assert tasks.discard("a")
    assert not tasks.discard("a")


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupted_task_is_free_at_once(open_any: Callable[[], Store], interruption: type[BaseException]) -> None:
    """Ctrl-C in the body leaves it to others from its checkpoint on, and that is no failure."""
    tasks = _running(open_any(), attempts=1)
    with pytest.raises(interruption), tasks.run("a") as task:
        task.checkpoint(3)
        raise interruption

    assert task.outcome == "released"
    (record,) = _running(open_any()).abandoned()
    assert (record.status, record.failures, record.state) == ("waiting", 0, 3)


def test_an_ended_task_is_ended(open_any: Callable[[], Store]) -> None:
    """After finish, release or fail, every further write is refused, and the end of the block does nothing."""
    tasks = _running(open_any())
    for end, outcome in (("finish", "finished"), ("release", "released"), ("fail", "failed")):
        with tasks.run(end) as task:
            getattr(task, end)(*(["so"] if end == "fail" else []))
            assert not task.is_ours()
            for write in (task.finish, task.release, lambda task=task: task.checkpoint(1)):
                with pytest.raises(ClaimLostError, match=f"{end!r}"):
                    write()
        assert task.outcome == outcome
    assert sorted(record.status for record in tasks.records()) == ["failed", "waiting"]


def test_a_body_that_raises_after_the_end_changes_nothing(open_any: Callable[[], Store]) -> None:
    """What comes after `finish` is the caller's own affair."""
    tasks = _running(open_any())
    with pytest.raises(BoomError), tasks.run("a") as task:
        task.finish()
        raise BoomError
    assert tasks.count() == 0


def test_effects_appear_with_the_checkpoint_or_the_end(open_any: Callable[[], Store]) -> None:
    """Both or neither: an effect that raises leaves the state, and the task, as they were."""
    store = open_any()
    with _running(store).run("a") as task:
        task.checkpoint(1, lambda transaction: transaction.increment("n"))
        assert (task.state, store["n"]) == (1, 1)

        def broken(transaction: Transaction) -> None:
            transaction.increment("n")
            raise BoomError

        with pytest.raises(BoomError):
            task.checkpoint(2, broken)
        with pytest.raises(BoomError):
            task.finish(broken)
        assert (task.state, store["n"]) == (1, 1)
        task.finish(lambda transaction: transaction.increment("n"))
    assert store["n"] == 2


def test_effects_are_retried_when_others_come_between(open_any: Callable[[], Store]) -> None:
    """A conflict on the effects' own keys is no reason to lose the task."""
    store, other, tries = open_any(), open_any(), []

    def effects(transaction: Transaction) -> None:
        transaction["n"] = transaction.get("n", 0) + 1
        if len(tries) < 3:
            other.increment("n", 10)
        tries.append(1)

    with _running(store).run("a") as task:
        task.finish(effects)

    assert len(tries) == 4
    assert store["n"] == 31
    assert task.outcome == "finished"


def test_a_task_transaction_says_what_it_lost(open_any: Callable[[], Store]) -> None:
    """A conflict on a key is a ConflictError, a claim that passed on a ClaimLostError; nothing is written."""
    store, other = open_any(), open_any()
    tasks = _running(store)
    task = tasks.run("a")
    with pytest.raises(ConflictError), task.transaction() as transaction:
        transaction["n"] = transaction.get("n", 0) + 1
        other["n"] = 5
    with pytest.raises(ClaimLostError), task.transaction() as transaction:
        transaction["n"] = 6
        task.release()
        assert _running(other).claim("a") is not None
    with pytest.raises(ClaimLostError), task.transaction() as transaction:
        pytest.fail("it was entered")
    assert store["n"] == 5


def test_a_checkpoint_by_another_thread_is_a_conflict_and_no_loss(open_any: Callable[[], Store]) -> None:
    """The task is still ours: the transaction lost a race against our own thread, and may be tried again."""
    task = _running(open_any()).run("a")
    with pytest.raises(ConflictError), task.transaction() as transaction:
        transaction["n"] = 1
        task.checkpoint(1)
    assert task.is_ours()
    task.transact(lambda transaction: transaction.set("n", 2))
    task.finish()


# --- Whose it is -----------------------------------------------------------------------


def test_a_living_owners_task_is_taken_by_nobody(open_any: Callable[[], Store]) -> None:
    """Neither by another handle, nor by the same one, nor by its other threads: claim is None, run raises."""
    store, other = open_any(), open_any()
    task = _running(store).run("a")

    for tasks in (_running(other), _running(store)):
        assert tasks.claim() is None
        assert tasks.claim("a") is None
        assert tasks.abandoned() == []
        with pytest.raises(ClaimTakenError, match=f"pid {os.getpid()}"):
            tasks.run("a")
    assert run_together(lambda: _running(store).claim(), lambda: _running(other).claim()) == [None, None]
    task.finish()


def test_a_closed_handles_task_is_free_and_its_writes_are_refused(open_any: Callable[[], Store]) -> None:
    """Closing a store is leaving it: others may go on, and what the old owner still tries fails."""
    store, other = open_any(), open_any()
    task = _running(store).run("a")
    task.checkpoint(1)
    store.close()

    (outcome,) = _running(other).resume(lambda _: None)

    assert outcome.status == "finished"
    with pytest.raises(ClosedError):
        task.checkpoint(2)


def test_a_task_that_was_dropped_is_free_to_its_own_interpreter(open_any: Callable[[], Store]) -> None:
    """Its thread died, or forgot it: nobody can finish it any more, so the next one may."""
    tasks = _running(open_any())
    task = tasks.run("a")
    task.checkpoint(1)
    assert tasks.claim() is None

    del task
    gc.collect()

    assert [record.status for record in tasks.records()] == ["abandoned"]
    with tasks.run("a") as task:
        assert (task.state, task.attempt) == (1, 2)


def test_a_forked_child_is_another_owner(open_shared: Callable[[], Store]) -> None:
    """It can neither write for its parent's task nor claim it; leaving the block there raises and ends nothing."""
    store = open_shared()
    tasks = _running(store)
    with tasks.run("a") as task:

        def in_child() -> list[str]:
            seen = [repr(tasks.claim()), repr(task.is_ours())]
            for write in (task.finish, lambda: task.checkpoint("child's"), lambda: task.__exit__(None, None, None)):
                try:
                    write()
                    seen.append("written")
                except ClaimLostError:
                    seen.append("refused")
            task.__exit__(BoomError, BoomError(), None)
            return seen

        answer = fork_and_run(in_child)()

        assert answer == ["None", "False", "refused", "refused", "refused"]
        assert task.is_ours()
        task.checkpoint("parent's")
    assert task.outcome == "finished"


def test_a_forked_childs_memory_is_a_world_of_its_own() -> None:
    """A fork copies `memory:` and shares it no more: the child may take over its copy, the parent sees nothing."""
    with sharedstate.open("memory:tasks-and-forks") as store, _running(store).run("a") as task:
        outcomes = fork_and_run(lambda: _running(store).resume(lambda _: None))()

        assert [outcome.status for outcome in outcomes] == ["finished"]
        assert task.is_ours()
    assert task.outcome == "finished"


def test_of_many_threads_each_task_goes_to_one(open_any: Callable[[], Store]) -> None:
    """8 threads over 4 handles claim 40 tasks at once: each is claimed once."""
    handles = [open_any() for _ in range(4)]
    for number in range(40):
        _running(handles[0]).add(str(number))

    def claim_all(store: Store) -> list[str]:
        tasks, got = _running(store), []
        while (task := tasks.claim()) is not None:
            got.append(task.id)
            task.finish()
        return got

    got = run_together(*(lambda store=store: claim_all(store) for store in handles * 2))

    assert sorted(task_id for ids in got for task_id in ids) == sorted(map(str, range(40)))


# --- Stopping -----------------------------------------------------------------------------


def test_a_stopping_process_begins_nothing(open_any: Callable[[], Store]) -> None:
    """`claim` and `resume` return without a task; run leaves its task in the journal and says so (K5)."""
    store, is_stopping = open_any(), []
    tasks = Tasks(store, "j", is_stopping=lambda: bool(is_stopping))
    tasks.add("a")
    with tasks.run("b") as task:
        assert not task.should_stop()
        is_stopping.append(1)
        assert task.should_stop()
        assert tasks.claim() is None
        assert tasks.resume(lambda _: pytest.fail("it ran")) == []
        with pytest.raises(StoppingError, match="task 'c' of 'j'"):
            tasks.run("c", 3)
        task.checkpoint("b's")
        task.release()

    seen = {record.id: (record.payload, record.state) for record in _running(open_any()).abandoned()}
    assert seen == {"a": (None, None), "b": (None, "b's"), "c": (3, None)}


def test_resume_stops_between_two_tasks(open_any: Callable[[], Store]) -> None:
    """Told to stop while it handles one, it begins no other."""
    ran: list[str] = []
    tasks = Tasks(open_any(), "j", is_stopping=lambda: len(ran) >= 2)
    for task_id in "abcd":
        tasks.add(task_id)

    outcomes = tasks.resume(lambda task: ran.append(task.id))

    assert [outcome.id for outcome in outcomes] == ran
    assert len(ran) == 2
    assert tasks.count() == 2


# --- Resuming ------------------------------------------------------------------------------


def test_resume_runs_everything_unfinished_once(open_any: Callable[[], Store]) -> None:
    """Waiting, released and failed tasks are run; one that fails keeps none from that, and is not retried."""
    tasks = _running(open_any())
    for task_id in ("fails", "is released", "is fine", "is ended"):
        tasks.add(task_id)
    mine = tasks.run("is taken")

    def handle(task: Task) -> None:
        if task.id == "fails":
            raise BoomError("so")
        if task.id == "is released":
            task.release()
        if task.id == "is ended":
            task.finish()

    outcomes = {outcome.id: outcome for outcome in tasks.resume(handle)}

    assert outcomes.keys() == {"fails", "is released", "is fine", "is ended"}
    assert outcomes["is fine"] == Outcome("is fine", "finished", None)
    assert outcomes["is ended"].status == "finished"
    assert outcomes["is released"].status == "released"
    assert outcomes["fails"].status == "failed"
    assert isinstance(outcomes["fails"].error, BoomError)
    assert sorted(record.id for record in tasks.abandoned()) == ["fails", "is released"]
    mine.finish()


def test_resume_sees_tasks_that_handlers_add(open_any: Callable[[], Store]) -> None:
    """What a task adds is run by the same call."""
    tasks, ran = _running(open_any()), []
    tasks.add("1")

    def handle(task: Task) -> None:
        ran.append(task.id)
        if int(task.id) < 4:
            tasks.add(str(int(task.id) + 1))

    tasks.resume(handle)

    assert ran == ["1", "2", "3", "4"]


def test_an_interruption_of_resume_comes_out_of_it(open_any: Callable[[], Store]) -> None:
    """Ctrl-C ends it; the task in hand is free, and the others were not begun."""
    tasks = _running(open_any())
    for task_id in "ab":
        tasks.add(task_id)

    def handle(_: Task) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tasks.resume(handle)
    assert sorted((record.status, record.failures) for record in tasks.records()) == [("waiting", 0)] * 2


def test_a_task_lost_in_the_handler_is_told_as_lost(open_any: Callable[[], Store]) -> None:
    """Its owner ended it behind the handler's back, as an administrator would: "lost", and no crash."""
    store = open_any()
    tasks = _running(store)
    tasks.add("a")

    (outcome,) = tasks.resume(lambda task: store.delete(JOURNAL + task.id))

    assert outcome.status == "lost"
    assert isinstance(outcome.error, ClaimLostError)


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
    directory = os.path.dirname(store.lock("any").path)  # type: ignore[attr-defined]
    os.unlink(os.path.join(directory, f"{token}.sharer"))
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


_STEPS = 200


def _work_under_kill(crew: Crew, bug: str = "", *, seed: int = 1) -> list[str]:
    """Have 4 processes at a time do 6 tasks of 200 steps, each killed somewhere; return the faults."""
    ids, dice = [f"t{number}" for number in range(6)], random.Random(seed)
    with sharedstate.open(crew.url) as store:
        for task_id in ids:
            Tasks(store, "j").add(task_id)

        def start() -> Member:
            # Longer and longer, so that a machine that is busy gets there too.
            lives_us = dice.randrange(500, 20_000) * (1 + deaths // 20)
            return crew.start("forked", "work_until_done", "j", _STEPS, {"bug": bug, "lives_us": lives_us})

        deaths = 0
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
        for i in range(80):
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
