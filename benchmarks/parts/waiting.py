"""Who waits, how long: for a lock that another process frees, for a write that another process makes.

Two processes, told what to do in turns.  The second is given a moment to fall
asleep before the first acts, a longer one in some rounds than in others, so that
whoever looks now and then is not always caught at the same point.  The clock is
the machine's monotonic one, the same for both.
"""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from benchmarks.guard import in_a_line
from benchmarks.measure import percentile
from benchmarks.parts.contenders import FLOCK, PIPE, Contender, ours
from benchmarks.parts.crew import KINDS, Crew

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.parts.room import Room

__all__ = ["Waited", "measure_hand_over", "measure_watch", "time_hand_overs", "time_watch"]

_REST_S: Final = (0.002, 0.01)
_TIMEOUT_S: Final = 10.0


class Waited(NamedTuple):
    """How long the second one waited.  In JSON an object with these names.

    Attributes:
        kind: of the two workers: processes, or threads where the backend reaches no further.
        rounds: that counted, which are those in which it did wait.
        failure: why there is nothing else, or "".
    """

    contestant: str
    kind: str
    rounds: int = 0
    p50_ns: int = 0
    p99_ns: int = 0
    longest_ns: int = 0
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it for `json.dump`."""
        return self._asdict()


def measure_hand_over(room: Room) -> Iterator[Waited]:
    """From the release of a lock in one worker until the other has it; `flock` is what the kernel alone takes."""
    yield from _measure(room, "lock", (*_our_contenders(room), FLOCK), time_hand_overs)


def measure_watch(room: Room) -> Iterator[Waited]:
    """From the start of a write until the other's `wait_for_change` has returned; a pipe is what the kernel takes."""
    yield from _measure(room, "watch", (*_our_contenders(room), PIPE), time_watch)


def _our_contenders(room: Room) -> Iterator[Contender]:
    for backend in room.backends:
        kinds = ("threads",) if backend == "memory" else KINDS
        yield Contender(backend, "benchmarks.parts.attach:store", kinds, ours(backend))


def _measure(
    room: Room, purpose: str, contestants: tuple[Contender, ...], take: Callable[[Crew, int], list[int]]
) -> Iterator[Waited]:
    for contender in contestants:
        kind = contender.kinds[-1]
        room.tell(f"{purpose}: {contender.name}")
        try:
            with ExitStack() as stack:
                where = stack.enter_context(contender.run(room, f"{purpose}-{contender.name}"))
                crew = stack.enter_context(Crew(kind, contender.attach, where, 2))
                times = take(crew, room.plan.waits)
            yield Waited(
                contender.name,
                kind,
                len(times),
                int(percentile(times, 50)),
                int(percentile(times, 99)),
                max(times),
            )
        except Exception as error:  # noqa: BLE001  a failure is a row
            yield Waited(contender.name, kind, failure=in_a_line(error))


def time_hand_overs(crew: Crew, rounds: int) -> list[int]:
    """Return the nanoseconds of each hand-over of the lock between the two workers.

    Raises:
        RuntimeError: both had it at once, or the second never waited.
    """
    dice = random.Random(rounds)
    times: list[int] = []
    holder = 0
    crew.call(holder, "acquire")
    for _ in range(rounds):
        waiter = 1 - holder
        crew.ask(waiter, "call", verb="acquire", arguments=[])
        time.sleep(dice.uniform(*_REST_S))
        released, _, _ = crew.do(holder, "call", verb="release", arguments=[])
        asked, _, acquired = crew.answer(waiter)
        if acquired < released:
            raise RuntimeError("both workers had the lock at once")
        if asked < released:
            times.append(acquired - released)
        holder = waiter
    crew.call(holder, "release")
    if not times:
        raise RuntimeError("the second worker never got to wait")
    return times


def time_watch(crew: Crew, rounds: int) -> list[int]:
    """Return the nanoseconds from each write until the waiting worker saw it.

    Raises:
        RuntimeError: the second worker never waited, or missed a write.
    """
    dice = random.Random(rounds)
    times: list[int] = []
    crew.call(0, "write", "watched", 0)
    for turn in range(1, rounds + 1):
        since = crew.call(1, "generation", "watched")
        crew.ask(1, "call", verb="wait", arguments=["watched", since, _TIMEOUT_S])
        time.sleep(dice.uniform(*_REST_S))
        began, _, _ = crew.do(0, "call", verb="write", arguments=["watched", turn])
        asked, found, seen = crew.answer(1)
        if found == since:
            raise RuntimeError(f"a write was not seen within {_TIMEOUT_S:g} s")
        if seen < began:
            raise RuntimeError("a write was seen before it was made")
        if asked < began:
            times.append(seen - began)
    if not times:
        raise RuntimeError("the second worker never got to wait")
    return times
