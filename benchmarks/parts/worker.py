"""A worker, of any kind: opens one contestant, then does what it is told through a pair of pipes.

    python -m benchmarks.parts.worker processes|threads|interpreters JOB

A process runs one worker, or one in each of its threads, or one in each of its
isolated interpreters.  Isolated interpreters import this module too, so it
loads little; see `light_open`.

A message is marshalled, behind four bytes of length: both ends are the same
Python.  A command is [task, arguments]; the answer [what it returns, ""], or
[None, what went wrong].  The first answer comes by itself, once the contestant
is open.  The end of the commands ends the worker.
"""

from __future__ import annotations

import marshal
import os
import sys
import time
from itertools import cycle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

__all__ = ["fold", "receive", "send", "serve"]

RECORD_FILL = "." * 200
"""Between the halves of a record, so that they lie in different cache lines."""

_UNFOLDED = 50_000  # times that are kept as they are, at the most
_SINGLE_BITS = 7  # of each time in a histogram: within 1 %


# --- Messages ----------------------------------------------------------------


def send(descriptor: int, message: Any) -> None:
    """Write one message."""
    body = marshal.dumps(message)
    left = memoryview(len(body).to_bytes(4, "big") + body)
    while left:
        left = left[os.write(descriptor, left) :]


def receive(descriptor: int) -> Any:
    """Read one message; None at the end of them."""
    head = _read(descriptor, 4)
    return marshal.loads(_read(descriptor, int.from_bytes(head, "big"))) if head else None


def _read(descriptor: int, size: int) -> bytes:
    read = b""
    while len(read) < size:
        piece = os.read(descriptor, size - len(read))
        if not piece:
            return b""
        read += piece
    return read


def serve(worker: int, attach: str, where: str, commands: int, replies: int) -> None:
    """Be worker number `worker`, on what `attach` ("module:function") opens at `where`."""
    try:
        module, _, name = attach.partition(":")
        verbs = getattr(__import__(module, fromlist=[name]), name)(where)
    except Exception as error:  # noqa: BLE001  whatever it is, the other side shows it
        send(replies, [None, _in_a_line(error)])
        return
    send(replies, [None, ""])
    tasks = _Tasks(worker, verbs)
    while (command := receive(commands)) is not None:
        task, arguments = command
        try:
            answer = [getattr(tasks, task)(**arguments), ""]
        except Exception as error:  # noqa: BLE001  likewise
            answer = [None, _in_a_line(error)]
        send(replies, answer)
    verbs["close"]()


