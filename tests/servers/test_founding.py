"""The founding run: every task is finished exactly once, whatever is done to the server that works on it.

The example service is given twelve tasks of a quarter of a second, in seven
modes, and each mode is disturbed in up to seven ways while tasks are begun.
What happened is recorded outside of the store, and judged by a pure function,
which is seen here to find what it is there to find.

The whole run is longer: `make founding-run` sets SHAREDSTATE_FOUNDING_RUN to a
file, where the table then stands.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from founding import DISTURBANCES, Cell, Event, Evidence, judge, prepare, run, write_report
from harness import MODES, leftovers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPORT = os.environ.get("SHAREDSTATE_FOUNDING_RUN")
AT_ONCE = 3  # servers; mostly they wait for their processes to end, or to start
OWN_GIL = [name for name in MODES if name.startswith("mod_wsgi6") and "own-gil" in name]  # of the newest Python
SHORT = (
    "prefork",
    "event",  # Debian's mod_wsgi 4.9.4: its processes hang when they are to end
    "daemon-5x1",
    "daemon-threads25",
    *OWN_GIL[:1],
    "gunicorn-sync-4",
    "uwsgi-4",
)
LONG = (
    *SHORT,
    "worker",
    "daemon-2x25",
    "daemon-global",
    *OWN_GIL[1:2],
    "gunicorn-preload-4",
    "gunicorn-gthread-2x8",
    "uwsgi-mounts-2",
    "uwsgi-lazy-4",
)
CELLS = [
    (name, how)
    for name in (LONG if REPORT else SHORT)
    for how, by_server in DISTURBANCES.items()
    if MODES[name].server in by_server
]


@pytest.fixture(scope="module")
def cells(request: pytest.FixtureRequest) -> Iterator[Callable[[tuple[str, str]], Cell]]:
    """Return what runs a cell: all that the selected tests will ask for, some at a time, in advance.

    One of several pytest processes (xdist) runs each when it is asked for, since
    it does not know which of them will be.
    """
    asked = [
        item.callspec.params["cell"] for item in request.session.items if "cell" in getattr(item, "fixturenames", ())
    ]
    prepare()
    with ThreadPoolExecutor(AT_ONCE) as pool:

        def begin(cell: tuple[str, str]) -> Future[Cell]:
            return pool.submit(run, *cell, rounds=3 if REPORT else 1)

        futures = {} if "PYTEST_XDIST_WORKER" in os.environ else {cell: begin(cell) for cell in asked}
        try:
            yield lambda cell: (futures.get(cell) or begin(cell)).result()
        finally:
            for future in futures.values():
                future.cancel()
    assert not leftovers()
    if REPORT and futures.keys() == set(CELLS):
        write_report(REPORT, [future.result() for future in futures.values()])


@pytest.fixture(autouse=True)
def _no_process_is_left() -> None:
    """Between two of these tests there are servers at work: `cells` looks for what they leave."""


@pytest.mark.timeout(1800 if REPORT else 300)
@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_every_task_is_finished_once(cell: tuple[str, str], cells: Callable[[tuple[str, str]], Cell]) -> None:
    """By one owner at a time, from its latest checkpoint on; `once` runs once in each start of the server."""
    found = cells(cell)

    assert not found.verdict.complaints, "\n".join([*found.verdict.complaints, found.log])
    assert found.verdict.finished == len(found.evidence.tasks)


# --- The judge ------------------------------------------------------------------

MS = 10**6


def executed(task: str, owner: int, *, at_ms: int, steps: range, outcome: str = "finished") -> list[Event]:
    """The record of one execution, whose steps take 10 ms each."""

    def event(kind: str, ms: float, **facts: object) -> Event:
        return Event(kind, int(ms * MS), 100 + owner, 0, 1, task, owner, **facts)

    events = [event("begin", at_ms, step=steps.start)]
    for number, step in enumerate(steps):
        events += [
            event("step", at_ms + 10 * number + 1, step=step),
            event("stepped", at_ms + 10 * number + 10, step=step),
        ]
    return [*events, event("end", at_ms + 10 * len(steps) + 1, outcome=outcome)] if outcome else events


ONCE = Event("once", 0, 1, 0, 1, incarnation="boot.7.70.0")
WHOLE = executed("a", 1, at_ms=0, steps=range(5))


def judged(*events: Event, starts: int = 1, finished: int | None = 5) -> list[str]:
    done = {} if finished is None else {"a": finished}
    return judge(Evidence([ONCE, *events], {"a": 5}, done, starts)).complaints


def test_judge_is_content_with_one_execution() -> None:
    """Whatever order the lines of several processes came in."""
    assert judged(*WHOLE) == []
    assert judged(*reversed(WHOLE)) == []


@pytest.mark.parametrize("begun_at", [2, 3])
def test_judge_is_content_with_an_execution_that_another_continues(begun_at: int) -> None:
    """A killed owner may have done one more step than it had a checkpoint of: that one is repeated."""
    killed = executed("a", 1, at_ms=0, steps=range(3), outcome="")
    verdict = judge(
        Evidence([ONCE, *killed, *executed("a", 2, at_ms=40, steps=range(begun_at, 5))], {"a": 5}, {"a": 5}, 1)
    )

    assert verdict.complaints == []
    assert verdict.continued == 1


def test_judge_is_content_with_an_end_that_nobody_could_write_down() -> None:
    """Killed after the store had the result, before the record had: the store counts."""
    assert judged(*WHOLE[:-1]) == []


def test_judge_finds_a_task_that_was_lost() -> None:
    """It was begun, and nobody went on."""
    complaints = judged(*executed("a", 1, at_ms=0, steps=range(2), outcome=""), finished=None)

    assert "a: lost" in complaints
    assert judged(finished=None)


def test_judge_finds_a_task_that_was_executed_twice() -> None:
    """One after the other, each to its end."""
    complaints = judged(*WHOLE, *executed("a", 2, at_ms=100, steps=range(5)))

    assert "a: finished 2 times" in complaints
    assert "a: begun at step 0 when 5 were done" in complaints


def test_judge_finds_two_owners_at_once() -> None:
    """The second begins where the first has its checkpoint, but while that is at its next step."""
    first = executed("a", 1, at_ms=0, steps=range(4), outcome="")

    complaints = judged(*first, *executed("a", 2, at_ms=35, steps=range(3, 5)))

    assert complaints == ["a: overlap: 102 began 5.0 ms before 101 ended"]


def test_judge_finds_a_zombie() -> None:
    """An owner that was stopped wakes up and does one more step, long after another took over."""
    zombie = executed("a", 1, at_ms=0, steps=range(2), outcome="")
    late = zombie[-1]._replace(at_ns=300 * MS, step=2)

    complaints = judged(*zombie, late, *executed("a", 2, at_ms=100, steps=range(2, 5)))

    assert any("overlap" in complaint for complaint in complaints)


@pytest.mark.parametrize("begun_at", [0, 1, 4])
def test_judge_finds_a_task_that_did_not_go_on_at_its_checkpoint(begun_at: int) -> None:
    """Neither from the beginning, nor two steps back, nor with one left out."""
    killed = executed("a", 1, at_ms=0, steps=range(3), outcome="")

    assert judged(*killed, *executed("a", 2, at_ms=40, steps=range(begun_at, 5)))


def test_judge_finds_steps_that_were_left_out() -> None:
    """In the middle, or at the end."""
    assert judged(*(event for event in WHOLE if event.step != 2))
    assert judged(*executed("a", 1, at_ms=0, steps=range(4)))
    assert judged(*WHOLE, finished=4)


def test_judge_finds_a_token_that_does_not_grow() -> None:
    """A resource that is fenced by it would refuse the second owner."""
    killed = executed("a", 7, at_ms=0, steps=range(3), outcome="")

    assert judged(*killed, *executed("a", 6, at_ms=40, steps=range(3, 5))) == ["a: token 6 after 7"]


def test_judge_finds_a_task_that_nobody_asked_for() -> None:
    """It is in the record only."""
    assert "b: nobody asked for it" in judged(*WHOLE, *executed("b", 9, at_ms=0, steps=range(5)))


@pytest.mark.parametrize(
    ("events", "starts"),
    [
        ([], 2),
        ([ONCE], 1),
        ([ONCE._replace(incarnation="boot.7.70.1")], 1),
        ([ONCE], 2),
    ],
    ids=["one start without it", "twice in one start", "one more than there were starts", "twice in one of two"],
)
def test_judge_finds_once_run_too_often_or_too_seldom(events: list[Event], starts: int) -> None:
    """By the number of starts, and by which start each run says it was in."""
    assert any(complaint.startswith("once ran") for complaint in judged(*WHOLE, *events, starts=starts))


def test_judge_finds_a_crash() -> None:
    """Also where all tasks are finished all the same, by others."""
    evidence = Evidence([ONCE, *WHOLE], {"a": 5}, {"a": 5}, 1, crashes=["child pid 7 exit signal Segmentation fault"])

    assert judge(evidence).complaints == ["crash: child pid 7 exit signal Segmentation fault"]


def test_judge_finds_a_naive_service_out() -> None:
    """The same service in the same server, but each start of its module resumes all that is unfinished."""
    found = run("prefork", "graceful", naive=True)

    assert found.verdict.completed_twice
    assert found.verdict.overlapping
    assert found.verdict.once_runs > found.evidence.starts
