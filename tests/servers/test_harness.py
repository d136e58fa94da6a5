"""The harness itself: a server is disturbed as asked, ended without a trace, and says why it failed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import sharedstate
from harness import (
    MODES,
    Disturbance,
    MissingError,
    Mode,
    RequestError,
    ServerError,
    load,
    reach_all,
    start,
    topology,
    wait_for,
)
from harness.installed import environments, published
from harness.processes import find_process, in_sessions, leader_of

if TYPE_CHECKING:
    from collections.abc import Iterator

APPLICATIONS = Path(__file__).parent / "applications"
REPORT = APPLICATIONS / "report"
ALL, ONE, NONE = "all", "that one", "none"

OWN_GIL = [name for name in MODES if "own-gil" in name]  # where one of the Pythons has it

# Whose pids are others afterwards?  As measured before the project began.
REPLACED = {
    Disturbance.GRACEFUL: ALL,
    Disturbance.RESTART: ALL,
    Disturbance.CYCLE: ALL,
    Disturbance.HUP: ALL,
    Disturbance.KILL_WORKER: ONE,
    Disturbance.KILL_MASTER: NONE,
    Disturbance.USR2: NONE,
}
EMBEDDED = ("prefork", "event-global", *(name for name in OWN_GIL if "embedded" in name))  # a touch renews no process
DISTURBED = [
    (MODES[name], how)
    for name in (
        "prefork",
        "event-global",
        "daemon-global",
        "daemon-2x25",
        *OWN_GIL[:2],
        "gunicorn-sync-4",
        "gunicorn-preload-4",
        "uwsgi-4",
        "uvicorn-2",
        "granian-2",
        "werkzeug-reloader",
    )
    for how in sorted(MODES[name].disturbances)
    if not (how is Disturbance.KILL_MASTER and name.startswith(("uwsgi", "gunicorn")))  # see below
]


@pytest.mark.parametrize(("mode", "how"), DISTURBED, ids=str)
def test_disturbance_replaces_the_workers_that_it_should(mode: Mode, how: Disturbance) -> None:
    """Afterwards the server answers, from other processes or from the same ones, as the disturbance has it."""
    replaced = REPLACED.get(how) or (NONE if mode.name in EMBEDDED else ALL)
    with start(mode, REPORT) as server:
        before = topology(reach_all(server, requests=80)).processes
        victim = min(before)
        gone = {ALL: before, ONE: {victim}, NONE: set()}[replaced]

        server.disturb(how, victim)

        def is_as_expected() -> bool:
            try:
                answers = load(server, requests=80)
            except RequestError:  # what gets lost on the way is not this test's matter
                return False
            after = topology(answers).processes
            kept = before - gone
            return (
                len(after) >= mode.truth.processes[0]
                and not after & gone
                and kept <= set(server.pids())
                and (not kept or bool(after & kept))
                and (how is not Disturbance.USR2 or len({answer["parent"] for answer in answers}) == 2)
            )

        assert wait_for(is_as_expected, 20, poll_s=0.2), (before, server.pids(), server.log())


@pytest.mark.parametrize("name", ["gunicorn-sync-4", "gunicorn-gthread-2x8", "uwsgi-4"])
def test_workers_that_follow_their_killed_master(name: str) -> None:
    """Unlike Apache's, these end by themselves; gunicorn's sync workers only look after a request, or every 15 s."""
    with start(MODES[name], REPORT) as server:
        reach_all(server, requests=80)
        server.kill_master()

        def are_gone() -> bool:
            with contextlib.suppress(RequestError):
                server.ask("/report")
            return not server.pids()

        assert wait_for(are_gone, 20, poll_s=0.1)


@pytest.mark.skipif(next(iter(environments())) != "3.11", reason="the distribution's mod_wsgi does not hang any more")
def test_hanging_children_are_seen_and_ended() -> None:
    """Debian's mod_wsgi 4.9.4: after `graceful` old children hang for ever; the harness lists them, and ends them."""
    with start(MODES["event"], REPORT) as server:
        before = topology(load(server)).processes
        server.graceful()

        after = topology(load(server)).processes
        assert not after & before
        assert before <= set(server.pids())


def test_stopped_server_starts_again_at_the_same_address() -> None:
    """Between `stop` and `start` nobody answers and no process is left."""
    with start(MODES["daemon-global"], REPORT) as server:
        url = server.url("/a/report")
        server.stop()
        assert server.pids() == []
        with pytest.raises(RequestError):
            server.ask("/a/report")

        server.start()

        assert server.url("/a/report") == url
        assert server.ask("/a/report")["count"] == 1