def _in_a_line(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"not installed: {error}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


# --- Tasks -------------------------------------------------------------------


class _Tasks:
    """What a worker can be told to do; each method is a task."""

    def __init__(self, worker: int, verbs: dict[str, Callable[..., Any]]) -> None:
        self._verbs = verbs
        self._torn = 0
        # Records of different writers never agree by chance.
        self._stamp = worker * 10**9
        self._steps: list[tuple[Callable[[str], Any], str]] = []
        self._increments: list[int] = []

    def call(self, verb: str, arguments: list[Any]) -> list[Any]:
        """Call one verb; return when it began, what it returned, and when that was, in monotonic nanoseconds."""
        call = self._verbs[verb]
        begin = time.monotonic_ns()
        result = call(*arguments)
        return [begin, result, time.monotonic_ns()]

    def plan(self, steps: list[tuple[str, str]]) -> None:
        """Take the operations of the next races: verb and key."""
        calls = {
            "increment": self._verbs["increment"],
            "get": self._verbs["get"],
            "read": self._read_record,
            "write": self._write_record,
        }
        self._steps = [(calls[verb], key) for verb, key in steps]
        self._increments = [int(verb == "increment") for verb, _ in steps]

    def race(self, start_s: float, duration_s: float, block: int) -> dict[str, Any]:
        """Run the planned operations in turn, from one moment on, for a while.

        The first of each `block` operations is timed by itself, the others
        together: so `longest_ns` covers all of them, and hardly any time goes
        into reading the clock.  `done` are those that ended in time, whenever
        this worker began: it may have had to wait for a core.  At least one
        block is run.
        """
        starts = range(0, len(self._steps) - block + 1, block)
        blocks = [(*self._steps[at], self._steps[at + 1 : at + block]) for at in starts]
        told = [sum(self._increments[at : at + block]) for at in starts]
        clock_ns = _clock_ns()
        now = time.monotonic_ns  # the same for all workers
        times: list[int] = []
        histogram: dict[int, int] = {}
        self._torn = longest = ran = late = 0
        until = int((start_s + duration_s) * 1e9)
        time.sleep(max(0.0, start_s - time.monotonic()))
        cpu, begin = time.thread_time_ns(), now()
        for call, key, rest in cycle(blocks):
            before = now()
            call(key)
            between = now()
            for other, name in rest:
                other(name)
            after = now()
            times.append(between - before)
            longest = max(longest, between - before, after - between)
            ran += 1
            if after >= until:
                late = int(after > until)
                break
            if len(times) == _UNFOLDED:
                fold(times, clock_ns, histogram)
                times.clear()
        wall = now() - begin
        fold(times, clock_ns, histogram)
        laps, beyond = divmod(ran, len(blocks))
        return {
            "done": (ran - late) * block,
            "told": laps * sum(told) + sum(told[:beyond]),
            "torn": self._torn,
            "wall_ns": wall,
            "cpu_ns": time.thread_time_ns() - cpu,
            "longest_ns": longest,
            "singles": histogram,
        }

    def _read_record(self, key: str) -> None:
        record = self._verbs["get_record"](key)
        if record["a"] != record["b"]:
            self._torn += 1

    def _write_record(self, key: str) -> None:
        self._stamp += 1
        self._verbs["set_record"](key, {"a": self._stamp, "fill": RECORD_FILL, "b": self._stamp})

    def fill(self, first: int, count: int, each: int) -> float:
        """Store the keys from number `first` on, `each` at a time; return the seconds that it took."""
        fill = self._verbs["fill"]
        begin = time.perf_counter()
        for low in range(first, first + count, each):
            fill({make_key(number): make_value(number) for number in range(low, min(low + each, first + count))})
        return time.perf_counter() - begin

    def rewrite(self, keys: int, writes: int, each: int) -> float:
        """Store the first `keys` keys again and again, `writes` in all; return the seconds that it took."""
        fill = self._verbs["fill"]
        begin = time.perf_counter()
        for done in range(0, writes, each):
            fill({make_key(number % keys): number for number in range(done, min(done + each, writes))})
        return time.perf_counter() - begin

    def loop(self, verb: str, keys: int, draws: int, seed: int) -> float:
        """Call `verb` with `draws` keys, drawn at random; return the nanoseconds of one call."""
        from random import Random

        dice = Random(seed)
        drawn = [make_key(dice.randrange(keys)) for _ in range(draws)]
        call = self._verbs[verb]
        if verb == "set":
            begin = time.perf_counter_ns()
            for value, key in enumerate(drawn, 2**30 + seed):
                call(key, value)
            return (time.perf_counter_ns() - begin) / draws
        begin = time.perf_counter_ns()
        for key in drawn:
            call(key)
        return (time.perf_counter_ns() - begin) / draws

    def memory(self) -> int:
        """Return the bytes of this process that are its own, and in memory."""
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon:"))


def make_key(number: int) -> str:
    """Return the key of that number: 12 bytes."""
    return f"key:{number:08d}"


def make_value(number: int) -> int:
    """Return the first value of that key: 5 bytes, encoded."""
    return 2**30 + number


def _clock_ns() -> int:
    """Return what a pair of readings of the clock costs by itself, when nothing disturbs it."""
    now = time.monotonic_ns
    return sorted(-now() + now() for _ in range(501))[50]


def fold(times: Iterable[int], clock_ns: int, histogram: dict[int, int]) -> None:
    """Add `times`, less the clock's own, to a histogram: how often each, to seven binary digits."""
    for time_ns in times:
        single = max(time_ns - clock_ns, 0)
        shift = max(single.bit_length() - _SINGLE_BITS, 0)
        single = single >> shift << shift
        histogram[single] = histogram.get(single, 0) + 1


# --- Hosts -------------------------------------------------------------------


def _host(kind: str, attach: str, where: str, pipes: list[tuple[int, int]]) -> None:
    """Run the workers of one process."""
    if kind == "processes":
        serve(0, attach, where, *pipes[0])
        return
    from threading import Thread

    threads: list[Thread] = []
    for worker, (commands, replies) in enumerate(pipes):
        run = _serve_isolated if kind == "interpreters" else _serve_thread
        thread = Thread(target=run, args=(worker, attach, where, commands, replies))
        thread.start()
        threads.append(thread)
        # One after the other: two first imports at a time abort CPython 3.13.0.
        os.read(sys.stdin.fileno(), 1)
    for thread in threads:
        thread.join()


def _serve_thread(worker: int, attach: str, where: str, commands: int, replies: int) -> None:
    try:
        serve(worker, attach, where, commands, replies)
    finally:
        os.close(replies)  # tells the other side, which else would wait for a reply


def _serve_isolated(worker: int, attach: str, where: str, commands: int, replies: int) -> None:
    interpreters = __import__("_interpreters")
    interpreter = interpreters.create()
    source = (
        f"import sys\nsys.path[:] = {sys.path!r}\n"
        f"from benchmarks.parts.worker import serve\n"
        f"serve({worker!r}, {attach!r}, {where!r}, {commands!r}, {replies!r})\n"
    )
    try:
        failure = interpreters.exec(interpreter, source)
        if failure is not None:
            print(failure.formatted, file=sys.stderr)
    finally:
        os.close(replies)
        interpreters.destroy(interpreter)


def _main(kind: str, job: str) -> None:
    # Which interpreter imports datetime first decides whether CPython 3.13.0
    # crashes when that one ends; the main one is safe.
    __import__("datetime")
    import json

    _host(kind, **json.loads(job))


if __name__ == "__main__":
    _main(*sys.argv[1:])
