"""The live probe's judges and its topology: each accepts a good history and names what is wrong with a planted one."""

from __future__ import annotations

from typing import Any

import pytest

from sharedstate.model import Durability, Scope
from sharedstate.probe.findings import Verdict
from sharedstate.probe.live import judging
from sharedstate.probe.live.client import Answer, Where
from sharedstate.probe.live.judging import Groups, Lap
from sharedstate.probe.live.records import Counted, Fact, Held, Opened, Reading
from sharedstate.probe.live.topology import build_house, count_at_once, find_new

PLACES = ["a", "b", "c"]
NAMES = {"a": "pid 1", "b": "pid 2", "c": "pid 3"}
APART = {"a": (0, 0), "b": (0, 1), "c": (0, 2)}


def lap(number: int, *, sees: dict[str, str] | None = None) -> Lap:
    """A lap in which each place sees those in `sees`, by default all."""
    wrote = {place: f"{number}.{place}" for place in PLACES}
    chosen = sees or dict.fromkeys(PLACES, "abc")
    return Lap(wrote, {place: [{other: wrote[other] for other in chosen[place]}] * 2 for place in PLACES})


ONE = Groups({"a": 0, "b": 0, "c": 0}, [], [])
EACH = Groups({"a": 0, "b": 1, "c": 2}, [], [])


def handles(url: str = "shm://x", scope: Scope = Scope.HOST, **others: str) -> dict[str, Opened]:
    return {place: Opened(place, others.get(place, url), scope, Durability.BOOT, "") for place in PLACES}


# --- Who sees whom --------------------------------------------------------------------


def test_places_that_see_one_another_are_one_group() -> None:
    """All see all in both laps: one group, nothing broken."""
    assert judging.find_groups(PLACES, [lap(1), lap(2)]) == Groups({"a": 0, "b": 0, "c": 0}, [], [])


def test_places_that_see_only_themselves_are_groups_of_one() -> None:
    """As module-level variables of separate interpreters are."""
    alone = {"a": "a", "b": "b", "c": "c"}

    assert judging.find_groups(PLACES, [lap(1, sees=alone), lap(2, sees=alone)]) == EACH


def test_two_and_one() -> None:
    """Two that share and one that does not are two groups."""
    sees = {"a": "ac", "b": "b", "c": "ac"}

    groups = judging.find_groups(PLACES, [lap(1, sees=sees), lap(2, sees=sees)])

    assert groups == Groups({"a": 0, "b": 1, "c": 0}, [], [])
    assert groups.members() == [["a", "c"], ["b"]]
    assert groups.copies == 2


@pytest.mark.parametrize(
    ("laps", "broken"),
    [
        ([lap(1), lap(2, sees={"a": "abc", "b": "ab", "c": "abc"})], [("b", "c")]),
        ([lap(1, sees={"a": "abc", "b": "bc", "c": "abc"}), lap(2)], [("b", "a")]),
        ([lap(1), lap(2, sees={"a": "abc", "b": "abc", "c": "ab"})], [("c", "c")]),
        ([lap(1), lap(2, sees={"a": "a", "b": "b", "c": "c"})], [(p, q) for p in PLACES for q in PLACES if p != q]),
    ],
    ids=["misses one in the second lap", "misses one in the first lap", "misses its own", "stale in the second lap"],
)
def test_a_place_that_does_not_see_a_write_is_named(laps: list[Lap], broken: list[tuple[str, str]]) -> None:
    """One missing mark between places of one group is a fault, whichever lap and way."""
    groups = judging.find_groups(PLACES, laps)

    assert groups.broken == broken
    outcome = judging.judge_sharing(groups, handles(), APART, NAMES)
    assert outcome.verdict is Verdict.UNSUPPORTED
    assert NAMES[broken[0][0]] in outcome.evidence