def test_extra_configuration_reaches_the_server() -> None:
    """More lines for Apache, more arguments for the others: here, processes that end after 10 requests."""
    with start(MODES["prefork-global"], REPORT, "MaxConnectionsPerChild 10") as server:
        assert len(topology(load(server, requests=100)).processes) > 5
    with start(MODES["gunicorn-sync-4"], REPORT, "--max-requests", "10") as server:
        assert len(topology(load(server, requests=100)).processes) > 4


@pytest.fixture
def store_url() -> Iterator[str]:
    url = f"shm://servers-{uuid.uuid4().hex[:12]}"
    yield url
    sharedstate.remove(url)


@pytest.mark.parametrize(
    "name",
    ["prefork", "daemon-5x1", "event-global", "gunicorn-sync-4", "uwsgi-4", *OWN_GIL],
)
def test_library_works_inside_the_server(store_url: str, name: str) -> None:
    """The copy of the library is complete, readable by the server's user, and compiled for its Python: 400 are 400."""
    with start(MODES[name], APPLICATIONS / "counting", setting={"url": f"{store_url}?mode=0666"}) as server:
        answers = load(server, "/count")

        assert sorted(answer["total"] for answer in answers) == list(range(1, 401))
        assert all(answer["accelerated"] for answer in answers)


@pytest.mark.parametrize("name", ["gunicorn-sync-1", "uwsgi-alone"])
def test_server_that_does_not_start_says_why(name: str) -> None:
    """The exception holds what the server printed."""
    with (
        pytest.raises(ServerError, match="planted: this application never starts"),
        start(MODES[name], APPLICATIONS / "broken"),
    ):
        pytest.fail("it started")


def test_failed_request_shows_the_log() -> None:
    """Apache starts without the application, and answers 500: `load` raises with the traceback from its log."""
    with (
        start(MODES["daemon-global"], APPLICATIONS / "broken") as server,
        pytest.raises(RequestError, match="planted: this application never starts"),
    ):
        load(server, requests=1, clients=1)


def test_what_the_setup_promised_must_be_there() -> None:
    """A missing program is an error that names the remedy, never a skipped test."""
    with pytest.raises(MissingError, match=r"scripts/servers\.sh"):
        next(iter(environments().values())).command("no-such-server")


def test_session_whose_number_has_come_round_to_another_is_not_ours() -> None:
    """Pids are used again; another test's server must be neither counted nor killed."""
    with subprocess.Popen(["/usr/bin/sleep", "60"], start_new_session=True) as child:
        leader = leader_of(child)
        earlier = leader._replace(started=leader.started - 1)

        assert in_sessions([leader]) == [leader]
        assert in_sessions([earlier]) == []
        child.kill()


def test_closed_directory_is_published_as_a_copy(tmp_path: Path) -> None:
    """What others cannot reach is handed on from where they can; what they can reach is handed on as it is."""
    closed = tmp_path / "closed"
    (closed / "package").mkdir(parents=True)
    (closed / "package" / "module.py").write_text("x = 1\n")
    closed.chmod(0o700)

    copy = published(closed / "package")

    assert copy != closed / "package"
    assert (copy / "module.py").read_text() == "x = 1\n"
    assert all(parent.stat().st_mode & 0o001 for parent in copy.parents)
    assert published(Path("/usr/lib")) == Path("/usr/lib")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize("name", ["daemon-global", "gunicorn-sync-4"])
def test_end_of_the_tests_is_the_end_of_their_servers(name: str, number: signal.Signals) -> None:
    """Whether interrupted, terminated or killed: with the process that started it a server ends too."""
    script = (
        f"import sys, threading; sys.path[:0] = [{str(APPLICATIONS.parent)!r}]\n"
        "from pathlib import Path\n"
        "from harness import MODES, start\n"
        "from harness.installed import session_directory\n"
        f"with start(MODES[{name!r}], Path({str(REPORT)!r})) as server:\n"
        "    print(session_directory(), server.directory, server.master, *server.pids(), flush=True)\n"
        "    threading.Event().wait(60)\n"
    )
    # Whoever runs the tests in a shell's background has SIGINT ignored, and so would this child.
    script = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n" + script
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout is not None
    with child, child.stdout:
        *directories, numbers = child.stdout.readline().decode().split(maxsplit=2)
        master, *pids = map(int, numbers.split())
        leader = find_process(master)
        assert leader is not None
        assert {process.pid for process in in_sessions([leader])} >= set(pids)
        os.kill(child.pid, number)

        assert wait_for(lambda: not in_sessions([leader]), 15)
    for directory in directories:  # which only an orderly end removes
        shutil.rmtree(directory, ignore_errors=True)
