"""What the live probe shows: the page that draws the house, the table, and the sentences."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from sharedstate.model import Durability, Scope
from sharedstate.probe.findings import Finding, Verdict
from sharedstate.probe.live import wording
from sharedstate.probe.live.client import Answer, Where
from sharedstate.probe.live.findings import LiveReport
from sharedstate.probe.live.judging import Groups
from sharedstate.probe.live.page import render_page
from sharedstate.probe.live.records import Fact, Opened
from sharedstate.probe.live.report import render
from sharedstate.probe.live.topology import House, build_house

Room = tuple[str, int, int, str]  # host, pid, interpreter, mount


def house_of(*rooms: Room, threads: int = 1, born_s: float = 5.0) -> House:
    """The house with one interpreter for each of `rooms`; the place's token is what makes it unique."""
    return build_house(
        [
            Answer(
                f"http://server/{mount}",
                Where(
                    host,
                    f"boot {host}",
                    1,
                    "c",
                    pid,
                    pid,
                    born_s,
                    100.0,
                    1,
                    number,
                    f"{host}{pid}{number}",
                    thread,
                    "",
                    "3.13.0",
                ),
                0,
                1,
                {},
            )
            for host, pid, number, mount in rooms
            for thread in range(threads)
        ]
    )


TWO_BY_TWO = house_of(("h", 7, 1, "a"), ("h", 7, 2, "b"), ("h", 8, 1, "a"), ("h", 8, 2, "b"))


def report_of(house: House = TWO_BY_TWO, *, shared: bool = True, **changes: Any) -> LiveReport:
    """A report on a house whose variables are one for each interpreter, and whose store is one, or not."""
    places = house.places
    each = {place: number for number, place in enumerate(places)}
    verdict = Verdict.SUPPORTED if shared else Verdict.NOT_SHARED
    findings = [
        Finding("open", "Opened?", "opened", Verdict.SUPPORTED, "all did", {}, 0.1),
        Finding("visible", "Visible?", "wrote", verdict, "it was read", {}, 0.1),
        Finding("count", "Lost?", "counted", Verdict.SUPPORTED, "none", {"increments": 400}, 0.1),
        Finding("exclude", "Excludes?", "locked", Verdict.SUPPORTED, "never two", {}, 0.1),
        Finding("variables", "Copies?", "counted", Verdict.NOT_SHARED, "many", {"increments": 400}, 0.0),
        Finding("detect", "Detected?", "compared", Verdict.SUPPORTED, "right", {}, 0.0),
    ]
    report = LiveReport(
        about={"machine": "m", "python": "p", "sharedstate": "s", "date": "d"},
        at_once={f"http://server/{mount}": 8 for mount in sorted({room.urls[0][-1] for room in house.interpreters})},
        backend="",
        house=house,
        not_drawn=0,
        silent=frozenset(),
        opened={place: Opened(place, "shm://x", Scope.HOST, Durability.BOOT, "cheapest") for place in places},
        problems={},
        store=Groups(dict.fromkeys(places, 0) if shared else dict(each), [], []),
        variables=Groups(each, [], []),
        totals=dict.fromkeys(places, 400),
        copies=dict.fromkeys(places, 100),
        findings=tuple(findings),
        facts={place: {"server": Fact("mod_wsgi", "known", "its module")} for place in places},
        disagreements=(),
        requests=100,
        failures={},
        stopped="",
        duration_s=12.0,
    )
    return report._replace(**changes)


