"""The page of a benchmark run: whole, in part, and with hostile names."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest

from benchmarks.offers import describe_backends
from benchmarks.page import charts, reasons, render_page
from benchmarks.page.parts import parts_of
from benchmarks.peers import BACKENDS, PEERS
from benchmarks.run import PARTS
from benchmarks.wording import bytes_of, duration, factor, rate
from benchmarks.workloads import WORKLOADS
from sharedstate.model import Durability, Scope

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VOID = {"meta", "br", "link", "img", "input", "hr"}

with open(os.path.join(ROOT, "docs", "benchmark-report", "results.json"), encoding="utf-8") as file:
    COMMITTED: dict[str, Any] = json.load(file)

CONTENDED = {
    "part": "contention",
    "workload": "one hot key",
    "crew": "processes",
    "contestant": "shm",
    "workers": 1,
    "per_second": 8e6,
    "p50_ns": 110,
    "p99_ns": 900,
    "max_ns": 4_000_000,
    "lost": 0,
    "torn": 0,
    "least_share": 1.0,
    "failure": "",
}
GROWN = {
    "contestant": "shm",
    "keys": 1000,
    "get_ns": 90.0,
    "set_ns": 150.0,
    "open_ms": 0.4,
    "bytes_per_entry": 81.5,
    "failure": "",
}
MORE_PARTS = {
    "contention": [
        CONTENDED,
        CONTENDED | {"workers": 8, "per_second": 5e6, "least_share": 0.11},
        CONTENDED | {"contestant": "ShareableList", "workers": 8, "lost": 4321, "torn": 3},
        CONTENDED | {"contestant": "diskcache", "failure": "it gave up"},
    ],
    "growth": [
        GROWN,
        GROWN | {"keys": 10**7, "get_ns": 210.0},
        GROWN | {"contestant": "memory", "failure": "too large"},
    ],
    "watch": [
        {"contestant": "shm", "kind": "processes", "p50_ns": 9000, "p99_ns": 20000, "longest_ns": 90000, "failure": ""}
    ],
    "something-new": [
        {"contestant": "shm", "ratio": {"median": 1.5, "low": 1.2, "high": 1.8}, "wait_ms": 2.5, "used_bytes": 4096}
    ],
}
EVERYTHING = COMMITTED | {"parts": MORE_PARTS}


def measured(report: dict[str, Any], workload: str, contestant: str) -> dict[str, Any]:
    """Return a contestant's row in a report."""
    rows = next(found["rows"] for found in report["workloads"] if found["workload"] == workload)
    row: dict[str, Any] = next(found for found in rows if found["contestant"] == contestant)
    return row


class Reader(HTMLParser):
    """Reads a page as a browser would, and keeps what the tests ask for."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.outside: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name == "href":
                self.links.append(value or "")
            if name in {"src", "href", "data", "action"} and not (value or "").startswith("#"):
                self.outside.append(value or "")
            assert not name.startswith("on"), f"a handler in an attribute: {name}={value}"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in {"style", "script", "title"}:
            self.words.append(data)

    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(report: dict[str, Any]) -> Reader:
    reader = Reader(render_page(report))
    assert reader.open == [], "every element is closed"
    assert reader.outside == [], "nothing is fetched"
    assert len(reader.ids) == len(set(reader.ids))
    assert {link[1:] for link in reader.links} <= set(reader.ids), "every link leads somewhere"
    assert reader.tags.count("script") == 1
    return reader


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Without charts, which take seconds, unless a test is about them."""
    if "charts" not in request.node.name:
        monkeypatch.setattr(charts, "is_available", lambda: False)


# --- What it says ----------------------------------------------------------------


