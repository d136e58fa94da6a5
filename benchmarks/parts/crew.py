"""Workers, of one kind, on one contestant: started, told what to do, and ended by pid whatever happens."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

from benchmarks.guard import ToldError
from benchmarks.parts import isolated
from benchmarks.parts.room import ROOT
from benchmarks.parts.worker import receive, send

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["KINDS", "Crew", "WorkerError"]

KINDS: Final = ("threads", "interpreters", "processes")

_PATIENCE_S: Final = 20.0
_LEAVE_S: Final = 5.0


class WorkerError(ToldError):
    """A worker failed, ended, or did not answer; says which, and its last words."""


class Crew:
    """Workers behind pairs of pipes.

    Threads are of one process, interpreters of another's; processes each have
    one worker.  `with` starts them, and ends them: by closing their pipes, and
    if that does not help, by force.
    """

    def __init__(self, kind: str, attach: str, where: str, workers: int) -> None:
        self.size = workers
        self._kind = kind
        self._attach = attach
        self._where = where
        self._children: list[subprocess.Popen[bytes]] = []
        self._commands: list[int] = []  # written by us, per worker
        self._replies: list[int] = []  # read by us, per worker

    def __enter__(self) -> Self:
        if self._kind == "interpreters" and not isolated.is_supported():
            raise WorkerError(isolated.why_unsupported())
        theirs: list[tuple[int, int]] = []
        for _ in range(self.size):
            their_input, our_output = os.pipe()
            our_input, their_output = os.pipe()
            self._commands.append(our_output)
            self._replies.append(our_input)
            theirs.append((their_input, their_output))
        try:
            try:
                for pipes in [[pair] for pair in theirs] if self._kind == "processes" else [theirs]:
                    self._spawn(pipes)
            finally:
                # Before we read: only when no one else holds them do we see an end of file.
                for descriptor in (descriptor for pair in theirs for descriptor in pair):
                    os.close(descriptor)
            for worker in range(self.size):
                self.answer(worker)
                if self._kind != "processes":
                    # The next one may start.
                    host = self._children[0].stdin
                    assert host is not None
                    os.write(host.fileno(), b"\n")
        except BaseException:
            self._dismiss()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            # Whoever stops us does not wait for the end of a race.
            for child in self._children:
                child.kill()
        self._dismiss()

    def _spawn(self, pipes: list[tuple[int, int]]) -> None:
        job = json.dumps({"attach": self._attach, "where": self._where, "pipes": pipes})
        child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.parts.worker", self._kind, job],
            pass_fds=[descriptor for pair in pipes for descriptor in pair],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
        self._children.append(child)

    def ask(self, worker: int, task: str, **arguments: Any) -> None:
        """Tell a worker to do a task; `answer` returns what comes of it."""
        try:
            send(self._commands[worker], [task, arguments])
        except BrokenPipeError:
            raise self._ended(worker) from None

    def answer(self, worker: int, patience_s: float = _PATIENCE_S) -> Any:
        """Wait for a worker's answer.

        Raises:
            WorkerError: it is a failure, or does not come.
        """
        if not select.select([self._replies[worker]], [], [], patience_s)[0]:
            raise WorkerError(f"worker {worker} did not answer within {patience_s:g} s")
        message = receive(self._replies[worker])
        if message is None:
            raise self._ended(worker)
        result, failure = message
        if failure:
            raise WorkerError(failure)
        return result

    def do(self, worker: int, task: str, *, patience_s: float = _PATIENCE_S, **arguments: Any) -> Any:
        """Tell a worker to do a task and wait for what comes of it."""
        self.ask(worker, task, **arguments)
        return self.answer(worker, patience_s)

    def call(self, worker: int, verb: str, *arguments: Any, patience_s: float = _PATIENCE_S) -> Any:
        """Let a worker call one verb of its contestant, and return what that returned."""
        return self.do(worker, "call", verb=verb, arguments=list(arguments), patience_s=patience_s)[1]

    def race(self, workers: int, duration_s: float, block: int) -> list[dict[str, Any]]:
        """Let the first `workers` run what was planned, from one moment on; return what each did."""
        start = time.monotonic() + 0.005 + 0.001 * workers
        for worker in range(workers):
            self.ask(worker, "race", start_s=start, duration_s=duration_s, block=block)
        return [self.answer(worker, duration_s + _PATIENCE_S) for worker in range(workers)]

    def kill(self, worker: int) -> None:
        """Kill the process of a worker, as `kill -9` does."""
        self._children[worker].kill()
        self._children[worker].wait()

    def _ended(self, worker: int) -> WorkerError:
        self._close_pipes()
        said = [self._leave(child) for child in self._children]
        errors = "\n".join(said).strip().splitlines()
        return WorkerError(f"worker {worker} ended: {errors[-1] if errors else 'it said nothing'}")

    def _dismiss(self) -> None:
        self._close_pipes()
        for child in self._children:
            self._leave(child)

    def _close_pipes(self) -> None:
        for descriptor in (*self._commands, *self._replies):
            os.close(descriptor)
        self._commands.clear()
        self._replies.clear()

    @staticmethod
    def _leave(child: subprocess.Popen[bytes]) -> str:
        try:
            return child.communicate(timeout=_LEAVE_S)[1].decode(errors="replace")
        except (subprocess.TimeoutExpired, ValueError):
            child.kill()
            child.wait()
            with suppress(OSError):
                for stream in (child.stdin, child.stderr):
                    if stream is not None:
                        stream.close()
            return ""