def test_an_old_mark_is_not_the_new_one() -> None:
    """A reader that sees the first lap's mark in the second reads a stale copy."""
    second = lap(2)
    stale = Lap(second.wrote, {**second.seen, "b": [{**second.seen["b"][0], "c": "1.c"}]})

    assert judging.find_groups(PLACES, [lap(1), stale]).broken == [("b", "c")]


def test_a_copy_that_a_fork_made_is_no_link() -> None:
    """A child that has its parent's variables as they were sees marks, and none of any lap: it is apart from it."""

    def forked(number: int) -> Lap:
        alone = lap(number, sees={"a": "a", "b": "b", "c": "c"})
        return Lap(alone.wrote, {**alone.seen, "b": [{"b": f"{number}.b", "a": "0.a"}]})

    assert judging.find_groups(PLACES, [forked(1), forked(2)]) == EACH


def test_every_reading_counts() -> None:
    """One of several readings of a place that misses a mark is enough."""
    second = lap(2)
    torn = Lap(second.wrote, {**second.seen, "b": [second.seen["b"][0], {"b": "2.b", "a": "2.a"}]})

    assert judging.find_groups(PLACES, [lap(1), torn]).broken == [("b", "c")]


@pytest.mark.parametrize("which", ["did not write", "did not read"])
def test_a_place_that_took_no_part_is_unproved(which: str) -> None:
    """It may be anywhere: it is of no group, and breaks none."""
    second = lap(2)
    wrote = {place: text for place, text in second.wrote.items() if place != "b"}
    seen = {place: readings for place, readings in second.seen.items() if place != "b"}
    partial = Lap(wrote, second.seen) if which == "did not write" else Lap(second.wrote, seen)

    groups = judging.find_groups(PLACES, [lap(1), partial])

    assert groups == Groups({"a": 0, "c": 0}, [], ["b"])
    assert "1 did not answer again" in judging.judge_sharing(groups, handles(), APART, NAMES).evidence


def test_nothing_proves_nothing() -> None:
    """Without a lap every place is unproved, and no judge calls that sharing."""
    groups = judging.find_groups(PLACES, [])

    assert groups == Groups({}, [], PLACES)
    assert judging.judge_sharing(groups, {}, {}, {}).verdict is Verdict.NOT_AVAILABLE
    assert judging.judge_counting(groups, [], {}, 0, {}).verdict is Verdict.NOT_AVAILABLE
    assert judging.judge_exclusion(groups, [], {}, 0, {}).verdict is Verdict.NOT_AVAILABLE
    assert judging.judge_copies(groups, [])[0].verdict is Verdict.NOT_AVAILABLE


def test_sharing_is_supported_when_all_are_one() -> None:
    """One group of three is six pairs."""
    outcome = judging.judge_sharing(ONE, handles(), APART, NAMES)

    assert outcome.verdict is Verdict.SUPPORTED
    assert "6 pairs" in outcome.evidence
    assert judging.judge_sharing(Groups({"a": 0}, [], []), handles(), APART, NAMES).verdict is Verdict.SUPPORTED


@pytest.mark.parametrize(
    ("opened", "distances", "verdict", "words"),
    [
        (handles(scope=Scope.HOST), APART, Verdict.UNSUPPORTED, "pid 1 and pid 2 opened shm://x"),
        (handles("memory:x", Scope.INTERPRETER), APART, Verdict.NOT_SHARED, "no further"),
        (handles("memory:x", Scope.PROCESS), APART, Verdict.NOT_SHARED, "no further"),
        (handles("y:x", Scope.PROCESS), {"a": (0, 0), "b": (0, 0), "c": (0, 1)}, Verdict.UNSUPPORTED, "pid 2"),
        (handles(scope=Scope.HOST), {"a": (0, 0), "b": (1, 1), "c": (2, 2)}, Verdict.NOT_SHARED, "no further"),
        (handles(b="shm://y", c="shm://z"), APART, Verdict.NOT_SHARED, "different stores: shm://x and shm://y"),
    ],
    ids=["claims the host", "claims an interpreter", "claims a process", "in one process", "hosts", "urls"],
)
def test_who_stays_apart_breaks_a_claim_only_within_it(
    opened: dict[str, Opened], distances: dict[str, tuple[int, int]], verdict: Verdict, words: str
) -> None:
    """That a store does not reach beyond its claim is seen, and is no fault; within it, it is one."""
    outcome = judging.judge_sharing(EACH, opened, distances, NAMES)

    assert outcome.verdict is verdict
    assert words in outcome.evidence


