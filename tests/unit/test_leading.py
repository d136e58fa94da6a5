"""while_leading: D1 to D4 of `sharedstate.coordination.leading`, on every backend."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from judges import holds_of, judge_overlaps, judge_tokens

import sharedstate
from sharedstate.coordination import Leader, leading
from sharedstate.errors import KeyFormatError, UnavailableError
from sharedstate.testing.conformance.support import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from crew import Crew
    from sharedstate.store import Store


@contextmanager
def nothing(_leader: Leader) -> Iterator[None]:
    yield


@pytest.fixture
def compete(open_any: Callable[[], Store]) -> Iterator[Callable[..., leading.Candidacy]]:
    """Begin a candidacy over a handle of its own, which ends with the test."""
    begun: list[leading.Candidacy] = []

    def begin(scope: Callable[..., object] = nothing, is_stopping: Callable[[], bool] = lambda: False) -> object:
        candidacy = sharedstate.while_leading(open_any(), "l", scope, is_stopping=is_stopping)  # type: ignore[arg-type]
        begun.append(candidacy)
        return candidacy

    yield begin
    for candidacy in begun:
        candidacy.stop()


def test_one_is_inside_and_the_next_one_enters_when_it_has_left(compete: Callable[..., leading.Candidacy]) -> None:
    """D1 and D2, of two handles in one interpreter; who was stopped does not come back."""
    first = compete()
    until(first.is_inside)
    second = compete()
    assert not second.is_inside()

    first.stop()

    assert not first.is_inside()
    until(second.is_inside)
    first.stop()


@pytest.mark.parametrize("how", ["stop", "is_stopping"])
def test_nobody_leads_before_the_scope_was_left(
    compete: Callable[..., leading.Candidacy], open_any: Callable[[], Store], how: str
) -> None:
    """D2 and D3: at the end of the scope the leadership cannot be had, and right after it can."""
    other, told, seen = Leader(open_any(), "l", is_stopping=lambda: False), [], []

    @contextmanager
    def scope(leader: Leader) -> Iterator[None]:
        yield
        seen.extend((leader.is_leader(), other.try_lead()))

    candidacy = compete(scope, lambda: bool(told))
    until(candidacy.is_inside)
    told.append(how == "is_stopping")
    if how == "stop":
        told.clear()
        candidacy.stop()

    until(lambda: seen)
    assert seen == [True, False]
    until(other.try_lead)
    assert not candidacy.is_inside()


def test_who_was_deposed_leaves(compete: Callable[..., leading.Candidacy], open_any: Callable[[], Store]) -> None:
    """What it cannot know at once it finds at its next look, and competes on."""
    store = open_any()
    candidacy = compete()
    until(candidacy.is_inside)
    record = store["sharedstate:leader/l"]

    store["sharedstate:leader/l"] = {**record, "owner": store.join()}

    until(lambda: not candidacy.is_inside())
    store["sharedstate:leader/l"] = {**record, "owner": ""}
    until(candidacy.is_inside)


def test_a_store_out_of_reach_is_left_and_competed_for_again(
    compete: Callable[..., leading.Candidacy], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """D4: the scope is left, the log says why, once, and it is entered anew when the store is there again."""
    candidacy = compete()
    until(candidacy.is_inside)

    refused: list[Leader] = []

    def refuse(leader: Leader) -> bool:
        refused.append(leader)
        raise UnavailableError(url="redis://nowhere", reason="no answer", advice="Try again later.")

    with monkeypatch.context() as patch:
        patch.setattr(Leader, "is_leader", refuse)
        patch.setattr(Leader, "try_lead", refuse)
        until(lambda: not candidacy.is_inside())
        until(lambda: "cannot be had now" in caplog.text)
        looks = len(refused)
        until(lambda: len(refused) > looks + 1)

    until(candidacy.is_inside)
    assert [record.__dict__["event"] for record in caplog.records] == ["leader.unreachable"]


def test_a_scope_that_fails_gives_the_leadership_up(
    compete: Callable[..., leading.Candidacy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is printed as of any thread, the candidate competes no more, and the next one leads."""
    printed: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda told: printed.append(told.exc_type))

    @contextmanager
    def scope(_leader: Leader) -> Iterator[None]:
        raise ConnectionError("no broker")
        yield

    broken = compete(scope)
    until(lambda: printed == [ConnectionError])
    until(compete().is_inside)
    broken.stop()
    assert not broken.is_inside()


