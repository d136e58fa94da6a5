"""The report in sentences that need no manual: how often the application exists, and what that means for its state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sharedstate.model import Scope
from sharedstate.probe.live.findings import STORE_EXPERIMENTS

if TYPE_CHECKING:
    from sharedstate.probe.live.findings import LiveReport
    from sharedstate.probe.live.topology import House, Interpreter

__all__ = [
    "advise",
    "count_of",
    "explain_counting",
    "explain_mounts",
    "headline",
    "letter",
    "mount_name",
    "name_store",
    "store_caption",
    "summarise",
    "thread_count",
    "variables_caption",
    "warnings",
]


def count_of(number: int, word: str, plural: str = "") -> str:
    """Return `number` with its noun: "1 process", "2 processes"."""
    return f"{number:,} {word if number == 1 else plural or word + 's'}"


def letter(number: int) -> str:
    """Return what the group of that number is called: A to Z, then AA, AB ..."""
    name = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        name = chr(ord("A") + rest) + name
    return name


def mount_name(url: str, urls: list[str]) -> str:
    """Return what tells a mount from the others: its path, if all are of one server."""
    servers = {one.split("/", 3)[2] for one in urls}
    path = "/".join(url.split("/", 3)[3:])
    return f"/{path}" if len(servers) == 1 else url.partition("//")[2]


def headline(report: LiveReport) -> str:
    """Return how often the application exists."""
    house = report.house
    interpreters, processes, hosts = len(house.interpreters), len(house.processes), len(house.hosts)
    where = f"on {hosts} hosts" if hosts > 1 else "on one host"
    if interpreters == 1:
        return f"The application runs once: one interpreter in one process {where}."
    if interpreters == processes:
        return f"The application runs {_times(interpreters)}: in {count_of(processes, 'process', 'processes')} {where}."
    return (
        f"The application runs {_times(interpreters)}: {count_of(interpreters, 'interpreter')} "
        f"in {count_of(processes, 'process', 'processes')} {where}."
    )


def explain_mounts(report: LiveReport) -> str:
    """Return how the mounts relate to the interpreters, "" if there is only one."""
    urls = report.urls
    if len(urls) < 2:
        return ""
    rooms = [(url, host, process, place) for host, process, place in report.house.walk() for url in place.urls]
    hosts = [frozenset(room[1] for room in rooms if room[0] == url) for url in urls]
    processes = [frozenset(room[2] for room in rooms if room[0] == url) for url in urls]
    if len(set(hosts)) > 1:
        return "The mounts are answered by different hosts: only a server that all can reach, as Redis, joins them."
    if all(len(place.urls) == len(urls) for place in report.house.interpreters):
        return "The mounts make no difference: all are answered by the same interpreters."
    if any(len(place.urls) > 1 for place in report.house.interpreters):
        return "Some interpreters answer several mounts, others only one."
    if len(set(processes)) == 1:
        return "Each mount has an interpreter of its own in the same processes, with modules of its own."
    return "Each mount has interpreters of its own, with modules of their own."


def summarise(report: LiveReport) -> str:
    """Return the result in a sentence or two."""
    copies = report.variables.copies
    faults = [finding for finding in report.findings if finding.verdict.is_failure]
    if report.stopped:
        return "The probe ended before it was done."
    if faults:
        return f"Something is wrong. {faults[0].question} {faults[0].evidence}."
    variables = f"State in a module-level variable {_exists(copies, report.variables.unproved)}"
    if report.is_shared and report.store.copies == 1:
        whole = "once, shared by all" if copies > 1 else "once as well"
        return f"{variables}; in {name_store(report)} it exists {whole}."
    if report.store.copies > 1:
        return f"{variables}; in {name_store(report)} it {_exists(report.store.copies, report.store.unproved)} too."
    return "Not everything could be tried: see below."


def _exists(copies: int, unproved: list[str]) -> str:
    return f"exists {_times(copies)}{' at least' if unproved else ''}"


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def variables_caption(report: LiveReport) -> str:
    """Return what becomes of a module-level variable here."""
    copies = report.variables.copies
    if not copies:
        return "It was not seen what becomes of a module-level variable."
    done = _figure(report, "variables", "increments")
    if copies == 1:
        return f"It exists once. Every request meets the same one: {done:,} additions came to {done:,}."
    return (
        f"It {_exists(copies, report.variables.unproved)}. Which one a request meets is chance: "
        f"{done:,} additions ended up in {copies} different counters."
    )


def name_store(report: LiveReport) -> str:
    """Return the backend as people write it: "shm:", or several."""
    return " and ".join(f"{scheme}:" for scheme in report.schemes) or (f"{report.backend}:" if report.backend else "?")


def store_caption(report: LiveReport) -> str:
    """Return what becomes of an entry of the store."""
    name = name_store(report)
    failed = [
        finding for finding in report.findings if finding.verdict.is_failure and finding.experiment in STORE_EXPERIMENTS
    ]
    if failed:
        return f"Something is wrong. {failed[0].evidence}."
    groups = report.store.copies
    if not groups:
        return f"It was not seen what {name} shares."
    if groups == 1:
        done = _figure(report, "count", "increments")
        sums = f" {done:,} additions came to exactly {done:,}." if done else ""
        if len(report.store.of) == 1:
            return f"It exists once. One interpreter is all there is.{sums}"
        return f"It exists once, shared by all. What any of them writes, all others read.{sums}"
    times = f"It {_exists(groups, report.store.unproved)}."
    if len({handle.url for handle in report.opened.values()}) > 1:
        return f"{times} They opened different stores, which know nothing of one another."
    return f"{times} {name} does not reach from one to the other."


def _figure(report: LiveReport, experiment: str, name: str) -> int:
    found = [finding.figures.get(name, 0) for finding in report.findings if finding.experiment == experiment]
    return int(found[0]) if found else 0


_ADVICE: Final = {
    Scope.INTERPRETER: "For state that all requests share, module-level variables or memory: are enough here.",
    Scope.PROCESS: "For state that all requests share, use a store that reaches from interpreter to interpreter: "
    "shm:, file: or sqlite:.",
    Scope.HOST: "For state that all requests share, use a store that reaches from process to process: "
    "shm:, file: or sqlite:.",
    Scope.CLUSTER: "For state that all requests share, use a store that reaches from host to host: redis:.",
}


def advise(house: House) -> str:
    """Return which kind of store is needed."""
    return _ADVICE[house.scope]


def explain_counting(report: LiveReport) -> str:
    """Return what the numbers in the rooms are."""
    if not _figure(report, "variables", "increments"):
        return "The rooms show no numbers: it was not come to counting."
    return (
        "The number in a room is how far its counter came: all counted at the same time, and each addition was made "
        "to a counter in a module and to one in the store."
    )


def thread_count(report: LiveReport, interpreter: Interpreter) -> str:
    """Return the threads of an interpreter, in words."""
    seen = len(interpreter.threads)
    if seen > 4 and seen >= interpreter.answers - 1:
        return "a new thread for each request"
    said = report.facts.get(interpreter.place, {}).get("threads")
    if said is not None and type(said.value) is int and said.value > seen:
        return f"{seen} of {count_of(said.value, 'thread')}"
    return count_of(seen, "thread")


def warnings(report: LiveReport) -> list[str]:
    """Return what the reader should know before believing the picture."""
    found = list[str]()
    if report.stopped:
        found.append(f"The probe ended before it was done. {report.stopped}. What follows was seen until then.")
    if report.failures:
        reasons = "; ".join(f"{number} x {reason}" for reason, number in list(report.failures.items())[:3])
        failed = sum(report.failures.values())
        found.append(f"{failed} of {report.requests} requests failed: {reasons}.")
    new = sum(process.is_new for process in report.house.processes)
    if new:
        found.append(
            f"{count_of(new, 'process was', 'processes were')} started while the probe was at work: the server starts "
            "more under load, or replaces its workers. There may be more of them at other times."
        )
    if report.not_drawn:
        more = count_of(report.not_drawn, "more process", "more processes")
        found.append(f"{more} answered for a while, came too late for the experiments, and stand in no picture.")
    if report.silent and not report.stopped:
        silent = count_of(len(report.silent), "interpreter")
        found.append(f"{silent} did not answer every experiment: ended, or always busy.")
    return found
