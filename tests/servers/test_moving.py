"""A service under four gunicorn workers moves from sqlite to redis while it counts, and not one count is lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import sharedstate
from harness import MODES, load, start, topology, wait_for
from redis_server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Server

APPLICATIONS = Path(__file__).parent / "applications"
ROUND = 200  # requests


@pytest.fixture
def directory() -> Iterator[str]:
    """A short one: the path of a socket has at most 107 bytes."""
    directory = tempfile.mkdtemp(prefix="ss-")
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize("mode", ["gunicorn-sync-4", "gunicorn-gthread-2x8", "gunicorn-preload-4"])
def test_a_service_moves_while_it_counts(mode: str, directory: str) -> None:
    """Each request is answered, each by another total, from 1 on; all workers go along, and none is started anew."""
    old, has_moved, answers = f"sqlite:{directory}/old.db", threading.Event(), list[Any]()

    def go_on(server: Server) -> None:
        while not has_moved.is_set():
            answers.extend(load(server, "/count", requests=ROUND, clients=8, hold_s=0))
        answers.extend(load(server, "/count", requests=ROUND, clients=8, hold_s=0))

    with (
        RedisServer(directory, has_port=True) as redis,
        start(MODES[mode], APPLICATIONS / "counting", setting={"url": old}) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        new = f"redis://127.0.0.1:{redis.port}/moved"
        loading = pool.submit(go_on, server)
        try:
            assert wait_for(lambda: loading.done() or len(answers) >= ROUND, 60)
            before = topology(answers).processes
            moved = subprocess.run(
                [sys.executable, "-m", "sharedstate", "move", "--linger", "10", old, new],
                check=False,
                capture_output=True,
                text=True,
            )
        finally:
            has_moved.set()
        loading.result()

        assert moved.returncode == 0, moved.stderr
        assert sorted(answer["total"] for answer in answers) == list(range(1, len(answers) + 1))
        served = topology(answers).processes
        assert len(served) == MODES[mode].truth.processes[0]
        assert before <= served
        with sharedstate.open(new) as store:
            assert store["total"] == len(answers)
            assert served <= {sharer.owner.pid for sharer in store.sharers()}
