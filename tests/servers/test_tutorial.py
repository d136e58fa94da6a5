"""docs/tutorial.md does what it says: its programs and commands are run as they stand, but for port and directory."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import sharedstate
from harness import wait_for
from harness.installed import environments, make_environment
from harness.processes import Process, in_sessions, leader_of, send

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "tutorial.md").read_text()
TITLED = re.findall(r"```\w+ title=\"([^\"]+)\"\n(.*?)```", PAGE, re.DOTALL)
WRONG, RIGHT, ONCE = (text for title, text in TITLED if title == "counter.py")
COMMANDS = dict(TITLED)
VISIT = re.compile(r"(?:Welcome! V|v)isit (\d+), process (\d+)")

APACHE = """\
ServerName localhost
Listen 127.0.0.1:8000
PidFile /srv/counter/apache.pid
DefaultRuntimeDir /srv/counter
ErrorLog /dev/stderr
User www-data
Group www-data
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule wsgi_module /usr/lib/apache2/modules/mod_wsgi.so
WSGISocketPrefix /srv/counter/wsgi
Include /srv/counter/counter.conf
"""


class Tutorial(NamedTuple):
    """A reader's directory, and where his server listens."""

    place: Path
    port: int
    log: Path

    def text(self, text: str) -> str:
        """Return what the page says, for this directory and port."""
        return text.replace("8000", str(self.port)).replace("/srv/counter", str(self.place))

    def run(self, title: str) -> str:
        """Return what a command of the page prints."""
        done = subprocess.run(
            ["sh", "-c", self.text(COMMANDS[title])],
            cwd=self.place,
            env=environment(),
            check=True,
            stdout=subprocess.PIPE,
            timeout=60,
        )
        return done.stdout.decode()

    def visits(self) -> list[tuple[int, int]]:
        """Return the counts that eight visits saw, each with the process that answered."""
        answers = self.run("eight visits")
        found = [(int(count), int(pid)) for count, pid in VISIT.findall(answers)]
        assert len(found) == 8, (answers, self.log.read_text()[-4000:])
        return found


@pytest.fixture(scope="module")
def venv() -> Iterator[Path]:
    """The environment that the page has its reader make."""
    with tempfile.TemporaryDirectory(prefix="sharedstate-tutorial-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        make_environment(Path(directory) / "venv", next(iter(environments().values())))
        yield Path(directory) / "venv"


@pytest.fixture
def tutorial(venv: Path) -> Iterator[Tutorial]:
    """A directory of its own for each test, so that each has a store of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="sharedstate-tutorial-", dir="/tmp") as directory:
        place = Path(directory)
        place.chmod(0o755)
        (place / "venv").symlink_to(venv)
        yield Tutorial(place, port, place / "log")


def environment() -> dict[str, str]:
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "COLUMNS": "120"}


@contextlib.contextmanager
def serving(tutorial: Tutorial, program: str, command: str = COMMANDS["the server"]) -> Iterator[Process]:
    """Save a program as counter.py, and start a server for it; end that."""
    (tutorial.place / "counter.py").write_text(program)
    with tutorial.log.open("ab") as output:
        child = subprocess.Popen(
            ["/usr/bin/setpriv", "--pdeathsig", "TERM", "sh", "-c", f"exec {tutorial.text(command)}"],
            cwd=tutorial.place,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    leader = leader_of(child)
    try:
        assert wait_for(lambda: listens(tutorial.port), 30), tutorial.log.read_text()[-4000:]
        yield leader
    finally:
        child.terminate()
        if not wait_for(lambda: child.poll() is not None and not in_sessions([leader]), 10):
            for found in in_sessions([leader]):
                send(found, signal.SIGKILL)
            child.wait()


def listens(port: int) -> bool:
    """Say whether a server accepts there; that is no visit."""
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def store_of(tutorial: Tutorial, leader: Process, rows: list[str]) -> str:
    """Return the URL of the store that a server's processes have open, "" if it is in none of the doctor's rows."""
    pids = {process.pid for process in in_sessions([leader])}
    for url in re.findall(r"shm://counter-\w+", "".join(rows)):
        command = [tutorial.place / "venv" / "bin" / "sharedstate", "who", url, "--json"]
        done = subprocess.run(command, env=environment(), check=False, stdout=subprocess.PIPE)  # it may just be removed
        if done.returncode == 0 and pids & {int(pid) for pid in re.findall(r'"pid": (\d+)', done.stdout.decode())}:
            return str(url)
    return ""


def shared_store(tutorial: Tutorial, leader: Process) -> str:
    """Return the URL of a server's store once the doctor says of it what the page shows: four processes of four."""
    url = ""

    def is_shared() -> bool:
        nonlocal url
        rows = tutorial.run("who shares what").splitlines()
        url = store_of(tutorial, leader, [row for row in rows if ": 4 processes of 4, 4 handles" in row])
        return bool(url)

    assert wait_for(is_shared, 60, poll_s=0.5), tutorial.log.read_text()[-4000:]
    return url


def test_module_global_counts_in_each_worker_by_itself(tutorial: Tutorial) -> None:
    """As the page shows it: processes have a first visit each, and nobody counts them all."""
    seen: list[tuple[int, int]] = []

    def two_have_answered() -> bool:
        seen.extend(tutorial.visits())
        return len({pid for _, pid in seen}) > 1

    with serving(tutorial, WRONG):
        assert wait_for(two_have_answered, 60)

    assert [count for count, _ in seen].count(1) > 1
    assert max(count for count, _ in seen) < len(seen)


def test_store_counts_for_all_workers_and_goes_on_after_a_restart(tutorial: Tutorial) -> None:
    """Visits 1 to 8, in order; then, with new processes, 9 to 16."""
    with serving(tutorial, RIGHT):
        first = tutorial.visits()
    with serving(tutorial, RIGHT) as leader:
        second = tutorial.visits()
        url = shared_store(tutorial, leader)
    sharedstate.remove(url)

    assert [count for count, _ in first + second] == list(range(1, 17))
    assert not {pid for _, pid in first} & {pid for _, pid in second}


def test_start_up_task_runs_once_for_each_start_of_the_server(tutorial: Tutorial) -> None:
    """Four workers, one greeting chosen; the server starts anew, one more. The doctor says what the page says."""
    line = re.compile(r"^greeting chosen by process \d+$", re.MULTILINE)
    for start in (1, 2):
        with serving(tutorial, ONCE) as leader:
            url = shared_store(tutorial, leader)
            assert len(line.findall(tutorial.log.read_text())) == start
            assert tutorial.visits()[0][0] == 8 * start - 7
    sharedstate.remove(url)


def test_same_file_serves_under_apache(tutorial: Tutorial) -> None:
    """With the page's lines in a configuration: four processes, one count, one greeting."""
    (tutorial.place / "counter.conf").write_text(tutorial.text(COMMANDS["counter.conf"]))
    configuration = tutorial.text(APACHE)
    if os.geteuid():
        configuration = re.sub(r"(User|Group) .*\n", "", configuration)
    (tutorial.place / "apache.conf").write_text(configuration)

    with serving(tutorial, ONCE, "/usr/sbin/apache2 -D FOREGROUND -f /srv/counter/apache.conf") as leader:
        counts = [count for count, _ in tutorial.visits()]
        url = shared_store(tutorial, leader)
        chosen = tutorial.log.read_text().count("greeting chosen by process")
    sharedstate.remove(url)

    assert counts == list(range(1, 9))
    assert chosen == 1