class Page(HTMLParser):
    """What a page is made of, as a browser would see it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.boxes: list[tuple[str, dict[str, str | None]]] = []
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self.scripts += 1
        if tag not in {"meta", "link", "br"}:
            self.open.append(tag)
        kind = (dict(attrs).get("class") or "").split(" ")[0]
        if kind in {"host", "process", "room"}:
            self.boxes.append((kind, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def of(self, kind: str) -> list[dict[str, str | None]]:
        return [attrs for found, attrs in self.boxes if found == kind]


def show(report: LiveReport) -> str:
    console = Console(file=io.StringIO(), width=140, color_system=None)
    console.print(render(report))
    return console.file.getvalue()  # type: ignore[attr-defined]


# --- The page ---------------------------------------------------------------------------


def test_the_house_is_drawn_twice_with_the_same_boxes() -> None:
    """Once for variables, four copies; once for the store, one; every box is closed again."""
    page = Page(render_page(report_of()))

    assert page.open == []
    assert page.scripts == 1
    assert len(page.of("host")) == 2
    assert [box["data-pid"] for box in page.of("process")] == ["7", "8"] * 2
    rooms = page.of("room")
    assert [room["data-place"] for room in rooms] == ["h71", "h72", "h81", "h82"] * 2
    assert [room["data-group"] for room in rooms] == ["0", "1", "2", "3", "0", "0", "0", "0"]
    styles = [room["style"] for room in rooms]
    assert len(set(styles[:4])) == 4
    assert set(styles[4:]) == {"--hue:145"}
    assert "145" not in "".join(map(str, styles[:4]))


def test_the_page_loads_nothing_from_anywhere() -> None:
    """Self-contained: it can be mailed, and opened without a network."""
    text = render_page(report_of())

    for loader in ("src=", "@import", "url(", "<link", "fetch("):
        assert loader not in text


HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;$title"


def test_hostile_strings_do_nothing() -> None:
    """What a server says of itself, and the URLs, appear as text, in every place where they appear."""
    house = house_of((HOSTILE, 7, 1, "a"), ("other", 8, 1, HOSTILE))
    place = house.places[0]
    report = report_of(
        house,
        about=dict.fromkeys(("machine", "python", "sharedstate", "date"), HOSTILE),
        opened={place: Opened(place, HOSTILE, Scope.HOST, Durability.BOOT, HOSTILE)},
        problems={house.places[1]: HOSTILE},
        store=Groups({}, [], house.places),
        findings=(Finding(HOSTILE, HOSTILE, HOSTILE, Verdict.UNSUPPORTED, HOSTILE, {}, 0.0),),
        facts={place: {"server": Fact(HOSTILE, HOSTILE, HOSTILE)}},
        failures={HOSTILE: 3},
        stopped=HOSTILE,
    )
    text = render_page(report)
    page = Page(text)

    assert page.scripts == 1
    assert page.open == []
    assert "<img" not in text
    assert text.count("&lt;/script&gt;") > 10
    assert show(report)
    json.dumps(report.as_dict())


def test_a_room_that_was_not_seen_again_is_no_member_of_a_group() -> None:
    """It is drawn, as unproved; one that could not open the store, as failed with its reason."""
    report = report_of(
        store=Groups({"h71": 0, "h72": 0}, [], ["h81", "h82"]),
        variables=Groups({"h71": 0, "h72": 1, "h81": 2}, [], ["h82"]),
        problems={"h81": "StoreAccessError: not yours"},
    )
    rooms = Page(render_page(report)).of("room")

    assert [(room["class"] or "").split() for room in rooms[4:]] == [
        ["room"],
        ["room"],
        ["room", "failed"],
        ["room", "unseen"],
    ]
    assert rooms[6]["data-note"] == "Process 8, interpreter 1: StoreAccessError: not yours"
    assert (rooms[3]["class"] or "").split() == ["room", "unseen"]
    assert rooms[7]["data-group"] != rooms[6]["data-group"]
    table = show(report)
    assert "✘ not opened" in table
    assert "? not seen" in table


@pytest.mark.parametrize(("count", "size"), [(4, "views"), (12, "views many"), (70, "views many crowded")])
def test_many_rooms_are_drawn_smaller(count: int, size: str) -> None:
    """Two houses stand side by side as long as they fit."""
    report = report_of(house_of(*(("h", pid, 0, "a") for pid in range(count))))

    assert f'<div class="{size}' in render_page(report)
    assert len(Page(render_page(report)).of("room")) == 2 * count


def test_places_that_say_the_same_are_said_once() -> None:
    """detect()'s table stands once for all four interpreters, and twice if one says something else."""
    report = report_of()
    other = {**report.facts, "h82": {"server": Fact("gunicorn", "known", "")}}

    assert render_page(report).count('<table class="facts">') == 1
    assert render_page(report._replace(facts=other)).count('<table class="facts">') == 2


