"""The live probe in real servers: what it draws is what the servers say of themselves, and a browser shows it.

The servers' own word: Apache's process tree and mod_status, the interpreters
that mod_wsgi logs as created, and each mode's truth.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness import MODES, MissingError, Mode, Server, start
from harness.load import fetch
from sharedstate.probe.findings import Verdict
from sharedstate.probe.live import running, wording
from sharedstate.probe.live.driving import Pace
from sharedstate.probe.live.page import render_page
from sharedstate.probe.live.running import draw_run, run_live_probe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sharedstate.probe.live.findings import LiveReport

PROBE = Path(__file__).parent / "applications" / "probe"
TOKEN = "0123456789abcdef-of-the-tests"
OWN_GIL = [name for name in MODES if "own-gil-embedded" in name]

SIX = "StartServers 6\nServerLimit 6\nMaxRequestWorkers 6\nMinSpareServers 1\nMaxSpareServers 6"
PREFORK = MODES["prefork"].but("prefork-6", SIX, processes=range(6, 7))
COMMON = MODES["daemon-2x25"].but("daemon-2x25-common", "WSGIApplicationGroup house", interpreters=1)
THREE = [PREFORK, COMMON, *(MODES[name] for name in OWN_GIL[-1:])]
OTHERS = [
    MODES[name]
    for name in (
        "daemon-2groups",
        "daemon-global",
        "gunicorn-gthread-2x8",
        "gunicorn-preload-4",
        "uwsgi-mounts-2",
        "uvicorn-2",
        "granian-2",
        "waitress-4",
    )
]


@pytest.fixture
def application(tmp_path: Path) -> Path:
    """The probe, with the token in a file for servers that have no option for it."""
    copy = tmp_path / "application"
    shutil.copytree(PROBE, copy)
    (copy / "token").write_text(TOKEN)
    return copy


@pytest.fixture(autouse=True)
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the runs in this test; the servers have removed the store of each."""
    names: list[str] = []
    monkeypatch.setattr(running, "draw_run", lambda: names.append(draw_run()) or names[-1])
    yield names
    assert stores_of(names) == []


def stores_of(runs: list[str]) -> list[Path]:
    return [path for path in Path("/dev/shm").iterdir() if any(run in path.name for run in runs)]


def probe(server: Server, **how: Any) -> LiveReport:
    return run_live_probe([server.url(mount) for mount in server.mode.mounts], TOKEN, **how)


def pids(report: LiveReport) -> set[int]:
    return {process.pid for process in report.house.processes}


def explain(report: LiveReport, server: Server) -> str:
    return f"{[tuple(finding) for finding in report.findings]}\n{wording.warnings(report)}\n{server.log()}"


# --- What the servers say of themselves ---------------------------------------------


def status_pids(server: Server) -> set[int]:
    """Return the pids of the children that mod_status shows."""
    _, page = fetch(server.url("/server-status"))
    return {int(pid) for pid in re.findall(rb"<td><b>\d+-\d+</b></td><td>(\d+)</td>", page)}


def children(server: Server) -> set[int]:
    """Return the pids of the master's children, from /proc."""
    return {process.pid for process in server.processes() if process.parent == server.master}


def created(server: Server) -> Counter[int]:
    """Return by pid how many interpreters mod_wsgi says that it has created there."""
    log = (server.directory / "error.log").read_text()
    four = re.findall(r"mod_wsgi \(pid=(\d+)\): Create interpreter '", log)
    six = re.findall(r"\[pid (\d+):tid \d+\] Creating sub-interpreter '.*' in embedded mode with own GIL", log)
    return Counter(map(int, four + six))


@pytest.mark.parametrize("mode", THREE, ids=str)
def test_the_page_shows_what_the_server_says_of_itself(mode: Mode, application: Path, tmp_path: Path) -> None:
    """Processes, interpreters in each, and threads; in the report, and in what a browser makes of the page."""
    with start(mode, application) as server:
        report = probe(server, pace=Pace(hold_s=0.2))
        living, logged = children(server), created(server)
        shown = status_pids(server)
        tasks = {pid: set(map(int, os.listdir(f"/proc/{pid}/task"))) for pid in pids(report)}

        # Who answered is who was given an interpreter of the application, in exactly that number.
        found = {process.pid: len(process.interpreters) for process in report.house.processes}
        assert found == logged, explain(report, server)
        assert set(found) <= living
        if "daemon" not in mode.name:  # daemons are no children of the kind that mod_status shows
            assert set(found) == shown
        assert len(found) in mode.truth.processes
        assert set(found.values()) == {mode.truth.interpreters}
        for process in report.house.processes:
            for interpreter in process.interpreters:
                assert set(interpreter.threads) <= tasks[process.pid]
                assert len(interpreter.threads) <= (mode.truth.threads or 0)
        if "daemon" in mode.name:
            assert {len(room.threads) for room in report.house.interpreters} == {mode.truth.threads}

        assert report.is_shared, explain(report, server)
        assert report.variables.copies == len(report.house.interpreters) == sum(logged.values())
        assert report.schemes == ["shm"]
        check_page(report, tmp_path)


