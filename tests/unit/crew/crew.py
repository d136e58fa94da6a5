"""A crew: members in threads, forked and spawned processes and sub-interpreters, who play roles and keep one log.

    with Crew(url, str(tmp_path)) as crew:
        runner = crew.start("forked", "hold_task", "t")
        crew.log.wait("begun", runner.name)
        runner.kill()

A role is a function `role(store, log, *arguments)` of roles.py.  All that
passes between members goes through the log: a file that each appends to with
one write per event, so a `kill -9` loses nothing that was told.  Events carry
the monotonic clock, which all processes of a host share; the judges of
judges.py read nothing else.

Nothing sleeps: who waits polls the log, and fails when it takes too long.
"""

from __future__ import annotations

import os
import sys
import time

from sharedstate._light import NamedTuple
from sharedstate.backend.waiting import Backoff, Deadline
from sharedstate.values import decode, encode

TYPE_CHECKING = False  # runs in sub-interpreters too
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Self

    from sharedstate import Store

PATIENCE_S = 60.0

# Imported where they are used, and not here: threading, signal, warnings, subprocess are
# more than every interpreter can bear.
_SIGKILL, _SIGSTOP, _SIGCONT = 9, 19, 18


class Event(NamedTuple):
    """One line of the log: when, on the monotonic clock; who; what; and the rest."""

    at_ns: int
    actor: str
    what: str
    facts: tuple[Any, ...]


class Log:
    """The log as one member writes and reads it."""

    def __init__(self, path: str, actor: str = "test") -> None:
        self.path = path
        self.actor = actor

    def tell(self, what: str, *facts: Any) -> None:
        """Append an event."""
        line = encode((time.monotonic_ns(), self.actor, what, facts)).hex() + "\n"
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)

    def read(self) -> list[Event]:
        """Return all events in the order in which they were told."""
        try:
            with open(self.path, "rb") as file:
                lines = file.read().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        return [Event(*decode(bytes.fromhex(line.decode()))) for line in lines]

    def find(self, what: str, actor: str | None = None) -> list[Event]:
        """Return the events of that name, by that actor."""
        return [event for event in self.read() if event.what == what and actor in {None, event.actor}]

    def wait(self, what: str, actor: str | None = None, count: int = 1) -> list[Event]:
        """Wait until there are `count` such events, and return them."""
        deadline, backoff = Deadline(PATIENCE_S), Backoff()
        while len(found := self.find(what, actor)) < count:
            assert not self.find("raised"), f"while {self.actor} waited for {what!r}: {self.find('raised')}"
            assert not deadline.has_passed(), f"{self.actor} waited for {count} {what!r} by {actor}: {self.read()}"
            backoff.sleep(deadline)
        return found


def play(role: str, url: str, path: str, actor: str, arguments: bytes) -> None:
    """Play a role over a handle of one's own; tell how it ended."""
    import roles

    import sharedstate

    log = Log(path, actor)
    try:
        store = sharedstate.open(url)
        getattr(roles, role)(store, log, *decode(arguments))
    except BaseException as error:
        # In words: whatever it is, the test is told.
        log.tell("raised", type(error).__name__, str(error))
        raise
    log.tell("played")


