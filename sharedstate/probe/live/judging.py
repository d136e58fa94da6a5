"""Judges of what the places of a live server reported: pure functions, which a test can hand any history.

Places are tokens of interpreters.  A *group* is a set of places that see one
another; each counter and each lock exists once per group.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from sharedstate.model import Scope
from sharedstate.probe.findings import Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sharedstate.probe.live.records import Counted, Fact, Held, Opened, Reading

__all__ = [
    "Disagreement",
    "Groups",
    "Lap",
    "find_groups",
    "join_late",
    "judge_copies",
    "judge_counting",
    "judge_detection",
    "judge_exclusion",
    "judge_sharing",
]


class Lap(NamedTuple):
    """Every place writes its mark; then, when all are done, every place reads all marks.

    Attributes:
        wrote: by place, its mark of this lap.
        seen: by place, what each of its readings saw.
    """

    wrote: Mapping[str, str]
    seen: Mapping[str, Sequence[Mapping[str, str]]]


class Groups(NamedTuple):
    """Who sees whom.

    Attributes:
        of: the number of each place's group, from 0, in the order of the places.
        broken: (reader, writer) that are of one group, and yet the reader did not see the writer's newest mark.
        unproved: places that did not write, or not read, in some lap: they may be anywhere.
    """

    of: dict[str, int]
    broken: list[tuple[str, str]]
    unproved: list[str]

    @property
    def copies(self) -> int:
        """How many groups there are, and so how many copies of what they share."""
        return len(set(self.of.values()))

    def members(self) -> list[list[str]]:
        """Return the groups, each with its places."""
        found = dict[int, list[str]]()
        for place, number in self.of.items():
            found.setdefault(number, []).append(place)
        return list(found.values())


def find_groups(places: Sequence[str], laps: Sequence[Lap]) -> Groups:
    """Return who sees whom, as the laps show it: a place that saw another's mark is of one group with it."""
    proved = [place for place in places if laps and all(place in lap.wrote and lap.seen.get(place) for lap in laps)]
    # A link in any lap, one way, puts two places together: whatever is then missing between them is a fault.
    sees = {
        (reader, writer): [any(seen.get(writer) == lap.wrote[writer] for seen in lap.seen[reader]) for lap in laps]
        for reader in proved
        for writer in proved
        if reader != writer
    }
    leader = {place: place for place in proved}

    def lead(place: str) -> str:
        while leader[place] != place:
            place = leader[place]
        return place

    for (reader, writer), found in sees.items():
        if any(found):
            leader[lead(reader)] = lead(writer)
    numbers = dict[str, int]()
    of = {place: numbers.setdefault(lead(place), len(numbers)) for place in proved}
    broken = [
        (reader, writer)
        for reader in proved
        for writer in proved
        if of[reader] == of[writer] and not _always_sees(reader, writer, laps)
    ]
    return Groups(of, broken, [place for place in places if place not in of])


def _always_sees(reader: str, writer: str, laps: Sequence[Lap]) -> bool:
    # Its own mark too: a place that does not see that has no working store.
    return all(seen.get(writer) == lap.wrote[writer] for lap in laps for seen in lap.seen[reader])


def join_late(groups: Groups, wrote: Mapping[str, str], readings: Sequence[Reading]) -> Groups:
    """Return the groups with those who came after the marks and read them: they are of the group whose marks they saw.

    A worker that took the place of another can so tell how far their counter came.
    """
    of = dict(groups.of)
    for reading in readings:
        for place, number in groups.of.items():
            if reading.place not in of and place in wrote and reading.marks.get(place) == wrote[place]:
                of[reading.place] = number
    return groups._replace(of=of)


def judge_sharing(
    groups: Groups,
    opened: Mapping[str, Opened],
    distances: Mapping[str, tuple[int, int]],
    names: Mapping[str, str],
) -> Outcome:
    """Do all places see one another through the store, and if not, did it claim that they would?

    Args:
        groups: of the places.
        opened: by place, its handle; a place that could not open the store has none.
        distances: by place, its host and its process.
        names: by place, what people call it.
    """
    places = list(groups.of)
    figures: dict[str, int | float | str] = {
        "places": len(places) + len(groups.unproved),
        "groups": groups.copies,
        "unproved": len(groups.unproved),
        "broken": len(groups.broken),
    }
    if groups.broken:
        reader, writer = groups.broken[0]
        what = "its own newest write" if reader == writer else f"the newest write of {names[writer]}"
        return Outcome(Verdict.UNSUPPORTED, f"{names[reader]} did not see {what}", figures)
    if not places:
        return Outcome(Verdict.NOT_AVAILABLE, "none of them wrote and read", figures)
    apart = [
        (one, other)
        for position, one in enumerate(places)
        for other in places[position + 1 :]
        if groups.of[one] != groups.of[other]
    ]
    pairs = len(places) * (len(places) - 1)
    rest = f"; {len(groups.unproved)} did not answer again" if groups.unproved else ""
    if not apart:
        evidence = f"each of {len(places)} read what every other wrote, {pairs} pairs, in every lap"
        return Outcome(
            Verdict.SUPPORTED, (evidence if pairs else "one interpreter: nothing to share with") + rest, figures
        )
    for one, other in apart:
        if one not in opened or other not in opened:
            continue
        if opened[one].url == opened[other].url and _distance(distances[one], distances[other]) <= opened[one].scope:
            evidence = f"{names[one]} and {names[other]} opened {opened[one].url} and do not see each other"
            return Outcome(Verdict.UNSUPPORTED, evidence, figures)
    urls = {handle.url for handle in opened.values()}
    different = f"they opened different stores: {' and '.join(sorted(urls)[:3])}"
    why = different if len(urls) > 1 else "it claims to reach no further"
    evidence = f"{len(places)} interpreters fall into {groups.copies} groups: {why}{rest}"
    return Outcome(Verdict.NOT_SHARED, evidence, figures)