@pytest.mark.parametrize("mode", OTHERS, ids=str)
def test_the_house_of_other_servers(mode: Mode, application: Path) -> None:
    """As many processes and interpreters as the mode's truth has; all of them share what the deployment chose."""
    truth = mode.truth
    with start(mode, application) as server:
        report = probe(server, pace=Pace(hold_s=0.2))

        assert len(report.house.processes) in truth.processes, explain(report, server)
        assert {len(process.interpreters) for process in report.house.processes} == {truth.interpreters}
        assert pids(report) <= set(server.pids())
        threads = max(len(room.threads) for room in report.house.interpreters)
        if truth.threads is not None and all(type(said["processes"].value) is int for said in report.facts.values()):
            assert threads == truth.threads
        else:  # it might start more processes: not all threads are kept busy
            assert 1 <= threads <= (truth.threads or 1)
        assert report.is_shared, explain(report, server)
        assert report.variables.copies == len(report.house.interpreters)


# --- The token, as each kind of server is given it --------------------------------------


@pytest.mark.parametrize("name", ["event-global", "gunicorn-sync-1", "uwsgi-alone"])
def test_the_server_is_given_the_token(name: str) -> None:
    """SetEnv in Apache, and the servers' own options: without WSGIPassAuthorization, and without a file."""
    extra = {
        "mod_wsgi": (
            "LoadModule env_module /usr/lib/apache2/modules/mod_env.so",
            f"SetEnv SHAREDSTATE_PROBE_TOKEN {TOKEN}",
        ),
        "gunicorn": ("--env", f"SHAREDSTATE_PROBE_TOKEN={TOKEN}"),
        "uwsgi": ("--env", f"SHAREDSTATE_PROBE_TOKEN={TOKEN}"),
    }[MODES[name].server]
    with start(MODES[name], PROBE, *extra) as server:
        report = probe(server, pace=Pace(most=4, hold_s=0.05, laps=1))

    assert report.is_shared
    assert len(report.house.interpreters) >= 1
    assert TOKEN not in server_log(server)


def server_log(server: Server) -> str:
    return "".join(path.read_text() for path in server.directory.glob("*.log"))


# --- What goes wrong ----------------------------------------------------------------------


def test_memory_is_seen_not_to_share(application: Path) -> None:
    """Asked for by name where it does not reach, it shows four stores; nothing is called broken."""
    with start(MODES["daemon-2x25"], application) as server:
        report = probe(server, backend="memory", pace=Pace(most=16, hold_s=0.1))

    found = {finding.experiment: finding.verdict for finding in report.findings}
    assert not report.is_shared
    assert report.store.copies == report.variables.copies == 4
    assert found["visible"] is Verdict.NOT_SHARED
    assert Verdict.UNSUPPORTED not in found.values()
    assert "exists 4 times too" in wording.summarise(report)


def test_a_worker_that_is_killed_does_not_end_the_probe(application: Path) -> None:
    """One of four is killed by SIGKILL between two experiments: the others go on, and the loss is said."""
    killed: list[int] = []

    with start(MODES["gunicorn-sync-4"], application) as server:

        def kill(step: str) -> None:
            if step.startswith("all count") and not killed:
                killed.append(max(children(server)))
                os.kill(killed[0], signal.SIGKILL)

        report = probe(server, pace=Pace(most=8, hold_s=0.1), on_step=kill)

        assert report.stopped == ""
        assert killed[0] in pids(report)
        found = {finding.experiment: finding.verdict for finding in report.findings}
        assert found.keys() - {"variables", "detect"} == {
            name
            for name, verdict in found.items()
            if verdict is Verdict.SUPPORTED and name not in {"variables", "detect"}
        }, explain(report, server)
        assert any("did not answer every experiment" in warning for warning in wording.warnings(report))


def test_workers_that_are_replaced_meanwhile_share_too(application: Path) -> None:
    """Each worker ends after 20 requests: their successors see their marks, and tell how far their counter came."""
    with start(MODES["gunicorn-recycled-4"], application) as server:
        report = probe(server, pace=Pace(hold_s=0.1))
        later = set(server.pids())

    found = {finding.experiment: finding.verdict for finding in report.findings}
    assert found["visible"] is found["count"] is found["exclude"] is Verdict.SUPPORTED, explain(report, server)
    assert report.store.copies == 1
    assert report.not_drawn or not pids(report) & later