# --- Counting ----------------------------------------------------------------------------


def count(*totals: tuple[str, tuple[int, ...]]) -> list[Counted]:
    return [Counted(place, handed) for place, handed in totals]


GOOD_COUNT = count(("a", (1, 2, 5)), ("b", (3, 4)), ("c", (6,)), ("a", (7, 8)))
ENDS = dict.fromkeys(PLACES, 8)


def test_counting_is_supported_when_each_total_came_once() -> None:
    """Eight increments of three places end at 8."""
    outcome = judging.judge_counting(ONE, GOOD_COUNT, ENDS, 0, NAMES)

    assert outcome.verdict is Verdict.SUPPORTED
    assert outcome.figures == {"increments": 8, "lost": 0, "handed_out_twice": 0, "turns": 4}


@pytest.mark.parametrize(
    ("counted", "finals", "unanswered", "words"),
    [
        (GOOD_COUNT, dict.fromkeys(PLACES, 7), 0, "1 of 8 increments lost"),
        (count(("a", (1, 2)), ("b", (2, 3))), dict.fromkeys(PLACES, 3), 0, "1 totals handed out twice"),
        (count(("a", (1, 2)), ("b", (2, 3))), dict.fromkeys(PLACES, 4), 0, "1 totals handed out twice"),
        (GOOD_COUNT, dict.fromkeys(PLACES, 9), 0, "1 of 8 increments lost or invented"),
        (GOOD_COUNT, dict.fromkeys(PLACES, 49), 40, "41 of 8 increments lost or invented"),
        (GOOD_COUNT, {"a": 8, "b": 8, "c": 6}, 0, "the same counter was read as 6 and 8"),
        (count(("a", (2, 1)), ("b", (3,))), dict.fromkeys(PLACES, 3), 0, "pid 1 saw the total go down"),
    ],
    ids=["lost", "lost and twice", "twice", "invented", "more than may be", "two ends", "down"],
)
def test_a_lost_update_is_named(counted: list[Counted], finals: dict[str, int], unanswered: int, words: str) -> None:
    """Lost, handed out twice, invented, or read differently: each is a fault of its own."""
    outcome = judging.judge_counting(ONE, counted, finals, unanswered, NAMES)

    assert outcome.verdict is Verdict.UNSUPPORTED
    assert words in outcome.evidence


def test_a_broken_request_may_have_counted() -> None:
    """Whose answer was lost may have added some of its 40 without telling: no fault; but nothing may be missing."""
    assert judging.judge_counting(ONE, GOOD_COUNT, dict.fromkeys(PLACES, 30), 40, NAMES).verdict is Verdict.SUPPORTED
    assert judging.judge_counting(ONE, GOOD_COUNT, dict.fromkeys(PLACES, 7), 40, NAMES).verdict is Verdict.UNSUPPORTED


def test_who_came_late_is_counted_too() -> None:
    """A place without a group added to somebody's counter; with one group it must be that one."""
    late = [*GOOD_COUNT, *count(("new", (9, 10)))]

    assert judging.judge_counting(ONE, late, dict.fromkeys(PLACES, 10), 0, NAMES).figures["increments"] == 10
    assert judging.judge_counting(ONE, late, dict.fromkeys(PLACES, 11), 0, NAMES).verdict is Verdict.UNSUPPORTED
    elsewhere = [*GOOD_COUNT, *count(("new", (1, 2)))]
    assert judging.judge_counting(ONE, elsewhere, ENDS, 0, NAMES).verdict is Verdict.SUPPORTED


