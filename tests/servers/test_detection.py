"""What the library says of where it runs, in each mode of each server, against the mode's truth.

Detection may say that it does not know, where nothing inside the process tells;
it may never say what is not so.
"""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness import MODES, Interpreter, RequestError, load, start, topology, wait_for

if TYPE_CHECKING:
    from harness import Mode, Server

APPLICATION = Path(__file__).parent / "applications" / "detection"
MANY = "many"
FIELDS = {"server", "version", "mode", "processes", "interpreters", "gil", "threads", "recycled", "preloaded"}


@pytest.mark.parametrize("mode", MODES.values(), ids=str)
def test_detection_is_right(mode: Mode) -> None:
    """At import time and in a request, in every process and interpreter, each fact that can be known is the truth.

    And all of them agree on the application and on which start of the server
    this is; and each was told once that it serves, in the worker and not in its
    master.
    """
    with start(mode, APPLICATION) as server:
        answers = load(server, requests=120, clients=25)

        for answer in answers:
            for when in ("at_import", "now"):
                _check_facts(server, answer, when)
            assert answer["now"]["application_by_environ"] == application_of(server, answer)
            assert answer["serving"] == [[answer["pid"], answer["interpreter"]]]
        moments = [answer[when] for answer in answers for when in ("at_import", "now")]
        assert len({moment[how] for moment in moments for how in ("alone", "agreed")}) == 1
        assert all(moment["settled"] for moment in moments)
        if not mode.truth.recycled:  # a worker of gunicorn that has had all its requests is stopping
            assert not any(answer["stopping"] for answer in answers)


def _check_facts(server: Server, answer: dict[str, Any], when: str) -> None:
    facts = answer[when]["facts"]
    assert facts.keys() == FIELDS | {"application"}
    for name, (value, certainty, evidence) in facts.items():
        assert (value is None) == (certainty == "unknown"), (when, name)
        assert evidence, (when, name)
        if name == "application":
            assert value == application_of(server, answer), (when, evidence)
        elif name not in {"version", "mode"}:
            assert value in allowed(server.mode, name, when, answer), (when, name, evidence)


def application_of(server: Server, answer: dict[str, Any]) -> str:
    """Return what the library calls the application that gave the answer."""
    place = server.place
    if server.mode.server == "mod_wsgi":
        twin = server.mode.truth.scripts > 1 and answer["mount"] == "/b"
        return str(place.application / ("second.py" if twin else "application.py"))
    if server.mode.server == "uwsgi":
        return str(place.script)
    if server.mode.server in {"wsgiref", "werkzeug"}:
        launchers = Path(__file__).parent / "harness" / "launchers"
        return str(launchers / f"{server.mode.server}_server.py")
    name = "asgi" if server.mode.server in {"uvicorn", "hypercorn"} else "application"
    return f"{place.application}/{name}:application"


def allowed(mode: Mode, name: str, when: str, answer: dict[str, Any]) -> set[object]:
    """Return what a fact may say: the truth; None only where nothing in the process tells."""
    truth = mode.truth
    if mode.server == "mod_wsgi":
        return _allowed_in_apache(mode, name, answer)
    # A program that imports the application, and only then its server, is but a program until then.
    plain = mode.server == "wsgiref" or (mode.server == "werkzeug" and when == "at_import")
    # The first of several mounts does not see that there will be others.
    early = {None} if when == "at_import" and answer["interpreter"] == 0 else set()
    threads: object = MANY if truth.threads is None else truth.threads
    # From Python 3.14 on granian spawns its workers, and does not tell them how many they are.
    spawned = mode.server == "granian" and not answer["python"].startswith(("3.11.", "3.12.", "3.13."))
    return {
        "server": {"python" if plain else mode.server},
        "processes": {None if spawned else truth.processes[0]},
        "interpreters": {1} if truth.interpreters == 1 else {MANY} | early,
        "gil": {"only"} if truth.interpreters == 1 else {"shared"} | early,
        "threads": {None if plain else threads},
        "recycled": {truth.supervised and not plain},
        "preloaded": {truth.in_master},
    }[name]


