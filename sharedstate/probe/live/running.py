"""One probe of a live server: greet, discover, experiment, judge; and clear up whatever happens.

What a server that dies in the middle has shown until then is judged all the same.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sharedstate.probe.findings import Finding, Outcome, Verdict
from sharedstate.probe.live import judging
from sharedstate.probe.live.client import parse_mount
from sharedstate.probe.live.driving import Drive, GoneError, Pace
from sharedstate.probe.live.findings import LiveReport
from sharedstate.probe.live.records import (
    Fact,
    Opened,
    Reading,
    read_all,
    read_counted,
    read_facts,
    read_held,
    read_mark,
    read_opened,
    read_reading,
)
from sharedstate.probe.live.topology import build_house, count_at_once, find_new
from sharedstate.probe.running import describe_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sharedstate.probe.live.client import Answer
    from sharedstate.probe.live.judging import Disagreement, Groups
    from sharedstate.probe.live.topology import House

__all__ = ["Evidence", "draw_run", "judge_all", "run_live_probe"]

_LAPS: Final = 2
_TIMES: Final = 40


class Evidence(NamedTuple):
    """What each experiment brought; lists that stay empty were not come to."""

    opened: list[Answer]
    marked: list[list[Answer]]
    read: list[list[Answer]]
    counted: list[Answer]
    locked: list[Answer]
    final: list[Answer]
    unanswered: dict[str, int]
    durations_s: dict[str, float]


def run_live_probe(
    urls: Sequence[str],
    token: str,
    *,
    backend: str = "",
    pace: Pace | None = None,
    on_step: Callable[[str], None] = lambda _step: None,
) -> LiveReport:
    """Probe the server, or servers, in which the probe is mounted at `urls`.

    Args:
        urls: one for each mount.
        token: that the operator gave the server.
        backend: scheme of the store; "" is what the deployment would choose.
        pace: how hard to drive.
        on_step: told what is being done.

    Raises:
        LiveProbeError: a URL is none, no probe answers there, or the token is wrong.
    """
    mounts = [parse_mount(url) for url in dict.fromkeys(urls)]
    run = draw_run()
    evidence = Evidence([], [], [], [], [], [], {}, {})
    stopped = ""
    with Drive(mounts, token, pace or Pace(), on_step) as drive:
        drive.greet()
        try:
            drive.discover()
            _experiment(drive, evidence, {"run": run, "backend": backend})
        except GoneError as error:
            stopped = str(error)
        finally:
            _clear_up(drive, evidence, run)
        return judge_all(drive, evidence, backend, stopped)


def draw_run() -> str:
    """Return a name for a run: when it begins, and chance."""
    return f"{int(time.time()):08x}-{os.urandom(8).hex()}"


def _experiment(drive: Drive, evidence: Evidence, order: dict[str, Any]) -> None:
    def run(name: str, step: str, into: list[Answer], **how: Any) -> None:
        drive.step(step)
        began, failed = time.monotonic(), sum(drive.failures.values())
        try:
            drive.reach({**order, **how}, into, together=name in {"count", "exclude"})
        finally:
            took = evidence.durations_s.get(name, 0.0) + time.monotonic() - began
            evidence.durations_s[name] = took
            evidence.unanswered[name] = sum(drive.failures.values()) - failed

    run("open", "every interpreter opens the store", evidence.opened, do="open")
    for lap in range(1, _LAPS + 1):
        evidence.marked.append([])
        evidence.read.append([])
        run("visible", f"every interpreter writes its mark, lap {lap}", evidence.marked[-1], do="mark", lap=lap)
        run("visible", f"every interpreter reads all marks, lap {lap}", evidence.read[-1], do="read")
    run("count", "all count at the same time", evidence.counted, do="count", times=_TIMES)
    run("exclude", "all want the same lock", evidence.locked, do="lock", times=_TIMES)
    run("final", "every interpreter reads the counters", evidence.final, do="read")


def _clear_up(drive: Drive, evidence: Evidence, run: str) -> None:
    if evidence.durations_s:
        drive.step("removing what was made")
        drive.grant_more()
        with suppress(GoneError):
            drive.reach({"do": "end", "run": run, "hold_s": 0.1}, [])


# --- Judging ---------------------------------------------------------------------


def judge_all(drive: Drive, evidence: Evidence, backend: str, stopped: str) -> LiveReport:
    """Return the report of what the drive brought."""
    everywhere = drive.house
    names = everywhere.names()
    handles, problems = read_all(evidence.opened, read_opened)
    opened = {handle.place: handle for handle in handles}
    laps = _laps(evidence, "store")
    store = judging.find_groups(everywhere.places, laps)
    variables = judging.find_groups(everywhere.places, _laps(evidence, "variables"))
    # Who came because of us, and did not stay for the experiments, is counted and not drawn.
    late = find_new(drive.answers) - drive.found - store.of.keys() - variables.of.keys()
    house = build_house(answer for answer in drive.answers if answer.where.place not in late or not evidence.opened)
    drawn = frozenset(house.places)
    store, variables = (
        groups._replace(unproved=[place for place in groups.unproved if place in drawn])
        for groups in (store, variables)
    )
    counted, failed = read_all(evidence.counted, read_counted("store"))
    problems = {**failed, **problems}
    copied, _ = read_all(evidence.counted, read_counted("variables"))
    held, failed = read_all(evidence.locked, read_held)
    problems = {**failed, **problems}
    finals, _ = read_all(evidence.final, read_reading("store"))
    counters = judging.join_late(store, laps[-1].wrote if laps else {}, finals)
    copies_outcome, copies = judging.judge_copies(variables, copied)
    facts = _facts_of(drive.answers)
    disagreements = judging.judge_detection(facts, _see(house, drive.answers, facts))
    outcomes = {
        "open": _judge_opening(opened, problems, names),
        "visible": judging.judge_sharing(store, opened, house.distances(), names),
        "count": judging.judge_counting(
            counters,
            counted,
            {reading.place: reading.counter for reading in finals},
            evidence.unanswered.get("count", 0) * _TIMES,
            names,
        ),
        "exclude": judging.judge_exclusion(
            counters,
            held,
            {reading.place: reading.sections for reading in finals},
            evidence.unanswered.get("exclude", 0) * _TIMES,
            names,
        ),
        "variables": copies_outcome,
        "detect": _describe_disagreements(disagreements, facts, names),
    }
    return LiveReport(
        about=describe_machine(),
        at_once={mount.url: drive.at_once[mount] for mount in drive.mounts},
        backend=backend,
        house=house,
        not_drawn=len(everywhere.processes) - len(house.processes),
        silent=(drive.found - drive.residents).union(store.unproved) & drawn,
        opened=opened,
        problems=problems,
        store=store,
        variables=variables,
        totals=_totals(counters, finals),
        copies=copies,
        findings=tuple(
            Finding(name, question, did, *outcomes[name], evidence.durations_s.get(name, 0.0))
            for name, question, did in EXPERIMENTS
        ),
        facts=facts,
        disagreements=tuple(disagreements),
        requests=drive.requests,
        failures=dict(drive.failures),
        stopped=stopped,
        duration_s=time.monotonic() - drive.began,
    )


EXPERIMENTS: Final = (
    ("open", "Can every interpreter open the store?", "Each that answered opened it by itself."),
    (
        "visible",
        "Does each see what the others write?",
        "Each wrote a mark of its own; when all had, each read all marks; and once more with new marks.",
    ),
    (
        "count",
        "Is no update lost?",
        f"All added 1 to one counter, {_TIMES} times for each request, while the others did the same.",
    ),
    (
        "exclude",
        "Does a lock exclude?",
        "All wanted the same lock, noted on their common clock when they held it, and added 1 by reading and writing.",
    ),
    (
        "variables",
        "How many copies of a module-level variable are there?",
        "With each addition to the store's counter they also added 1 to a counter in a module of Python.",
    ),
    (
        "detect",
        "Does detect() know this deployment?",
        "What it said in each interpreter was compared with what answered.",
    ),
)


def _laps(evidence: Evidence, medium: str) -> list[judging.Lap]:
    laps = list[judging.Lap]()
    for marked, read in zip(evidence.marked, evidence.read, strict=True):
        wrote, _ = read_all(marked, read_mark(medium))
        readings, _ = read_all(read, read_reading(medium))
        seen = dict[str, list[dict[str, str]]]()
        for reading in readings:
            seen.setdefault(reading.place, []).append(reading.marks)
        laps.append(judging.Lap(dict(wrote), seen))
    return laps


def _totals(counters: Groups, finals: Sequence[Reading]) -> dict[str, int]:
    """Return by place how far its group's counter came, whoever of the group read that."""
    ends = {counters.of[reading.place]: reading.counter for reading in finals if reading.place in counters.of}
    return {place: ends[number] for place, number in counters.of.items() if number in ends}


