"""Whose a task is while owners live, leave and fork: K1, K2 and T4 of `sharedstate.coordination`, on every backend."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

import pytest

import sharedstate
from sharedstate.coordination import Tasks
from sharedstate.errors import ClaimLostError, ClaimTakenError, ClosedError
from sharedstate.testing.conformance.support import fork_and_run, run_together

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sharedstate.store import Store


class BoomError(Exception): ...


def _running(store: Store) -> Tasks:
    return Tasks(store, "j", is_stopping=lambda: False)


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


@pytest.mark.parametrize("how", ["claim", "claim of it", "resume"])
def test_a_claim_of_one_who_is_gone_passes_nothing_over(
    open_any: Callable[[], Store], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """K2: another claimed it between the look and the claim, and has ended (as a killed writer that others help)."""
    store = open_any()
    tasks = _running(store)
    tasks.add("a", "payload")
    writes: list[int] = []

    def come_between(*arguments: Any) -> int:
        monkeypatch.undo()
        writes.append(_running(store).run("a").token)  # and its claim ends with that object
        return store.compare_and_set(*arguments)

    monkeypatch.setattr(store, "compare_and_set", come_between)
    if how == "resume":
        assert [outcome.status for outcome in tasks.resume(lambda _: None)] == ["finished"]
    else:
        task = tasks.claim("a" if "of it" in how else None)
        assert task is not None
        assert (task.id, task.payload, task.attempt) == ("a", "payload", 2)
        assert [task.token > token for token in writes] == [True]
        task.finish()
    assert len(writes) == 1
    assert tasks.count() == 0


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
