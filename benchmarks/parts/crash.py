"""A writer is killed, as by `kill -9`: how long does the next one need to open, and is everything there?

The writer sets one key after the other to ever larger numbers, and after each
`set` that returned it says so through a pipe.  It is killed at a moment drawn at
random.  Then another process opens the store, which may have to repair, and
what it finds is held against what was said: a number that was acknowledged must
be there, or the next one, whose answer the writer did not live to give.
"""

from __future__ import annotations

import os
import random
import select
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from benchmarks.guard import in_a_line
from benchmarks.measure import median
from benchmarks.parts.contenders import ours
from benchmarks.parts.crew import Crew
from benchmarks.parts.room import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.parts.room import Room

__all__ = ["Restart", "count_lost", "measure_crash"]

_KEYS: Final = 1000
_LIFE_S: Final = (0.02, 0.15)
_PATIENCE_S: Final = 20.0

_WRITER: Final = """
import os, sys
from itertools import count
import sharedstate
store = sharedstate.open(sys.argv[1])
output = int(sys.argv[2])
for number in count(int(sys.argv[3])):
    store.set(f"key:{number % 1000:08d}", number)
    os.write(output, number.to_bytes(8, "big"))
"""


class Restart(NamedTuple):
    """What became of a backend whose writers were killed.  In JSON an object with these names.

    Attributes:
        kills: how many writers.
        acknowledged: writes of which they lived to tell.
        lost: of those, the ones that were not there afterwards.
        open_ms: `open` and one `get` in the next process, median.
        longest_open_ms: the longest of them.
        whole_open_ms: the same of a store that was closed in peace, median.
        failure: why there is nothing else, or "".
    """

    backend: str
    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    open_ms: float = 0.0
    longest_open_ms: float = 0.0
    whole_open_ms: float = 0.0
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it for `json.dump`."""
        return self._asdict()


def measure_crash(room: Room) -> Iterator[Restart]:
    """Kill writers of each backend that outlives them."""
    for backend in room.backends:
        if backend == "memory":
            continue  # it dies with its process, as it says
        room.tell(f"crash: {backend}, {room.plan.crashes} kills")
        try:
            yield _measure(room, backend)
        except Exception as error:  # noqa: BLE001  a failure is a row
            yield Restart(backend, failure=in_a_line(error))


def _measure(room: Room, backend: str) -> Restart:
    dice = random.Random(backend)
    opened_ns: list[int] = []
    whole_ns: list[int] = []
    acknowledged = lost = 0
    last = 0  # the highest number that was ever acknowledged
    with ExitStack() as stack:
        where = stack.enter_context(ours(backend)(room, "crash"))
        for _ in range(room.plan.crashes):
            told = _write_until_killed(where, last + 1, dice.uniform(*_LIFE_S))
            found, time_ns = _open_and_look(where)
            opened_ns.append(time_ns)
            whole_ns.append(_open_and_look(where)[1])
            lost += count_lost(told, last, found)
            acknowledged += len(told)
            last = max([last, *(number for number in found if number is not None)])
    return Restart(
        backend,
        room.plan.crashes,
        acknowledged,
        lost,
        median(opened_ns) / 1e6,
        max(opened_ns) / 1e6,
        median(whole_ns) / 1e6,
    )


def count_lost(told: Sequence[int], before: int, found: Sequence[int | None]) -> int:
    """Return how many keys hold less than was acknowledged.

    Args:
        told: the numbers that were acknowledged, in order; number n went to key n % len(found).
        before: the last number of the writers before.
        found: what each key holds, None if nothing.
    """
    newest = dict.fromkeys(range(len(found)), 0)
    for number in range(max(before - len(found) + 1, 1), before + 1):
        newest[number % len(found)] = number
    for number in told:
        newest[number % len(found)] = number
    return sum((found[key] or 0) < number for key, number in newest.items())


def _write_until_killed(where: str, first: int, life_s: float) -> list[int]:
    """Run a writer, kill it `life_s` after its first acknowledged write, and return what it acknowledged."""
    our_input, their_output = os.pipe()
    try:
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, where, str(their_output), str(first)],
            pass_fds=[their_output],
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
    finally:
        os.close(their_output)
    received = bytearray()
    try:
        if not select.select([our_input], [], [], _PATIENCE_S)[0]:
            raise RuntimeError("the writer did not begin")
        until = time.monotonic() + life_s
        while (left := until - time.monotonic()) > 0:
            if select.select([our_input], [], [], left)[0]:
                piece = os.read(our_input, 2**16)
                if not piece:
                    break
                received += piece
        writer.kill()
        while piece := os.read(our_input, 2**16):
            received += piece
    finally:
        writer.kill()
        errors = writer.communicate()[1].decode(errors="replace").strip()
        os.close(our_input)
    if errors:
        raise RuntimeError(errors.splitlines()[-1])
    return [int.from_bytes(received[at : at + 8], "big") for at in range(0, len(received) - 7, 8)]


def _open_and_look(where: str) -> tuple[list[int | None], int]:
    """Open in a fresh process; return what each key holds, and the nanoseconds of `open` and one `get`."""
    with Crew("processes", "benchmarks.parts.attach:reader", where, 1) as crew:
        time_ns = crew.call(0, "open_and_get", "key:00000001")[1]
        found = crew.call(0, "many", [f"key:{number:08d}" for number in range(_KEYS)])
        crew.call(0, "check")
    return found, time_ns
