"""One running server: started in a directory of its own, disturbed, and ended without a trace."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .installed import environments, library
from .load import ask, fetch
from .modes import Disturbance, Mode, Place
from .processes import Process, find_process, in_sessions, is_helper, leader_of, send, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

KIT = Path(__file__).resolve().parents[1] / "applications" / "kit.py"
START_S = 45
STOP_S = 25  # Apache with Debian's mod_wsgi 4.9.4 waits 9 to 12 s for children that hang, then kills them


class ServerError(Exception):
    """A server that does not do what a test asked of it; with its log."""


@contextlib.contextmanager
def start(mode: Mode, application: Path, *extra: str, setting: dict[str, str] | None = None) -> Iterator[Server]:
    """Run a copy of the application in a server of its own until the block ends.

    Args:
        mode: one of `MODES`.
        application: a directory with application.py (WSGI), and asgi.py where
            the mode's server speaks ASGI.  The harness adds kit.py.
        extra: more lines of configuration (Apache), or more arguments.
        setting: files for the application to read from `kit.STATE`, by name;
            they are there before it starts.

    Raises:
        MissingError: what the set-up promised is not there.
        ServerError: it does not answer, with its log.
    """
    directory = Path(tempfile.mkdtemp(prefix=f"sharedstate-{mode.name}-", dir="/tmp"))
    server = None
    try:
        server = Server(mode, application, directory, extra)
        for name, text in (setting or {}).items():
            (server.place.state / name).write_text(text)
        server.start()
        yield server
    finally:
        if server is not None:
            server.end()
        shutil.rmtree(directory, ignore_errors=True)


_all_leaders: set[Process] = set()


def leftovers() -> list[Process]:
    """Return the processes that still live of all servers that this process started since it was last told of none."""
    living = in_sessions(_all_leaders)
    if not living:
        _all_leaders.clear()
    return living


class Server:
    """A server of some mode, as `start` hands it out.

    Every method that disturbs it returns when it answers again, if it ever will.
    """

    def __init__(self, mode: Mode, application: Path, directory: Path, extra: tuple[str, ...] = ()) -> None:
        self.mode = mode
        self.directory = directory
        self._extra = extra
        self._master: subprocess.Popen[bytes] | None = None
        self._leaders: set[Process] = set()  # one per start; all that we ever began is in the session of one of them
        # Bound and never listening: nobody else is given this port while the server is down.
        self._reservation = socket.socket()
        self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reservation.bind(("127.0.0.1", 0))
        self.port: int = self._reservation.getsockname()[1]

        found = environments()
        environment = found[mode.python or next(iter(found))]
        python = str(environment.venv / "bin" / "python")
        path = [directory / "app", *library(python)]
        self.place = Place(directory, self.port, environment, tuple(map(str, path)))
        self._lay(application)

    def _lay(self, application: Path) -> None:
        self.directory.chmod(0o755)
        shutil.copytree(application, self.place.application)
        shutil.copy(KIT, self.place.application)
        self.place.state.mkdir()
        self.place.state.chmod(0o777)  # root, who runs the tests, and www-data both write here
        for path in [self.place.application, *self.place.application.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)

    # -- life

    def start(self) -> None:
        """Start it (again, after `stop`), and wait until it answers."""
        ready = self._ready_lines()
        command = self.mode.command(self.place, self._extra)
        with (self.directory / "output.log").open("ab") as output:
            self._master = subprocess.Popen(
                # Should this process be killed, its servers shall not outlive it.  (Nor
                # the thread that starts them: so start them in one that stays.)
                ["/usr/bin/setpriv", "--pdeathsig", "TERM", *command],
                cwd=self.place.application,
                env={
                    "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                    "LANG": "C.UTF-8",
                    "PYTHONPATH": ":".join(self.place.path),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        leader = leader_of(self._master)
        self._leaders.add(leader)
        _all_leaders.add(leader)
        self._wait_until_ready(ready)

    def stop(self) -> None:
        """End it in the orderly way, and wait until none of its processes is left.

        What hangs is killed after `STOP_S`, as a service manager would.
        """
        for process in self._own(self.master):
            send(process, self.mode.stop_signal)
        if not wait_for(lambda: self._reaped() and not self.pids(), STOP_S):
            self._kill_rest()

    def end(self) -> None:
        """End it as fast as can be, and make sure of it: what the `start` block does on its way out.

        The workers are killed before the master, which then still frees what a
        killed master would leave behind (Apache's semaphores).
        """
        for process in self._own(self.master):
            send(process, self.mode.stop_signal)
        if not wait_for(lambda: self._reaped() and not self.pids(), 0.7):
            self._kill_rest(spare=self.master)
            if not wait_for(lambda: self._reaped() and not self.pids(), 3):
                self._kill_rest()
        self._reservation.close()

    def cycle(self) -> None:
        """Stop it, and start it again on the same port."""
        self.stop()
        self.start()

    # -- disturbances

    def disturb(self, how: Disturbance, worker: int) -> None:
        """Do to it what `how` names; `worker` is the pid to kill, where that is what to do."""
        if how not in self.mode.disturbances:
            raise ServerError(f"{self.mode} knows no {how}")
        if how is Disturbance.KILL_WORKER:
            self.kill_worker(worker)
        else:
            getattr(self, how)()

    def touch(self) -> None:
        """Make the application's files newer, as a deployment does; who notices, and when, is up to the server."""
        for path in self.place.application.glob("*.py"):
            later = path.stat().st_mtime + 2
            os.utime(path, (later, later))

    def graceful(self) -> None:
        """Have all workers replaced while it goes on answering."""
        self._reload(Disturbance.GRACEFUL)

    def restart(self) -> None:
        """Have all workers replaced at once."""
        self._reload(Disturbance.RESTART)

    def hup(self) -> None:
        """Send SIGHUP to the master, and wait for the new workers."""
        self._reload(Disturbance.HUP)

    def usr2(self) -> None:
        """Send SIGUSR2 to the master: gunicorn starts a second master with workers beside the first."""
        before = {process.pid for process in self.processes()}
        self._signal_master(signal.SIGUSR2)
        expected = len(before)
        self._wait(lambda: len(set(self.pids()) - before) >= expected, "a second master with its workers")
        self._wait_until_ready(None)

    def kill_worker(self, pid: int) -> None:
        """Kill one process by SIGKILL, and wait until it is gone and the server answers, if it will."""
        for process in self._own(pid):
            send(process, signal.SIGKILL)
        self._wait(lambda: find_process(pid) is None, f"the end of {pid}")
        if Disturbance.KILL_WORKER in self.mode.disturbances:
            self._wait_until_ready(None)

    def kill_master(self) -> None:
        """Kill the master by SIGKILL; its workers may live on, as orphans."""
        for process in self._own(self.master):
            send(process, signal.SIGKILL)
        self._wait(self._reaped, "the end of the master")

    # -- questions

    @property
    def master(self) -> int:
        """The pid of the process that was started; the one process where a server has only one."""
        if self._master is None:
            raise ServerError(f"{self.mode} was not started")
        return self._master.pid

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def ask(self, path: str) -> Any:
        """Return one decoded answer; `path` begins with a mount."""
        return ask(self.url(path))

    def processes(self) -> list[Process]:
        """Return every living process that this server ever started, orphans and helpers too, oldest first."""
        return in_sessions(self._leaders)

    def pids(self) -> list[int]:
        return [process.pid for process in self.processes()]

    def executions(self) -> list[tuple[int, int, str]]:
        """Return (pid, interpreter, file) for each time that the application's module was executed."""
        try:
            lines = (self.place.state / "executions").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [(int(pid), int(interpreter), name) for pid, interpreter, name in map(str.split, lines)]

    def log(self) -> str:
        """Return the last of what it printed and logged, for the message of a failure."""
        parts = [f"-- {self.mode} on port {self.port} in {self.directory}"]
        for path in self._logs():
            parts += [f"-- {path.name}", *path.read_text(errors="replace").splitlines()[-80:]]
        return "\n".join(parts)

    # -- inside

    def _own(self, pid: int) -> list[Process]:
        """Return the process, if it is ours and lives."""
        return [process for process in self.processes() if process.pid == pid]

    def _reaped(self) -> bool:
        return self._master is None or self._master.poll() is not None

    def _kill_rest(self, spare: int = 0) -> None:
        for process in self.processes():
            if process.pid != spare:
                send(process, signal.SIGKILL)
        if not spare:
            self._wait(lambda: self._reaped() and not self.pids(), "the end of killed processes")

    def _signal_master(self, number: int) -> None:
        masters = self._own(self.master)
        if not masters:
            raise ServerError(f"{self.mode}: its master is gone\n{self.log()}")
        send(masters[0], number)

    def _reload(self, how: Disturbance) -> None:
        if how not in self.mode.signals:
            raise ServerError(f"{self.mode} knows no {how}")
        ready = self._ready_lines()
        workers = {process for process in self.processes() if process.pid != self.master and not is_helper(process)}
        self._signal_master(self.mode.signals[how])
        if self.mode.server != "mod_wsgi":  # whose old children may hang for ever
            self._wait(lambda: not workers & set(self.processes()), f"the end of the old workers after {how}")
        self._wait_until_ready(ready)

    def _ready_lines(self) -> int:
        if not self.mode.ready:
            return 0
        logs = [path.read_text(errors="replace") for path in self._logs()]
        return sum(len(re.findall(self.mode.ready, log, re.MULTILINE)) for log in logs)

    def _logs(self) -> list[Path]:
        return [path for path in (self.directory / "output.log", self.directory / "error.log") if path.exists()]

    def _wait_until_ready(self, seen: int | None) -> None:
        if self.mode.ready and seen is not None:
            expected = seen + self.mode.ready_count
            self._wait(lambda: self._ready_lines() >= expected, f"{self.mode.ready!r} in its log")
        self._wait(self._answers, "an answer")

    def _answers(self) -> bool:
        try:
            fetch(self.url("/is-anybody-there"), timeout_s=5)
        except (OSError, http.client.HTTPException):
            return False
        return True

    def _wait(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + START_S
        while not condition():
            if time.monotonic() > deadline:
                raise ServerError(f"{self.mode}: waited {START_S} s for {what}\n{self.log()}")
            if self._reaped() and not self.pids() and not condition():
                raise ServerError(f"{self.mode}: all its processes ended while waiting for {what}\n{self.log()}")
            time.sleep(0.02)
