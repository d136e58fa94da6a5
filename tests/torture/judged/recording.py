"""Real concurrent runs: starts the houses, and gathers what their actors recorded to histories.

A run has one fresh store and some bursts.  In a burst all actors start together
and then do their steps as fast as they may; what they did in it is one history.
"""

from __future__ import annotations

import marshal
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sharedstate
from judged.holding import Held
from judged.one_key import NOT_THERE, REFUSED, UNTOLD
from sharedstate.model import MISSING
from sharedstate.probe.boundaries import Kind, available_kinds
from sharedstate.registry import find_plugin, parse_url
from sharedstate.testing.histories import CONFLICT, Operation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["CASTS", "History", "Wave", "fresh_store", "run", "run_and_kill"]

_PATIENCE_S: Final = 110.0
_ISOLATED: Final = "legacy" if available_kinds()[Kind.ISOLATED] else "isolated"
_LEGACY: Final = "thread" if available_kinds()[Kind.LEGACY] else "legacy"

_HOST: Final = (
    ("forked", "thread", "thread", "forked"),
    (_LEGACY, _ISOLATED, _LEGACY, _ISOLATED),
    ("thread",),
)
CASTS: Final = {"memory": (("thread",) * 8,), "file": _HOST, "sqlite": _HOST, "shm": _HOST}
"""By backend, the actors of each house, a process: where this Python has no such interpreter, another kind."""

_DRIFT_NS: Final = 50_000
"""What two clocks may differ by beyond what was seen: rounding, and what NTP slews in a burst."""

Wave = tuple[list[int], list[tuple[int, int]], list[int]]
"""Who begins, who is killed and how many ns later, and who comes after them: seats."""


class History(NamedTuple):
    """What all actors did in one burst."""

    operations: list[Operation]
    holds: list[Held]
    slack_ns: int  # what deadlines are uncertain by
    killed: int  # actors that were

    def by_key(self) -> dict[str, list[Operation]]:
        """Return the operations of each key."""
        found: dict[str, list[Operation]] = {}
        for operation in self.operations:
            found.setdefault(operation.key, []).append(operation)
        return found


@contextmanager
def fresh_store(scheme: str, directory: Path, options: str = "") -> Iterator[str]:
    """Make a store and yield its URL; check and remove it afterwards."""
    url = find_plugin(parse_url(f"{scheme}:any")).temporary_url(str(directory))
    if options:
        url = url.partition("?")[0] + options
    with sharedstate.open(url, allow_narrow=True) as witness:
        try:
            yield url
            witness.check()
        finally:
            sharedstate.remove(url)


def run(
    url: str, houses: Sequence[Sequence[str]], plans: Sequence[Sequence[Any]], directory: Path, plant: str = ""
) -> list[History]:
    """Have a plan for each seat played, and return a history for each burst."""
    orders = _orders(url, plans, directory, plant)
    seat, parts = 0, []
    for kinds in houses:
        parts.append({**orders, "kinds": [(kind, seat + i) for i, kind in enumerate(kinds)]})
        seat += len(kinds)
    _play(parts, directory)
    return _gather(directory, len(plans), [0] * len(plans[0]))


def run_and_kill(
    url: str, waves: Sequence[Wave], plans: Sequence[Sequence[Any]], directory: Path, plant: str = ""
) -> list[History]:
    """Have each burst played by forked actors of which some are killed; the last seat is the killer's."""
    orders = {**_orders(url, plans, directory, plant), "waves": list(waves), "is_mortal": True}
    _play([orders], directory)
    return _gather(directory, len(plans) - 1, [len(victims) for _, victims, _ in waves])


def _orders(url: str, plans: Sequence[Sequence[Any]], directory: Path, plant: str) -> dict[str, Any]:
    bell = os.path.join(directory, "bell")
    with open(bell, "wb") as file:
        file.write(bytes(8 * len(plans)))
    for seat, plan in enumerate(plans):
        with open(os.path.join(directory, f"plan-{seat}"), "wb") as file:
            marshal.dump(list(plan), file)
        with open(os.path.join(directory, f"record-{seat}"), "wb"):
            pass
    return {
        "url": url,
        "seats": len(plans),
        "bell": bell,
        "directory": str(directory),
        "plant": plant,
        "waves": [],
        "is_mortal": False,
        "kinds": [],
    }


