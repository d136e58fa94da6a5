"""Semaphore: H1 to H3 of `sharedstate.coordination.semaphore`, on every backend."""

from __future__ import annotations

import gc
import os
from itertools import count
from typing import TYPE_CHECKING

import pytest
from judges import holds_of, judge_overlaps

import sharedstate
from sharedstate.coordination import Semaphore
from sharedstate.errors import (
    ClaimLostError,
    CorruptError,
    KeyFormatError,
    LockTimeoutError,
    ScopeError,
    ValueTypeError,
)
from sharedstate.testing.conformance.support import fork_and_run, interrupt_at, run_together

if TYPE_CHECKING:
    from collections.abc import Callable

    from crew import Crew
    from sharedstate.store import Store


def test_so_many_permits_and_no_more(open_any: Callable[[], Store]) -> None:
    """Three permits over three handles; the fourth is refused until one is given back."""
    semaphores = [Semaphore(open_any(), "s", 3) for _ in range(3)]
    permits = [semaphore.acquire() for semaphore in semaphores]

    assert semaphores[0].held() == 3
    assert semaphores[0].try_acquire() is None
    with pytest.raises(LockTimeoutError, match=f"a permit of 's'.*pid {os.getpid()}"):
        semaphores[1].acquire(0.01)
    permits[2].release()
    assert semaphores[0].try_acquire() is not None


def test_each_thread_counts_singly(open_any: Callable[[], Store]) -> None:
    """`with` over one object by 8 threads: at most 2 are inside at a time, and in the end nobody is."""
    semaphore, inside, most = Semaphore(open_any(), "s", 2), [], []

    def enter() -> None:
        for _ in range(5):
            with semaphore:
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    run_together(*[enter] * 8)

    assert max(most) <= 2
    assert semaphore.held() == 0


def test_with_can_be_nested(open_any: Callable[[], Store]) -> None:
    """One thread may hold several permits; each `with` gives back its own."""
    semaphore = Semaphore(open_any(), "s", 2, timeout_s=0.01)
    with semaphore:
        with semaphore:
            assert semaphore.held() == 2
            with pytest.raises(LockTimeoutError), semaphore:
                pytest.fail("three of two")
        assert semaphore.held() == 1
    assert semaphore.held() == 0


def test_with_that_is_interrupted_at_any_call_before_its_block_holds_nothing(open_any: Callable[[], Store]) -> None:
    """What a signal handler raises there leaves no permit with the thread, which would keep it for ever."""
    semaphore, is_inside = Semaphore(open_any(), "s", 1, timeout_s=1), False

    def enter() -> None:
        nonlocal is_inside
        semaphore.__enter__()
        is_inside = True

    for point in count(1):
        is_interrupted = interrupt_at(point, enter)
        assert semaphore.held() == is_inside
        if is_inside:  # also where it was interrupted, but in a finalizer
            semaphore.__exit__(None, None, None)
            is_inside = False
        if not is_interrupted:
            break
    assert point > 10


def test_an_exception_gives_the_permit_back(open_any: Callable[[], Store]) -> None:
    """As every `with` does."""
    semaphore = Semaphore(open_any(), "s", 1)
    with pytest.raises(ZeroDivisionError), semaphore.acquire():
        _ = 1 / 0
    assert semaphore.held() == 0


def test_a_permit_is_given_back_once(open_any: Callable[[], Store]) -> None:
    """The second time it raises, and nobody else's is given back instead."""
    semaphore = Semaphore(open_any(), "s", 2)
    first, second = semaphore.acquire(), semaphore.acquire()
    first.release()
    with pytest.raises(ClaimLostError):
        first.release()
    assert semaphore.held() == 1
    second.release()


def test_a_forked_child_has_none_of_its_parents(open_shared: Callable[[], Store]) -> None:
    """It cannot give back its parent's permit, and gets its own only if one is free."""
    semaphore = Semaphore(open_shared(), "s", 2)
    permit = semaphore.acquire()

    def in_child() -> list[object]:
        try:
            permit.release()
        except ClaimLostError:
            got = semaphore.try_acquire()
            return [got is not None, semaphore.try_acquire() is not None]
        return ["released"]

    assert fork_and_run(in_child)() == [True, False]
    assert semaphore.held() == 1


