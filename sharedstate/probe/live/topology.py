"""The house: hosts around processes around interpreters around threads, as answers showed them.

Pure: it is built from sightings, and knows no server and no clock.

    T1  A process is a pid, of one pid space, and the time at which it started.
    T2  An interpreter is its number in its process and its own token: two copies
        of our module in one interpreter would be drawn as two, which they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from sharedstate.model import Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sharedstate.probe.live.client import Answer

__all__ = ["Host", "House", "Interpreter", "Process", "build_house", "count_at_once", "find_new"]

_Key = TypeVar("_Key", bound=tuple[Any, ...])


class Interpreter(NamedTuple):
    """One interpreter.

    Attributes:
        place: its token.
        number: in its process.
        python: version.
        urls: through which it was reached.
        threads: the kernel's ids of those that answered.
        answers: how many it gave.
    """

    place: str
    number: int
    python: str
    urls: tuple[str, ...]
    threads: tuple[int, ...]
    answers: int


class Process(NamedTuple):
    """One process.

    Attributes:
        pid: in its pid space.
        started: in clock ticks after boot.
        parent: pid of its parent.
        is_new: it was started after its host had given its first answer.
        interpreters: in the order of their numbers.
    """

    pid: int
    started: int
    parent: int
    is_new: bool
    interpreters: tuple[Interpreter, ...]


class Host(NamedTuple):
    """One host, or one container.

    Attributes:
        name: its own.
        boot: the kernel's id of its boot.
        space: of its pids.
        processes: the oldest first.
    """

    name: str
    boot: str
    space: int
    processes: tuple[Process, ...]


class House(NamedTuple):
    """All that was seen."""

    hosts: tuple[Host, ...]

    @property
    def processes(self) -> list[Process]:
        """All processes."""
        return [process for host in self.hosts for process in host.processes]

    @property
    def interpreters(self) -> list[Interpreter]:
        """All interpreters."""
        return [interpreter for _, _, interpreter in self.walk()]

    @property
    def places(self) -> list[str]:
        """The tokens of all interpreters, in the order in which they are drawn."""
        return [interpreter.place for interpreter in self.interpreters]

    @property
    def threads(self) -> int:
        """How many threads answered."""
        return len({(host, thread) for host, _, interpreter in self.walk() for thread in interpreter.threads})

    @property
    def scope(self) -> Scope:
        """The scope that a store needs to reach everything that was seen."""
        if len(self.hosts) > 1:
            return Scope.CLUSTER
        if len(self.processes) > 1:
            return Scope.HOST
        return Scope.PROCESS if len(self.interpreters) > 1 else Scope.INTERPRETER

    def walk(self) -> Iterator[tuple[Host, Process, Interpreter]]:
        """Yield each interpreter with what is around it, in the order in which they are drawn."""
        for host in self.hosts:
            for process in host.processes:
                for interpreter in process.interpreters:
                    yield host, process, interpreter

    def distances(self) -> dict[str, tuple[int, int]]:
        """Return each place's host and process, as numbers that tell them apart."""
        hosts, processes = list(self.hosts), self.processes
        return {
            interpreter.place: (hosts.index(host), processes.index(process))
            for host, process, interpreter in self.walk()
        }

    def names(self) -> dict[str, str]:
        """Return what each place is called where there is no picture."""
        names = dict[str, str]()
        for host, process, interpreter in self.walk():
            name = f"pid {process.pid}"
            if interpreter.number or len(process.interpreters) > 1:
                name += f" interpreter {interpreter.number}"
            names[interpreter.place] = f"{name} on {host.name}" if len(self.hosts) > 1 else name
        return names


def build_house(answers: Iterable[Answer]) -> House:
    """Return the house that the answers come from; they are in the order in which they came."""
    hosts = [
        Host(name, boot, space, tuple(_processes(members)))
        for (name, boot, space), members in _group(answers, _host_key)
    ]
    return House(tuple(hosts))


def find_new(answers: Iterable[Answer]) -> set[str]:
    """Return the places in processes that were started after their host had given its first answer."""
    found = list(answers)
    first: dict[str, float] = {}
    for answer in found:
        boot = answer.where.boot
        first[boot] = min(first.get(boot, answer.where.up_s), answer.where.up_s)
    return {answer.where.place for answer in found if answer.where.born_s > first[answer.where.boot]}


def count_at_once(answers: Iterable[Answer]) -> int:
    """Return how many of the answers were in work at the same time, each host by its own clock."""
    total = 0
    for _, members in _group(answers, lambda answer: (answer.where.clock,)):
        steps = sorted(
            step for answer in members for step in ((answer.began_ns, 1), (answer.ended_ns, -1))
        )  # at the same instant an end comes before a beginning
        now = most = 0
        for _, change in steps:
            now += change
            most = max(most, now)
        total += most
    return total


def _host_key(answer: Answer) -> tuple[str, str, int]:
    return answer.where.host, answer.where.boot, answer.where.space


def _processes(answers: list[Answer]) -> list[Process]:
    new = find_new(answers)
    processes = [
        Process(
            pid,
            started,
            members[-1].where.parent,
            members[0].where.place in new,
            tuple(_interpreters(members)),
        )
        for (pid, started), members in _group(answers, lambda answer: (answer.where.pid, answer.where.started))
    ]
    return sorted(processes, key=lambda process: (process.started, process.pid))


def _interpreters(answers: list[Answer]) -> list[Interpreter]:
    return [
        Interpreter(
            place,
            number,
            members[-1].where.python,
            tuple(sorted({answer.url for answer in members})),
            tuple(sorted({answer.where.thread for answer in members})),
            len(members),
        )
        for (number, place), members in _group(answers, lambda answer: (answer.where.interpreter, answer.where.place))
    ]


def _group(answers: Iterable[Answer], key: Callable[[Answer], _Key]) -> list[tuple[_Key, list[Answer]]]:
    """Return the answers of each key, in the order in which they came; the keys in theirs."""
    found: dict[_Key, list[Answer]] = {}
    for answer in answers:
        found.setdefault(key(answer), []).append(answer)
    return sorted(found.items())
