"""A service under four gunicorn workers moves from sqlite to redis while it counts, and not one count is lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import sharedstate
from harness import MODES, load, start, topology, wait_for
from redis_server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

APPLICATIONS = Path(__file__).parent / "applications"
REQUESTS = 1200


@pytest.fixture
def directory() -> Iterator[str]:
    """A short one: the path of a socket has at most 107 bytes."""
    directory = tempfile.mkdtemp(prefix="ss-")
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize("mode", ["gunicorn-sync-4", "gunicorn-gthread-2x8", "gunicorn-preload-4"])
def test_a_service_moves_while_it_counts(mode: str, directory: str) -> None:
    """Each request is answered, each by another total, from 1 on; all workers go along, and none was started anew."""
    old, total = f"sqlite:{directory}/old.db", "total"
    with (
        RedisServer(directory, has_port=True) as redis,
        start(MODES[mode], APPLICATIONS / "counting", setting={"url": old}) as server,
        ThreadPoolExecutor(1) as pool,
        sharedstate.open(old) as witness,
    ):
        new = f"redis://127.0.0.1:{redis.port}/moved"
        loading = pool.submit(load, server, "/count", requests=REQUESTS, clients=8, hold_s=0)
        assert wait_for(lambda: loading.done() or witness.get(total, 0) > REQUESTS // 6, 60)

        moved = subprocess.run(
            [sys.executable, "-m", "sharedstate", "move", "--linger", "10", old, new],
            check=False,
            capture_output=True,
            text=True,
        )

        assert moved.returncode == 0, moved.stderr
        with sharedstate.open(new) as store:
            at_the_move = store[total]
        answers = loading.result()
        assert sorted(answer["total"] for answer in answers) == list(range(1, REQUESTS + 1))
        assert at_the_move < REQUESTS, "it was still counting"
        later = [answer for answer in answers if answer["total"] > at_the_move]
        assert topology(later).processes <= topology(answers).processes
        assert len(topology(answers).processes) == MODES[mode].truth.processes[0]
        assert len(server.executions()) in MODES[mode].truth.module_runs
        with sharedstate.open(new) as store:
            assert store[total] == REQUESTS
