"""The adapters' examples, started by the commands on their pages: four workers, ours beside what the framework has."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from sharedstate.probe.interpreters import LEGACY, reason_unavailable

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PAGES = Path(__file__).resolve().parents[2] / "docs" / "adapters"


def run(name: str) -> str:
    """Return what `python NAME.py` prints; the file says that this is how to start it, and its page names it."""
    assert f"python {name}.py" in (EXAMPLES / f"{name}.py").read_text()
    assert any(f"`examples/{name}.py`" in page.read_text() for page in PAGES.glob("*.md"))
    ended = subprocess.run(
        [sys.executable, f"{name}.py"], cwd=EXAMPLES, check=False, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_cachelib() -> None:
    """Every visit counts; in cachelib's file cache workers take them from one another."""
    counts = {name: int(count) for name, count in re.findall(r"(\w+): (\d+) of 8000 visits", run("cachelib_workers"))}
    assert counts.keys() == {"SharedStateCache", "FileSystemCache"}
    assert counts["SharedStateCache"] == 8000
    assert counts["FileSystemCache"] < 8000


def test_django() -> None:
    """Likewise; Django's file and database caches lose or refuse some."""
    counts = {name: int(count) for name, count in re.findall(r"(\w+): (\d+) of 800 visits", run("cache_django"))}
    assert counts.keys() == {"default", "files", "database"}
    assert counts["default"] == 800
    assert counts["files"] < 800
    assert counts["database"] < 800


def test_dogpile() -> None:
    """The page is made once; the attempt that died is made up for by one other."""
    output = run("dogpile_workers")
    assert "begun 2 times" in output
    assert re.findall(r"made by attempt (\d)", output) == ["2"] * 3


def test_limits() -> None:
    """Ten are let in; with limits' own memory ten by each worker."""
    found = dict(re.findall(r"let in by (\S+): (\d+)", run("limits_workers")))
    assert found == {"sharedstate+shm://limits-workers-example": "10", "memory://": "40"}


def test_prometheus() -> None:
    """A scrape has the counts of all processes and interpreters; one of prometheus_client's memory has none of them."""
    ours, stock = run("prometheus_workers").split("--- in memory")
    workers = 4 if reason_unavailable(LEGACY) else 8
    assert f"requests_total {workers * 1000}.0" in ours
    assert "open_files 2.0" in ours, "the workers are gone, and what they had open"
    assert "requests_total 0.0" in stock