def test_permits_of_the_closed_and_the_forgetful_are_free(open_any: Callable[[], Store]) -> None:
    """A handle that was closed holds none; a permit that was dropped is free to its own interpreter."""
    store, other = open_any(), open_any()
    closing = Semaphore(store, "s", 2)
    kept = closing.acquire()
    mine = Semaphore(other, "s", 2)
    dropped = mine.acquire()
    assert mine.try_acquire() is None

    store.close()
    assert mine.held() == 1
    del dropped
    gc.collect()
    assert mine.held() == 0
    del kept


def test_bad_input_is_refused(open_any: Callable[[], Store]) -> None:
    """A limit that is none, a name that is none, a value that is no record, a store that forgets."""
    store = open_any()
    for limit in (0, -1, 1.5, True, None):
        with pytest.raises(ValueTypeError):
            Semaphore(store, "s", limit)  # type: ignore[arg-type]
    with pytest.raises(KeyFormatError):
        Semaphore(store, "", 1)
    assert len(store) == 0
    for value in (None, [], {"format": 2, "permits": []}, {"format": 1, "permits": [1]}, {"format": 1}):
        store["sharedstate:semaphore/s"] = value
        with pytest.raises(CorruptError, match="sharedstate:semaphore/s"):
            Semaphore(store, "s", 1).acquire()
    with sharedstate.open(f"shm://semaphore-evicts-{os.getpid()}?size=1MiB&full=evict") as evicting:
        with pytest.raises(ScopeError):
            Semaphore(evicting, "s", 1)
        sharedstate.remove(evicting.url)


def test_a_waiter_gets_what_is_given_back(open_any: Callable[[], Store]) -> None:
    """It waits, and returns when the permit is there."""
    holder, waiter = Semaphore(open_any(), "s", 1), Semaphore(open_any(), "s", 1)
    permit = holder.acquire()

    def give_back() -> None:
        permit.release()

    got, _ = run_together(lambda: waiter.acquire(30.0), give_back)

    got.release()
    assert holder.held() == 0


def test_permits_die_with_their_holder(crew: Crew, process_kind: str) -> None:
    """After kill -9 one who waits gets the permit, though no key changed (H2)."""
    holder = crew.start(process_kind, "keep_permit", "s", 1, None)
    crew.log.wait("taken")
    waiter = crew.start("forked", "keep_permit", "s", 1, None)
    with sharedstate.open(crew.url) as store:
        assert Semaphore(store, "s", 1).try_acquire() is None

        holder.kill()

        crew.log.wait("taken", waiter.name)
        assert Semaphore(store, "s", 1).try_acquire() is None


def test_a_stopped_holder_keeps_its_permit(crew: Crew) -> None:
    """SIGSTOP is not death: who waits is refused in the end, and told who has it."""
    holder = crew.start("forked", "keep_permit", "s", 1, None)
    crew.log.wait("taken")
    holder.stop()

    crew.start("forked", "keep_permit", "s", 1, 0.3).wait()

    (refusal,) = crew.log.find("refused")
    assert f"pid {holder.pid}" in refusal.facts[0]


def _crowd(crew: Crew, bug: str = "") -> list[str]:
    for kind in ("forked", "spawned") * 3:
        crew.start(kind, "hold_permits", "s", 2, {"turns": 10, "bug": bug})
    crew.log.wait("ready", count=6)
    crew.log.tell("go")
    crew.wait()
    holds = holds_of(crew.log.read(), "taken", ("given",))
    assert len(holds) == 60
    return judge_overlaps(holds, at_most=2) + [str(event) for event in crew.log.find("lost")]


def test_never_more_than_the_limit_among_processes(crew: Crew) -> None:
    """6 processes, 2 permits, 10 turns each: never a third one at a time."""
    assert _crowd(crew) == []


def test_never_more_than_the_limit_among_interpreters(crew: Crew, interpreter_kind: str) -> None:
    """4 interpreters of one process, 2 permits: the same."""
    crew.start_interpreters(interpreter_kind, 4, "hold_permits", "s", 2, {"turns": 8})
    crew.log.wait("ready", count=4)
    crew.log.tell("go")
    crew.wait()
    holds = holds_of(crew.log.read(), "taken", ("given",))
    assert len(holds) == 32
    assert judge_overlaps(holds, at_most=2) == []


def test_the_judge_finds_the_bug(shm_crew: Crew) -> None:
    """Planted: to take a permit is to write without comparing.  Then three are out at a time."""
    assert _crowd(shm_crew, "permits-without-comparing")
