"""Leader: E1 to E5 of `sharedstate.coordination.leader`, on every backend."""

# ruff: noqa: PT012  what raises is the end of a block, after all that led to it

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from judges import holds_of, judge_overlaps, judge_tokens

import sharedstate
from crew import depose
from sharedstate.coordination import Leader
from sharedstate.errors import ClaimLostError, ClosedError, ConflictError, CorruptError, KeyFormatError, ScopeError
from sharedstate.testing.conformance.support import fork_and_run, run_together

if TYPE_CHECKING:
    from collections.abc import Callable

    from crew import Crew
    from sharedstate.store import Store


def _candidate(store: Store) -> Leader:
    return Leader(store, "l", is_stopping=lambda: False)


def test_one_leads_and_its_whole_interpreter_with_it(open_any: Callable[[], Store]) -> None:
    """The first who asks leads; another handle does not; another object over the same handle, and any thread, does."""
    store, other = open_any(), open_any()
    first, same, second = _candidate(store), _candidate(store), _candidate(other)
    assert not first.is_leader()
    assert first.who() == ""

    assert first.try_lead()

    assert first.try_lead()
    assert same.try_lead()
    assert not second.try_lead()
    assert [leader.is_leader() for leader in (first, same, second)] == [True, True, False]
    assert run_together(first.is_leader, lambda: same.term) == [True, first.term]
    assert str(os.getpid()) in second.who()


def test_who_resigned_is_followed_with_a_greater_term(open_any: Callable[[], Store]) -> None:
    """Terms grow over all leaders; who does not lead has none, and cannot resign."""
    leaders = [_candidate(open_any()) for _ in range(3)]
    terms = []
    for leader in leaders * 2:
        assert leader.try_lead()
        terms.append(leader.term)
        assert leader.resign()
        assert not leader.resign()
        assert not leader.is_leader()
        with pytest.raises(ClaimLostError, match="leadership of 'l'"):
            _ = leader.term

    assert terms == sorted(set(terms))


def test_of_many_threads_handles_one_leads(open_any: Callable[[], Store]) -> None:
    """8 handles ask at once: one is told that it leads."""
    candidates = [_candidate(open_any()) for _ in range(8)]

    answers = run_together(*(candidate.try_lead for candidate in candidates))

    assert sorted(answers) == [False] * 7 + [True]
    assert [candidate.is_leader() for candidate in candidates] == answers


def test_a_closed_handle_leads_no_more(open_any: Callable[[], Store]) -> None:
    """Closing a store is leaving it: the next one leads, and the old one's questions fail."""
    store, other = open_any(), open_any()
    first, second = _candidate(store), _candidate(other)
    assert first.try_lead()
    store.close()

    assert second.try_lead()
    with pytest.raises(ClosedError):
        first.is_leader()


def test_a_forked_child_does_not_lead(open_shared: Callable[[], Store]) -> None:
    """It is another interpreter: it neither leads, nor can it write as leader, nor resign for its parent."""
    store = open_shared()
    leader = _candidate(store)
    assert leader.try_lead()

    def in_child() -> list[object]:
        seen: list[object] = [leader.is_leader(), leader.try_lead(), leader.resign()]
        try:
            leader.transact(lambda transaction: transaction.set("k", 1))
        except ClaimLostError:
            seen.append("refused")
        return seen

    assert fork_and_run(in_child)() == [False, False, False, "refused"]
    assert leader.is_leader()
    assert "k" not in store


def test_a_transaction_commits_only_while_the_caller_leads(open_any: Callable[[], Store]) -> None:
    """Another's term refuses what was begun in the last one; a conflict on a key is told as such."""
    store, other = open_any(), open_any()
    first, second = _candidate(store), _candidate(other)
    assert first.try_lead()
    first.transact(lambda transaction: transaction.set("k", 1))
    with pytest.raises(ConflictError), first.transaction() as transaction:
        transaction["k"] += 1
        other["k"] = 5

    with pytest.raises(ClaimLostError), first.transaction() as transaction:
        transaction["k"] = 6
        first.resign()
        assert second.try_lead()

    with pytest.raises(ClaimLostError), first.transaction():
        pytest.fail("it was entered")
    assert store["k"] == 5


def test_a_stopping_process_leads_nothing(open_any: Callable[[], Store]) -> None:
    """Told to stop, it resigns when it is next asked, and does not lead again."""
    is_stopping: list[int] = []
    store = open_any()
    leader, other = Leader(store, "l", is_stopping=lambda: bool(is_stopping)), _candidate(open_any())
    assert leader.try_lead()
    assert not other.try_lead()
    is_stopping.append(1)

    assert not leader.is_leader()
    assert not leader.try_lead()
    assert other.try_lead()
    assert not leader.try_lead()


