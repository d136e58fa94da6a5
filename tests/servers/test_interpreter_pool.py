"""Python 3.14's InterpreterPoolExecutor: one process, an isolated interpreter per worker, and the same promises."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import sharedstate

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.version_info < (3, 14), reason="Python has pools of interpreters from 3.14 on")
SCRIPT = Path(__file__).parent / "applications" / "interpreter_pool.py"


def run_pool(url: str) -> tuple[set[int], list[int]]:
    """Return the interpreters that took part, and all totals that they were handed, sorted."""
    output = subprocess.run([sys.executable, str(SCRIPT), url], check=True, stdout=subprocess.PIPE, timeout=60).stdout
    tasks = json.loads(output)
    return {interpreter for interpreter, _ in tasks}, sorted(total for _, totals in tasks for total in totals)


@pytest.fixture(params=["shm", "file", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    url = f"shm://pool-{uuid.uuid4().hex[:12]}" if request.param == "shm" else f"{request.param}:{tmp_path}/store"
    yield url
    sharedstate.remove(url)


def test_pool_of_interpreters_shares_one_store(url: str) -> None:
    """4 interpreters, each with a GIL of its own, make 400 increments: each total is handed out once."""
    interpreters, totals = run_pool(url)

    assert totals == list(range(1, 401))
    assert len(interpreters) > 1
    assert 0 not in interpreters


def test_pool_of_interpreters_does_not_share_memory() -> None:
    """The counterpart: a memory store has a copy in each interpreter, so totals are handed out again and again."""
    interpreters, totals = run_pool("memory:pool")

    assert len(interpreters) > 1
    assert len(totals) == 400
    assert len(set(totals)) < 400