def test_the_answer_comes_first_with_what_each_backend_shares_and_costs() -> None:
    """Before any chart: each backend, its reach, its lasting, its costs and their ratio to the dict behind a lock."""
    text = read(EVERYTHING).text()

    answer = text[: text.index("Single operations One caller")]
    assert "Which one should I use, and what does it cost?" in answer
    for backend in BACKENDS:
        assert f" {backend}: " in answer
        assert reasons.take_it_where(backend) in answer
    assert "processes and interpreters of one host" in answer
    assert "every process, not a reboot" in answer
    assert re.search(r"costs (less|more) than a threading.Lock around a dict", answer)
    get, set_ = (measured(COMMITTED, workload, "shm") for workload in ("get-int", "set-int"))
    shown = f"{duration(get['median_ns'])} {factor(get['ratio']['median'])} x {duration(set_['median_ns'])} "
    assert re.search(rf"shm: .* {re.escape(shown)}", answer)


def test_backends_stand_in_the_order_in_which_open_would_take_them() -> None:
    """The narrowest first, then the cheapest, as `selection` does it, whatever the report's order."""
    report = EVERYTHING | {"backends": list(reversed(EVERYTHING["backends"]))}

    text = read(report).text()

    places = [text.index(f" {backend}: ") for backend in ("memory", "shm", "file", "sqlite")]
    assert places == sorted(places)


def test_a_contestant_that_loses_updates_is_told_of_at_once() -> None:
    """Its losses stand above the charts and in its row, in red; those who lose nothing are not named."""
    page = render_page(EVERYTHING)

    assert '<li class="lost">ShareableList lost 4,321 updates and handed out 3 torn values' in page
    assert "ShareableList: fast for nothing." in page
    assert '<span class="chip bad">4,321</span>' in page
    assert "shm lost" not in page


def test_every_failure_is_told_with_its_reason() -> None:
    """A record without figures is a line with its name and place, in any part."""
    text = read(EVERYTHING).text()

    assert "diskcache (one hot key, processes, 1 workers): it gave up" in text
    assert "memory (1,000 keys): too large" in text


def test_a_part_that_has_no_renderer_is_a_table_with_units() -> None:
    """Fields become columns, and their names' ends units."""
    text = read(EVERYTHING).text()

    assert "Something new" in text
    assert "1.5 (1.20 - 1.80) 2.50 ms 4.00 KiB" in text


def test_a_noisy_machine_and_a_quick_run_are_warned_of() -> None:
    """The warnings stand below the answer."""
    text = read(EVERYTHING | {"settings": {"size": "quick"}}).text()

    assert "The machine was busy with other work" in text
    assert EVERYTHING["noise"][0] in text
    assert "A quick run" in text
    assert "A quick run" not in read(EVERYTHING | {"settings": {"size": "full"}}).text()


def test_targets_are_shown_with_what_was_measured() -> None:
    """Each target has its state, met or not."""
    text = read(EVERYTHING).text()

    for target in COMMITTED["targets"]:
        assert target["target"] in text
        assert target["state"] in text


# --- What it copes with ------------------------------------------------------------


@pytest.mark.parametrize("missing", [None, *EVERYTHING])
def test_the_page_is_whole_without_any_one_part(missing: str | None) -> None:
    """Whatever a run left out, the rest is a page."""
    reader = read({name: value for name, value in EVERYTHING.items() if name != missing})

    assert "What sharing costs" in reader.text()


@pytest.mark.parametrize("present", EVERYTHING)
def test_the_page_is_whole_with_any_one_part_alone(present: str) -> None:
    """One part of the report is a page too; so is an empty one."""
    read({present: EVERYTHING[present]})
    read({})


@pytest.mark.parametrize("part", MORE_PARTS)
def test_the_page_is_whole_with_any_one_of_the_other_parts(part: str) -> None:
    """A run of one part beside the operations shows it, and an empty one nothing."""
    assert len(read({"parts": {part: MORE_PARTS[part]}}).text()) > len(read({"parts": {part: []}}).text())