def test_a_server_that_dies_is_shown_as_it_was(application: Path, tmp_path: Path, runs: list[str]) -> None:
    """The whole server ends in the middle: what it had shown is drawn, and the end is said first."""
    with start(MODES["gunicorn-sync-4"], application) as server:

        def end(step: str) -> None:
            if step.startswith("all count"):
                server.end()

        report = probe(server, pace=Pace(most=8, hold_s=0.1), on_step=end)

    assert "connection refused" in report.stopped or "the connection broke" in report.stopped
    assert not report.is_shared
    assert len(report.house.interpreters) == 4
    assert report.store.copies == 1
    assert "ended before it was done" in check_page(report, tmp_path)
    # Nobody was left who could have removed the store.
    for path in stores_of(runs):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


# --- In a browser ----------------------------------------------------------------------------


class Drawn(HTMLParser):
    """The boxes of a page as the browser has them, each with the boxes around it."""

    def __init__(self, dom: str) -> None:
        super().__init__()
        self.html: dict[str, str | None] = {}
        self.rooms: list[tuple[str | None, str | None, str | None]] = []  # view, pid, place
        self._view: str | None = None
        self._pid: str | None = None
        self.feed(dom)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        kinds = (found.get("class") or "").split()
        if tag == "html":
            self.html = found
        if "view" in kinds:
            self._view = found["id"]
        if "process" in kinds:
            self._pid = found["data-pid"]
        if "room" in kinds:
            self.rooms.append((self._view, self._pid, found["data-place"]))


POINT = """<script>
const first = document.querySelector("#variables .room");
first.dispatchEvent(new MouseEvent("mouseenter"));
document.documentElement.dataset.dimmed = document.querySelectorAll("#variables .room.dim").length;
document.documentElement.dataset.note = document.querySelector("#variables .note").textContent;
first.dispatchEvent(new MouseEvent("mouseleave"));
document.documentElement.dataset.after = document.querySelectorAll(".room.dim").length;
location.hash = first.getAttribute("href");
reveal();
document.documentElement.dataset.opened = document.querySelectorAll("details[open]").length;
</script>"""


def browse(page: str, directory: Path) -> tuple[Drawn, str]:
    """Load the page in a headless browser; return what it drew, and what it complained of."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise MissingError("no chromium: run scripts/system-packages.sh browser")
    (directory / "page.html").write_text(page)
    with tempfile.TemporaryDirectory() as profile:
        run = subprocess.run(
            [
                chromium,
                *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                *(f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0", "--dump-dom"),
                (directory / "page.html").as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=90,
            check=True,
        )
    return Drawn(run.stdout), "\n".join(line for line in run.stderr.splitlines() if ":CONSOLE" in line)


def check_page(report: LiveReport, directory: Path) -> str:
    """Check in a browser that the house is drawn and its script works; return the page."""
    page = render_page(report)
    drawn, complaints = browse(page.replace("</body>", f"{POINT}</body>"), directory)

    assert complaints == ""
    assert drawn.html["data-ready"] == "yes"
    rooms = [(str(process.pid), interpreter.place) for _, process, interpreter in report.house.walk()]
    assert drawn.rooms == [(view, *room) for view in ("variables", "store") for room in rooms]
    first = report.variables.of.get(rooms[0][1])
    kin = 1 if first is None else sum(number == first for number in report.variables.of.values())
    assert drawn.html["data-dimmed"] == str(len(rooms) - kin)
    assert f"Process {rooms[0][0]}" in str(drawn.html["data-note"])
    assert drawn.html["data-after"] == "0"
    assert drawn.html["data-opened"] == "1"
    return page


def test_the_browser_check_bites(tmp_path: Path) -> None:
    """A script that fails is heard of, and one that a name smuggled in would be seen."""
    failing, complaints = browse(
        "<html><script>document.documentElement.dataset.ready='yes'; nothing()</script>", tmp_path
    )

    assert failing.html["data-ready"] == "yes"
    assert "nothing is not defined" in complaints


def test_hostile_names_do_nothing_in_a_browser(application: Path, tmp_path: Path) -> None:
    """A host's name, a mount and evidence that hold markup are text in the browser too."""
    with start(MODES["waitress-4"], application) as server:
        report = probe(server, backend="memory", pace=Pace(most=4, hold_s=0.05, laps=1))
    evil = "</script><script>document.documentElement.dataset.owned=1</script>\"'><img src=x onerror=owned()>"
    (host,) = report.house.hosts
    hostile = json.loads(json.dumps({"machine": evil, "python": evil, "sharedstate": evil, "date": evil}))
    findings = tuple(finding._replace(evidence=evil, question=evil) for finding in report.findings)
    house = report.house._replace(hosts=(host._replace(name=evil),))

    page = render_page(report._replace(about=hostile, house=house, findings=findings, stopped=evil))
    drawn, complaints = browse(page, tmp_path)

    assert complaints == ""
    assert drawn.html["data-ready"] == "yes"
    assert "data-owned" not in drawn.html
    assert len(drawn.rooms) == 2
