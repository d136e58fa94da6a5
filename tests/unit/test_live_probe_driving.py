"""The live probe's driver against small servers: plain, threaded, strange, and dying in the middle."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import pytest
from click.testing import CliRunner

from sharedstate.cli import main
from sharedstate.probe.findings import Verdict
from sharedstate.probe.live import client, running
from sharedstate.probe.live.client import Answer, LiveProbeError, Problem, parse_mount
from sharedstate.probe.live.driving import Drive, GoneError, Pace
from sharedstate.probe.live.running import draw_run, run_live_probe
from sharedstate.probe.wsgi import application

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TOKEN = "a-token-of-some-length"
FAST = Pace(most=8, hold_s=0.02, laps=1, patience_s=10.0)


class Quiet(WSGIRequestHandler):
    """Logs nothing."""

    def log_message(self, *_: object) -> None:
        pass


class Threaded(ThreadingMixIn, WSGIServer):
    """A thread for each request."""

    daemon_threads = True
    request_queue_size = 64


class Plain(WSGIServer):
    """One request after the other."""

    request_queue_size = 64


@contextlib.contextmanager
def serve(kind: type[WSGIServer], app: Any = application) -> Iterator[str]:
    """Run a server in this process until the block ends; yield its URL."""
    with kind(("127.0.0.1", 0), Quiet) as server:
        server.set_app(app)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def stranger(status: int, body: bytes, **headers: str) -> Iterator[str]:
    """Run a server that answers everything in one way; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            for name, value in {"Content_Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/somewhere"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator has set the token in the server's environment."""
    monkeypatch.setenv("SHAREDSTATE_PROBE_TOKEN", TOKEN)


@pytest.fixture(autouse=True)
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the runs in this test; none of their stores is left behind, whatever happened."""
    names: list[str] = []
    monkeypatch.setattr(running, "draw_run", lambda: names.append(draw_run()) or names[-1])
    yield names
    assert stores_of(names) == set()


def stores_of(runs: list[str]) -> set[str]:
    return {name for name in os.listdir("/dev/shm") if any(run in name for run in runs)}


def gone(number: int) -> Callable[..., Any]:
    """Return an application that is the probe for so many requests, and then answers 503."""
    left = [number]

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        left[0] -= 1
        if left[0] < 0 and b'"end"' not in (body := environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))):
            start_response("503 Service Unavailable", [("Content-Length", "0")])
            return []
        if left[0] < 0:
            environ["wsgi.input"] = io.BytesIO(body)
        return application(environ, start_response)

    return app


# --- Servers that answer ----------------------------------------------------------------


@pytest.mark.parametrize("backend", ["memory", "shm"])
def test_a_plain_server_is_one_room_with_one_thread(backend: str) -> None:
    """Wsgiref answers one request after the other: requests at once have to wait, and nothing is lost by that."""
    with serve(Plain) as url:
        report = run_live_probe([url], TOKEN, backend=backend, pace=FAST)

    (host,) = report.house.hosts
    (process,) = host.processes
    (room,) = process.interpreters
    assert process.pid == os.getpid()
    assert len(room.threads) == 1
    assert report.at_once == {url: 1}
    assert report.is_shared, report.findings
    assert report.failures == {}
    assert report.totals == report.copies
    assert report.totals[room.place] > 0


def test_a_threaded_server_is_one_room_with_many_threads() -> None:
    """As many threads answer as there were requests at once, up to the most that the driver sends."""
    with serve(Threaded) as url:
        report = run_live_probe([url], TOKEN, backend="memory", pace=FAST)

    (room,) = report.house.interpreters
    assert report.at_once == {url: 8}
    assert len(room.threads) >= 8
    assert report.is_shared, report.findings


def test_two_mounts_of_one_interpreter_are_one_room() -> None:
    """Both URLs are answered by the same interpreter, and module-level variables are one."""
    with serve(Threaded) as url:
        report = run_live_probe([url, f"{url}/other", url], TOKEN, backend="shm", pace=FAST)

    (room,) = report.house.interpreters
    assert room.urls == (url, f"{url}/other")
    assert report.variables.copies == 1
    assert report.is_shared


def test_every_step_is_announced() -> None:
    """Whoever waits is told what is being done, and how much was found so far."""
    steps: list[str] = []
    with serve(Plain) as url:
        run_live_probe([url], TOKEN, backend="memory", pace=FAST, on_step=steps.append)

    assert steps[0] == f"greeting {url}"
    assert any("1 processes, 1 interpreters so far" in step for step in steps)
    assert steps[-1] == "removing what was made"


def test_never_more_requests_at_once_than_allowed() -> None:
    """D1: with --concurrency 3, a server that could take more sees three."""
    now, most, turn = [0], [0], threading.Lock()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with turn:
            now[0] += 1
            most[0] = max(most[0], now[0])
        try:
            return application(environ, start_response)
        finally:
            with turn:
                now[0] -= 1

    with serve(Threaded, app) as url:
        report = run_live_probe([url, f"{url}/b"], TOKEN, backend="memory", pace=FAST._replace(most=3))

    assert most[0] == 3
    assert report.is_shared


# --- Servers that do not ----------------------------------------------------------------


def fails(url: str, token: str = TOKEN) -> LiveProbeError:
    with pytest.raises(LiveProbeError) as caught:
        run_live_probe([url], token, pace=FAST)
    assert token not in str(caught.value)
    return caught.value


def test_a_probe_that_is_off_says_how_to_switch_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """404 may also be a wrong path: both are said, with the variable to set."""
    monkeypatch.delenv("SHAREDSTATE_PROBE_TOKEN")
    with serve(Plain) as url:
        error = fails(url)

    assert "nothing is mounted there, or the probe is off" in error.reason
    assert "SHAREDSTATE_PROBE_TOKEN" in error.advice


def test_a_wrong_token_is_said() -> None:
    """And neither token is repeated."""
    with serve(Plain) as url:
        error = fails(url, "another-token-of-some-length")

    assert error.reason == "wrong token"
    assert TOKEN not in str(error)


def test_connection_refused_is_said() -> None:
    """Nobody listens there."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        error = fails(f"http://127.0.0.1:{reserved.getsockname()[1]}/")

    assert error.reason == "connection refused"


def test_a_server_that_never_answers_is_left() -> None:
    """It takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = client.ask(parse_mount(f"http://127.0.0.1:{silent.getsockname()[1]}/"), TOKEN, {"do": "look"}, 0.05)

    assert isinstance(found, Problem)
    assert found.kind == "silent"


def test_a_server_that_drips_is_left() -> None:
    """A byte now and then never lets the socket time out: the whole answer has a time too."""
    stop = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not stop.wait(0.01):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,))
        thread.start()
        found = client.ask(parse_mount(f"http://127.0.0.1:{server.getsockname()[1]}/"), TOKEN, {"do": "look"}, 0.1)
        stop.set()
        thread.join()

    assert isinstance(found, Problem)
    assert found.kind == "silent"


def test_no_http_at_all_is_said() -> None:
    """Another protocol answers on that port."""

    def speak(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=speak, args=(server,))
        thread.start()
        found = client.ask(parse_mount(f"http://127.0.0.1:{server.getsockname()[1]}/"), TOKEN, {"do": "look"}, 5)
        thread.join()

    assert isinstance(found, Problem)
    assert found.kind == "broken"


GOOD: dict[str, Any] = {
    "sharedstate_probe": 1,
    "where": {
        "host": "h",
        "boot": "b",
        "space": 1,
        "clock": "c",
        "pid": 1,
        "started": 10,
        "born_s": 1.5,
        "up_s": 2.0,
        "parent": 0,
        "interpreter": 0,
        "place": "p",
        "thread": 1,
        "mount": "/a",
        "python": "3.13.0",
    },
    "began_ns": 1,
    "ended_ns": 2,
    "do": "look",
    "did": {},
}


@pytest.mark.parametrize(
    ("status", "body", "headers", "words"),
    [
        (200, b"<h1>It works!</h1>", {"Content_Type": "text/html"}, "something else answers there: 200, text/html"),
        (200, b"", {}, "something else answers there: 200, no type"),
        (200, b"{}", {"Content_Type": "application/json"}, "something else answers there"),
        (200, b'{"sharedstate_probe": 2}', {}, "something else answers there"),
        (200, b'{"sharedstate_probe": 1}', {}, "cannot be understood"),
        (200, b"[" * 100_000, {}, "something else"),
        (200, b" " * (5 * 2**20), {}, "something else"),
        (
            301,
            b"",
            {"Location": "https://elsewhere/\x1b[2J"},
            "301, a redirect to https://elsewhere/\N{REPLACEMENT CHARACTER}[2J",
        ),
        (401, b"", {"WWW_Authenticate": "Basic"}, "something else answers there: 401"),
        (403, b"Forbidden", {}, "something else answers there: 403"),
        (404, b"not here", {}, "nothing is mounted there"),
        (405, b"", {}, "something else answers there: 405"),
        (500, b"oops", {}, "something else answers there: 500"),
        (
            500,
            b'{"sharedstate_probe": 1, "error": "it failed \\u001b[2J"}',
            {},
            "answers 500: it failed \N{REPLACEMENT CHARACTER}[2J",
        ),
        (503, b"", {}, "the server answers 503"),
    ],
)
def test_whatever_else_answers_is_told_apart(status: int, body: bytes, headers: dict[str, str], words: str) -> None:
    """A page, a redirect, another version, a proxy's error: each has its words, and what is to be done."""
    with stranger(status, body, **headers) as url:
        error = fails(url)

    assert words in error.reason
    assert error.advice.endswith(".")


def test_an_endless_answer_is_not_read_to_its_end() -> None:
    """Good as it begins: more than 4 MiB is no answer."""
    with stranger(200, json.dumps(GOOD).encode() + b" " * (5 * 2**20)) as url:
        assert isinstance(client.ask(parse_mount(url), TOKEN, {"do": "look"}, 30), Problem)


def test_an_answer_that_breaks_off_is_none() -> None:
    """Fewer bytes than announced."""
    with stranger(200, json.dumps(GOOD).encode(), Content_Length="5000") as url:
        found = client.ask(parse_mount(url), TOKEN, {"do": "look"}, 0.5)

    assert isinstance(found, Problem)


@pytest.mark.parametrize(
    "change",
    [
        {"where": None},
        {"where": {**GOOD["where"], "pid": "1"}},
        {"where": {**GOOD["where"], "pid": True}},
        {"where": {**GOOD["where"], "pid": 2**80}},
        {"where": {**GOOD["where"], "host": ["h"]}},
        {"where": {**GOOD["where"], "born_s": None}},
        {"where": {name: value for name, value in GOOD["where"].items() if name != "boot"}},
        {"began_ns": 1.5},
        {"ended_ns": None},
        {"did": []},
    ],
)
def test_a_malformed_answer_is_not_believed(change: dict[str, Any]) -> None:
    """Every field is checked before anything is built from it."""
    with stranger(200, json.dumps(GOOD | change).encode()) as url:
        assert isinstance(client.ask(parse_mount(url), TOKEN, {"do": "look"}, 5), Problem)
    with stranger(200, json.dumps(GOOD).encode()) as url:
        assert isinstance(client.ask(parse_mount(url), TOKEN, {"do": "look"}, 5), Answer)


def test_what_a_terminal_would_obey_is_replaced() -> None:
    """A host's name may hold anything."""
    hostile = GOOD | {"where": {**GOOD["where"], "host": "h\x1b]0;owned\x07\u202e"}}
    with stranger(200, json.dumps(hostile).encode()) as url:
        found = client.ask(parse_mount(url), TOKEN, {"do": "look"}, 5)

    assert isinstance(found, Answer)
    assert found.where.host == "h\ufffd]0;owned\ufffd\ufffd"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8000", "begins with http"),
        ("ftp://localhost/", "begins with http"),
        ("http://", "begins with http"),
        ("http://h:port/", "no URL"),
        ("http://h:99999/", "no URL"),
        ("http://[::1/", "no URL"),
        ("http://h/a b", "no spaces"),
        ("http://h/\r\nHost: other", "no spaces"),
        ("http://h/ünïcode", "ASCII"),
        ("http://h/?token=x", "no ?"),
        ("http://h/#top", "no ?"),
        ("http://me:secret@h/", "a user name"),
    ],
)
def test_what_is_no_mount_is_refused(url: str, words: str) -> None:
    """Before anything is sent; a password in the URL is not repeated."""
    with pytest.raises(LiveProbeError) as caught:
        parse_mount(url)

    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "is_private"),
    [
        ("https://example.org/p", True),
        ("http://127.0.0.1:1/", True),
        ("http://localhost/", True),
        ("http://[::1]:8000/", True),
        ("http://example.org/", False),
        ("http://localhost.example.org/", False),
    ],
)
def test_a_token_in_the_clear_is_known(url: str, *, is_private: bool) -> None:
    """Who listens on the way could read it."""
    assert parse_mount(url).is_private is is_private


