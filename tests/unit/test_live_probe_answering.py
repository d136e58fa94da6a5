"""The probe application, called as servers call it: who may give orders, what is refused, what stays behind."""

from __future__ import annotations

import asyncio
import io
import json
import os
import secrets
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

import sharedstate
from sharedstate.probe import asgi, wsgi
from sharedstate.probe.interpreters import ISOLATED, LEGACY, reason_unavailable
from sharedstate.probe.live import place
from sharedstate.probe.live.protocol import MOST_BODY_BYTES, MOST_SKEW_S, RUN_S, store_name

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "a-token-of-some-length"
Call = "Callable[..., tuple[int, dict[str, Any]]]"


def call_wsgi(body: object, *, token: str | None = TOKEN, **changes: Any) -> tuple[int, dict[str, Any]]:
    """Call the WSGI application once; return the status and the decoded answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    environ = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "/probe",
        "PATH_INFO": "/",
        "CONTENT_LENGTH": str(len(data)),
        "wsgi.input": io.BytesIO(data),
    }
    if token is not None:
        environ["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    environ |= changes
    started: list[Any] = []
    answer = b"".join(wsgi.application(environ, lambda *line: started.append(line)))
    status, headers = started[0]
    assert dict(headers)["Content-Length"] == str(len(answer))
    assert dict(headers)["Cache-Control"] == "no-store"
    return int(status[:3]), json.loads(answer) if answer[:1] == b"{" else {"text": answer.decode()}


def call_asgi(body: object, *, token: str | None = TOKEN, **changes: Any) -> tuple[int, dict[str, Any]]:
    """Call the ASGI application once, its body in two parts; return the status and the decoded answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = [(b"content-length", str(len(data)).encode())]
    if token is not None:
        headers.append((b"authorization", f"Bearer {token}".encode("latin-1")))
    scope = {"type": "http", "method": "POST", "path": "/", "root_path": "/probe", "headers": headers, **changes}
    parts = [{"type": "http.request", "body": data[:5], "more_body": True}, {"type": "http.request", "body": data[5:]}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return parts.pop(0) if parts else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(asgi.application(scope, receive, send))
    start, answer = sent
    return start["status"], json.loads(answer["body"]) if answer["body"][:1] == b"{" else {"text": answer["body"]}


BOTH = pytest.mark.parametrize("call", [call_wsgi, call_asgi])


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator has set the token in the server's environment."""
    monkeypatch.setenv("SHAREDSTATE_PROBE_TOKEN", TOKEN)


@pytest.fixture
def run() -> Iterator[str]:
    """A run's name as a driver draws it; ended afterwards."""
    name = draw_run()
    yield name
    call_wsgi({"do": "end", "run": name})


def draw_run(age_s: float = 0) -> str:
    return f"{int(time.time() - age_s):08x}-{secrets.token_hex(8)}"


def regions() -> set[str]:
    return {url.rpartition("/")[2] for url in __import__("sharedstate_shm").discover() if "probe-" in url}


# --- The token ------------------------------------------------------------------


@BOTH
def test_without_a_token_everything_is_404(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Off: no order, no token and no method makes a difference, and the answer says nothing of a probe."""
    monkeypatch.delenv("SHAREDSTATE_PROBE_TOKEN")
    for token in (TOKEN, "", None, "None"):
        assert call({"do": "look"}, token=token) == (
            404,
            {"text": "Not Found\n" if call is call_wsgi else b"Not Found\n"},
        )


@BOTH
@pytest.mark.parametrize("weak", ["", "short", "fifteen-letters", "ein-Schlüssel-mit-Umlaut"])
def test_a_weak_token_leaves_it_off(call: Any, weak: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A token that could be guessed, or that two encodings could make another one of, switches nothing on."""
    place_told = __import__("sharedstate.probe.live.answering", fromlist=["_told"])._told
    place_told.clear()
    monkeypatch.setenv("SHAREDSTATE_PROBE_TOKEN", weak)

    assert call({"do": "look"}, token=weak)[0] == 404
    log = capsys.readouterr().err
    assert ("is off" in log) == bool(weak)
    assert not weak or weak not in log


@BOTH
@pytest.mark.parametrize("wrong", [None, "", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "\xe9" * 22])
def test_a_wrong_token_is_403(call: Any, wrong: str | None) -> None:
    """Nothing but the very token opens, and the refusal repeats none of it."""
    status, answer = call({"do": "look"}, token=wrong)

    assert status == 403
    assert answer == {"sharedstate_probe": 1, "error": "this is not the token"}


def test_a_wrong_token_costs_no_read() -> None:
    """The body of a request without the token is not looked at (A2)."""

    class Untouchable:
        def read(self, *_: object) -> bytes:
            raise AssertionError

    assert call_wsgi(b"{}", token="wrong", **{"wsgi.input": Untouchable()})[0] == 403


def test_apache_sets_the_token_by_setenv(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of the WSGI environ is the operator's as well, and goes before the process's environment."""
    other = "another-token-by-SetEnv"

    assert call_wsgi({"do": "look"}, token=other, SHAREDSTATE_PROBE_TOKEN=other)[0] == 200
    assert call_wsgi({"do": "look"}, token=TOKEN, SHAREDSTATE_PROBE_TOKEN=other)[0] == 403
    monkeypatch.delenv("SHAREDSTATE_PROBE_TOKEN")
    assert call_wsgi({"do": "look"}, token=other, SHAREDSTATE_PROBE_TOKEN=other)[0] == 200


def test_no_header_of_a_request_sets_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a request sends arrives as HTTP_..., and is never taken for the operator's word."""
    monkeypatch.delenv("SHAREDSTATE_PROBE_TOKEN")

    assert call_wsgi({"do": "look"}, HTTP_SHAREDSTATE_PROBE_TOKEN=TOKEN)[0] == 404


def test_the_token_may_come_in_a_header_of_its_own() -> None:
    """mod_wsgi keeps Authorization to itself, and a proxy may need it for its own ends."""
    assert call_wsgi({"do": "look"}, token=None, HTTP_X_SHAREDSTATE_PROBE=TOKEN)[0] == 200
    assert call_wsgi({"do": "look"}, token="somebody's own", HTTP_X_SHAREDSTATE_PROBE=TOKEN)[0] == 200
    assert call_wsgi({"do": "look"}, token=None, HTTP_X_SHAREDSTATE_PROBE="wrong")[0] == 403
    headers = [(b"content-length", b"13"), (b"x-sharedstate-probe", TOKEN.encode())]
    assert call_asgi({"do": "look"}, headers=[(b"content-length", b"14"), headers[1]])[0] == 200


# --- Hostile input ---------------------------------------------------------------

GOOD_RUN = draw_run()
HOSTILE: dict[str, Any] = {
    "nothing": b"",
    "no JSON": b"{",
    "not UTF-8": b"\xff\xfe\x00",
    "a list": [],
    "a number": 1,
    "null": None,
    "very deep": b"[" * MOST_BODY_BYTES,
    "a long number": b'{"do": "look", "hold_s": ' + b"9" * 900 + b"}",
    "no deed": {},
    "an unknown deed": {"do": "rm"},
    "a deed of another type": {"do": ["look"]},
    "a method of ours": {"do": "__class__"},
    "an unknown key": {"do": "look", "url": "file:/etc/passwd"},
    "a backend by URL": {"do": "open", "run": GOOD_RUN, "backend": "file:/etc"},
    "an unlisted backend": {"do": "open", "run": GOOD_RUN, "backend": "redis"},
    "no run": {"do": "open"},
    "a run that is a path": {"do": "open", "run": "../../../../etc/passwd"},
    "a run of another length": {"do": "open", "run": GOOD_RUN + "0"},
    "a run in capitals": {"do": "open", "run": GOOD_RUN.upper()},
    "a run with a dash too many": {"do": "open", "run": GOOD_RUN[:12] + "-" + GOOD_RUN[13:]},
    "a run that is a number": {"do": "open", "run": 25},
    "a run of long ago": {"do": "open", "run": draw_run(age_s=MOST_SKEW_S + 60)},
    "a run of the future": {
        "do": "open",
        "run": draw_run(age_s=-MOST_SKEW_S - 86_400),
    },  # as seen at the end of a long run of tests
    "to hold for ever": {"do": "look", "hold_s": 3600},
    "to hold backwards": {"do": "look", "hold_s": -1},
    "to hold for nan": b'{"do": "look", "hold_s": NaN}',
    "to hold for infinity": b'{"do": "look", "hold_s": Infinity}',
    "to hold for true": {"do": "look", "hold_s": True},
    "to count for ever": {"do": "count", "run": GOOD_RUN, "times": 10**9},
    "to count half": {"do": "count", "run": GOOD_RUN, "times": 0.5},
    "to count never": {"do": "count", "run": GOOD_RUN, "times": 0},
    "an unknown lap": {"do": "mark", "run": GOOD_RUN, "lap": 99},
}


@BOTH
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_hostile_orders_are_400(call: Any, body: Any, capsys: Any) -> None:
    """What is no order is refused with a reason, without a traceback, without an echo, and without a store."""
    before = regions()
    status, answer = call(body)

    assert status == 400
    assert set(answer) == {"sharedstate_probe", "error"}
    assert "passwd" not in answer["error"]
    assert capsys.readouterr().err == ""
    assert regions() == before


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        (405, {"REQUEST_METHOD": "GET"}),
        (405, {"REQUEST_METHOD": "DELETE"}),
        (405, {"REQUEST_METHOD": None}),
        (411, {"CONTENT_LENGTH": ""}),
        (411, {"CONTENT_LENGTH": None}),
        (400, {"CONTENT_LENGTH": "-1"}),
        (400, {"CONTENT_LENGTH": "1e3"}),
        (400, {"CONTENT_LENGTH": "\u0663"}),
        (400, {"CONTENT_LENGTH": "9" * 5000}),
        (413, {"CONTENT_LENGTH": str(MOST_BODY_BYTES + 1)}),
        (413, {"CONTENT_LENGTH": "9" * 19}),
    ],
)
def test_hostile_requests_are_refused_unread(status: int, changes: dict[str, Any]) -> None:
    """A wrong method, and a length that is missing, malformed or too large, are refused before the body is read."""

    class Untouchable:
        def read(self, *_: object) -> bytes:
            raise AssertionError

    assert call_wsgi(b"{}", **changes, **{"wsgi.input": Untouchable()})[0] == status


def test_a_body_that_breaks_off_is_400() -> None:
    """The client hung up in the middle: in WSGI by an error or a short read, in ASGI by a message."""

    class Broken:
        def read(self, *_: object) -> bytes:
            raise OSError("hung up")

    assert call_wsgi(b"{}", **{"wsgi.input": Broken()})[0] == 400
    assert call_wsgi(b"{}", CONTENT_LENGTH="900")[0] == 400
    assert (
        call_asgi(
            b'{"do": "look"}', headers=[(b"content-length", b"4"), (b"authorization", f"Bearer {TOKEN}".encode())]
        )[0]
        == 400
    )


def test_an_error_of_our_own_is_500_without_its_words(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A bug of ours goes to the server's log, not to the requester (A3)."""

    def fail(*_: object) -> None:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr(place.Place, "detect", fail)
    status, answer = call_wsgi({"do": "look"})

    assert status == 500
    assert "RuntimeError" in answer["error"]
    assert "secret" not in answer["error"]
    log = capsys.readouterr().err
    assert "the secret of the house" in log
    assert TOKEN not in log


# --- What it says and does ----------------------------------------------------------


@BOTH
def test_look_says_who_answers(call: Any) -> None:
    """Host, process with its start, interpreter, thread and mount; and what detect() says there."""
    status, answer = call({"do": "look"})

    assert status == 200
    where = answer["where"]
    assert where["pid"] == os.getpid()
    assert where["parent"] == os.getppid()
    assert where["interpreter"] == 0
    assert where["mount"] == "/probe"
    assert where["host"] == os.uname().nodename
    assert 0 < where["born_s"] < where["up_s"]
    assert set(answer["did"]["deployment"]) >= {"server", "processes", "interpreters", "threads"}
    assert call({"do": "look"})[1]["where"]["place"] == where["place"]


def test_a_detection_that_fails_is_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server that it fails in is just the one that has to be probed."""

    def fail(_environ: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("sharedstate.deployment.detection.detect", fail)
    monkeypatch.setattr(place.here(), "_detected", None)

    assert call_wsgi({"do": "look"})[1]["did"]["deployment"] == {
        "server": [None, "unknown", "detect() failed: RuntimeError"]
    }


def test_an_answer_is_held(run: str) -> None:
    """The worker is kept busy for as long as the order says, its work included."""
    for order in ({"do": "look"}, {"do": "count", "run": run, "times": 3}):
        answer = call_wsgi({**order, "hold_s": 0.05})[1]

        assert 0.05 <= (answer["ended_ns"] - answer["began_ns"]) / 1e9 < 5


@pytest.mark.parametrize("backend", ["", "memory", "shm"])
def test_a_run_through_every_deed(run: str, backend: str) -> None:
    """Each deed reports what its judge needs, from the store and from the module-level variable."""

    def order(do: str, **how: Any) -> Any:
        status, answer = call_wsgi({"do": do, "run": run, "backend": backend, **how})
        assert status == 200
        return answer["did"], answer["where"]["place"]

    opened, me = order("open")
    wrote, _ = order("mark", lap=2)
    counted, _ = order("count", times=7)
    locked, _ = order("lock", times=3, hold_s=1)
    read, _ = order("read")

    assert store_name(run) in opened["url"]
    assert wrote == {"variables": f"2.{me}", "store": f"2.{me}"}
    assert counted == {"variables": [1, 2, 3, 4, 5, 6, 7], "store": [1, 2, 3, 4, 5, 6, 7]}
    assert [began < ended for began, ended, _ in locked["held"]] == [True] * 3
    assert read == {"variables": [{me: f"2.{me}"}, 7], "store": [{me: f"2.{me}"}, 7, 3]}


def test_a_store_that_cannot_be_opened_is_evidence(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer says why, and still has what module-level variables showed."""
    monkeypatch.setattr("sharedstate_shm.url_for", lambda _name: "shm://no/name")
    opened = call_wsgi({"do": "open", "run": run, "backend": "shm"})
    counted = call_wsgi({"do": "count", "run": run, "backend": "shm", "times": 2})

    assert opened[0] == counted[0] == 200
    assert "slash" in opened[1]["did"]["problem"]
    assert counted[1]["did"]["variables"] == [1, 2]
    assert "slash" in counted[1]["did"]["problem"]


def test_a_run_stays_with_its_backend(run: str) -> None:
    """A run whose orders name two backends has no store that could be removed at its end."""
    call_wsgi({"do": "open", "run": run, "backend": "shm"})

    assert call_wsgi({"do": "mark", "run": run, "backend": "memory"})[0] == 400


# --- What stays behind ----------------------------------------------------------------


def test_the_end_removes_what_was_made(run: str) -> None:
    """After `end` there is no store, and the run cannot be begun again by a request that comes late."""
    call_wsgi({"do": "open", "run": run, "backend": "shm"})
    assert store_name(run) in regions()

    for _ in range(2):
        assert call_wsgi({"do": "end", "run": run})[0] == 200
        assert store_name(run) not in regions()
    assert call_wsgi({"do": "mark", "run": run, "backend": "shm"}) == (
        400,
        {"sharedstate_probe": 1, "error": "this run is over"},
    )
    assert store_name(run) not in regions()


def test_a_file_store_leaves_no_directory(run: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory that was made for the store of the run goes with it."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    opened = call_wsgi({"do": "open", "run": run, "backend": "file"})[1]["did"]
    assert os.listdir(tmp_path) == [store_name(run)]
    assert opened["url"].startswith(f"file:{tmp_path}/")

    call_wsgi({"do": "end", "run": run})

    assert os.listdir(tmp_path) == []


def test_whoever_asks_next_ends_an_overdue_run(run: str) -> None:
    """A driver that was killed leaves its store for `RUN_S`; then any request, even a refused one, removes it."""
    call_wsgi({"do": "open", "run": run, "backend": "shm"})
    call_wsgi({"do": "look"}, token="wrong")
    assert store_name(run) in regions()
    here = place.here()
    assert here._runs[run].ends_at <= time.monotonic() + RUN_S

    here._runs[run].ends_at = time.monotonic() - 1
    call_wsgi({"do": "look"}, token="wrong")

    assert store_name(run) not in regions()
    assert call_wsgi({"do": "mark", "run": run, "backend": "shm"})[0] == 400


def test_a_new_run_removes_what_an_old_one_left(run: str) -> None:
    """Servers that ended before their run did leave a store: the next run removes it, and nobody else's."""
    left, recent, foreign = store_name(draw_run(RUN_S + MOST_SKEW_S + 60)), store_name(draw_run(600)), "not-a-probe"
    try:
        for name in (left, recent, foreign):
            sharedstate.open(f"shm://{name}?size=1MiB").close()

        call_wsgi({"do": "open", "run": run, "backend": "shm"})

        assert {left, recent} & regions() == {recent}
        sharedstate.open(f"shm://{foreign}?size=1MiB").close()
    finally:
        for name in (recent, foreign):
            sharedstate.remove(f"shm://{name}")


def test_runs_are_few(run: str) -> None:
    """A holder of the token cannot have more stores made than four: the oldest run is ended."""
    names = [draw_run() for _ in range(6)]
    try:
        for name in (run, *names):
            assert call_wsgi({"do": "open", "run": name, "backend": "shm"})[0] == 200

        assert len(regions() & set(map(store_name, (run, *names)))) == 4
        assert store_name(run) not in regions()
    finally:
        for name in names:
            call_wsgi({"do": "end", "run": name})


# --- Where it runs ------------------------------------------------------------------------


def test_a_forked_child_is_another_place(run: str) -> None:
    """Imported, and even asked, before the fork: the child has its own token, variables and handle (P1)."""
    mine = call_wsgi({"do": "mark", "run": run, "backend": "shm"})[1]
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            call_wsgi({"do": "mark", "run": run, "backend": "shm", "lap": 1})
            os.write(writer, json.dumps(call_wsgi({"do": "read", "run": run, "backend": "shm"})[1]).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    theirs = json.loads(os.read(reader, 65536))
    os.close(reader)
    os.close(writer)

    assert theirs["where"]["pid"] == pid
    child, parent = theirs["where"]["place"], mine["where"]["place"]
    assert child != parent
    assert theirs["did"]["store"][0] == {parent: f"0.{parent}", child: f"1.{child}"}
    assert call_wsgi({"do": "read", "run": run, "backend": "shm"})[1]["did"]["variables"][0] == {parent: f"0.{parent}"}


LIGHT = """
import sys
before = set(sys.modules)
import sharedstate.probe.wsgi, sharedstate.probe.asgi
print(*sorted(set(sys.modules) - before))
"""


def test_mounting_it_loads_nothing_heavy() -> None:
    """Until it is asked, an interpreter pays for nothing but what `import sharedstate` costs as well."""
    run = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n" + LIGHT],
        capture_output=True,
        text=True,
        check=True,
    )

    heavy = {"json", "typing", "threading", "re", "logging", "urllib", "contextlib", "datetime", "hashlib", "asyncio"}
    loaded = set(run.stdout.split())
    assert "sharedstate.probe.live.answering" in loaded
    assert loaded & heavy == set()
    assert not any(name.startswith(("sharedstate.deployment", "sharedstate_")) for name in loaded)


INSIDE = """
import io, json, os
from sharedstate.probe.wsgi import application
def ask(order):
    body = json.dumps(order).encode()
    environ = {{"REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body),
                "HTTP_X_SHAREDSTATE_PROBE": {token!r}, "SHAREDSTATE_PROBE_TOKEN": {token!r}}}
    return json.loads(application(environ, lambda *_: None)[0])
ask({{"do": "mark", "run": {run!r}, "backend": "shm"}})
answer = ask({{"do": "read", "run": {run!r}, "backend": "shm"}})
os.write({fd}, json.dumps(answer).encode())
"""


@pytest.mark.parametrize("kind", [kind for kind in (LEGACY, ISOLATED) if not reason_unavailable(kind)])
def test_it_answers_in_a_sub_interpreter(kind: str, run: str) -> None:
    """Legacy as mod_wsgi makes it, or with a GIL of its own: another place, which shares through shm."""
    mine = call_wsgi({"do": "mark", "run": run, "backend": "shm"})[1]["where"]["place"]
    reader, writer = os.pipe()
    program = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from sharedstate.probe.interpreters import run_in_interpreter\n"
        f"print(run_in_interpreter({kind!r}, {INSIDE.format(token=TOKEN, run=run, fd=writer)!r}), end='')"
    )
    # In a process of its own: CPython 3.12.1 and 3.13.0 do not always survive an interpreter's end.
    child = subprocess.run(
        [sys.executable, "-c", program], pass_fds=[writer], capture_output=True, text=True, check=False
    )
    os.close(writer)
    answer = json.loads(os.read(reader, 65536) or b"{}")
    os.close(reader)

    assert answer, child.stderr + child.stdout
    assert answer["where"]["interpreter"] != 0
    other = answer["where"]["place"]
    assert answer["did"]["store"][0] == {mine: f"0.{mine}", other: f"0.{other}"}
    assert answer["did"]["variables"][0] == {other: f"0.{other}"}


def test_asgi_takes_part_in_the_servers_life() -> None:
    """Lifespan messages are answered, a websocket is closed, and what is unknown is left alone."""
    incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}, {"type": "websocket.connect"}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    for kind in ("lifespan", "websocket", "something else"):
        asyncio.run(asgi.application({"type": kind}, receive, send))

    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
        "websocket.close",
    ]
