"""One worker against two: do writers of different keys hold one another up?

Workers are isolated interpreters of one process, or processes; each opens its
own handle by URL and increments keys of its own: one, or 64, which shared
memory spreads over all its stripes, so that the two then meet in its cache
lines although they never meet in a key.  Runs come in triples of
one, two and one worker, so that drift of the machine falls on both sides:

    ratio = throughput of two / mean throughput of the one before and after

On a machine with other work a worker may not get its core.  A triple counts as
undisturbed if CPU time / wall time was at least 0.9 for every worker of it; a
backend whose writers wait for one another loses triples by that rule too, so
the ratio of all triples stands beside it.

What was incremented is added up at the end: a lost update is an error, not a
figure.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sharedstate
from benchmarks.measure import Interval, bootstrap_ratio, median
from benchmarks.parts import isolated
from benchmarks.parts.room import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CREWS", "Scaling", "Triple", "measure_scaling"]

KEPT_ABOVE: Final = 0.9
"""Of wall time, what each worker must have spent on a CPU."""

CREWS: Final = ("interpreters", "processes")
_PATIENCE_S: Final = 20.0
_LEAD_S: Final = 0.003  # from the command to the common start, for all workers to be awake


class Run(NamedTuple):
    """What one worker did in one run."""

    done: int
    wall_ns: int
    cpu_ns: int


class Triple(NamedTuple):
    """The runs of one, two, and one worker."""

    before: Run
    both: tuple[Run, Run]
    after: Run

    def one(self) -> float:
        """Return the operations per second of one worker."""
        return (_rate(self.before) + _rate(self.after)) / 2

    def two(self) -> float:
        """Return those of two together."""
        return sum(map(_rate, self.both))

    def is_undisturbed(self) -> bool:
        """Return whether every worker really ran."""
        return all(run.cpu_ns >= KEPT_ABOVE * run.wall_ns for run in (self.before, *self.both, self.after))


def _rate(run: Run) -> float:
    return run.done / run.wall_ns * 1e9


class Scaling(NamedTuple):
    """What became of one backend with one kind of worker.

    Attributes:
        keys: how many each worker has of its own.
        one: operations per second of one worker, median of the triples.
        two: of two together.
        ratio: of the undisturbed triples; None if there was none.
        ratio_of_all: of all of them.
        kept: undisturbed triples.
        triples: all of them.
        lost: increments that are not in the store.
        failure: why there is nothing else, or "".
    """

    backend: str
    crew: str
    keys: int
    one: float = 0.0
    two: float = 0.0
    ratio: Interval | None = None
    ratio_of_all: Interval | None = None
    kept: int = 0
    triples: int = 0
    lost: int = 0
    failure: str = ""


def measure_scaling(
    backend: str,
    url: str,
    crew: str,
    keys: int,
    *,
    triples: int,
    most: int,
    duration_s: float,
    is_over: Callable[[], bool],
) -> Scaling:
    """Measure one kind of worker on the store at `url`, which exists and which the caller removes.

    Args:
        backend: for the report.
        url: what each worker opens.
        crew: of `CREWS`.
        keys: how many each worker has of its own, a divisor of 64.
        triples: how many to run, and how many undisturbed ones are enough.
        most: how many to run at the most, to get those.
        duration_s: of one run, a third of a triple.
        is_over: whether time is up; what is there must then do.
    """
    if crew == "interpreters" and not isolated.is_supported():
        return Scaling(backend, crew, keys, failure=isolated.why_unsupported())
    team = _Team(url, crew, keys)
    try:
        team.start()
        runs: list[Triple] = []
        while _wants_more(runs, triples, most) and not (runs and is_over()):
            before = team.run([0], duration_s)[0]
            first, second = team.run([0, 1], duration_s)
            runs.append(Triple(before, (first, second), team.run([0], duration_s)[0]))
    except (OSError, ValueError, RuntimeError) as error:
        return Scaling(backend, crew, keys, failure=f"{error} {team.last_words()}".strip())
    finally:
        team.dismiss()
    return _sum_up(backend, crew, keys, runs, team.done - _count(url))


def _wants_more(runs: list[Triple], triples: int, most: int) -> bool:
    return len(runs) < triples or (len(runs) < most and sum(triple.is_undisturbed() for triple in runs) < triples)


def _sum_up(backend: str, crew: str, keys: int, runs: list[Triple], lost: int) -> Scaling:
    kept = [triple for triple in runs if triple.is_undisturbed()]
    shown = kept or runs
    return Scaling(
        backend,
        crew,
        keys,
        one=median([triple.one() for triple in shown]),
        two=median([triple.two() for triple in shown]),
        ratio=_ratio(kept) if kept else None,
        ratio_of_all=_ratio(runs),
        kept=len(kept),
        triples=len(runs),
        lost=lost,
    )


def _ratio(runs: list[Triple]) -> Interval:
    return bootstrap_ratio([triple.two() for triple in runs], [triple.one() for triple in runs])


def _count(url: str) -> int:
    with sharedstate.open(url) as store:
        return sum(value for key, value in store.items() if key.startswith("worker-"))


class _Team:
    """Two workers, each behind a pair of pipes.

    Attributes:
        done: increments that the workers have reported.
    """

    def __init__(self, url: str, crew: str, keys: int) -> None:
        self.done = 0
        self._url = url
        self._crew = crew
        self._keys = keys
        self._children: list[subprocess.Popen[bytes]] = []
        self._commands: list[int] = []  # written by us, per worker
        self._replies: list[int] = []  # read by us, per worker

    def start(self) -> None:
        """Start both workers and wait until each has opened the store."""
        theirs: list[list[int]] = []
        for _ in range(2):
            their_input, our_output = os.pipe()
            our_input, their_output = os.pipe()
            self._commands.append(our_output)
            self._replies.append(our_input)
            theirs.append([their_input, their_output])
        try:
            self._spawn_workers(theirs)
        finally:
            # Before we read: only when no one else holds them do we see an end of file.
            for descriptor in (*theirs[0], *theirs[1]):
                os.close(descriptor)
        for worker in range(2):
            self.done += self._read(worker)[0]
            if self._crew == "interpreters":
                # The next one may start.
                host = self._children[0].stdin
                assert host is not None
                os.write(host.fileno(), b"\n")

    def _spawn_workers(self, theirs: list[list[int]]) -> None:
        if self._crew == "interpreters":
            job = json.dumps({"url": self._url, "each": self._keys, "pipes": theirs})
            self._spawn(["-m", "benchmarks.parts.isolated", "workers", job], [*theirs[0], *theirs[1]])
            return
        for worker, pipes in enumerate(theirs):
            known: dict[str, Any] = {
                "url": self._url,
                "worker": worker,
                "each": self._keys,
                "input": pipes[0],
                "output": pipes[1],
            }
            self._spawn(["-c", f"globals().update({known!r})\n{isolated.WORKER}"], pipes)

    def _spawn(self, arguments: list[str], descriptors: list[int]) -> None:
        child = subprocess.Popen(
            [sys.executable, *arguments],
            pass_fds=descriptors,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
        self._children.append(child)

    def run(self, workers: list[int], duration_s: float) -> list[Run]:
        """Let `workers` increment for `duration_s`, from one moment on."""
        start = time.monotonic() + _LEAD_S
        for worker in workers:
            os.write(self._commands[worker], f"{start!r} {duration_s!r}".encode())
        runs = [Run(*self._read(worker)) for worker in workers]
        self.done += sum(run.done for run in runs)
        return runs

    def _read(self, worker: int) -> list[int]:
        descriptor = self._replies[worker]
        if not select.select([descriptor], [], [], _PATIENCE_S)[0]:
            raise RuntimeError(f"worker {worker} did not answer within {_PATIENCE_S:g} s.")
        reply = os.read(descriptor, 100)
        if not reply:
            raise RuntimeError(f"worker {worker} ended.")
        return [int(number) for number in reply.split()]

    def dismiss(self) -> None:
        """End the workers: by closing their pipes, and if that does not help, by force."""
        for descriptor in (*self._commands, *self._replies):
            os.close(descriptor)
        self._commands.clear()
        self._replies.clear()
        for child in self._children:
            try:
                child.communicate(timeout=_PATIENCE_S / 4)
            except (subprocess.TimeoutExpired, ValueError):
                child.kill()
                child.wait()

    def last_words(self) -> str:
        """Return the last line that a failed worker printed."""
        for child in self._children:
            child.terminate()
            errors = child.communicate()[1].decode(errors="replace").strip()
            if errors:
                return errors.splitlines()[-1]
        return ""
