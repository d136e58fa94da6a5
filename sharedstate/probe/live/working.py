"""What an order does at a place, and what it reports of it.

Each deed is bounded in number and time by the order's own limits.  The clock is
CLOCK_MONOTONIC, which all processes of a host share.
"""

from __future__ import annotations

import time

from sharedstate.errors import LockTimeoutError, StateError

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from sharedstate.probe.live.place import Place, Run
    from sharedstate.probe.live.protocol import Order
    from sharedstate.store import Store

__all__ = ["obey"]

_MOST_MARKS: Final = 1000
_LONGEST_TEXT: Final = 1000


def obey(place: Place, order: Order, environ: dict[str, Any] | None) -> dict[str, Any]:
    """Do what the order says, keep the worker busy until `hold_s` is over, and return what came of it.

    Raises:
        OrderError: the order came at the wrong time.
    """
    until = time.monotonic() + order.hold_s
    did: dict[str, Any]
    if order.do == "look":
        did = {"deployment": place.detect(environ)}
    elif order.do == "end":
        place.end(order.run)
        did = {}
    else:
        run = place.run(order)
        did = {}
        try:
            _DEEDS[order.do](place, run, order, until, did)
        except StateError as error:
            did["problem"] = f"{type(error).__name__}: {error}"[:_LONGEST_TEXT]
    # Busy as a worker with a slow request is: the next one goes to another worker.
    time.sleep(max(0.0, until - time.monotonic()))
    return did


# What a deed has done before a store failed stays in `did`.


def _open(_place: Place, run: Run, _order: Order, _until: float, did: dict[str, Any]) -> None:
    store = _store(run)
    scope, durability = store.capabilities[:2]
    did.update(url=store.url, scope=scope.name, durability=durability.name, choice=run.choice)


def _mark(place: Place, run: Run, order: Order, _until: float, did: dict[str, Any]) -> None:
    """Write what tells this place and this lap from all others; the same however often it is asked."""
    text = f"{order.lap}.{place.token}"
    with run.variables.turn:
        run.variables.marks[place.token] = text
    did["variables"] = text
    _store(run).set(f"mark.{place.token}", text)
    did["store"] = text


def _read(_place: Place, run: Run, _order: Order, _until: float, did: dict[str, Any]) -> None:
    with run.variables.turn:
        did["variables"] = [dict(run.variables.marks), run.variables.count]
    store = _store(run)
    keys = list(store.keys(prefix="mark."))[:_MOST_MARKS]
    marks = {key.removeprefix("mark."): text for key, text in store.get_many(keys).items()}
    did["store"] = [marks, store.get("count", 0), store.get("sections", 0)]


def _count(_place: Place, run: Run, order: Order, until: float, did: dict[str, Any]) -> None:
    """Add 1 again and again, in bursts until the time is over, so that workers meet whoever began first."""
    variables = run.variables
    copies: list[int] = []
    handed: list[int] = []
    did.update(variables=copies, store=handed)
    bursts = min(order.times, 10)
    pause_s = max(0.0, until - time.monotonic()) / bursts
    for burst in range(bursts):
        for _ in range(order.times * burst // bursts, order.times * (burst + 1) // bursts):
            with variables.turn:
                variables.count += 1
                copies.append(variables.count)
            if run.store is not None:
                handed.append(int(run.store.increment("count")))
        time.sleep(max(0.0, min(pause_s, until - time.monotonic())))
    _store(run)


def _lock(_place: Place, run: Run, order: Order, until: float, did: dict[str, Any]) -> None:
    """Add 1 under a lock by reading and writing, which only a lock makes safe, and say when it was held."""
    store = _store(run)
    lock = store.lock("door")
    held: list[tuple[int, int, int]] = []
    did["held"] = held
    while len(held) < order.times and (left_s := until - time.monotonic()) > 0:
        try:
            token = lock.acquire(left_s)
        except LockTimeoutError:
            break
        try:
            began_ns = time.monotonic_ns()
            seen = store.get("sections", 0)
            time.sleep(0.0005)  # gives up the GIL and the processor while the door is shut
            store.set("sections", seen + 1)
            ended_ns = time.monotonic_ns()
        finally:
            lock.release()
        held.append((began_ns, ended_ns, token))
        time.sleep(0.001)  # outside: who lets go must not be the next one because it was the last


def _store(run: Run) -> Store:
    if run.store is None:
        raise _NotOpenError(run.problem or "the run is over")
    return run.store


class _NotOpenError(StateError):
    """This place has no store in this run; the text says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason=reason)

    def describe(self) -> str:
        return str(self.__dict__["reason"])


_DEEDS: Final[dict[str, Callable[[Place, Run, Order, float, dict[str, Any]], None]]] = {
    "open": _open,
    "mark": _mark,
    "read": _read,
    "count": _count,
    "lock": _lock,
}