def test_records_with_missing_figures_are_shown_as_far_as_they_go() -> None:
    """Nulls, zeros and absent fields of any record end in a dash."""
    for part, records in MORE_PARTS.items():
        for field in records[0]:
            for value in (None, 0):
                read({"parts": {part: [records[0] | {field: value}]}})
            read({"parts": {part: [{name: value for name, value in records[0].items() if name != field}]}})
    report = copy.deepcopy(COMMITTED)
    for workload in report["workloads"]:
        workload["rows"] = [
            row | {"median_ns": None, "p99_ns": None, "ratio": None, "rounds_ns": [], "failure": "it broke"}
            for row in workload["rows"]
        ]
    assert "it broke" in read(report).text()


HOSTILE = '</title><script>alert("x")</script><img src=x onerror=alert(1)>\'"&amp;'


def make_hostile(value: Any) -> Any:
    """The same report with every text in it replaced."""
    if isinstance(value, dict):
        kept = {"settings", "scope", "durability", "state", "baseline", "workload"}
        return {name: value[name] if name in kept else make_hostile(value[name]) for name in value}
    if isinstance(value, list):
        return [make_hostile(item) for item in value]
    return HOSTILE if isinstance(value, str) and value else value


def test_hostile_names_are_text() -> None:
    """Markup in any name, note, version, reason or fact of the report is shown, and does nothing."""
    reader = read(make_hostile(EVERYTHING))

    assert "img" not in reader.tags
    assert HOSTILE in reader.text()


def test_hostile_names_are_text_in_charts() -> None:
    """Nor does it in a chart, or in a tooltip of one."""
    pytest.importorskip("vl_convert", reason="draws the charts: pip install '.[bench]'")
    dot = charts.Dot(HOSTILE, 100.0, 900.0, "peer", HOSTILE, HOSTILE)
    series = charts.Series(HOSTILE, [(1.0, 5.0), (2.0, 9.0)], "peer", about=HOSTILE)

    reader = Reader(charts.draw_dots([dot], (10, 1000)) + charts.draw_lines([series], x_title="n", unit="ns"))

    assert {"img", "script"}.isdisjoint(reader.tags)
    assert reader.tags.count("title") == 3


def test_a_chart_shows_one_form_of_a_peers_call_and_marks_who_is_not_atomic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ours every form is drawn, of a peer the first; a read and a write in two steps are marked, in red."""
    drawn: list[charts.Dot] = []
    monkeypatch.setattr("benchmarks.page.operations.draw_dots", lambda dots, *_, **__: drawn.extend(dots) or "")
    names = ("shm", "shm [k]", "LMDB", "LMDB [k]", "dbm [not atomic]")
    rows = [{"contestant": name, "median_ns": 10.0 + index} for index, name in enumerate(names)]

    read({"backends": COMMITTED["backends"], "workloads": [{"workload": "get-int", "rows": rows}]})

    assert [(dot.name, dot.colour) for dot in drawn] == [
        ("shm", "ours-1"),
        ("shm [k]", "ours-1"),
        ("LMDB", "peer"),
        ("✗ dbm", "lost"),
    ]


def test_parts_may_call_a_field_otherwise() -> None:
    """What one part calls a quarrel, its kind and the longest wait is shown as the others' workload, crew and max."""
    record = {name: value for name, value in CONTENDED.items() if name not in {"workload", "crew", "max_ns"}}

    text = read({"parts": {"contention": [record | {"quarrel": "hot", "kind": "threads", "longest_ns": 7_000}]}}).text()

    assert "one hot key, threads" in text
    assert "7.00 µs" in text


# --- Charts ------------------------------------------------------------------------