# --- The sentences -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rooms", "headline"),
    [
        ([("h", 1, 0, "a")], "runs once: one interpreter in one process on one host"),
        ([("h", 1, 0, "a"), ("h", 2, 0, "a")], "runs twice: in 2 processes on one host"),
        ([("h", 1, 1, "a"), ("h", 1, 2, "b")], "runs twice: 2 interpreters in 1 process on one host"),
        ([("h", 1, 0, "a"), ("g", 1, 0, "a")], "runs twice: in 2 processes on 2 hosts"),
    ],
)
def test_the_headline_counts(rooms: list[Room], headline: str) -> None:
    """How often the application exists."""
    assert headline in wording.headline(report_of(house_of(*rooms)))


@pytest.mark.parametrize(
    ("rooms", "words"),
    [
        ([("h", 1, 1, "a"), ("h", 1, 2, "b")], "an interpreter of its own in the same processes"),
        ([("h", 1, 1, "a"), ("h", 2, 1, "b")], "interpreters of its own, with modules"),
        ([("h", 1, 1, "a"), ("h", 1, 1, "b")], "make no difference"),
        ([("h", 1, 1, "a"), ("h", 1, 1, "b"), ("h", 2, 1, "b")], "Some interpreters answer several"),
        ([("h", 1, 1, "a"), ("g", 1, 1, "b")], "different hosts"),
        ([("h", 1, 1, "a"), ("h", 1, 2, "a")], ""),
    ],
)
def test_mounts_are_explained(rooms: list[Room], words: str) -> None:
    """Whether two mounts share an interpreter, a process, a host."""
    house = house_of(*rooms)
    urls = {url: 1 for room in house.interpreters for url in room.urls}

    found = wording.explain_mounts(report_of(house, at_once=urls))

    assert words in found
    assert bool(found) == bool(words)


def test_the_result_in_a_sentence() -> None:
    """How often state exists, in a variable and in the store; and what went wrong, if something did."""
    shared, apart = report_of(), report_of(shared=False)
    one = report_of(house_of(("h", 1, 0, "a")))
    failed = Finding("count", "Is no update lost?", "", Verdict.UNSUPPORTED, "3 of 9 lost", {}, 0.0)

    assert (
        wording.summarise(shared)
        == "State in a module-level variable exists 4 times; in shm: it exists once, shared by all."
    )
    assert wording.summarise(apart) == "State in a module-level variable exists 4 times; in shm: it exists 4 times too."
    assert wording.summarise(one) == "State in a module-level variable exists once; in shm: it exists once as well."
    assert "Is no update lost? 3 of 9 lost" in wording.summarise(shared._replace(findings=(failed,)))
    assert "3 of 9 lost" in wording.store_caption(shared._replace(findings=(failed,)))
    assert "ended before" in wording.summarise(shared._replace(stopped="the server is gone"))
    assert "different stores" in wording.store_caption(
        apart._replace(opened={**apart.opened, "h71": apart.opened["h71"]._replace(url="shm://y")})
    )