def test_who_took_anothers_place_reads_its_counter() -> None:
    """Workers that are replaced before the end: their successors see their marks, and so tell where they counted to."""
    wrote = {place: f"2.{place}" for place in PLACES}
    successor = Reading("new", {"a": "2.a", "b": "2.b"}, 8, 4)
    stranger = Reading("other", {"a": "1.a"}, 3, 0)

    joined = judging.join_late(ONE, wrote, [successor, stranger])

    assert joined.of == {**ONE.of, "new": 0}
    assert judging.judge_counting(ONE, GOOD_COUNT, {}, 0, NAMES).verdict is Verdict.NOT_AVAILABLE
    assert judging.judge_counting(joined, GOOD_COUNT, {"new": 8}, 0, NAMES).verdict is Verdict.SUPPORTED
    assert judging.judge_counting(joined, GOOD_COUNT, {"new": 7}, 0, NAMES).verdict is Verdict.UNSUPPORTED
    assert judging.join_late(EACH, wrote, [Reading("new", {"b": "2.b"}, 1, 0)]).of["new"] == 1


def test_each_group_has_a_counter() -> None:
    """Groups count for themselves; a fault in any of them is one."""
    counted = count(("a", (1, 2)), ("b", (1,)), ("c", (1, 2, 3)))

    assert judging.judge_counting(EACH, counted, {"a": 2, "b": 1, "c": 3}, 0, NAMES).verdict is Verdict.SUPPORTED
    assert judging.judge_counting(EACH, counted, {"a": 2, "b": 1, "c": 2}, 0, NAMES).verdict is Verdict.UNSUPPORTED


def test_counting_alone_proves_nothing() -> None:
    """If only one place of a group ever counted, no update could be lost."""
    outcome = judging.judge_counting(ONE, count(("a", (1, 2, 3))), dict.fromkeys(PLACES, 3), 0, NAMES)

    assert outcome.verdict is Verdict.NOT_AVAILABLE


# --- The lock ------------------------------------------------------------------------------


def hold(*times: tuple[str, int, int, int], clock: str = "boot") -> list[Held]:
    return [Held(place, clock, began, ended, token) for place, began, ended, token in times]


GOOD_HOLD = hold(("a", 0, 10, 1), ("b", 10, 20, 2), ("a", 25, 30, 3), ("c", 31, 40, 4))
SECTIONS = dict.fromkeys(PLACES, 4)


def test_exclusion_is_supported_when_no_two_held_it() -> None:
    """One ends before the next begins, or at the same nanosecond."""
    outcome = judging.judge_exclusion(ONE, GOOD_HOLD, SECTIONS, 0, NAMES)

    assert outcome.verdict is Verdict.SUPPORTED
    assert outcome.figures == {"sections": 4, "lost": 0, "turns": 3}


@pytest.mark.parametrize(
    ("held", "finals", "words"),
    [
        (hold(("a", 0, 10, 1), ("b", 9, 20, 2)), 2, "pid 1 and pid 2 held it at once"),
        (hold(("b", 9, 20, 2), ("a", 0, 10, 1)), 2, "pid 1 and pid 2 held it at once"),
        (hold(("a", 0, 100, 1), ("b", 10, 20, 2), ("c", 30, 40, 3)), 3, "pid 1 and pid 2"),
        (hold(("a", 0, 100, 1), ("a", 50, 60, 2), ("b", 110, 120, 3)), 3, "pid 1 and pid 1 held it at once"),
        (hold(("a", 0, 10, 1), ("b", 10, 20, 1)), 2, "fencing token"),
        (hold(("a", 0, 10, 2), ("b", 10, 20, 1)), 2, "fencing token"),
        (hold(("a", 0, 10, 1), ("b", 10, 20, 2)), 1, "1 of 2 additions under the lock were lost"),
        (hold(("a", 0, 10, 1), ("b", 10, 20, 2)), 3, "1 of 2 additions"),
    ],
    ids=[
        "overlap",
        "told in another order",
        "within another's",
        "threads",
        "token twice",
        "token down",
        "lost",
        "more",
    ],
)
def test_overlapping_holders_are_named(held: list[Held], finals: int, words: str) -> None:
    """Two at once, a token that does not grow, or an addition that got lost under the lock."""
    outcome = judging.judge_exclusion(ONE, held, dict.fromkeys(PLACES, finals), 0, NAMES)

    assert outcome.verdict is Verdict.UNSUPPORTED
    assert words in outcome.evidence


