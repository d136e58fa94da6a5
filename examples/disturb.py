"""Start the example in a server, keep it busy, and disturb it in every way that the server knows.

    python disturb.py venv/bin/gunicorn --config gunicorn.conf.py --bind 127.0.0.1:8000 with_flask:application

After each disturbance it prints how often each mailing that was being sent
would have been run by a service that resumes at its module's level whatever is
unfinished, and how often ours ran it; how many mailings went on elsewhere, since
their sender was killed or told to end; and how often the application was
imported, and `once(per="server")` ran.

It asks the example by HTTP and knows nothing of the library.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

MAILINGS, LETTERS = 12, 20  # in each round; a letter takes 0.05 s
PATIENCE_S = 60


class Server:
    """The server whose command was given, in the foreground and in a session of its own."""

    def __init__(self, command: list[str]) -> None:
        self.command = command
        found = re.search(r"127\.0\.0\.1:(\d+)", " ".join(command))
        self.port = int(found[1] if found else os.environ["PORT"])

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with open("disturb.log", "ab") as log:
            self.master = subprocess.Popen(self.command, stdout=log, stderr=log, start_new_session=True)  # noqa: S603
        wait_until(self.answers, "an answer; see disturb.log")

    def stop(self) -> None:
        """End it in the orderly way."""
        self.master.terminate()
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: self.master.poll() is not None and not self.processes(), "its end", 20)
        self.kill_all()

    def kill_all(self) -> None:
        """Kill what is left of it, as a service manager does."""
        for pid in self.processes():
            kill(pid, signal.SIGKILL)
        self.master.wait()
        wait_until(lambda: not self.processes(), "the end of killed processes")

    def processes(self) -> list[int]:
        """Return its living processes, orphans too: those of its session."""
        found: list[int] = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.master.pid and state not in "ZX":
                    found.append(int(stat.parent.name))
        return found

    def ask(self, method: str, path: str) -> Any:
        """Return the answer's content, or None if there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request(method, path, headers={"Connection": "close"})
            response = connection.getresponse()
            return json.loads(response.read()) if response.status < 300 else None
        except (OSError, http.client.HTTPException, ValueError):
            return None  # it is being disturbed
        finally:
            connection.close()

    def post(self, mailing: str) -> None:
        """Have a mailing accepted; it is sent once, however often that takes."""
        wait_until(lambda: self.ask("POST", f"/mailings/{mailing}?letters={LETTERS}"), "a mailing to be accepted")

    def answers(self) -> bool:
        """Return whether it answers."""
        return self.ask("GET", "/status") is not None

    def status(self) -> dict[str, Any]:
        """Return the answer of the status page."""
        found: dict[str, Any] = wait_until(lambda: self.ask("GET", "/status"), "a status")
        return found

    def senders(self) -> list[int]:
        """Return the processes that are sending, as the status page has them."""
        running = (mailing["by"] for mailing in self.status()["unfinished"].values() if mailing["status"] == "running")
        return [int(found[1]) for by in running if (found := re.match(r"pid (\d+)", by))]


# --- Disturbances ---------------------------------------------------------------


def signals(number: int) -> Callable[[Server], None]:
    """Return what sends a signal to the master, and waits for other workers."""

    def send(server: Server) -> None:
        before = set(server.processes())
        kill(server.master.pid, number)
        wait_until(lambda: set(server.processes()) - before and server.answers(), "new workers")

    return send


def stop_and_start(server: Server) -> None:
    """Do what a deployment does."""
    server.stop()
    server.start()


def kill_worker(server: Server) -> None:
    """Kill a worker that is sending."""
    kill(next(iter(server.senders()), server.processes()[-1]), signal.SIGKILL)


def kill_master(server: Server) -> None:
    """Kill the master; the orphans send on for a moment, before a service manager kills them and starts it again."""
    kill(server.master.pid, signal.SIGKILL)
    server.master.wait()
    time.sleep(0.5)
    server.kill_all()
    server.start()


def recycle(server: Server) -> None:
    """Ask until workers were replaced, since their number of requests is limited."""
    before = set(server.processes())
    wait_until(lambda: server.answers() and len(set(server.processes()) - before) > 1, "other workers")


def touch(server: Server) -> None:
    """Make the application's files newer."""
    del server
    for front in Path(__file__).parent.glob("with_*.py"):
        front.touch()


FOR_ALL: dict[str, Callable[[Server], None]] = {
    "nothing": lambda _: None,
    "limited requests": recycle,
    "kill -9 of a worker": kill_worker,
    "kill -9 of the master": kill_master,
    "stop and start": stop_and_start,
}
APACHE = {"touch": touch, "graceful": signals(signal.SIGUSR1), "restart": signals(signal.SIGHUP)}
HUP = {"HUP": signals(signal.SIGHUP)}
KNOWN = {"apache2": FOR_ALL | APACHE, "gunicorn": FOR_ALL | HUP, "uwsgi": FOR_ALL | HUP}
LINE = "{:21} | {:>5} | {:>17} | {:>4} | {:>17} | {:>7} | {:>4}"
HEAD = ("disturbance", "sent", "naive resumes", "ours", "went on elsewhere", "imports", "once")


# --- One round ------------------------------------------------------------------


def disturb(server: Server, name: str, how: Callable[[Server], None]) -> None:
    """Have mailings sent, disturb the server meanwhile, and say what came of it."""
    mine = [f"{name.replace(' ', '-')}-{time.time():.0f}-{number}" for number in range(MAILINGS)]
    starts = server.status()["starts"]
    with keep_busy(server):
        for mailing in mine:
            server.post(mailing)
        wait_until(server.senders, "a mailing that is being sent")
        how(server)
        wait_until(lambda: not set(server.status()["unfinished"]) & set(mine), "the end of all mailings")
    found = server.status()
    naive = sorted(found["naive"].get(mailing, 0) for mailing in mine)
    begun = [found["sent"][mailing]["begun"] for mailing in mine]
    modules, onces = (found["starts"][kind] - starts[kind] for kind in ("module", "once"))
    counts = (f"{naive[0]} to {naive[-1]} each", "once", sum(number > 1 for number in begun), modules, onces)
    print(LINE.format(name, f"{len(begun)}/{MAILINGS}", *counts), flush=True)


@contextlib.contextmanager
def keep_busy(server: Server) -> Generator[None]:
    """Ask all the time, by several at once: Apache imports an application in a child at its first request only."""
    over = threading.Event()

    def client() -> None:
        while not over.wait(0.01):
            server.ask("GET", "/status")

    clients = [threading.Thread(target=client) for _ in range(8)]
    for one in clients:
        one.start()
    try:
        yield
    finally:
        over.set()
        for one in clients:
            one.join()


def kill(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def wait_until(ask: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Ask until the answer is not nothing, and return it."""
    deadline = time.monotonic() + patience_s
    while not (found := ask()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {patience_s} s for {what}")
        time.sleep(0.05)
    return found


def main() -> None:
    """Run the server of the command line through all that it knows."""
    command = sys.argv[1:]
    if not command or Path(command[0]).name not in KNOWN:
        sys.exit(__doc__)
    server = Server(command)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it ends by way of `finally`
    try:
        server.start()
        wait_until(lambda: server.status()["starts"]["once"], "a worker that has done what is done once")
        print(f"The state is in {server.status()['store']}\n", LINE.format(*HEAD), sep="\n", flush=True)
        for name, how in KNOWN[Path(command[0]).name].items():
            disturb(server, name, how)
    finally:
        server.kill_all()


if __name__ == "__main__":
    main()
