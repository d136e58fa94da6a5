"""The stage: actors on either side of every boundary that a process of ours can have.

    with Stage() as stage:
        writer, reader = stage.pair(Boundary.LEGACY, "shm://jobs")
        writer.call("set", "k", (1, b"2"))
        assert reader.call("get", "k") == (1, b"2")

Each actor opens its own handle by URL and obeys over a socket.  All of them
live outside the probe's process: threads and sub-interpreters in host
processes, the others in processes of their own.  A crash of CPython ends a host
and becomes an `ActorGoneError` that says so.

Thread safety: a stage and its actors belong to one thread.
Crash: every process ends by itself when the stage's process is gone.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from sharedstate.probe import host
from sharedstate.probe.boundaries import KINDS_OF, Boundary, Kind, available_kinds
from sharedstate.probe.links import Link
from sharedstate.probe.processes import ActorGoneError, ActorTimeoutError, Child, Host, Process
from sharedstate.probe.wire import ActorError, Channel, ChannelClosedError
from sharedstate.values import encode

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = [
    "Actor",
    "ActorError",
    "ActorGoneError",
    "ActorTimeoutError",
    "Boundary",
    "Kind",
    "Stage",
    "available_kinds",
]


class Actor:
    """One side of a boundary.  Made by `Stage.actor`; see `obeying` for the verbs.

    Most verbs are those of a `Store`, with the same arguments and results:

        actor.call("increment", "hits", by=2)      actor.call("read", "k") -> Entry
        actor.call("contains", "k")                actor.call("keys", prefix)  .call("len")
        actor.call("lock_acquire", name, 5.0) -> token     .call("lock_release", name)  .call("lock_try", name)
        actor.call("tx_begin")  .call("tx_get", "k")  .call("tx_set", "k", 1)  .call("tx_commit")

    What a store raises is raised here, with its fields.
    """

    def __init__(self, kind: Kind, link: Link, seat: int) -> None:
        self.kind = kind
        self.link = link  # the stage's
        self._seat = seat
        self._started = 0

    @property
    def pid(self) -> int:
        """The id of the actor's process, which it may share with others."""
        return self.link.process.pid

    @property
    def interpreter(self) -> int:
        """The id of the actor's interpreter within its process."""
        return self.link.interpreter

    def call(self, verb: str, *arguments: Any, **options: Any) -> Any:
        """Have `verb` done and return its result.

        Raises:
            StateError, KeyError, TypeError, ValueError: as the verb raised it there.
            ActorTimeoutError: no answer in time; the actor may still be at it.
            ActorGoneError: its process has ended.
            ActorError: it failed in another way.
        """
        self.start(verb, *arguments, **options)
        return self.result()

    def start(self, verb: str, *arguments: Any, **options: Any) -> None:
        """Have `verb` begun; `result` waits for its end.  One at a time."""
        packed = {name: encode(option) for name, option in options.items()}
        self._started = self.link.send(self._seat, verb, [encode(argument) for argument in arguments], packed)

    def result(self, timeout_s: float | None = None) -> Any:
        """Wait for what was started and return its result.  Raises what `call` raises.

        Args:
            timeout_s: None: the stage's patience.
        """
        return self.link.result(self._started, timeout_s)

    def told(self, at_least: int = 0, timeout_s: float | None = None) -> list[Any]:
        """Return what the started loop has told so far, after waiting until that is `at_least` so much.

        Also of an actor that was killed: what had reached the socket counts as told.

        Raises:
            ActorTimeoutError, ActorGoneError: it told less.
        """
        return self.link.told(self._started, at_least, timeout_s)

    def kill(self) -> None:
        """Kill the actor's process with SIGKILL, and with it all actors of that process; return when it is dead."""
        self.link.process.kill()

    def close(self) -> None:
        """Have the actor close its handles and end; its interpreter, or process, ends too.

        Raises:
            ActorGoneError, ActorError: it crashed, now or before.
        """
        self.link.close()