def test_clocks_of_two_hosts_are_not_compared() -> None:
    """What overlaps only by the clocks of two hosts overlaps not at all; their sums still count."""
    held = hold(("a", 0, 10, 1), clock="one") + hold(("b", 5, 15, 2), clock="other")

    assert judging.judge_exclusion(ONE, held, dict.fromkeys(PLACES, 2), 0, NAMES).verdict is Verdict.SUPPORTED
    assert judging.judge_exclusion(ONE, held, dict.fromkeys(PLACES, 1), 0, NAMES).verdict is Verdict.UNSUPPORTED


def test_groups_have_locks_of_their_own() -> None:
    """Two that do not share a store may hold its lock at the same time."""
    held = hold(("a", 0, 10, 1), ("b", 5, 15, 1))

    assert judging.judge_exclusion(EACH, held, {"a": 1, "b": 1}, 0, NAMES).verdict is Verdict.SUPPORTED
    assert judging.judge_exclusion(ONE, held, dict.fromkeys(PLACES, 2), 0, NAMES).verdict is Verdict.UNSUPPORTED


def test_a_lock_nobody_fought_for_proves_nothing() -> None:
    """If only one place of a group ever held it, it excluded nobody."""
    alone = hold(("a", 0, 10, 1), ("a", 20, 30, 2))

    assert judging.judge_exclusion(ONE, alone, dict.fromkeys(PLACES, 2), 0, NAMES).verdict is Verdict.NOT_AVAILABLE


# --- Module-level variables, and what detect() says -----------------------------------------


def test_copies_are_counted() -> None:
    """Three interpreters have three counters; each place is told how far its own came."""
    outcome, reached = judging.judge_copies(EACH, count(("a", (1, 2)), ("b", (1,)), ("a", (3, 4))))

    assert outcome.verdict is Verdict.NOT_SHARED
    assert outcome.figures == {"copies": 3, "increments": 5}
    assert reached == {"a": 4, "b": 1, "c": 0}
    assert judging.judge_copies(ONE, count(("a", (1, 2))))[0].verdict is Verdict.SUPPORTED
    assert judging.judge_copies(ONE._replace(broken=[("a", "b")]), [])[0].verdict is Verdict.UNSUPPORTED


@pytest.mark.parametrize(
    ("said", "certainty", "seen", "refuted"),
    [
        (1, "known", 2, True),
        (1, "likely", 2, True),
        (2, "known", 2, False),
        (2, "known", 1, False),
        (None, "unknown", 5, False),
        ("many", "known", 5, False),
        (1, "unknown", 2, False),
        (True, "known", 2, False),
    ],
)
def test_detection_is_refuted_only_by_more(said: Any, certainty: str, seen: int, *, refuted: bool) -> None:
    """More than it said is a contradiction; fewer only means that not all of them answered."""
    facts = {"a": {"processes": Fact(said, certainty, "why"), "server": Fact("x", "known", "")}}

    found = judging.judge_detection(facts, {"a": {"processes": seen}})

    assert [(one.place, one.field, one.seen) for one in found] == ([("a", "processes", str(seen))] if refuted else [])


# --- The house ---------------------------------------------------------------------------------


