"""What the record of a run says: a pure function of what was written down, which needs no server.

F1  A task is finished: the store has its result, and one execution at most ended in it.
F2  Its executions do not overlap: each begins after the last step of the one before.
F3  It goes on at its checkpoint: an execution repeats the last step of the
    one before at the most, and leaves out none.
F4  Each execution's fencing token is greater than those before.
F5  `once(per="server")` ran its body once in each start of the server.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence


class Event(NamedTuple):
    """One line of the record; `applications/founding/audit.py` writes them."""

    kind: str  # begin, step, stepped, end; once
    at_ns: int  # on CLOCK_MONOTONIC
    pid: int
    interpreter: int
    thread: int
    task: str = ""
    owner: int = 0  # the fencing token of the execution
    step: int = 0
    outcome: str = ""
    incarnation: str = ""


class Evidence(NamedTuple):
    """All that one run left behind."""

    events: list[Event]
    tasks: Mapping[str, int]  # that were accepted, and how many steps each has
    finished: Mapping[str, int]  # by the store: the tasks that are done, and how many steps each had
    starts: int  # of the server
    crashes: Sequence[str] = ()  # what the server logged of them
    naive_starts: int = 0  # how often the application's module was executed
    naive_runs: Mapping[str, int] = {}  # how often a resume at the module's level would have run each task


class Verdict(NamedTuple):
    """Numbers for the table, and in words what is wrong."""

    finished: int
    completed_twice: int
    overlapping: int
    continued: int  # tasks that more than one owner had, one after the other
    once_runs: int
    complaints: list[str]


class Execution(NamedTuple):
    """All that one owner did to one task."""

    owner: int
    pid: int
    began_ns: int
    last_ns: int  # when its last step ended: the order of what it does then is the store's
    first_step: int
    steps: list[int]  # that it ended
    outcome: str


def judge(evidence: Evidence) -> Verdict:
    """Return what is to be said of a run by its evidence, and by nothing else."""
    complaints: list[str] = []
    finished = twice = overlapping = continued = 0
    by_task: dict[str, list[Event]] = {task: [] for task in evidence.tasks}
    for event in evidence.events:
        if event.kind != "once":
            by_task.setdefault(event.task, []).append(event)
    for task, events in by_task.items():
        executions = _executions(events)
        ends = [execution for execution in executions if execution.outcome == "finished"]
        overlaps = list(_judge_overlaps(executions))
        finished += task in evidence.finished
        twice += len(ends) > 1
        overlapping += bool(overlaps)
        continued += len(executions) > 1
        found = [*_judge_ends(task, evidence, ends), *overlaps, *_judge_steps(executions, evidence.tasks.get(task, 0))]
        complaints += [f"{task}: {complaint}" for complaint in found]
    starts = [event.incarnation for event in evidence.events if event.kind == "once"]
    if len(starts) != evidence.starts or len(set(starts)) != len(starts):
        complaints.append(f"once ran {len(starts)} times in {evidence.starts} starts of the server: {starts}")
    complaints += [f"crash: {line}" for line in evidence.crashes]
    return Verdict(finished, twice, overlapping, continued, len(starts), complaints)


def _executions(events: Iterable[Event]) -> list[Execution]:
    """Return the executions of one task, in the order in which they began."""
    by_owner: dict[int, list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda event: event.at_ns):
        by_owner[event.owner].append(event)
    return [
        Execution(
            owner=owner,
            pid=done[0].pid,
            began_ns=done[0].at_ns,
            last_ns=max((event.at_ns for event in done if event.kind != "end"), default=done[0].at_ns),
            first_step=done[0].step,
            steps=[event.step for event in done if event.kind == "stepped"],
            outcome=next((event.outcome for event in done if event.kind == "end"), ""),
        )
        for owner, done in by_owner.items()
    ]


def _judge_ends(task: str, evidence: Evidence, ends: list[Execution]) -> Iterator[str]:
    if task not in evidence.tasks:
        yield "nobody asked for it"
    elif task not in evidence.finished:
        yield "lost"
    elif evidence.finished[task] != evidence.tasks[task]:
        yield f"finished with {evidence.finished[task]} steps of {evidence.tasks[task]}"
    if len(ends) > 1:
        yield f"finished {len(ends)} times"


def _judge_overlaps(executions: list[Execution]) -> Iterator[str]:
    for number, one in enumerate(executions):
        for later in executions[number + 1 :]:
            if later.began_ns < one.last_ns:
                yield f"overlap: {later.pid} began {(one.last_ns - later.began_ns) / 1e6:.1f} ms before {one.pid} ended"


def _judge_steps(executions: list[Execution], steps: int) -> Iterator[str]:
    done = token = 0
    for execution in executions:
        if execution.owner <= token:
            yield f"token {execution.owner} after {token}"
        if execution.first_step not in {done, max(done - 1, 0)}:
            yield f"begun at step {execution.first_step} when {done} were done"
        expected = list(range(execution.first_step, execution.first_step + len(execution.steps)))
        if execution.steps != expected:
            yield f"steps {execution.steps} in place of {expected}"
        done, token = execution.first_step + len(execution.steps), execution.owner
    if done != steps:
        yield f"{done} steps were done of {steps}"