class Member:
    """One who plays a role."""

    def __init__(self, name: str, log: Log, pid: int, wait: Callable[[], int | None]) -> None:
        self.name = name
        self.pid = pid
        self._log = log
        self._wait = wait
        self._has_ended = False

    def kill(self) -> None:
        """Kill the process with -9, and return when it is dead."""
        assert self.pid != os.getpid()
        if not self._has_ended:
            self._log.tell("killing", self.name)
            os.kill(self.pid, _SIGKILL)
            self.wait()
            self._log.tell("killed", self.name)

    def stop(self) -> None:
        """Stop the process, and return when it is stopped."""
        os.kill(self.pid, _SIGSTOP)
        backoff, deadline = Backoff(), Deadline(PATIENCE_S)
        while self._state() != "T":
            assert not deadline.has_passed()
            backoff.sleep()

    def go_on(self) -> None:
        """Let the stopped process go on."""
        os.kill(self.pid, _SIGCONT)

    def wait(self) -> int | None:
        """Wait for the end; return the exit status of a process."""
        self._has_ended = True
        return self._wait()

    def has_ended(self) -> bool:
        """Return whether it was waited for."""
        return self._has_ended

    def _state(self) -> str:
        with open(f"/proc/{self.pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0]


class Crew:
    """Where members are started, and what ends them all."""

    def __init__(self, url: str, directory: str) -> None:
        self.url = url
        self.log = Log(os.path.join(directory, "crew.log"))
        self.members: list[Member] = []

    def start(self, kind: str, role: str, *arguments: Any) -> Member:
        """Start a member: "thread", "forked", "spawned", "legacy" or "isolated" (each in a process of its own)."""
        name = f"{kind}-{len(self.members)}"
        packed = encode(arguments)
        member = getattr(self, f"_start_{kind}")(name, role, packed)
        self.members.append(member)
        return member

    def _start_thread(self, name: str, role: str, packed: bytes) -> Member:
        def run() -> None:
            with suppress(BaseException):  # it stands in the log
                play(role, self.url, self.log.path, name, packed)

        import threading
        from contextlib import suppress

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def wait() -> None:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), self.log.read()

        return Member(name, self.log, os.getpid(), wait)

    def _start_forked(self, name: str, role: str, packed: bytes) -> Member:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks beside threads
            pid = os.fork()
        if pid == 0:
            status = 1
            try:
                play(role, self.url, self.log.path, name, packed)
                status = 0
            finally:
                os._exit(status)  # not a second time through pytest
        return Member(name, self.log, pid, lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    def _start_spawned(self, name: str, role: str, packed: bytes) -> Member:
        return self._spawn(name, _call("play", role, self.url, self.log.path, name, packed))

    def _start_legacy(self, name: str, role: str, packed: bytes) -> Member:
        return self._start_interpreter("legacy", name, role, packed)

    def _start_isolated(self, name: str, role: str, packed: bytes) -> Member:
        return self._start_interpreter("isolated", name, role, packed)

    def _start_interpreter(self, kind: str, name: str, role: str, packed: bytes) -> Member:
        self._require(kind)
        script = _call("play", role, self.url, self.log.path, name, packed)
        return self._spawn(name, _call("run_interpreters", kind, (script,)))

    def _require(self, kind: str) -> None:
        from redis_server import interpreters_for

        if kind not in [each.value for each in interpreters_for(self.url)]:
            import pytest

            pytest.skip("refused, as tests/redis/test_redis_interpreters.py shows")

    def start_interpreters(self, kind: str, count: int, role: str, *arguments: Any) -> Member:
        """Start one process with `count` interpreters that each play the role; it is one member."""
        self._require(kind)
        name = f"{kind}-{len(self.members)}"
        scripts = tuple(
            _call("play", role, self.url, self.log.path, f"{name}.{i}", encode(arguments)) for i in range(count)
        )
        member = self._spawn(name, _call("run_interpreters", kind, scripts))
        self.members.append(member)
        return member

    def _spawn(self, name: str, script: str) -> Member:
        import subprocess

        child: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", script], stdin=subprocess.DEVNULL
        )
        return Member(name, self.log, child.pid, lambda: child.wait(PATIENCE_S))

    def wait(self) -> None:
        """Wait for all who still play."""
        for member in self.members:
            if not member.has_ended():
                member.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self.members:
            if not member.has_ended() and member.pid != os.getpid():
                member.kill()


def _call(function: str, *arguments: Any) -> str:
    return f"import sys; sys.path[:] = {sys.path!r}; import crew; crew.{function}(*{arguments!r})"


def run_interpreters(kind: str, scripts: tuple[str, ...]) -> None:
    """Run each script in an interpreter of its own, all at once."""
    import threading

    from sharedstate.probe.interpreters import run_in_interpreter

    failures: list[str] = []

    def run(script: str) -> None:
        failure = run_in_interpreter(kind, script)
        if failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(script,)) for script in scripts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def depose(store: Store, token: str) -> None:
    """Take away a sharer's place, as if its connection, or whoever tidies up its directory, had."""
    if store.url.startswith("redis"):
        from sharedstate_redis.scripts import LEAVE
        from sharedstate_redis.sessions import pack

        anchors = store._backend._anchors
        place = anchors.place
        record = anchors.pool.read(pack(b"HGET", place.sharers, token.encode()))
        arguments = [place.id, place.channels, token.encode(), record.partition(b" ")[0]]
        anchors.pool.run(LEAVE, [place.store, place.sharers], arguments)
    else:
        directory = os.path.dirname(store.lock("any").path)
        os.unlink(os.path.join(directory, f"{token}.sharer"))
