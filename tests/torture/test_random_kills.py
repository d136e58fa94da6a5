"""Kills at random moments, through the public API, on every backend that processes share.

Four processes work on one store, each with a hand in its main interpreter and
one in a sub-interpreter (legacy in two of them, isolated in the others where
this Python has those), and one process is killed every few milliseconds, amid
anything it does: opening, growing, compacting, committing, holding a lock, or
stopped.  A new one takes its place and goes on from what was acknowledged.

Invariants, judged while they work and when all are dead:
    R1  What was acknowledged is there: counters, values, transfers; each kill adds at most the one
        operation that its two hands were each at.
    R2  The balances of all accounts, read in one transaction, have the same sum at every moment.
    R3  A value is one that was written to that key, whole, and no older than what was acknowledged.
    R4  No two living hands are in one lock; a dead one's is free at once; fencing tokens grow.
    R5  From its deadline on an entry is absent; before it, it is there.
    R6  A change wakes who waits for one.
    R7  Nobody waits for longer than `BOUND_S` for what takes microseconds, however many died meanwhile,
        and no verb gives up before that.  Who waits for longer than 0.15 s is spared, so that no kill hides it.
    R8  No process ends by itself; `check` is clean, at work and in the end.
    R9  Entries, bytes and files do not grow with the number of the dead.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

import sharedstate
from campaign import IS_FULL, SEED, record, span_s
from sharedstate.probe.boundaries import Kind, available_kinds
from sharedstate.registry import find_plugin, parse_url
from turmoil.judging import judge
from turmoil.plants import PLANTS

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

BOUND_S: Final = 10.0
SPAN_S: Final = span_s(6.0, 0.1)
_EXPECTED: Final = {
    "commit key by key": "sum",
    "crash": "died by itself",
    "growth": "growth",
    "half a value": "mixed",
    "increment in two steps": "not greater",
    "lock outlives its holder": "waited.*guard",
    "lock per handle": "two holders",
    "never woken": "waited.*watch",
    "no deadline": "deadline",
    "token of the holder": "token",
    "write behind": "stale",
}


@pytest.fixture
def url(request: pytest.FixtureRequest, evidence: Path) -> Iterator[str]:
    scheme = request.param
    found = find_plugin(parse_url(f"{scheme}:any")).temporary_url(str(evidence))
    found = found.replace("16MiB", "64MiB") if scheme == "shm" else f"{found}?sync=os"
    found += f"&timeout={2 * BOUND_S:g}"
    yield found
    sharedstate.remove(found)


def run(url: str, directory: Path, dice: random.Random, **changed: Any) -> dict[str, Any]:
    """Have a supervisor go on for a while, and return what it has seen."""
    isolated = Kind.LEGACY if available_kinds()[Kind.ISOLATED] else Kind.ISOLATED
    orders = {
        "url": url,
        "directory": str(directory),
        "page": str(directory / "page"),
        "findings": str(directory / "findings"),
        "seed": dice.getrandbits(32),
        "seconds": SPAN_S,
        "bound_s": BOUND_S,
        "kinds": [Kind.LEGACY.value, isolated.value] * 2,
        "plant": "",
        "yields": sys.version_info < (3, 13),
        "awaited": "",
        "least_kills": 1000 if IS_FULL else 40,
        **changed,
    }
    # A fresh interpreter that compiles what it imports lives for nothing else.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    environment["PYTHONPYCACHEPREFIX"] = str(directory.parent / "pycache")
    last = ""
    with (
        open(directory / "log", "wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "turmoil", "supervise", json.dumps(orders)],
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            text=True,
        ) as supervisor,
    ):
        assert supervisor.stdout is not None
        for line in supervisor.stdout:
            last = line
            if IS_FULL and line.startswith("progress"):
                print(f"{url.partition(':')[0]} {line}", end="", flush=True)  # noqa: T201  `make torture` shows it
    assert supervisor.returncode == 0, (directory / "log").read_text()
    (directory / "seen.json").write_text(last)
    seen: dict[str, Any] = json.loads(last)
    return seen


@pytest.mark.timeout(SPAN_S * 4 + 120)
@pytest.mark.parametrize("url", ["file", "sqlite", "shm"], indirect=True)
def test_kills_at_random_lose_nothing_and_block_nobody(url: str, evidence: Path, dice: random.Random) -> None:
    """R1 to R9 hold under hundreds of kills, thousands in full form."""
    seen = run(url, evidence, dice)

    faults = judge(seen)
    record(
        "kill at random",
        url.partition(":")[0],
        bad=len(faults),
        kills=seen["kills"],
        operations=sum(seen["operations"].values()),
        seconds=round(seen["seconds"], 1),
        longest_wait_ms=round(seen["longest_ms"], 1),
    )
    assert not faults, (SEED, faults, (evidence / "log").read_text()[-4000:])
    # The test bit: there were kills, at what is worth it, and both kinds of hands got on with their work.
    assert seen["kills"] >= (1000 if IS_FULL else 40), seen
    assert seen["sub_operations"] > 0, seen
    idle = [name for name, times in seen["operations"].items() if not times and name != "compact"]
    assert not idle, seen
    assert seen["looks"], seen


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("url", ["shm"], indirect=True)
def test_planted_bug_is_found(url: str, evidence: Path, dice: random.Random, plant: str) -> None:
    """Each bug of `turmoil.plants` breaks the promise that it should, within seconds."""
    awaited = _EXPECTED[plant]
    # Growth is judged at the end only.
    ways = {"seconds": 2.0} if awaited == "growth" else {"seconds": 20.0, "awaited": awaited}

    seen = run(url, evidence, dice, plant=plant, bound_s=2.0 if "waited" in awaited else BOUND_S, **ways)

    faults = judge(seen)
    assert any(re.search(awaited, fault) for fault in faults), (faults, seen)
