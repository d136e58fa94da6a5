"""Runs the example in a real server, gives it tasks, disturbs it while it is at them, and gathers the evidence."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import signal
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import sharedstate
from harness import MODES, Disturbance, RequestError, Server, ask, start, wait_for
from harness.installed import environments, library, published
from harness.processes import find_process, send

from .judging import Event, Evidence, Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator

_ROOT = Path(__file__).resolve().parents[3]
_AUDIT = _ROOT / "tests" / "servers" / "applications" / "founding" / "audit.py"
TASKS = 12
LETTERS = 5  # of 0.05 s each
_CLIENTS = 4  # that ask all the time; most also of processes that nobody has asked yet
_DONE_S = 60


class Cell(NamedTuple):
    """One mode under one disturbance, and what came of it."""

    mode: str
    disturbance: str
    evidence: Evidence
    verdict: Verdict
    log: str  # of the server, for the message of a failure


def prepare() -> None:
    """Have the harness make what it makes but once, before several threads want it."""
    for environment in environments().values():
        library(environment.command("python"))
        published(environment.site_packages)
        if str(environment.base) != "/usr":
            published(environment.base)


def run(name: str, disturbance: str, *, rounds: int = 1, naive: bool = False) -> Cell:
    """Give the service tasks, disturb it while it is at them, and return the verdict when all are done.

    Args:
        name: of the mode.
        disturbance: a key of `DISTURBANCES`, which has an answer to that mode's server.
        rounds: how often; each gives it new tasks, and disturbs it again.
        naive: let the service do all that it should not.
    """
    mode = MODES[name]
    how = DISTURBANCES[disturbance][mode.server]
    setting = {"naive": ""} if naive else {}
    asked: dict[str, int] = {}
    disturbed = batches = 0
    with _application() as application, start(mode, application, *how.extra, setting=setting) as server:
        try:
            while disturbed < min(rounds, how.rounds):
                if batches > rounds + 4:
                    raise RequestError(f"the tasks are done before they can be disturbed\n{server.log()}")
                batches += 1
                batch = {f"{batches}-{task}": how.letters for task in range(TASKS)}
                asked |= batch
                with _load(server):
                    with _post(server, batch):
                        disturbed += how.disturb(server, batch)
                    _wait_until_done(server, asked, 1 + disturbed * how.starts)
            server.end()
            evidence = _gather(server, asked, 1 + disturbed * how.starts)
            return Cell(name, disturbance, evidence, judge(evidence), server.log())
        finally:
            server.end()
            with contextlib.suppress(FileNotFoundError):
                sharedstate.remove(_store(server))


@contextlib.contextmanager
def _application() -> Iterator[Path]:
    """Lay out the example as it is, its front as the script, with the audit beside it."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "founding"
        place.mkdir()
        shutil.copy(_ROOT / "examples" / "service.py", place)
        shutil.copy(_AUDIT, place)
        front = (_ROOT / "examples" / "with_wsgi.py").read_text()
        (place / "application.py").write_text(f"import audit, kit\nkit.executed(__file__)\n{front}")
        yield place


# --- Requests -------------------------------------------------------------------


@contextlib.contextmanager
def _post(server: Server, batch: dict[str, int]) -> Iterator[None]:
    """Have the tasks accepted, at once and while the block disturbs the server: whoever gets no answer asks again."""
    refused: list[str] = []

    def post(number: int, name: str, letters: int) -> None:
        mount = server.mode.mounts[number % len(server.mode.mounts)]
        if not wait_for(lambda: _try_post(server.port, f"{mount}/mailings/{name}?letters={letters}"), _DONE_S):
            refused.append(name)

    threads = [threading.Thread(target=post, args=(number, *item)) for number, item in enumerate(batch.items())]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()
    if refused:
        raise RequestError(f"not accepted: {refused}\n{server.log()}")