def test_an_orderly_end_resigns(shm_crew: Crew) -> None:
    """A process that ends as it should has resigned, also where it then hangs and keeps its handle for ever."""
    shm_crew.start("spawned", "lead_to_the_end", "l").wait()

    assert shm_crew.log.find("leads")[0].facts == (True,)
    with sharedstate.open(shm_crew.url) as store:
        assert store["sharedstate:leader/l"]["owner"] == ""


def test_bad_input_is_refused(open_any: Callable[[], Store]) -> None:
    """A name that is none; a value that is no record; a store that forgets."""
    store = open_any()
    for name in ("", 7):
        with pytest.raises(KeyFormatError):
            Leader(store, name)  # type: ignore[arg-type]
    for value in (None, 1, {}, {"format": 2, "owner": "", "who": "", "since": 1.0}, {"owner": 1}):
        store["sharedstate:leader/l"] = value
        leader = _candidate(store)
        for ask in (leader.try_lead, leader.is_leader, leader.who, leader.resign):
            with pytest.raises(CorruptError, match="sharedstate:leader/l"):
                ask()
    with sharedstate.open(f"shm://leader-evicts-{os.getpid()}?size=1MiB&full=evict") as evicting:
        with pytest.raises(ScopeError):
            _candidate(evicting)
        sharedstate.remove(evicting.url)


def test_a_killed_leader_is_replaced(crew: Crew, process_kind: str) -> None:
    """After kill -9 whoever asks next leads, with a greater term; those who asked before were refused."""
    leader = crew.start(process_kind, "lead", "l", {})
    crew.log.wait("begun")
    with sharedstate.open(crew.url) as store:
        candidate = _candidate(store)
        assert not candidate.try_lead()
        assert str(leader.pid) in candidate.who()

        leader.kill()

        assert candidate.who() == ""
        assert candidate.try_lead()
        assert candidate.term > crew.log.find("begun")[0].facts[2]


def test_a_stopped_leader_goes_on_leading(crew: Crew) -> None:
    """SIGSTOP: nobody else leads; after SIGCONT it still does, and may write."""
    leader = crew.start("forked", "lead", "l", {"gate": "end it"})
    crew.log.wait("begun")
    leader.stop()
    crew.log.tell("end it")
    with sharedstate.open(crew.url) as store:
        assert not _candidate(store).try_lead()
        leader.go_on()
        crew.wait()
        assert crew.log.find("led")[0].facts == (True,)
        assert store["led"] == 1


def test_a_deposed_leaders_late_write_is_refused(crew: Crew) -> None:
    """Its place among the sharers was taken away while it was stopped: its transaction writes nothing (E4)."""
    leader = crew.start("forked", "lead", "l", {"gate": "end it"})
    crew.log.wait("begun")
    leader.stop()
    with sharedstate.open(crew.url) as store:
        depose(store, store["sharedstate:leader/l"]["owner"])
        assert _candidate(store).try_lead()
        crew.log.tell("end it")
        leader.go_on()
        crew.wait()

        assert len(crew.log.find("lost")) == 1
        assert "led" not in store
        assert _candidate(store).is_leader()


def _take_turns(crew: Crew, bug: str = "") -> list[str]:
    for kind in ("forked", "spawned") * 2:
        crew.start(kind, "lead_by_turns", "l", 15, {"bug": bug})
    crew.log.wait("ready", count=4)
    crew.log.tell("go")
    crew.wait()
    holds = holds_of(crew.log.read())
    deposed = [f"told that it leads, and did not: {event}" for event in crew.log.find("deposed")]
    assert len(holds) + len(deposed) == 60
    return judge_overlaps(holds) + judge_tokens(holds) + deposed


def test_of_many_processes_one_leads_at_a_time(crew: Crew) -> None:
    """4 processes lead 15 times each: never two at a time, and terms grow."""
    assert _take_turns(crew) == []


def test_of_many_interpreters_one_leads_at_a_time(crew: Crew, interpreter_kind: str) -> None:
    """3 interpreters of one process lead 10 times each: the same."""
    crew.start_interpreters(interpreter_kind, 3, "lead_by_turns", "l", 10, {})
    crew.log.wait("ready", count=3)
    crew.log.tell("go")
    crew.wait()
    holds = holds_of(crew.log.read())
    assert len(holds) == 30
    assert judge_overlaps(holds) + judge_tokens(holds) == []


def test_the_judge_finds_the_bug(shm_crew: Crew) -> None:
    """Planted: to lead is to write without comparing.  Then two lead at a time."""
    assert _take_turns(shm_crew, "lead-without-comparing")
