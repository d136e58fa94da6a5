"""Nothing is left behind: not by a verb, not by an error, not by an interpreter that ends.

Invariants, each measured in a process of its own:
    G1  Calls of a verb leave no memory, Python's or C's, to the byte: however many there are, the bytes
        that malloc has in use differ by less than a constant.
    G2  They leave no descriptor, no mapped file, no object, no entry, and no reference to what was passed.
    G3  So do calls that fail, on whatever path: a conflict, a wrong type deep inside, no room, a closed handle.
    G4  An interpreter that opened a store of each backend, used it, and ended leaves no more than one that
        loaded the same code and ran none of ours, and no descriptor, region or thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

import sharedstate
from campaign import IS_FULL, record, scale, span_s
from leaks.judging import SLACK_BYTES, judge_calls, judge_interpreters
from leaks.plants import INTERPRETER_PLANTS, PLANTS
from sharedstate.probe.boundaries import Kind, available_kinds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CALLS: Final = scale(50_000, 1_000_000)
SECONDS: Final = span_s(0.02, 0.002)
"""After which no more calls of one verb are made, as long as there were enough to tell."""
INTERPRETERS: Final = scale(20, 1000)
_PLANTED_AT: Final = {
    "block": ("increment", "bytes"),
    "cache": ("get absent", "bytes"),
    "descriptor": ("lock taken", "descriptors"),
    "entry": ("transact", "entries"),
    "reference": ("conflict", "references"),
}


def urls_in(directory: Path) -> dict[str, str]:
    return {
        "memory": "memory:leaks",
        "file": f"file:{directory}/file",
        "sqlite": f"sqlite:{directory}/database",
        "shm": f"shm://leaks-{os.getpid()}?size=2MiB",
    }


@pytest.fixture
def urls(evidence: Path) -> Iterator[dict[str, str]]:
    found = urls_in(evidence)
    yield found
    for scheme in ("file", "sqlite", "shm"):
        with contextlib.suppress(sharedstate.UnavailableError):  # this test made none
            sharedstate.remove(found[scheme])


def ask(module: str, directory: Path, **orders: Any) -> Any:
    """Run a module of `leaks` and return its answer, the last line; earlier ones are progress."""
    # CPython keeps something of all code that it compiles: have it do so once.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    environment["PYTHONPYCACHEPREFIX"] = str(directory / "pycache")
    if module == "leaks.growing":
        environment["PYTHONMALLOC"] = "malloc"
    command = [sys.executable, "-m", module, json.dumps(orders)]
    last = ""
    with (
        open(directory / "log", "w+b") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True) as program,
    ):
        assert program.stdout is not None
        for line in program.stdout:
            last = line
            if IS_FULL and line.startswith("progress"):
                print(line, end="", flush=True)  # noqa: T201  `make torture` shows it
    assert program.returncode == 0, (directory / "log").read_text()
    return json.loads(last)


@pytest.mark.timeout(scale(120, 100 * SECONDS * 3 + 300))
@pytest.mark.parametrize("scheme", ["memory", "file", "sqlite", "shm"])
def test_no_call_leaves_anything_behind(scheme: str, urls: dict[str, str], evidence: Path) -> None:
    """G1 to G3, for some ninety ways through the API of each backend."""
    grown = ask(
        "leaks.growing",
        evidence,
        url=urls[scheme],
        plant="",
        only=[],
        times=CALLS,
        seconds=SECONDS,
        slack_bytes=SLACK_BYTES,
    )

    faults = judge_calls(grown)
    record(
        "repeat every call",
        scheme,
        bad=len(faults),
        ways=len(grown),
        calls=sum(found["calls"] for found in grown.values() if isinstance(found, dict)),
    )
    assert not faults, faults
    assert len(grown) > 80


@pytest.mark.parametrize("plant", PLANTS)
def test_planted_leak_of_a_call_is_found(plant: str, urls: dict[str, str], evidence: Path) -> None:
    """A leak of 16 bytes, of a reference on an error path, of a descriptor: each is found where it is."""
    way, what = _PLANTED_AT[plant]
    orders = {"plant": plant, "only": [way], "times": 2000, "seconds": 1.0, "slack_bytes": SLACK_BYTES}

    grown = ask("leaks.growing", evidence, url=urls["shm"], **orders)

    assert [fault for fault in judge_calls(grown) if fault.startswith(f"{way}: {what} grew")], grown


def grow_interpreters(urls: dict[str, str], evidence: Path, kind: str, times: int, **changed: Any) -> Any:
    orders = {"urls": list(urls.values()), "warmers": 5, "plant": "", "inventory": "", **changed}
    return ask("leaks.interpreting", evidence, kind=kind, times=times, **orders)


def grow_others(urls: dict[str, str], evidence: Path, kind: str, times: int) -> Any:
    inventory = str(evidence / "inventory")
    grow_interpreters(urls, evidence, kind, 1, plant=f"list {inventory}", warmers=0)
    return ask("leaks.interpreting", evidence, kind=kind, times=times, warmers=5, inventory=inventory)


@pytest.mark.timeout(scale(120, 1800))
@pytest.mark.parametrize("kind", [Kind.LEGACY, Kind.ISOLATED], ids=lambda kind: kind.value)
def test_no_interpreter_leaves_more_than_cpython_keeps(kind: Kind, urls: dict[str, str], evidence: Path) -> None:
    """G4, for interpreters of one kind that come and go one after the other.

    Where this Python has no such interpreters, `available_kinds` says why, and
    the same is shown for legacy ones.
    """
    if available_kinds()[kind]:
        kind = Kind.LEGACY

    ours = grow_interpreters(urls, evidence, kind.value, INTERPRETERS)
    others = grow_others(urls, evidence, kind.value, INTERPRETERS)

    faults = judge_interpreters(ours, others, INTERPRETERS)
    record(
        "make and end interpreters",
        kind.value,
        bad=len(faults),
        interpreters=INTERPRETERS,
        kib_each=round(ours["resident_bytes"] / INTERPRETERS / 1024),
        kib_each_without_us=round(others["resident_bytes"] / INTERPRETERS / 1024),
    )
    assert not faults, (faults, ours, others)


def test_planted_leaks_of_interpreters_are_found(urls: dict[str, str], evidence: Path) -> None:
    """A megabyte, a descriptor, or a mapped region that each interpreter leaves behind."""
    others = {"resident_bytes": 4 << 19}

    def judge_plant(plant: str) -> list[str]:
        ours = grow_interpreters({"memory": urls["memory"]}, evidence, "legacy", 4, plant=plant, warmers=2)
        return judge_interpreters(ours, others, times=4)

    found = {plant: judge_plant(plant) for plant in INTERPRETER_PLANTS if plant}

    assert any("bytes are left" in fault for fault in found["bytes"]), found
    assert any("descriptors are left" in fault for fault in found["descriptor"]), found
    assert any("regions are left" in fault for fault in found["region"]), found