def _try_post(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", path, headers={"Connection": "close"})
        return connection.getresponse().status in {200, 202}
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def _load(server: Server) -> Iterator[None]:
    """Ask all mounts all the time: an Apache child runs nothing of the application before its first request."""
    over = threading.Event()

    def client(number: int) -> None:
        mount = server.mode.mounts[number % len(server.mode.mounts)]
        while not over.wait(0.05):
            with contextlib.suppress(RequestError):  # while nobody answers
                ask(server.url(f"{mount}/status"), timeout_s=5)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _store(server: Server) -> str:
    """Return the URL of the service's store, as it wrote that down."""
    return (server.place.state / "store").read_text()


# --- Disturbances ---------------------------------------------------------------


class How(NamedTuple):
    """How one server is disturbed."""

    disturb: Callable[[Server, Container[str]], bool]  # while it is at these tasks; False: they were done before that
    starts: int  # of the server that follow from it
    extra: tuple[str, ...] = ()  # configuration that it takes
    letters: int = LETTERS  # in each task: more, where the server takes its time to begin
    rounds: int = 1000  # at most


def _events(server: Server) -> list[Event]:
    try:
        text = (server.place.state / "events").read_text()
    except FileNotFoundError:
        return []
    complete, _, _ = text.rpartition("\n")  # a reader may see the half of a write that crosses a page
    return [Event(**json.loads(line)) for line in complete.splitlines()]


def _amidst(disturb: Callable[[Server, int], object]) -> Callable[[Server, Container[str]], bool]:
    """Disturb when some tasks are begun, and one of them is half done; hand on the process that is at it."""

    def when_busy(server: Server, batch: Container[str]) -> bool:
        owners: list[int] = []

        def is_busy_or_done() -> bool:
            latest = {event.task: event for event in _events(server) if event.task in batch}
            owners[:] = [event.pid for event in latest.values() if event.step and find_process(event.pid)]
            is_busy = bool(owners) and len(latest) >= 3 and _is_up(server, latest.values())
            return is_busy or [event.kind for event in latest.values()] == ["end"] * TASKS

        if not wait_for(is_busy_or_done, 30, poll_s=0.002):
            raise RequestError(f"nobody begins a task\n{server.log()}")
        if owners:
            disturb(server, owners[-1])
        return bool(owners)

    return when_busy


def _is_up(server: Server, events: Iterable[Event]) -> bool:
    """Say whether all workers work that were forked from a master: uWSGI loses a signal to one that just begins."""
    truth = server.mode.truth
    return not truth.in_master or len({event.pid for event in events}) >= truth.processes[0]


def _by(how: Disturbance) -> Callable[[Server, Container[str]], bool]:
    return _amidst(lambda server, owner: server.disturb(how, owner))


@_amidst
def _touch(server: Server, _owner: int) -> None:
    server.touch()


@_amidst
def _kill_master(server: Server, _owner: int) -> None:
    """Kill it, leave the orphans alone while they still do something, and have a service manager start it again."""
    server.kill_master()
    seen = len(_events(server))
    wait_for(lambda: not server.pids() or len(_events(server)) >= seen + 10, 2)
    for process in server.processes():
        send(process, signal.SIGKILL)
    wait_for(lambda: not server.pids(), 10)
    server.start()


@_amidst
def _upgrade_gunicorn(server: Server, _owner: int) -> None:
    """Start a second master beside the first, as gunicorn's manual has it, and end the first."""
    server.usr2()
    master = find_process(server.master)
    assert master is not None
    send(master, signal.SIGTERM)


def _for_all(how: How, *servers: str) -> dict[str, How]:
    return dict.fromkeys(servers or ("mod_wsgi", "gunicorn", "uwsgi"), how)


DISTURBANCES: dict[str, dict[str, How]] = {
    "none": _for_all(How(lambda _server, _batch: True, 0)),
    "touch": {
        "mod_wsgi": How(_by(Disturbance.TOUCH), 0),
        "gunicorn": How(_touch, 0, ("--reload", "--reload-engine", "poll"), 20),
        "uwsgi": How(_touch, 1, ("--touch-reload", "application.py"), 20),
    },
    "graceful": _for_all(How(_by(Disturbance.GRACEFUL), 1)),
    "restart": {
        "mod_wsgi": How(_by(Disturbance.RESTART), 1),
        "gunicorn": How(_upgrade_gunicorn, 1, letters=20, rounds=1),
    },
    "stop/start": _for_all(How(_by(Disturbance.CYCLE), 1)),
    "kill -9 worker": _for_all(How(_by(Disturbance.KILL_WORKER), 0)),
    "kill -9 master": _for_all(How(_kill_master, 1)),
}
"""By name: how each server is disturbed so; one that knows nothing of the kind is missing."""


# --- The end --------------------------------------------------------------------

_CRASH = re.compile(
    r"exit signal (Segmentation|Bus|Illegal)|Fatal Python error|DAMN ! worker .* died, killed by signal (?!9 )"
)


def _crashes(server: Server) -> list[str]:
    """Return what was logged of crashes.

    Not of Apache's prefork: its children finalize Python in the handler of the
    signal that ends them, in the midst of whatever they are at, and crash now
    and then with any application.
    """
    if server.mode.name.startswith("prefork"):
        return []
    lines = [line for log in server.directory.glob("*.log") for line in log.read_text(errors="replace").splitlines()]
    return [line for line in lines if _CRASH.search(line)]


def _wait_until_done(server: Server, asked: dict[str, int], starts: int) -> None:
    """Wait until the store has no unfinished task, and each start was seen; what does not happen is for the judge."""
    with sharedstate.open(_store(server)) as store:
        wait_for(
            lambda: (
                sharedstate.Tasks(store, "mailings").count() == 0
                and all(f"sent/{task}" in store for task in asked)
                and sum(event.kind == "once" for event in _events(server)) >= starts
            ),
            _DONE_S,
        )


def _gather(server: Server, asked: dict[str, int], starts: int) -> Evidence:
    """Return what the dead server left; and check the store that it left."""
    with sharedstate.open(_store(server)) as store:
        store.check()
        return Evidence(
            events=_events(server),
            tasks=asked,
            finished={key.removeprefix("sent/"): result["letters"] for key, result in store.items("sent/")},
            starts=starts,
            crashes=_crashes(server),
            naive_starts=len(server.executions()),
            naive_runs={task: store.get(f"naive/{task}", 0) for task in asked},
        )