def answer(url: str = "http://h/a", began_ns: int = 0, ended_ns: int = 10, **where: Any) -> Answer:
    """An answer of thread 1 of interpreter 0 of process 1, unless `where` says otherwise."""
    default: dict[str, Any] = {
        "host": "h",
        "boot": "b",
        "space": 1,
        "clock": "c",
        "pid": 1,
        "started": 10,
        "born_s": 5.0,
        "up_s": 100.0,
        "parent": 0,
        "interpreter": 0,
        "place": "p",
        "thread": 1,
        "mount": "/a",
        "python": "3.13.0",
    }
    return Answer(url, Where(**default | where), began_ns, ended_ns, {})


def test_the_house_is_built_from_answers() -> None:
    """Two processes, one of them with two interpreters, one of these reached through two mounts by two threads."""
    house = build_house(
        [
            answer(pid=2, started=20, place="q"),
            answer(place="p1", interpreter=1, thread=7),
            answer(place="p1", interpreter=1, thread=8, url="http://h/b"),
            answer(place="p2", interpreter=2, url="http://h/b"),
            answer(place="p1", interpreter=1, thread=7),
        ]
    )

    assert [process.pid for process in house.processes] == [1, 2]
    assert house.places == ["p1", "p2", "q"]
    first = house.interpreters[0]
    assert first.urls == ("http://h/a", "http://h/b")
    assert first.threads == (7, 8)
    assert first.answers == 3
    assert house.scope is Scope.HOST
    assert house.names() == {"p1": "pid 1 interpreter 1", "p2": "pid 1 interpreter 2", "q": "pid 2"}
    assert house.distances() == {"p1": (0, 0), "p2": (0, 0), "q": (0, 1)}


def test_a_pid_is_no_identity() -> None:
    """The same pid with another start, in another pid space or on another host is another process."""
    house = build_house(
        [answer(place="1"), answer(place="2", started=11), answer(place="3", space=2), answer(place="4", host="g")]
    )

    assert len(house.processes) == 4
    assert len(house.hosts) == 3
    assert house.scope is Scope.CLUSTER
    assert house.names()["4"] == "pid 1 on g"


def test_two_copies_of_the_module_in_one_interpreter_are_two() -> None:
    """They would share nothing, so they are drawn as two rooms."""
    assert build_house([answer(place="1"), answer(place="2")]).places == ["1", "2"]


@pytest.mark.parametrize(("born_s", "is_new"), [(5.0, False), (100.0, False), (100.1, True)])
def test_a_process_that_was_started_after_the_first_answer_is_new(born_s: float, *, is_new: bool) -> None:
    """By the clock of its own host: the first answer came at 100, whatever another host's clock says."""
    first, second = answer(), answer(pid=2, place="q", born_s=born_s, up_s=200.0)
    elsewhere = answer(host="g", boot="g", place="g", born_s=150.0, up_s=160.0)

    house = build_house([second, elsewhere, first])

    assert {process.pid: process.is_new for process in house.hosts[1].processes} == {1: False, 2: is_new}
    assert not house.hosts[0].processes[0].is_new
    assert find_new([second, elsewhere, first]) == ({"q"} if is_new else set())


@pytest.mark.parametrize(
    ("spans", "at_once"),
    [
        ([(0, 10), (10, 20)], 1),
        ([(0, 10), (9, 20)], 2),
        ([(0, 100), (10, 20), (30, 40)], 2),
        ([(0, 100), (10, 90), (20, 80)], 3),
    ],
)
def test_answers_at_once_are_counted(spans: list[tuple[int, int]], at_once: int) -> None:
    """The most that were in work at the same time; one that ends when the next begins is not."""
    answers = [answer(began_ns=began, ended_ns=ended) for began, ended in spans]

    assert count_at_once(answers) == at_once
    assert count_at_once([*answers, answer(clock="another host's")]) == at_once + 1
