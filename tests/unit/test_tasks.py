"""Tasks: K1 to K5 and T1 to T4 of `sharedstate.coordination`, on every backend.

Whose a task is: test_task_owners.py.
"""

# ruff: noqa: PT012  what raises is the end of a block, after all that led to it

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

import sharedstate
from sharedstate.coordination import Outcome, Tasks
from sharedstate.errors import (
    AttemptsExhaustedError,
    CapacityError,
    ClaimLostError,
    ConflictError,
    CorruptError,
    KeyFormatError,
    ScopeError,
    StoppingError,
    ValueTypeError,
)
from sharedstate.testing.conformance.support import unchanged

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

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


class MuteError(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (OSError("\udcff is no name"), "OSError: \\udcff is no name"),
        (BoomError("x" * 10**6), f"BoomError: {'x' * 1989} ..."),
        (MuteError(), "MuteError"),
    ],
    ids=["surrogate", "long", "mute"],
)
def test_whatever_is_raised_is_recorded(open_any: Callable[[], Store], error: Exception, kept: str) -> None:
    """An error's text that no store could keep is kept in other words."""
    tasks = _running(open_any())
    with pytest.raises(type(error)), tasks.run("a"):
        raise error
    assert [(record.status, record.error) for record in tasks.records()] == [("failed", kept)]


def test_a_namespace_has_its_own_journals(open_any: Callable[[], Store]) -> None:
    """Two namespaces share a backend and no tasks; an owner is one in all of them."""
    store, other = open_any(), open_any()
    for name in ("app", "shop"):
        Tasks(store.namespace(name), "j").add("a", name)
    task = Tasks(store.namespace("app"), "j").claim()
    assert task is not None

    assert task.payload == "app"
    assert Tasks(other.namespace("app"), "j").claim() is None
    assert [record.payload for record in Tasks(other.namespace("shop"), "j").abandoned()] == ["shop"]
    assert Tasks(store, "j").records() == []
    task.finish(lambda transaction: transaction.set("n", 1))
    assert dict(store.items("app:")) == {"app:n": 1}


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


def test_what_follows_a_commit_inside_the_block_is_fenced_too(open_any: Callable[[], Store]) -> None:
    """A transaction that committed begins anew, and its end is refused if the task passed on in between."""
    store, other = open_any(), open_any()
    task = _running(store).run("a")
    with pytest.raises(ClaimLostError), task.transaction() as transaction:
        transaction["n"] = 1
        transaction.commit()
        task.release()
        assert _running(other).claim("a") is not None
        transaction["n"] = 2
    assert store["n"] == 1


def test_a_checkpoint_by_another_thread_is_a_conflict_and_no_loss(open_any: Callable[[], Store]) -> None:
    """The task is still ours: the transaction lost a race against our own thread, and may be tried again."""
    task = _running(open_any()).run("a")
    with pytest.raises(ConflictError), task.transaction() as transaction:
        transaction["n"] = 1
        task.checkpoint(1)
    assert task.is_ours()
    task.transact(lambda transaction: transaction.set("n", 2))
    task.finish()


def test_a_full_store_fails_the_task_and_loses_nothing() -> None:
    """CapacityError out of a checkpoint ends the body as any error does; with room again it is resumed."""
    with sharedstate.open(f"shm://tasks-full-{os.getpid()}?size=1MiB") as store:
        try:
            tasks = _running(store)
            with pytest.raises(CapacityError), tasks.run("a") as task:
                task.checkpoint("before")
                with suppress(CapacityError):
                    for number in range(10**6):
                        store[str(number)] = b"x" * 4000
                task.checkpoint(b"y" * 100_000)
            store.delete_many([key for key in store if not key.startswith("sharedstate:")])

            (outcome,) = tasks.resume(lambda task: store.set("seen", (task.state, task.attempt)))

            assert outcome.status == "finished"
            assert store["seen"] == ("before", 2)
        finally:
            sharedstate.remove(store.url)


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
