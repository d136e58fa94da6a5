"""What runs in isolated interpreters, in a child process: `python -m benchmarks.parts.isolated TASK JSON`.

A process of its own, because several CPythons crash in isolated interpreters;
a crash then costs one row of the report and not the run.

    workers  open a store in one interpreter per pair of pipes, and increment on command
    fresh    time statements in interpreters made for each of them
    codec    time the codec in this interpreter and in an isolated one, in turns
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from importlib import import_module
from threading import Thread
from typing import Any, Final

__all__ = ["WORKER", "is_supported", "why_unsupported"]

_interpreters: Any = None
# No type checker has a stub of it, and its public face (PEP 734) is of 3.14.
with suppress(ImportError):
    _interpreters = import_module("_interpreters")

WORKER: Final = """
import os, time
import sharedstate
store = sharedstate.open(url)
increment = store.increment
keys = [f"worker-{worker}:{index % each}" for index in range(64)]
for key in keys:
    increment(key)
os.write(output, b"64")
while command := os.read(input, 100):
    start, duration = map(float, command.split())
    while time.monotonic() < start:
        pass
    cpu, begin, done = time.thread_time_ns(), time.monotonic_ns(), 0
    end = begin + int(duration * 1e9)
    while time.monotonic_ns() < end:
        for key in keys:
            increment(key)
        done += 64
    wall = time.monotonic_ns() - begin
    os.write(output, f"{done} {wall} {time.thread_time_ns() - cpu}".encode())
store.close()
"""
"""One worker, of any kind.  Its globals `url`, `worker`, `each`, `input` and `output` (descriptors) are set
beforehand.

It opens, increments its `each` keys 64 times in all and answers 64; then, for each
`start duration` in seconds of the monotonic clock, increments its keys in turn
and answers how often, with the nanoseconds of wall and of CPU that it took.
"""

_FRESH: Final = """
import sys, time
before = set(sys.modules)
begin = time.perf_counter_ns()
{statement}
elapsed = time.perf_counter_ns() - begin
import os
os.write({output}, repr((elapsed, sorted(set(sys.modules) - before))).encode())
"""

_CODEC_SETUP: Final = """
import sys
sys.path[:] = {path!r}
from benchmarks.codec import realistic_value, time_ns
from sharedstate.values import decode, encode
value = realistic_value()
encoded = encode(value)
"""

_CODEC_TURN: Final = """
import os
os.write({output}, repr((time_ns(encode, value, {repeat}), time_ns(decode, encoded, {repeat}))).encode())
"""


def is_supported() -> bool:
    """Return whether this Python can make isolated interpreters."""
    return _interpreters is not None


def why_unsupported() -> str:
    """Return the reason for people."""
    return f"isolated interpreters need Python 3.13, this is {sys.version_info.major}.{sys.version_info.minor}"


def _run(interpreter: Any, source: str) -> None:
    failure = _interpreters.exec(interpreter, source)
    if failure is not None:
        raise RuntimeError(failure.formatted)


def _run_workers(url: str, each: int, pipes: list[list[int]]) -> None:
    threads: list[Thread] = []
    for worker, (commands, replies) in enumerate(pipes):
        interpreter = _interpreters.create()
        _interpreters.set___main___attrs(
            interpreter, {"url": url, "worker": worker, "each": each, "input": commands, "output": replies}
        )
        thread = Thread(target=_run_worker, args=(interpreter, replies))
        thread.start()
        threads.append(thread)
        # One after the other: two first imports at a time abort CPython 3.13.0.
        os.read(sys.stdin.fileno(), 1)
    for thread in threads:
        thread.join()


def _run_worker(interpreter: Any, replies: int) -> None:
    try:
        _run(interpreter, WORKER)
    finally:
        os.close(replies)  # tells the other side, which else would wait for a reply
        _interpreters.destroy(interpreter)


def _time_fresh(statements: dict[str, str], rounds: int) -> dict[str, Any]:
    """Return for each statement the nanoseconds of each round and the modules that it loaded."""
    commands, replies = os.pipe()
    names = list(statements)
    times: dict[str, list[int]] = {name: [] for name in names}
    modules: dict[str, list[str]] = {}
    errors: dict[str, str] = {}
    for turn in range(-1, rounds):  # the first one warms the files up and does not count
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            if name in errors:
                continue
            interpreter = _interpreters.create()
            try:
                _run(interpreter, _FRESH.format(statement=statements[name], output=replies))
                elapsed, modules[name] = _read_reply(commands)
                if turn >= 0:
                    times[name].append(elapsed)
            except RuntimeError as error:
                errors[name] = str(error).strip().splitlines()[-1]
            finally:
                _interpreters.destroy(interpreter)
    return {
        name: {"ns": times[name], "modules": modules.get(name, []), "error": errors.get(name, "")} for name in names
    }


def _time_codec(rounds: int, repeat: int) -> dict[str, Any]:
    """Return the nanoseconds of encode and decode, per round, here and in an isolated interpreter."""
    commands, replies = os.pipe()
    setup = _CODEC_SETUP.format(path=sys.path)
    turn_source = _CODEC_TURN.format(repeat=repeat, output=replies)
    here: dict[str, Any] = {}
    exec(setup, here)  # our own text, the same on both sides
    there = _interpreters.create()
    _run(there, setup)
    results: dict[str, list[tuple[float, float]]] = {"main": [], "isolated": []}
    for _ in range(rounds):
        exec(turn_source, here)
        results["main"].append(_read_reply(commands))
        _run(there, turn_source)
        results["isolated"].append(_read_reply(commands))
    _interpreters.destroy(there)
    return {
        where: {"encode": [pair[0] for pair in pairs], "decode": [pair[1] for pair in pairs]}
        for where, pairs in results.items()
    }


def _read_reply(descriptor: int) -> Any:
    from ast import literal_eval

    return literal_eval(os.read(descriptor, 2**16).decode())


def _main(task: str, job: str) -> None:
    # Which interpreter imports datetime first decides whether CPython 3.13.0
    # crashes when that one ends; the main one is safe.
    import_module("datetime")

    run: Any = {"workers": _run_workers, "fresh": _time_fresh, "codec": _time_codec}[task]
    result = run(**json.loads(job))
    if result is not None:
        json.dump(result, sys.stdout)


if __name__ == "__main__":
    _main(*sys.argv[1:])