class Stage:
    """Where actors are made, and what ends them all.

    Args:
        python: the interpreter to run; `sys.executable` lies under some servers.
        patience_s: how long any one answer may take.
        environment: variables for the actors' processes besides ours.
        directory: where to put a directory for sockets and logs, removed at the end; None: where temporary files go.
    """

    def __init__(
        self,
        *,
        python: str = sys.executable,
        patience_s: float = 30.0,
        environment: dict[str, str] | None = None,
        directory: str | None = None,
    ) -> None:
        self._python = python
        self._patience_s = patience_s
        self._environment = {**os.environ, **(environment or {})}
        self._directory = tempfile.mkdtemp(prefix="sharedstate-stage-", dir=directory)
        self._address = os.path.join(self._directory, "stage")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._address)
        self._listener.listen(64)
        self._last = 0
        self._hosts: dict[str, Host] = {}
        self.links: list[Link] = []
        self._processes: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- Making actors ------------------------------------------------------

    def actor(self, kind: Kind, url: str | None = None, *, inherits: bool = False) -> Actor:
        """Make an actor; with `url` it opens that store.

        Args:
            kind: see `available_kinds` for which can be made here.
            url: of the store; more can be opened by `call("open", url)`.
            inherits: a forked actor uses a handle that its parent opened, instead of its own.

        Raises:
            StateError: the store cannot be opened there.
            ActorError: the actor cannot be made; says why.
        """
        number = self._next_number()
        if kind is Kind.UNRELATED:
            link = self._start_unrelated(number)
        else:
            link = self._start_in_host(kind, number, url if inherits else None)
        actor = Actor(kind, link, 0)
        if url is not None and not inherits:
            actor.call("open", url)
        return actor

    def beside(self, actor: Actor, url: str | None = None) -> Actor:
        """Make an actor that is the same thread as `actor`, with another handle."""
        link = actor.link
        second = Actor(actor.kind, link, link.seats)
        link.seats += 1
        if url is not None:
            second.call("open", url)
        return second

    def pair(self, boundary: Boundary, url: str) -> tuple[Actor, Actor]:
        """Make two actors with `boundary` between them, each with its own handle on `url`."""
        first, second = KINDS_OF[boundary]
        one = self.actor(first, url)
        return one, self.beside(one, url) if boundary is Boundary.SAME_THREAD else self.actor(second, url)

    def kill_all(self) -> None:
        """Kill every process that was started here, and return when they are dead."""
        for link in self.links:
            link.hang_up()
        self.links.clear()
        # Children before their parents, who reap them.
        for process in sorted(self._processes, key=lambda process: isinstance(process, Host)):
            try:
                process.kill()
            except ActorError as error:
                print(error, file=sys.stderr)  # noqa: T201  close() must go on, and has no caller to tell
        self._processes.clear()
        self._hosts.clear()

    def close(self) -> None:
        """End every process that was started here; closing twice is no error."""
        self.kill_all()
        self._listener.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    # --- Starting processes -------------------------------------------------

    def _next_number(self) -> int:
        self._last += 1
        return self._last

    def _start_in_host(self, kind: Kind, number: int, inherited_url: str | None) -> Link:
        is_interpreter = kind in {Kind.LEGACY, Kind.ISOLATED}
        # Apart from the others: forking a process that has sub-interpreters is CPython's weak spot, not ours.
        home = self._host("interpreters" if is_interpreter else "threads")
        if is_interpreter:
            home.order("interpreter", number, kind.value)
            link = self._accept(number, home)
            link.is_interpreter = True
            return link
        if kind is Kind.THREAD:
            home.order("thread", number)
            return self._accept(number, home)
        if kind is Kind.FORKED:
            if inherited_url is not None:
                home.order("open", inherited_url)
            pid = home.order("fork", number)
        else:
            pid = home.order("spawn", number)
        child = Child(pid, home.log, self._patience_s, home)  # it inherits the parent's stderr
        self._processes.append(child)
        return self._accept(number, child)

    def _host(self, name: str) -> Host:
        home = self._hosts.get(name)
        if home is None or home.is_dead():
            number = self._next_number()
            log = os.path.join(self._directory, f"{name}-{number}.log")
            with open(log, "wb") as file:
                popen = subprocess.Popen(  # noqa: S603  our own interpreter
                    host.command_line(self._python, host.run_host.__name__, self._address, number),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    env=self._environment,
                    start_new_session=True,  # a Ctrl-C for the probe is none for them
                )
            home = self._hosts[name] = Host(popen, log, self._patience_s)
            self._processes.append(home)
            home.channel = self._hello(number, home)[0]
        return home

    def _start_unrelated(self, number: int) -> Link:
        log = os.path.join(self._directory, f"unrelated-{number}.log")
        command = host.command_line(self._python, host.run_process.__name__, self._address, number)
        # Twice forked and in a session of its own, so that nothing but the socket's path connects us.
        launch = (
            "import os; os.setsid()\n"
            "if os.fork(): os._exit(0)\n"
            f"for fd, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY)): os.dup2(os.open('/dev/null', flags), fd)\n"
            f"os.dup2(os.open({log!r}, os.O_WRONLY | os.O_CREAT, 0o600), 2); os.closerange(3, 256)\n"
            f"os.execv({self._python!r}, {command!r})"
        )
        subprocess.run(  # noqa: S603  our own interpreter
            [self._python, "-S", "-c", launch], env=self._environment, check=True, timeout=self._patience_s
        )
        channel, pid, interpreter = self._hello(number, None)
        process = Process(pid, log, self._patience_s)
        self._processes.append(process)
        return self._linked(channel, process, number, interpreter)

    def _accept(self, number: int, process: Process) -> Link:
        channel, _, interpreter = self._hello(number, process)
        return self._linked(channel, process, number, interpreter)

    def _linked(self, channel: Channel, process: Process, number: int, interpreter: int) -> Link:
        link = Link(channel, process, self._patience_s, number, interpreter)
        self.links.append(link)
        return link

    def _hello(self, number: int, process: Process | None) -> tuple[Channel, int, int]:
        """Wait for actor `number` to connect; return its channel, pid and interpreter."""
        ends_at = time.monotonic() + self._patience_s
        while (left_s := ends_at - time.monotonic()) > 0:
            poller = select.poll()
            poller.register(self._listener, select.POLLIN)
            if process is not None:
                poller.register(process.pidfd, select.POLLIN)
            ready = {fd for fd, _ in poller.poll(left_s * 1000)}
            if self._listener.fileno() not in ready:
                if process is not None and ready:
                    raise process.gone()
                break
            connection, _ = self._listener.accept()
            channel = Channel(connection.detach())
            try:
                hello = channel.receive(left_s)
            except ChannelClosedError:
                hello = None
            if hello is None or hello[0] != number:  # one that came too late for its own waiter
                channel.close()
                continue
            _, pid, interpreter, _, failure = hello
            if failure:
                channel.close()
                raise ActorError(f"the actor could not start: {failure}")
            return channel, pid, interpreter
        stderr = "" if process is None else process.stderr()
        raise ActorTimeoutError(f"an actor did not appear within {self._patience_s:g} s{stderr}")
