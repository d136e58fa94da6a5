"""What a log of a crew must be like: pure functions of its events, each returning what is wrong.

J1  "begun" is told after the hold began, "ended" before it ends: two that
    overlap were truly both held.
J2  A hold without an end is that of one who was killed, and lasts to the
    "killing" of its actor at least; without that, to the end of the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from crew import Event

FOREVER_NS = 2**63


class Hold(NamedTuple):
    """One time that one actor had one thing."""

    actor: str
    what: str
    from_ns: int
    to_ns: int
    facts: tuple[Any, ...]


def holds_of(events: Sequence[Event], begin: str = "begun", end: Sequence[str] = ("ended", "failing")) -> list[Hold]:
    """Pair beginnings with ends, by actor and the first fact (J1, J2)."""
    killed_ns = {event.facts[0]: event.at_ns for event in events if event.what == "killing"}
    for dead in {event.facts[0] for event in events if event.what == "died"}:
        killed_ns[dead] = max((event.at_ns for event in events if event.actor == dead), default=0)
    open_holds: dict[tuple[str, str], Event] = {}
    holds: list[Hold] = []

    def close(began: Event, to_ns: int) -> None:
        holds.append(Hold(began.actor, began.facts[0], began.at_ns, to_ns, began.facts[1:]))

    for event in events:
        if event.what == begin:
            open_holds[event.actor, event.facts[0]] = event
        elif event.what in end and (event.actor, event.facts[0]) in open_holds:
            close(open_holds.pop((event.actor, event.facts[0])), event.at_ns)
    for began in open_holds.values():
        # An interpreter is killed with its process, whose name its own begins with.
        close(began, killed_ns.get(began.actor, killed_ns.get(began.actor.rpartition(".")[0], FOREVER_NS)))
    return sorted(holds, key=lambda hold: hold.from_ns)


def judge_overlaps(holds: Iterable[Hold], at_most: int = 1) -> list[str]:
    """Judge that no more than `at_most` held one thing at a time."""
    faults: list[str] = []
    current: dict[str, list[Hold]] = {}
    for hold in sorted(holds, key=lambda hold: hold.from_ns):
        still = [other for other in current.get(hold.what, []) if other.to_ns > hold.from_ns]
        if len(still) >= at_most:
            faults.append(f"{len(still) + 1} at a time: {[*still, hold]}")
        current[hold.what] = [*still, hold]
    return faults


def judge_tokens(holds: Iterable[Hold], place: int = 1) -> list[str]:
    """Judge that each later hold of a thing has a greater fencing token, which is fact number `place`."""
    faults: list[str] = []
    last: dict[str, Hold] = {}
    for hold in sorted(holds, key=lambda hold: hold.from_ns):
        before = last.get(hold.what)
        if before is not None and hold.facts[place] <= before.facts[place]:
            faults.append(f"the token did not grow: {before}; {hold}")
        last[hold.what] = hold
    return faults


def judge_tasks(events: Sequence[Event], expected: Iterable[str]) -> list[str]:
    """Judge runs of tasks: never two at a time, tokens and attempts grow, each of `expected` finished once."""
    holds = holds_of(events)
    faults = judge_overlaps(holds) + judge_tokens(holds) + judge_tokens(holds, place=0)
    finished = [event.facts[0] for event in events if event.what == "finished"]
    faults += [f"{task} finished {finished.count(task)} times" for task in expected if finished.count(task) != 1]
    for finish in (event for event in events if event.what == "finished"):
        own = [hold for hold in holds if (hold.actor, hold.what) == (finish.actor, finish.facts[0])][-1]
        later = [hold for hold in holds if hold.what == own.what and own.from_ns < hold.from_ns < own.to_ns]
        if later:
            faults.append(f"{finish} though its task had passed on: {later}")
    return faults


def judge_effects(store: Mapping[str, Any], tasks: Iterable[str], steps: int) -> list[str]:
    """Judge the effects of tasks in the store: each step's, and the end's, exactly once."""
    return [
        f"{key} is {store.get(key)}, not {count}"
        for task in tasks
        for key, count in ((f"steps:{task}", steps), (f"done:{task}", 1))
        if store.get(key) != count
    ]


def judge_once(events: Sequence[Event]) -> list[str]:
    """Judge calls of `once`: no two bodies at a time; in each period one success, and none begun after it."""
    faults = judge_overlaps(holds_of(events))
    periods = {event.facts[:2] for event in events if event.what in {"begun", "returned"}}
    for period in periods:
        own = [event for event in events if event.facts[:2] == period]
        ended = [event.at_ns for event in own if event.what == "ended"]
        ran = [event for event in own if event.what == "returned" and event.facts[3]]
        done = [event for event in own if event.what == "returned" and event.facts[2] == "done"]
        if len(ran) > 1:
            faults.append(f"{period}: {len(ran)} ran it: {ran}")
        # A body that ended may have died before that was recorded: then it is run again, rightly.
        if done and not ended:
            faults.append(f"{period}: told as done, but no body ever ended: {done}")
        success_ns = min((event.at_ns for event in done), default=FOREVER_NS)
        faults += [
            f"{period}: begun again after it was done: {event}"
            for event in own
            if event.what == "begun" and event.at_ns > success_ns
        ]
    return faults


def judge_window(events: Sequence[Event], limit: int, per_s: float) -> list[str]:
    """Judge allowed hits, each (subject, called, returned): no `limit` + 1 surely within less than `per_s`."""
    faults: list[str] = []
    hits = sorted((event.facts[1], event.facts[2]) for event in events if event.what == "allowed")
    for first in range(len(hits) - limit):
        group = hits[first : first + limit + 1]
        span_s = (max(returned for _, returned in group) - group[0][0]) / 1e9
        if span_s < per_s:
            faults.append(f"{limit + 1} hits within {span_s:.4f} s: {group}")
    return faults