def _allowed_in_apache(mode: Mode, name: str, answer: dict[str, Any]) -> set[object]:
    truth = mode.truth
    group = answer["mod_wsgi"]["mod_wsgi.process_group"]
    in_main = Interpreter.MAIN in truth.kinds and answer["interpreter"] == 0
    if name == "processes":
        if not group:
            return {MANY}  # Apache's children come and go
        if len(truth.process_groups) > 1 and "" not in truth.process_groups:
            return {None}  # the same script in several groups
        # That a script of a daemon is mounted in embedded mode too, as in `mixed`, shows nowhere inside of it.
        return {1} if "" in truth.process_groups else {truth.processes[0]}
    return {
        "server": {"mod_wsgi"},
        "interpreters": {1} if in_main else {None},
        "gil": {"only"} if in_main else {"own"} if Interpreter.ISOLATED in truth.kinds else {"shared"},
        "threads": {truth.threads},
        "recycled": {True},
        "preloaded": {False},
    }[name]


# --- Starts, under disturbance ---------------------------------------------------

ORDER = ["touch", "kill_worker", "graceful", "restart", "hup", "cycle"]
SIX = next(name for name in MODES if name.startswith("mod_wsgi6-") and name.endswith("-embedded"))
HIDDEN = {"uvicorn", "hypercorn", "granian"}  # their workers are told nothing of a reload


@pytest.mark.parametrize(
    "name",
    [
        *("prefork", "event", "event-global", "daemon-5x1", "daemon-2x25-global", "daemon-threads25", "mixed"),
        *(name for name in MODES if name.startswith("mod_wsgi6-")),
        *("gunicorn-sync-4", "gunicorn-gthread-2x8", "gunicorn-preload-4", "gunicorn-gevent-2", "gunicorn-recycled-4"),
        *("uwsgi-4", "uwsgi-lazy-4", "uwsgi-mounts-2", "uwsgi-alone"),
        *("uvicorn", "uvicorn-2", "hypercorn-2", "granian-2", "waitress-4", "wsgiref"),
    ],
)
def test_a_start_lasts_until_the_next(name: str) -> None:
    """A touch, or a worker that is replaced, leaves the start as it is; a restart, reload or cycle makes it another."""
    mode = MODES[name]
    with start(mode, APPLICATION) as server:
        seen = [start_of(server)]
        for disturbance in ORDER:
            if disturbance not in mode.disturbances:
                continue
            disturb(server, disturbance)

            found = start_of(server)
            lasts = disturbance in {"touch", "kill_worker"} or (disturbance != "cycle" and mode.server in HIDDEN)
            assert (found == seen[-1]) == lasts, disturbance
            if not lasts:
                assert found not in seen, disturbance
                seen.append(found)


@pytest.mark.parametrize("name", ["daemon-2x25", "daemon-global"])
def test_generation_needs_no_name_of_a_socket(name: str) -> None:
    """Daemons whose sockets are not named after the generation learn it from Apache itself."""
    with start(MODES[name], APPLICATION, "WSGISocketRotation Off") as server:
        first = start_of(server)

        server.graceful()

        assert start_of(server) != first


def test_daemon_may_call_itself_something_else() -> None:
    """A display-name changes what /proc shows of a daemon, which is Apache's child none the less."""
    mode = MODES["daemon-global"]

    def command(place: Any, more: tuple[str, ...]) -> list[str]:
        path = ":".join(place.path)
        other = f"WSGIDaemonProcess other processes=2 display-name=other-%{{GROUP}} python-path={path}"
        return mode.command(place, (other, "WSGIProcessGroup other", "WSGISocketRotation Off", *more))

    with start(replace(mode, command=command), APPLICATION) as server:
        answers = load(server, requests=40)

        assert {answer["mod_wsgi"]["mod_wsgi.process_group"] for answer in answers} == {"other"}
        assert {answer["now"]["agreed"].split(".")[1] for answer in answers} == {str(server.master)}
        assert all(answer["now"]["settled"] for answer in answers)
        # Of the two groups that listen, each may serve the same script.
        assert {answer["now"]["facts"]["processes"][0] for answer in answers} == {None}


def test_two_masters_of_gunicorn_are_two_starts() -> None:
    """After USR2 the old master's workers keep their start, and the new one's have another."""
    with start(MODES["gunicorn-sync-4"], APPLICATION) as server:
        first = start_of(server)

        server.usr2()

        found = {(answer["parent"], answer["now"]["agreed"]) for answer in load(server, requests=200)}
        assert len(found) == 2
        assert (server.master, first) in found
        assert len({token for _, token in found}) == 2


