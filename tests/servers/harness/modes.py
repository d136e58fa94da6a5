"""What a mode is: one configuration of one server, and the truth about it.

The truth was measured before this library was written, and test_harness.py
measures it again on every run.  Tests of detection, of selection and of the
doctor compare with it; nothing here may be derived from what they say.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .installed import Environment


class Interpreter(StrEnum):
    """What kind of interpreter answers requests."""

    MAIN = "main"
    LEGACY = "legacy"  # a sub-interpreter that shares the process's GIL
    ISOLATED = "isolated"  # a sub-interpreter with a GIL of its own


class Disturbance(StrEnum):
    """What can happen to a running server; each names a method of `Server`."""

    TOUCH = "touch"
    GRACEFUL = "graceful"
    RESTART = "restart"
    CYCLE = "cycle"
    KILL_WORKER = "kill_worker"
    KILL_MASTER = "kill_master"
    HUP = "hup"
    USR2 = "usr2"


def exactly(number: int) -> range:
    return range(number, number + 1)


def up_to(number: int) -> range:
    return range(1, number + 1)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What really exists when all mounts of one application were asked often enough."""

    processes: range  # that answer requests, at the same time
    interpreters: int = 1  # of this application, in each such process
    kinds: frozenset[Interpreter] = frozenset({Interpreter.MAIN})
    threads: int | None = 1  # that answer requests at the same time, in each process; None: no limit, or no threads
    multithread: bool | None = None  # what environ says; None: nothing, or not the same in all mounts
    multiprocess: bool | None = None
    application_groups: tuple[str, ...] = ()  # mod_wsgi's, {port} to be filled in; "" is %{GLOBAL}
    process_groups: tuple[str, ...] = ()  # mod_wsgi's; "" is embedded
    executions: int = 1  # of the application's module, in each interpreter (or in the master's copy of it)
    scripts: int = 1  # copies of that module's globals in each interpreter
    in_master: bool = False  # the module ran before the fork: the workers hold copies of that one run
    also_in_master: bool = False  # the module ran there once more, beside the workers
    preloaded: bool = True  # the module ran before the first request
    recycled: bool = False  # processes end after so many requests, and others take their place
    supervised: bool = True  # the processes have a parent that is the server's own

    @property
    def exact(self) -> bool:
        """Whether the server makes the number of processes exact."""
        return len(self.processes) == 1

    @property
    def module_runs(self) -> range:
        """How often the application's module is executed after one start, when all that may answer did."""
        each = self.interpreters * self.executions
        if self.in_master:
            return exactly(each)
        extra = int(self.also_in_master)
        last = 1_000_000 if self.recycled else self.processes[-1] * each + extra
        return range(self.processes[0] * (each if self.exact else self.executions) + extra, last + 1)


class Place(NamedTuple):
    """What a server is started with: the files and numbers of one instance."""

    directory: Path
    port: int
    environment: Environment
    path: tuple[str, ...]  # for sys.path: the application, the library

    @property
    def application(self) -> Path:
        return self.directory / "app"

    @property
    def script(self) -> Path:
        return self.application / "application.py"

    @property
    def state(self) -> Path:
        return self.directory / "state"


@dataclass(frozen=True, kw_only=True, repr=False)
class Mode:
    """One configuration of one server.

    `command` writes the configuration into the place and returns the program to
    run, which must stay in the foreground.
    """

    name: str
    server: str  # the program that serves: mod_wsgi, gunicorn, uwsgi, ...
    truth: Truth
    command: Callable[[Place, tuple[str, ...]], list[str]]
    mounts: tuple[str, ...] = ("",)
    python: str = ""  # an environment's version; the distribution's own without
    disturbances: frozenset[Disturbance] = frozenset({Disturbance.CYCLE})
    ready: str = ""  # a pattern of lines that the log gains at each start; without it, an answer is enough
    ready_count: int = 1  # how many: a worker that is signalled while it starts may be deaf to it (uWSGI's are)
    signals: dict[Disturbance, signal.Signals] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM

    def __repr__(self) -> str:
        return f"MODES[{self.name!r}]"

    def __str__(self) -> str:
        return self.name

    def but(self, name: str, *extra: str, **truth: object) -> Mode:
        """Return this mode with more configuration lines or arguments, and what they change of the truth."""
        command = self.command
        return replace(
            self,
            name=name,
            command=lambda place, more: command(place, extra + more),
            truth=replace(self.truth, **truth),
        )