@pytest.mark.parametrize(
    ("change", "is_shared"),
    [
        ({}, True),
        ({"stopped": "gone"}, False),
        ({"findings": (Finding("exclude", "", "", Verdict.NOT_AVAILABLE, "", {}, 0.0),)}, False),
        ({"findings": (Finding("visible", "", "", Verdict.NOT_SHARED, "", {}, 0.0),)}, False),
        ({"findings": (Finding("variables", "", "", Verdict.NOT_SHARED, "", {}, 0.0),)}, True),
        ({"findings": (Finding("detect", "", "", Verdict.NOT_AVAILABLE, "", {}, 0.0),)}, True),
        ({"findings": (Finding("detect", "", "", Verdict.UNSUPPORTED, "", {}, 0.0),)}, False),
    ],
)
def test_only_a_store_that_was_seen_to_share_is_shared(change: dict[str, Any], *, is_shared: bool) -> None:
    """What was not tried is not held for good; that variables do not reach is no fault."""
    report = report_of(**change)

    assert report.is_shared is is_shared
    assert report.as_dict()["shared_by_all"] is is_shared


def test_warnings_come_first() -> None:
    """What the reader should know before believing the picture."""
    assert wording.warnings(report_of()) == []
    report = report_of(
        house_of(("h", 7, 1, "a"), ("h", 8, 1, "a"), born_s=150.0),
        stopped="http://server/a: connection refused",
        failures={"http://server/a: no answer": 2},
        not_drawn=1,
        silent=frozenset({"h81"}),
    )
    found = "\n".join(wording.warnings(report))
    for words in ("connection refused", "2 of 100 requests failed", "2 processes were started", "1 more process"):
        assert words in found
    assert "1 interpreter did" not in found  # the end of all of them explains it
    assert "1 interpreter did not answer" in "\n".join(wording.warnings(report._replace(stopped="")))
    assert "connection refused" in render_page(report)
    assert "connection refused" in show(report)


@pytest.mark.parametrize(
    ("threads", "said", "words"),
    [(1, None, "1 thread"), (3, 25, "3 of 25 threads"), (25, 25, "25 threads"), (2, "many", "2 threads")],
)
def test_threads_in_words(threads: int, said: object, words: str) -> None:
    """Those that answered, of how many the server says there are."""
    house = house_of(("h", 7, 1, "a"), ("h", 7, 1, "a"), ("h", 7, 1, "a"), threads=threads)
    facts = {place: {"threads": Fact(said, "known", "")} for place in house.places}  # type: ignore[arg-type]

    assert wording.thread_count(report_of(house, facts=facts), house.interpreters[0]) == words


def test_a_new_thread_for_each_request_is_said() -> None:
    """As many threads as answers: they are not a pool."""
    house = house_of(("h", 7, 1, "a"), threads=9)

    assert wording.thread_count(report_of(house), house.interpreters[0]) == "a new thread for each request"


@pytest.mark.parametrize(("number", "name"), [(0, "A"), (25, "Z"), (26, "AA"), (27, "AB"), (701, "ZZ"), (702, "AAA")])
def test_letters_do_not_end(number: int, name: str) -> None:
    """As a spreadsheet's columns."""
    assert wording.letter(number) == name


@pytest.mark.parametrize(
    ("url", "urls", "name"),
    [
        ("http://h:1/a", ["http://h:1/a", "http://h:1/b"], "/a"),
        ("http://h:1", ["http://h:1", "http://h:1/b"], "/"),
        ("http://h:1/a/b/", ["http://h:1/a/b/"], "/a/b/"),
        ("http://h:1/a", ["http://h:1/a", "http://g/a"], "h:1/a"),
    ],
)
def test_mounts_have_short_names(url: str, urls: list[str], name: str) -> None:
    """What tells them apart, and no more."""
    assert wording.mount_name(url, urls) == name


def test_the_table_has_a_row_for_each_interpreter() -> None:
    """With its process, mount, threads, and both counters with their copies' letters."""
    lines = [line for line in show(report_of()).splitlines() if "│" in line]

    assert len(lines) == 4
    assert "pid 7" in lines[0]
    assert "/a" in lines[0]
    assert "100  A" in lines[0]
    assert "100  D" in lines[3]
    assert "400  A" in lines[3]