def _judge_opening(opened: Mapping[str, Opened], problems: Mapping[str, str], names: Mapping[str, str]) -> Outcome:
    figures: dict[str, int | float | str] = {"opened": len(opened), "problems": len(problems)}
    for place, problem in problems.items():
        return Outcome(Verdict.UNSUPPORTED, f"{names[place]}: {problem}", figures)
    if not opened:
        return Outcome(Verdict.NOT_AVAILABLE, "it was not come to", figures)
    urls = sorted({handle.url for handle in opened.values()})
    if len(urls) > 1:
        evidence = f"they opened {len(urls)} different stores: {' and '.join(urls[:3])}"
        return Outcome(Verdict.NOT_SHARED, evidence, figures)
    return Outcome(Verdict.SUPPORTED, f"{len(opened)} of them opened {urls[0]}", figures)


def _facts_of(answers: Sequence[Answer]) -> dict[str, dict[str, Fact]]:
    found = dict[str, dict[str, Fact]]()
    for answer in answers:
        if answer.where.place not in found and (facts := read_facts(answer)):
            found[answer.where.place] = facts
    return found


def _see(house: House, answers: Sequence[Answer], facts: Mapping[str, Mapping[str, Fact]]) -> dict[str, dict[str, int]]:
    """Return by place how much of its application was seen, in the fields of `Deployment`."""
    at_once = {
        place: count_at_once(answer for answer in answers if answer.where.place == place) for place in house.places
    }
    rooms = [
        (host, process, interpreter, (host, _value(facts.get(interpreter.place, {}), "application")))
        for host, process, interpreter in house.walk()
    ]
    seen = dict[str, dict[str, int]]()
    for _, process, interpreter, application in rooms:
        kin = [room for room in rooms if room[3] == application]
        seen[interpreter.place] = {"interpreters": len({room[2].number for room in kin if room[1] is process})}
        if _value(facts.get(interpreter.place, {}), "recycled") is not True:  # else some came after others
            seen[interpreter.place] |= {
                "processes": len({room[1] for room in kin}),
                # Fewer threads than answers at once are coroutines; more of them come and go.
                "threads": min(len(interpreter.threads), at_once[interpreter.place]),
            }
    return seen