def test_a_closed_handle_leaves(open_any: Callable[[], Store]) -> None:
    """Then nobody can lead by it: the scope is left, and the thread ends."""
    store, left = open_any(), []

    @contextmanager
    def scope(_leader: Leader) -> Iterator[None]:
        yield
        left.append(True)

    candidacy = sharedstate.while_leading(store, "l", scope, is_stopping=lambda: False)
    until(candidacy.is_inside)

    store.close()

    until(lambda: left)
    candidacy._thread.join(10)
    assert not candidacy._thread.is_alive()


def test_bad_input_is_refused_and_begins_nothing(open_any: Callable[[], Store]) -> None:
    """A name that is none raises where it was given."""
    before = threading.active_count()
    with pytest.raises(KeyFormatError):
        sharedstate.while_leading(open_any(), "", nothing)
    assert threading.active_count() == before


def test_the_end_of_the_program_is_not_held_up(shm_url: str) -> None:
    """A program that comes to its end leaves the scope, and resigns, without being told to stop (D3)."""
    program = (
        "import sys, time, contextlib, sharedstate\n"
        "@contextlib.contextmanager\n"
        "def scope(leader):\n    print('begun', flush=True)\n    yield\n    print('ended', flush=True)\n"
        "candidacy = sharedstate.while_leading(sharedstate.open(sys.argv[1]), 'l', scope)\n"
        "while not candidacy.is_inside():\n    time.sleep(0.01)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, shm_url], stdout=subprocess.PIPE, text=True, timeout=60, check=True
    )

    assert done.stdout.split() == ["begun", "ended"]
    with sharedstate.open(shm_url) as store:
        assert store["sharedstate:leader/l"]["owner"] == ""


def test_a_killed_candidate_is_succeeded(crew: Crew, process_kind: str) -> None:
    """Of three the one inside is killed, again and again; never two are inside, and terms grow."""
    members = {member.name: member for member in (_candidate(crew, process_kind) for _ in range(3))}
    for deaths in range(2):
        inside = crew.log.wait("begun", count=deaths + 1)[-1].actor
        members.pop(inside).kill()
    crew.log.wait("begun", count=3)
    crew.log.tell("leave")
    crew.wait()

    holds = holds_of(crew.log.read())
    assert len(holds) == 3
    assert judge_overlaps(holds) == []
    assert judge_tokens(holds) == []


def _candidate(crew: Crew, kind: str) -> object:
    return crew.start(kind, "lead_while_leading", "l", "leave")


def test_one_who_resigns_first_is_found(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the leadership is given up before the scope is left.  The judge sees two inside."""

    def lead(candidacy: leading.Candidacy) -> None:
        with candidacy._scope(candidacy._leader):
            candidacy._is_inside = True
            while not candidacy._is_to_end():
                candidacy._told.wait(leading.LOOK_S)
            candidacy._leader.resign()
            crew.log.wait("begun", count=2)
        candidacy._is_inside = False

    with sharedstate.open(crew.url) as store, sharedstate.open(crew.url) as other:
        monkeypatch.setattr(leading.Candidacy, "_lead", lead)

        def scope_of(actor: str) -> Callable[[Leader], object]:
            @contextmanager
            def scope(leader: Leader) -> Iterator[None]:
                log = type(crew.log)(crew.log.path, actor)
                log.tell("begun", "l", 0, leader.term, None)
                yield
                log.tell("ended", "l")

            return scope

        first = sharedstate.while_leading(store, "l", scope_of("first"), is_stopping=lambda: False)  # type: ignore[arg-type]
        until(first.is_inside)
        second = sharedstate.while_leading(other, "l", scope_of("second"), is_stopping=lambda: False)  # type: ignore[arg-type]
        first.stop()
        until(second.is_inside)
        second.stop()

    assert judge_overlaps(holds_of(crew.log.read())) != []