def _distance(one: tuple[int, int], other: tuple[int, int]) -> Scope:
    if one[0] != other[0]:
        return Scope.CLUSTER
    return Scope.HOST if one[1] != other[1] else Scope.PROCESS


def judge_counting(
    groups: Groups, counted: Sequence[Counted], finals: Mapping[str, int], unanswered: int, names: Mapping[str, str]
) -> Outcome:
    """Was no increment lost, and each total handed out once?

    Args:
        groups: each has a counter of its own.
        counted: the totals that each request got.
        finals: by place, the counter as it read it at the end.
        unanswered: increments that may or may not have been done: their requests broke.
        names: by place, what people call it.
    """
    # Whoever came after the marks counted too: nobody knows where, but with one group the sums may tell.
    strangers = [record for record in counted if record.place not in groups.of]
    late = sum(len(record.totals) for record in strangers)
    sums = list[_Sum]()
    for members in groups.members():
        records = [record for record in counted if record.place in members]
        ends = {finals[place] for place in members if place in finals}
        if len(ends) > 1:
            evidence = f"the same counter was read as {min(ends)} and {max(ends)}"
            return Outcome(Verdict.UNSUPPORTED, evidence, {"final_least": min(ends), "final_most": max(ends)})
        if not any(record.totals for record in records) or not ends:
            continue
        end = ends.pop()
        if groups.copies == 1 and sum(len(record.totals) for record in records) + late <= end:
            sums.append(_add_up(records + strangers, end, unanswered))
        else:
            sums.append(_add_up(records, end, unanswered + late))
    done, lost, twice, turns = (sum(one[field] for one in sums) for field in range(4))
    competed = any(one.is_contested for one in sums)
    figures: dict[str, int | float | str] = {
        "increments": done,
        "lost": lost,
        "handed_out_twice": twice,
        "turns": turns,
    }
    if not done:
        return Outcome(Verdict.NOT_AVAILABLE, "nobody counted", figures)
    if lost or twice:
        evidence = f"{lost} of {done} increments lost or invented, {twice} totals handed out twice"
        return Outcome(Verdict.UNSUPPORTED, evidence, figures)
    down = next((record.place for record in counted if list(record.totals) != sorted(record.totals)), None)
    if down is not None:
        return Outcome(Verdict.UNSUPPORTED, f"{names[down]} saw the total go down", figures)
    if not competed and groups.copies < len(groups.of):
        return Outcome(Verdict.NOT_AVAILABLE, "no two of them ever counted against each other", figures)
    if groups.copies > 1:
        evidence = f"{done} increments of {groups.copies} counters: each came to exactly what was added to it"
    else:
        evidence = f"{done} increments came to exactly {done}, each total handed out once, in {turns} turns"
    return Outcome(Verdict.SUPPORTED, evidence, figures)


class _Sum(NamedTuple):
    done: int
    lost: int
    twice: int
    turns: int
    is_contested: bool


def _add_up(records: Sequence[Counted], end: int, allowed: int) -> _Sum:
    """Compare the totals that were handed out with where the counter ended; `allowed` more may have been added."""
    totals = sorted((total, record.place) for record in records for total in record.totals)
    surplus = end - len(totals)
    return _Sum(
        len(totals),
        0 if 0 <= surplus <= allowed else abs(surplus),
        len(totals) - len({total for total, _ in totals}),
        sum(one[1] != other[1] for one, other in pairwise(totals)),
        len({place for _, place in totals}) > 1,
    )