def _value(fields: Mapping[str, Fact], name: str) -> object:
    return fields[name].value if name in fields else None


def _describe_disagreements(
    disagreements: Sequence[Disagreement], facts: Mapping[str, Mapping[str, Fact]], names: Mapping[str, str]
) -> Outcome:
    if disagreements:
        one = max(disagreements, key=lambda one: one.is_known)
        sure = "it says" if one.is_known else "it calls likely"
        evidence = f"{names[one.place]}: {sure} {one.field}: {one.said}, and {one.seen} were seen"
        verdict = Verdict.UNSUPPORTED if one.is_known else Verdict.NOT_AVAILABLE
        return Outcome(verdict, evidence, {"refuted": len(disagreements)})
    if not facts:
        return Outcome(Verdict.NOT_AVAILABLE, "nobody said anything")
    said = Counter(_summary(fields) for fields in facts.values())
    return Outcome(Verdict.SUPPORTED, "nothing that was seen refutes it: " + "; ".join(said), {"places": len(facts)})


def _summary(fields: Mapping[str, Fact]) -> str:
    def show(name: str) -> str:
        value = _value(fields, name)
        return "unknown" if value is None else str(value)

    return (
        f"{show('server')}, {show('mode')}: processes {show('processes')}, interpreters {show('interpreters')}, "
        f"threads {show('threads')}"
    )