# --- In the middle ------------------------------------------------------------------------


@pytest.mark.parametrize("requests", [1, 6, 20, 34])
def test_what_was_seen_until_the_server_died_is_shown(requests: int) -> None:
    """A server that ends after some requests leaves a report of what it had shown, and says that it ended."""
    with serve(Threaded, gone(requests)) as url:
        report = run_live_probe([url], TOKEN, backend="shm", pace=FAST._replace(most=4))

    assert "503" in report.stopped
    assert not report.is_shared
    assert len(report.house.interpreters) == 1
    assert sum(report.failures.values()) > 0
    assert {finding.verdict for finding in report.findings} <= {Verdict.SUPPORTED, Verdict.NOT_AVAILABLE}
    json.dumps(report.as_dict())


def test_a_few_failures_are_counted_and_borne() -> None:
    """Each seventh request fails: the rest is judged, the failures are told, and nothing is called lost."""
    turn, number = threading.Lock(), [0]

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with turn:
            number[0] += 1
            fail = number[0] > 2 and number[0] % 7 == 0
        answer = application(environ, lambda *_: None if fail else start_response(*_))
        if fail:  # done, and not told
            start_response("502 Bad Gateway", [("Content-Length", "0")])
            return []
        return answer

    with serve(Threaded, app) as url:
        report = run_live_probe([url], TOKEN, backend="shm", pace=FAST)

    assert report.stopped == ""
    assert sum(report.failures.values()) > 0
    assert report.is_shared, report.findings