@pytest.mark.parametrize("name", ["prefork", "event", "daemon-2x25", "daemon-threads25", SIX])
def test_a_start_survives_its_apache(name: str) -> None:
    """Workers of a killed Apache keep their start; one that imports the library only then learns it from the others."""
    mode = MODES[name]
    with start(mode, APPLICATION) as server:
        before = {answer["now"]["agreed"] for answer in load(server, requests=40, mounts=["/a"])}

        server.kill_master()
        answers = load(server, requests=40, mounts=["/a"]) + load(server, requests=40, mounts=["/b"])

        assert {answer["now"]["agreed"] for answer in answers} == before
        late = [answer for answer in answers if answer["mount"] == "/b"]
        assert late
        assert not any(answer["now"]["settled"] for answer in late)


@pytest.mark.parametrize("name", ["gunicorn-sync-4", "gunicorn-preload-4"])
def test_a_start_survives_its_gunicorn(name: str) -> None:
    """Orphaned workers keep their start."""
    with start(MODES[name], APPLICATION) as server:
        before = start_of(server)

        server.kill_master()

        assert start_of(server) == before


def test_each_child_of_the_reloader_is_a_start() -> None:
    """Under werkzeug's reloader a touch ends the serving process, and the next one is a start of its own."""
    with start(MODES["werkzeug-reloader"], APPLICATION) as server:
        before = load(server, requests=4)[0]

        def is_replaced() -> bool:
            try:
                return server.ask("/report")["pid"] != before["pid"]
            except RequestError:  # it ended while it was asked
                return False

        server.touch()
        assert wait_for(is_replaced, 20)

        assert start_of(server) != before["now"]["agreed"]


def start_of(server: Server) -> str:
    """Return the one start that all workers agree on."""
    found = {answer["now"]["agreed"] for answer in load(server, requests=60, clients=20)}
    assert len(found) == 1
    return found.pop()


def disturb(server: Server, disturbance: str) -> None:
    """Do it, and return when the server answers again."""
    if disturbance == "kill_worker":
        server.kill_worker(load(server, requests=1, clients=1)[0]["pid"])
        # A worker of uWSGI that is told to end while it still imports the application takes 60 s to do so.
        wait_for(lambda: len(topology(load(server, requests=40)).processes) in server.mode.truth.processes, 10)
    else:
        getattr(server, disturbance)()


# --- Ends ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("prefork", "event", "event-global", "daemon-5x1", "daemon-threads25", "daemon-global"),
        *(name for name in MODES if name.startswith("mod_wsgi6-")),
        *("gunicorn-sync-4", "gunicorn-gthread-2x8", "gunicorn-preload-4", "gunicorn-gevent-2"),
        *("uwsgi-4", "uwsgi-lazy-4", "uwsgi-alone", "granian-2"),
    ],
)
def test_each_serving_interpreter_is_told_of_its_end(name: str) -> None:
    """`when_stopping` calls once in each interpreter that served, even where its process then hangs; in no master."""
    with start(MODES[name], APPLICATION) as server:
        answers = load(server, requests=120, clients=25)
        served = {(answer["pid"], answer["interpreter"]) for answer in answers}
        master = server.master
        assert wait_for(lambda: not connections(server.port), 10)  # Apache's prefork and uWSGI tell no busy process

        server.stop()

        lines = (server.place.state / "ends").read_text().splitlines()
        ended = [(int(pid), int(interpreter)) for pid, interpreter in map(str.split, lines)]
        assert served <= set(ended)
        assert len(ended) == len(set(ended))
        assert MODES[name].truth.supervised == (master not in {pid for pid, _ in ended})


@pytest.mark.parametrize("name", ["uvicorn", "uvicorn-2"])
def test_a_request_learns_that_its_server_is_told_to_end(name: str) -> None:
    """`is_stopping`, while the server waits for the request to end."""
    with start(MODES[name], APPLICATION) as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.ask, "/until_stopping?patience_s=20")
        assert wait_for((server.place.state / "waiting").exists, 10)

        os.kill(server.master, signal.SIGTERM)

        assert answer.result(30) is True


def connections(port: int) -> list[str]:
    """Return the lines of /proc/net/tcp about connections to `port` that a process holds."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        lines = [line.split() for line in file][1:]
    gone = {"06", "0A"}  # TIME_WAIT, which no process holds, and LISTEN
    return [line[1] for line in lines if line[1].endswith(f":{port:04X}") and line[3] not in gone]