def _play(parts: Sequence[dict[str, Any]], directory: Path) -> None:
    houses: list[subprocess.Popen[bytes]] = []
    try:
        for number, orders in enumerate(parts):
            path = os.path.join(directory, f"orders-{number}")
            with open(path, "wb") as file:
                marshal.dump(orders, file)
            script = (
                f"import sys; sys.path[:] = {[os.path.abspath(entry) for entry in sys.path]!r}; "
                f"from judged.house import main; main({path!r})"
            )
            quiet = "ignore:This process:DeprecationWarning"  # of forks beside threads: they are to be proved
            command = [sys.executable, "-X", "faulthandler", "-W", quiet, "-c", script]
            houses.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True))
        statuses = [house.wait(_PATIENCE_S) for house in houses]
    finally:
        for house in houses:
            if house.poll() is None:
                os.killpg(house.pid, signal.SIGKILL)  # its own session: with all that it forked
                house.wait()
    failures = ""
    for name in sorted(os.listdir(directory)):
        if name.startswith("failure-"):
            with open(os.path.join(directory, name), encoding="utf-8") as file:
                failures += file.read()
    assert statuses == [0] * len(houses), (statuses, failures)
    assert not failures, failures


# --- From records to histories -------------------------------------------------------


def _gather(directory: Path, seats: int, killed: Sequence[int]) -> list[History]:
    histories = [History([], [], 0, dead) for dead in killed]
    clocks: list[list[tuple[int, int]]] = [[] for _ in killed]
    records: list[list[tuple[Any, ...]]] = []
    for seat in range(seats):
        path = os.path.join(directory, f"record-{seat}")
        with open(path, "rb") as file:
            own = list(_records(file))
        os.unlink(path)
        records.append(own)
        for record in own:
            if record[0] == "clock":
                clocks[record[1]].append(record[2:])
    # How far the store's clock is ahead, at least and at most, in each burst.
    ahead = [(min(least for least, _ in each), max(most for _, most in each)) if each else (0, 0) for each in clocks]
    for seat, own in enumerate(records):
        name = str(seat)
        done = {(record[1], record[2]) for record in own if record[0] == "done"}
        for record in own:
            if record[0] == "done":
                histories[record[1]].operations.extend(_operations(name, *record[3:], ahead[record[1]]))
            elif record[0] == "call" and (record[1], record[2]) not in done:
                _, burst, _, verb, key, argument, called_ns = record
                unknown = (verb, key, argument, "unknown", None, called_ns, None)
                histories[burst].operations.extend(_operations(name, *unknown, ahead[burst]))
        for burst, held in _holds(name, own):
            histories[burst].holds.append(held)
    return [
        history._replace(slack_ns=most - least + _DRIFT_NS)
        for history, (least, most) in zip(histories, ahead, strict=True)
    ]


def _records(file: Any) -> Iterator[tuple[Any, ...]]:
    while True:
        try:
            yield marshal.load(file)
        except EOFError:  # also of the last record of one who was killed
            return


def _operations(  # noqa: PLR0917
    actor: str,
    verb: str,
    key: str,
    argument: Any,
    outcome: str,
    result: Any,
    called_ns: int,
    returned_ns: int | None,
    ahead: tuple[int, int],
) -> list[Operation]:
    """Return what a record says: of each key, if it concerns several."""

    def told(verb: str, key: str, argument: Any, result: Any) -> Operation:
        if outcome == "unknown":
            result = MISSING
        elif outcome == "conflict":
            result = CONFLICT
        elif outcome == "refused":
            result = NOT_THERE if (verb, result) == ("ttl", "KeyError") else (REFUSED, result)
        end_ns = None if outcome == "unknown" else returned_ns
        return Operation(actor, verb, key, argument, result, called_ns, end_ns)

    if verb == "get_many":
        found = result or {}
        return [told("get", each, None, found.get(each)) for each in argument]
    if verb == "set_many":
        return [told("set", each, (value, None), None) for each, value in argument]
    if verb == "clear":
        return [told("delete", each, None, UNTOLD) for each in argument]
    if verb == "read" and outcome == "told" and result is not None:
        value, generation, expires_at = result
        deadline = None if expires_at is None else tuple(int(expires_at * 1e9) - ns for ns in reversed(ahead))
        result = (value, generation, deadline)
    return [told(verb, key, argument, result)]


def _holds(actor: str, records: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Held]]:
    asked_ns = 0
    held: Held | None = None
    burst = 0
    for record in records:
        match record[0]:
            case "ask":
                if held is not None:
                    yield burst, held
                held, asked_ns = None, record[2]
            case "had":
                burst, _, token, had_ns = record[1:]
                held = Held(actor, token, asked_ns, had_ns, had_ns, None)
            case "beat" if held is not None:
                held = held._replace(left_ns=record[2])
            case "freed" if held is not None:
                yield burst, held._replace(freed_ns=record[2])
                held = None
    if held is not None:
        yield burst, held