def test_the_time_is_bounded() -> None:
    """D1: when the time is over, what is there is shown."""
    with serve(Plain) as url:
        report = run_live_probe([url], TOKEN, backend="shm", pace=FAST._replace(total_s=0.3, hold_s=0.1))

    assert "the time was over" in report.stopped
    assert not report.is_shared


def test_two_bad_rounds_are_the_end() -> None:
    """D2: one round without an answer may be a restart; two in a row are not."""
    with serve(Threaded, gone(0)) as url, Drive([mount := parse_mount(url)], TOKEN, FAST) as drive:
        assert drive.round([mount], 2, {"do": "look"}) == []
        with pytest.raises(GoneError, match="503"):
            drive.round([mount], 2, {"do": "look"})


def test_interrupted_it_clears_up(runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of the experiments: the store is removed before the command ends."""
    stores: list[int] = []
    reach = Drive.reach

    def interrupt(drive: Drive, order: dict[str, Any], *rest: Any, **how: Any) -> None:
        reach(drive, order, *rest, **how)
        if order["do"] == "mark":
            stores.append(len(stores_of(runs)))
            raise KeyboardInterrupt

    monkeypatch.setattr(Drive, "reach", interrupt)
    with serve(Threaded) as url, pytest.raises(KeyboardInterrupt):
        run_live_probe([url], TOKEN, backend="shm", pace=FAST)

    assert stores[0] > 0


def test_different_hosts_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two mounts that turn out to be two hosts: two houses, each with a store of its own, and the reason is said."""
    from sharedstate.probe.live import wording

    def on_another_host(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = application(environ, lambda *_: None)[0]
        # As from another host: another boot and another place.
        mine = json.loads(body)["where"]["place"]
        body = body.replace(b'"boot": "', b'"boot": "f').replace(mine.encode(), mine[::-1].encode())
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    def tell_apart(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        return (on_another_host if environ["PATH_INFO"].startswith("/b") else application)(environ, start_response)

    with serve(Threaded, tell_apart) as url:
        report = run_live_probe([f"{url}/a", f"{url}/b"], TOKEN, backend="shm", pace=FAST)

    assert len(report.house.hosts) == 2
    assert report.house.scope.name == "CLUSTER"
    assert "different hosts" in wording.explain_mounts(report)
    assert "redis:" in wording.advise(report.house)


# --- The command ------------------------------------------------------------------------------


def command(*arguments: str, token: str | None = TOKEN) -> Any:
    return CliRunner().invoke(main, ["probe", *arguments], env={"SHAREDSTATE_PROBE_TOKEN": token})


def test_the_command_shows_a_table_writes_both_files_and_exits_0(tmp_path: Path) -> None:
    """The table, the sentence, JSON and page, from one run."""
    with serve(Threaded) as url:
        result = command(
            *("--url", f"{url}/probe", "--quick", "--concurrency", "4", "--backend", "shm"),
            *("--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html")),
        )

    assert result.exit_code == 0, result.output
    assert f"pid {os.getpid()}" in result.output
    assert "in shm: it exists once" in result.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["shared_by_all"] is True
    assert report["hosts"][0]["processes"][0]["pid"] == os.getpid()
    assert f"process {os.getpid()}" in (tmp_path / "r.html").read_text()
    for text in (result.output, json.dumps(report), (tmp_path / "r.html").read_text()):
        assert TOKEN not in text


def test_the_command_takes_the_token_from_a_file(tmp_path: Path) -> None:
    """One line; the newline at its end is not part of it."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        return application({**environ, "SHAREDSTATE_PROBE_TOKEN": TOKEN}, start_response)

    with serve(Plain, app) as url:
        found = command(
            "--url", url, "--quick", "--concurrency", "2", "--token-file", str(tmp_path / "token"), token=None
        )

    assert found.exit_code in {0, 1}
    assert "Who answers" in found.output


@pytest.mark.parametrize(
    ("arguments", "token", "words"),
    [
        (["--url", "http://h/"], None, "Give the server's token"),
        (["--url", "http://h/"], "two\nlines", "one line of printable ASCII"),
        (["--url", "http://h/", "--token-file", "/nonexistent"], None, "No such file"),
        (["--url", "http://h/", "--token-file", "/dev/null"], None, "There is no token in /dev/null"),
        (["--url", "http://h/", "--boundary", "threads"], TOKEN, "no --boundary"),
        (["--url", "http://h/", "--backend", "redis"], TOKEN, "--backend is one of memory, shm, file, sqlite"),
        (["--url", "http://h/", "--backend", "shm", "--backend", "file"], TOKEN, "at most one --backend"),
        (["--url", "http://h/", "--concurrency", "0"], TOKEN, "0 is not in the range"),
    ],
)
def test_mistakes_in_the_command_are_exit_2(arguments: list[str], token: str | None, words: str) -> None:
    """Said before anything is sent."""
    result = command(*arguments, token=token)

    assert result.exit_code == 2, result.output
    assert words in " ".join(result.output.replace("│", " ").split())


def test_a_probe_that_cannot_begin_is_one_line_and_exit_1() -> None:
    """The library's errors are told in one line."""
    with stranger(200, b"hello") as url:
        result = command("--url", url)

    assert result.exit_code == 1
    assert result.output.strip().splitlines()[-1].startswith(f"sharedstate: {url}: something else answers there")


def test_a_server_that_dies_is_shown_and_exit_1(tmp_path: Path) -> None:
    """What was seen until then is in the table and on the page."""
    with serve(Threaded, gone(20)) as url:
        result = command("--url", url, "--quick", "--concurrency", "4", "--html", str(tmp_path / "r.html"))

    assert result.exit_code == 1
    assert "The probe ended before it was done" in result.output
    assert f"process {os.getpid()}" in (tmp_path / "r.html").read_text()


def test_told_to_end_it_clears_up(runs: list[str], tmp_path: Path) -> None:
    """SIGTERM in the middle: the command ends with 143, and the store that it had made is gone (see `runs`)."""
    marked = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        order = json.loads(body)
        if order["do"] == "mark":
            runs.append(order["run"])
            marked.set()
        return application({**environ, "wsgi.input": io.BytesIO(body)}, start_response)

    with serve(Threaded, app) as url:
        log = tmp_path / "stderr"
        with (
            log.open("wb") as errors,
            subprocess.Popen(
                [sys.executable, "-m", "sharedstate", "probe", "--url", url, "--backend", "shm", "--concurrency", "2"],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "SHAREDSTATE_PROBE_TOKEN": TOKEN},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            ) as child,
        ):
            while not marked.wait(0.1):
                assert child.poll() is None, log.read_text()
            child.send_signal(signal.SIGTERM)

    assert child.returncode == 143, log.read_text()
    assert "removing what was made" in log.read_text()


# --- Planted faults -----------------------------------------------------------------------------


class Faulty:
    """A store whose increments, or whose locks, are those of a beginner."""

    def __init__(self, store: Any, fault: str) -> None:
        self._store = store
        self._fault = fault
        self._calls = itertools.count()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def increment(self, key: str) -> int:
        if self._fault != "count":
            return int(self._store.increment(key))
        if next(self._calls) % 7 == 0:  # told, and lost: as two that read the same number do
            return int(self._store.get(key, 0)) + 1
        return int(self._store.increment(key))

    def lock(self, name: str) -> Any:
        if self._fault != "exclude":
            return self._store.lock(name)
        return Unlocked()


class Unlocked:
    """A lock that excludes nobody."""

    tokens = iter(range(1, 10**9))

    def acquire(self, _timeout_s: float) -> int:
        return next(self.tokens)

    def release(self) -> None:
        pass


@pytest.mark.parametrize("fault", ["count", "exclude"])
def test_a_store_with_a_fault_is_found_out(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of one process are enough: lost updates and two holders at once are seen, and named."""
    from sharedstate.probe.live import place, wording

    opening = place.Run._open
    monkeypatch.setattr(place.Run, "_open", lambda run: Faulty(opening(run), fault))
    with serve(Threaded) as url:
        report = run_live_probe([url], TOKEN, backend="memory", pace=FAST._replace(hold_s=0.1))

    found = {finding.experiment: finding.verdict for finding in report.findings}
    assert found.pop(fault) is Verdict.UNSUPPORTED
    assert {found["open"], found["visible"]} == {Verdict.SUPPORTED}
    assert not report.is_shared
    assert "Something is wrong" in wording.summarise(report)