def judge_exclusion(
    groups: Groups, held: Sequence[Held], finals: Mapping[str, int], unanswered: int, names: Mapping[str, str]
) -> Outcome:
    """Did no two places hold the lock at the same time, on the clock that they share?

    Args:
        groups: each has a lock of its own.
        held: every time that somebody held it.
        finals: by place, the number of sections that were counted under the lock by reading and writing.
        unanswered: sections that may or may not have been: their requests broke.
        names: by place, what people call it.
    """
    sections = lost = turns = 0
    competed = False
    unanswered += sum(record.place not in groups.of for record in held)
    for members in groups.members():
        mine = [record for record in held if record.place in members]
        sections += len(mine)
        for clock in {record.clock for record in mine}:
            ordered = sorted((record for record in mine if record.clock == clock), key=lambda record: record.began_ns)
            # In the order in which they began: if any two overlap, two neighbours do.
            for earlier, record in pairwise(ordered):
                if record.began_ns < earlier.ended_ns:
                    both_ms = (min(record.ended_ns, earlier.ended_ns) - record.began_ns) / 1e6
                    evidence = f"{names[earlier.place]} and {names[record.place]} held it at once for {both_ms:.3f} ms"
                    return Outcome(Verdict.UNSUPPORTED, evidence, {"sections": sections, "overlap_ms": both_ms})
                turns += record.place != earlier.place
            tokens = [record.token for record in ordered]
            if any(one >= other for one, other in pairwise(tokens)):
                evidence = "a fencing token came twice, or went down"
                return Outcome(Verdict.UNSUPPORTED, evidence, {"sections": sections})
        ends = [finals[place] for place in members if place in finals]
        if mine and ends and not 0 <= ends[0] - len(mine) <= unanswered:
            lost += abs(ends[0] - len(mine))
        competed = competed or len({record.place for record in mine}) > 1
    figures: dict[str, int | float | str] = {"sections": sections, "lost": lost, "turns": turns}
    if lost:
        evidence = f"{lost} of {sections} additions under the lock were lost: two were inside at once"
        return Outcome(Verdict.UNSUPPORTED, evidence, figures)
    if not sections:
        return Outcome(Verdict.NOT_AVAILABLE, "nobody ever had the lock", figures)
    if competed or len(groups.of) < 2 or groups.copies == len(groups.of):
        where = "one lock" if groups.copies == 1 else f"{groups.copies} locks"
        evidence = f"{where}, held {sections} times, never by two at once, {turns} turns from one to another"
        return Outcome(Verdict.SUPPORTED, evidence, figures)
    return Outcome(Verdict.NOT_AVAILABLE, "no two of them ever wanted the lock at the same time", figures)


def judge_copies(groups: Groups, counted: Sequence[Counted]) -> tuple[Outcome, dict[str, int]]:
    """How many copies of a module-level counter are there, and how far did each count?

    Returns:
        What it proves; and by place, the highest total of its copy.
    """
    reached = dict[str, int]()
    for members in groups.members():
        totals = [total for record in counted if record.place in members for total in record.totals]
        reached |= dict.fromkeys(members, max(totals, default=0))
    done = sum(len(record.totals) for record in counted if record.place in groups.of)
    copies = groups.copies
    figures: dict[str, int | float | str] = {"copies": copies, "increments": done}
    if groups.broken:
        return Outcome(Verdict.UNSUPPORTED, "what one wrote into a variable was not seen there", figures), {}
    if not copies:
        return Outcome(Verdict.NOT_AVAILABLE, "none of them wrote and read", figures), reached
    if copies == 1:
        return Outcome(Verdict.SUPPORTED, f"exists once: {done} increments came to {done}", figures), reached
    ends = [reached[members[0]] for members in groups.members()]
    evidence = f"exists {copies} times: {done} increments became {copies} counts, from {min(ends)} to {max(ends)}"
    return Outcome(Verdict.NOT_SHARED, evidence, figures), reached


# --- What detect() said -----------------------------------------------------------


class Disagreement(NamedTuple):
    """Something that `detect()` said and that was seen to be otherwise.

    Attributes:
        place: where it said so.
        field: of `Deployment`.
        said: the value there.
        seen: what it should have been at the least.
        is_known: it was sure, and so wrong; else it had called it likely.
    """

    place: str
    field: str
    said: str
    seen: str
    is_known: bool


def judge_detection(
    facts: Mapping[str, Mapping[str, Fact]],
    seen: Mapping[str, Mapping[str, int]],
) -> list[Disagreement]:
    """Return what `detect()` is refuted in: more was seen than it said there would be.

    Fewer refutes nothing: not every worker need have answered.

    Args:
        facts: by place, what it said there.
        seen: by place, how many processes, interpreters and threads of the same
            application were seen, in the sense of the field of that name.
    """
    return [
        Disagreement(place, field, str(fact.value), str(seen[place][field]), fact.certainty == "known")
        for place, fields in facts.items()
        for field, fact in fields.items()
        if place in seen
        and field in seen[place]
        and type(fact.value) is int
        and fact.certainty != "unknown"
        and seen[place][field] > fact.value
    ]
