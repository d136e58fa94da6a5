"""The examples start with the commands of their README, and behave the same in every framework and server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import sharedstate
from harness import wait_for
from harness.installed import environments, make_environment
from harness.processes import find_process, in_sessions, leader_of, send

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FRONTS = ("wsgi", "flask", "django", "bottle")
SERVERS = re.compile(r"(?:\w+=\w+ )*\S*/(gunicorn|uwsgi|apache2) ")


def readme_commands() -> list[str]:
    """Return the commands of the README that start a server."""
    blocks = re.findall(r"```sh\n(.*?)```", (EXAMPLES / "README.md").read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if SERVERS.match(line)]


COMMANDS = readme_commands()
NAMES = ["gunicorn", "gunicorn --preload", "uwsgi", "apache2 prefork", "apache2 event", "apache2 daemon"]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A copy of the examples that www-data may read, with an environment as its README has it."""
    environment = next(iter(environments().values()))
    with tempfile.TemporaryDirectory(prefix="sharedstate-examples-", dir="/tmp") as directory:
        copy = Path(directory) / "examples"
        shutil.copytree(EXAMPLES, copy, ignore=shutil.ignore_patterns("venv", "__pycache__", "*.log", "*.pid"))
        make_environment(copy / "venv", environment)
        for path in [Path(directory), copy, *copy.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        yield copy


class Running(NamedTuple):
    port: int
    master: int
    log: Path

    def ask(self, path: str, method: str = "GET") -> tuple[int, str, bytes]:
        """Return status, content type and content."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, headers={"Connection": "close"})
            response = connection.getresponse()
            return response.status, response.headers.get_content_type(), response.read()
        finally:
            connection.close()

    def ask_json(self, path: str, method: str = "GET") -> tuple[int, Any]:
        status, kind, content = self.ask(path, method)
        assert kind == "application/json", (status, content, self.log.read_text()[-4000:])
        return status, json.loads(content)

    def answers(self) -> bool:
        with contextlib.suppress(OSError, HTTPException):
            return self.ask("/status")[0] == 200
        return False


@contextlib.contextmanager
def running(place: Path, command: str) -> Iterator[Running]:
    """Run a command of the README, but for the port; end it, and remove its store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = place / f"{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["/usr/bin/setpriv", "--pdeathsig", "TERM", "sh", "-c", f"exec env {command.replace('8000', str(port))}"],
            cwd=place,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "PWD": str(place)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    leader = leader_of(process)
    server = Running(port, process.pid, log)
    url = ""
    try:
        assert wait_for(server.answers, 30), log.read_text()[-4000:]
        url = server.ask_json("/status")[1]["store"]
        yield server
    finally:
        process.terminate()
        if not wait_for(lambda: process.poll() is not None and not in_sessions([leader]), 10):
            for found in in_sessions([leader]):
                send(found, signal.SIGKILL)
            process.wait()
        if url:
            sharedstate.remove(url)


def all_sent(server: Running, *names: str) -> bool:
    """Say whether these mailings were sent."""
    with contextlib.suppress(OSError, HTTPException):
        return set(names) <= set(server.ask_json("/status")[1]["sent"])
    return False


def test_readme_has_the_commands_that_are_tested() -> None:
    """One for each name below; a command that nobody tests would rot."""
    assert len(COMMANDS) == len(NAMES)


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_example_behaves_the_same(place: Path, command: str, front: str) -> None:
    """In each framework and server: the same statuses, the same contents, and what was accepted is sent once."""
    with running(place, command.replace("flask", front)) as server:
        status, answer = server.ask_json("/mailings/a%C3%A4?letters=2&wait", "POST")
        assert answer == {"name": "aä", "is_new": True, "sent": answer["sent"]}
        # Some worker's thread may look for work just then, and be at it before the request is.
        assert (status, answer["sent"]) in [(200, {"letters": 2, "begun": 1}), (202, None)]
        assert server.ask_json("/mailings/a%C3%A4?letters=2", "POST")[1]["is_new"] is False
        assert server.ask_json("/mailings/b", "POST") == (202, {"name": "b", "is_new": True, "sent": None})
        assert server.ask_json("/mailings/c?letters=many", "POST")[0] == 400
        assert server.ask("/nothing")[0] == 404
        assert server.ask("/mailings/", "POST")[0] == 404
        assert wait_for(lambda: all_sent(server, "aä", "b"), 20)

        status, found = server.ask_json("/status")
        assert status == 200
        assert set(found) == {"server", "store", "answered_by", "starts", "unfinished", "sent", "naive"}
        assert found["sent"] == {"aä": {"letters": 2, "begun": 1}, "b": {"letters": 5, "begun": 1}}
        assert found["unfinished"] == {}
        assert found["starts"]["once"] == 1
        assert found["server"] == {"apache2": "mod_wsgi"}.get(name := SERVERS.match(command)[1], name)
        page = server.ask("/")
        assert page[:2] == (200, "text/html")
        assert "aä".encode() in page[2]


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_killed_worker_is_succeeded(place: Path, command: str) -> None:
    """What it was sending goes on from its latest checkpoint, without a request that would set that off."""
    with running(place, command.replace("flask", "wsgi")) as server:
        server.ask_json("/mailings/long?letters=30", "POST")
        sender = re.compile(r"pid (\d+)")

        def at_work() -> int:
            found = server.ask_json("/status")[1]["unfinished"].get("long")
            match = found and found["sent"] > 3 and sender.match(found["by"])
            return int(match[1]) if match else 0

        assert wait_for(at_work, 20)
        worker = find_process(at_work())
        assert worker is not None
        send(worker, signal.SIGKILL)

        assert wait_for(lambda: all_sent(server, "long"), 30)
        assert server.ask_json("/status")[1]["sent"]["long"] == {"letters": 30, "begun": 2}


def test_disturbing_counts_what_a_naive_service_would_have_done(place: Path) -> None:
    """The script of the README runs through, all mailings are sent, and the server is gone afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = COMMANDS[0].replace("8000", str(port)).replace("flask", "wsgi")
    process = subprocess.Popen(
        ["/usr/bin/setpriv", "--pdeathsig", "TERM", "venv/bin/python", "disturb.py", *command.split()],
        cwd=place,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    leader = leader_of(process)
    output, _ = process.communicate(timeout=110)

    assert process.returncode == 0
    state, _, _, *lines = output.splitlines()
    sharedstate.remove(state.split()[-1])
    assert not in_sessions([leader])
    assert len(lines) == 6, output
    assert all(line.split("|")[1].strip() == "12/12" for line in lines), output
    starts = {line.split("|")[0].strip(): int(line.split("|")[-1]) for line in lines}
    assert starts == {
        "nothing": 0,
        "limited requests": 0,
        "kill -9 of a worker": 0,
        "kill -9 of the master": 1,
        "stop and start": 1,
        "HUP": 1,
    }


# --- The ASGI application ---------------------------------------------------------


def test_asgi_app_counts_over_all_workers(place: Path) -> None:
    """Started as its first lines say: one count, whoever answers, and a mailing that one of them sends."""
    command = "uvicorn --workers 4 asgi_app:app"
    assert command in (EXAMPLES / "asgi_app.py").read_text()
    with serving_asgi(place, f"venv/bin/python -m {command}") as (ask, log):
        answers = [ask("/")[1] for _ in range(80)]
        assert sorted(answer["requests"] for answer in answers) == list(range(2, 82)), log.read_text()[-4000:]
        assert len({answer["pid"] for answer in answers}) > 1
        assert len({answer["migrated by"] for answer in answers}) == 1
        assert ask("/spring", "POST")[1]["accepted"]
        assert wait_for(lambda: (ask("/spring")[1]["letters"] or 0) >= 2, 30), log.read_text()[-4000:]


@contextlib.contextmanager
def serving_asgi(place: Path, command: str) -> Iterator[tuple[Any, Path]]:
    """Run the command, but for the port, on a store of its own; end it, and remove the store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log, url = place / f"{port}.log", f"shm://asgi-example-{port}"

    def ask(path: str, method: str = "GET") -> tuple[int, Any]:
        status, _, content = Running(port, process.pid, log).ask(path, method)
        return status, json.loads(content)

    def answers() -> bool:
        with contextlib.suppress(OSError, HTTPException):
            return ask("/")[0] == 200
        return False

    with log.open("wb") as output:
        process = subprocess.Popen(
            ["/usr/bin/setpriv", "--pdeathsig", "TERM", "sh", "-c", f"exec {command} --port {port}"],
            cwd=place,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "SHAREDSTATE_URL": url},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    leader = leader_of(process)
    try:
        assert wait_for(answers, 30), log.read_text()[-4000:]
        yield ask, log
    finally:
        process.terminate()
        if not wait_for(lambda: process.poll() is not None and not in_sessions([leader]), 15):
            for found in in_sessions([leader]):
                send(found, signal.SIGKILL)
            process.wait()
        with contextlib.suppress(sharedstate.UnavailableError):  # it never got so far, which is told otherwise
            sharedstate.remove(url)