def test_charts_are_drawn_in_the_pages_own_colours() -> None:
    """With the library each workload has its chart inline, in CSS variables that the page defines, and stays small."""
    pytest.importorskip("vl_convert", reason="draws the charts: pip install '.[bench]'")
    two = [item for item in COMMITTED["workloads"] if item["workload"] in {"get-int", "set-dict"}]

    page = render_page({"workloads": two, "backends": COMMITTED["backends"], "parts": MORE_PARTS})

    reader = Reader(page)
    assert reader.outside == []
    assert reader.tags.count("svg") == 2 + 2 + 4 + 1  # workloads; contention and its waits; growth; watch
    used = set(re.findall(r"var\((--[\w-]+)\)", page))
    assert used <= set(re.findall(r"(--[\w-]+):", page))
    assert len(page) < 500_000


@pytest.mark.parametrize("values", [[], [0.0], [5.0], [99.0, 100.0, 101.0], [1e-3, 1e9]])
def test_decades_hold_all_values_of_a_chart_and_are_never_empty(values: list[float]) -> None:
    """The bounds are powers of ten around every positive value, at least one apart."""
    low, high = charts.decades(values)

    assert low < high
    assert all(low <= value <= high for value in values if value > 0)


# --- Its words ---------------------------------------------------------------------


def test_every_workload_and_contestant_has_its_sentence() -> None:
    """Whoever adds one says why it is as fast as it is."""
    assert [item.name for item in WORKLOADS if not reasons.what_it_is(item.name)] == []
    assert [
        (item.name, peer.name)
        for item in WORKLOADS
        for peer in PEERS
        if peer.family == item.family and not reasons.why(item.name, peer.name)
    ] == []
    assert [backend for backend in BACKENDS if not reasons.take_it_where(backend)] == []


def test_every_part_of_a_run_has_a_title() -> None:
    """The parts that a run knows are known to the page by the same names."""
    named = {name.replace("-", "_") for name in reasons.PARTS}

    assert {name.replace("-", "_") for name in PARTS} <= named
    assert set(parts_of(COMMITTED)) <= set(reasons.PARTS)


def test_what_backends_promise_is_told_in_words_for_each_scope_and_durability() -> None:
    """The words have an entry for every level, in order."""
    from benchmarks.offers import DURABILITIES, SCOPES

    assert list(SCOPES) == [scope.name for scope in Scope]
    assert list(DURABILITIES) == [durability.name for durability in Durability]
    assert {backend["name"] for backend in describe_backends()} <= set(BACKENDS)


def test_figures_have_three_digits_and_a_unit() -> None:
    """Whatever the size."""
    assert [duration(ns) for ns in (0.4, 9.96, 164.6, 999.6, 1600, 27_540_000, 4.2e9)] == [
        "0.4 ns",
        "10 ns",
        "165 ns",
        "1.00 µs",
        "1.60 µs",
        "27.5 ms",
        "4.20 s",
    ]
    assert [rate(n) for n in (12, 1234, 17_344_588)] == ["12/s", "1.23 k/s", "17.3 M/s"]
    assert [bytes_of(n) for n in (96, 1536)] == ["96 B", "1.50 KiB"]
    assert [factor(n) for n in (0.012, 0.256, 1.54, 12.4, 1240)] == ["0.012", "0.26", "1.5", "12", "1,240"]


# --- The command -----------------------------------------------------


def render_by_command(results: str, page: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.page", results, page],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((ROOT, os.path.join(ROOT, "backends")))},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_page_is_made_anew_from_a_runs_json(tmp_path: Any) -> None:
    """`python -m benchmarks.page` renders what `--json` wrote, and refuses what is no report."""
    report, page = tmp_path / "results.json", tmp_path / "page.html"
    report.write_text(json.dumps({"format": 1, "backends": COMMITTED["backends"]}))

    assert render_by_command(str(report), str(page)).returncode == 0
    assert "Which one should I use" in page.read_text()
    for bad in ("[]", "{}", "no json"):
        report.write_text(bad)
        run = render_by_command(str(report), str(page))
        assert (run.returncode, str(report) in run.stderr, "Traceback" in run.stderr) == (2, True, False)
