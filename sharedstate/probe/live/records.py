"""What a place reported, as types that a judge can rely on: what does not fit is refused here."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from sharedstate.model import Durability, Scope
from sharedstate.probe.live.checked import as_list, as_text, as_texts, as_whole, clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sharedstate.probe.live.client import Answer

__all__ = [
    "Counted",
    "Fact",
    "Held",
    "Opened",
    "Reading",
    "read_all",
    "read_counted",
    "read_facts",
    "read_held",
    "read_mark",
    "read_opened",
    "read_reading",
]

_Record = TypeVar("_Record")


class Opened(NamedTuple):
    """A place's handle on the store of the run."""

    place: str
    url: str
    scope: Scope
    durability: Durability
    choice: str


class Reading(NamedTuple):
    """What a place saw of all marks, by the place that wrote them, and how far the counters were."""

    place: str
    marks: dict[str, str]
    counter: int
    sections: int


class Counted(NamedTuple):
    """The totals that a place got for adding 1."""

    place: str
    totals: tuple[int, ...]


class Held(NamedTuple):
    """One time that a place held the lock, on a clock that is the host's."""

    place: str
    clock: str
    began_ns: int
    ended_ns: int
    token: int


class Fact(NamedTuple):
    """What the library said of a deployment."""

    value: str | int | float | bool | None
    certainty: str
    evidence: str


def read_all(
    answers: Iterable[Answer], read: Callable[[Answer], list[_Record]]
) -> tuple[list[_Record], dict[str, str]]:
    """Return the records in `answers`; and by place, the problem that it had instead."""
    records = list[_Record]()
    problems = dict[str, str]()
    for answer in answers:
        problem = answer.did.get("problem")
        try:
            records += read(answer)
        except (KeyError, TypeError, ValueError, IndexError):
            problems.setdefault(
                answer.where.place, clean(problem) if isinstance(problem, str) else "its answer cannot be understood"
            )
    return records, problems


def read_opened(answer: Answer) -> list[Opened]:
    """Return the handle."""
    did = answer.did
    scope, durability = Scope[as_text(did["scope"])], Durability[as_text(did["durability"])]
    return [Opened(answer.where.place, as_text(did["url"]), scope, durability, as_text(did["choice"]))]


def read_mark(medium: str) -> Callable[[Answer], list[tuple[str, str]]]:
    """Return what reads from an answer which mark its place wrote into `medium`: "store" or "variables"."""
    return lambda answer: [(answer.where.place, as_text(answer.did[medium]))]


def read_reading(medium: str) -> Callable[[Answer], list[Reading]]:
    """Return what reads from an answer what its place saw in `medium`."""

    def read(answer: Answer) -> list[Reading]:
        marks, *counts = as_list(answer.did[medium])
        count, sections = [*map(as_whole, counts), 0][:2]
        return [Reading(answer.where.place, as_texts(marks), count, sections)]

    return read


def read_counted(medium: str) -> Callable[[Answer], list[Counted]]:
    """Return what reads from an answer the totals that its place got from `medium`."""
    return lambda answer: [Counted(answer.where.place, tuple(map(as_whole, as_list(answer.did[medium]))))]


def read_held(answer: Answer) -> list[Held]:
    """Return the times that the place held the lock."""
    found = list[Held]()
    for held in as_list(answer.did["held"]):
        began_ns, ended_ns, token = map(as_whole, as_list(held))
        found.append(Held(answer.where.place, answer.where.clock, began_ns, ended_ns, token))
    return found


def read_facts(answer: Answer) -> dict[str, Fact]:
    """Return what `detect()` said at the place; nothing if that cannot be understood."""
    found = answer.did.get("deployment")
    if not isinstance(found, dict):
        return {}
    facts = dict[str, Fact]()
    for name, fact in list(found.items())[:30]:  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        try:
            value, certainty, evidence = as_list(fact)
            if value is not None and type(value) not in {bool, int, float}:
                value = as_text(value)
            facts[as_text(name)] = Fact(value, as_text(certainty), as_text(evidence))
        except (TypeError, ValueError):
            continue
    return facts
