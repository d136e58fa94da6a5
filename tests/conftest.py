"""What every kind of evidence shares: the settings of Hypothesis, fresh stores, and a list of what passed.

SHAREDSTATE_PASSED names a file that gets the id of each test that passed, a line
each; `scripts/guarantees.py` holds the promises in docs/guarantees.md to it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

import sharedstate
from sharedstate.registry import find_plugin, parse_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The same examples on every run: a failure that a change did not cause helps
# nobody.  HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile(
    "fixed", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

_PASSED = os.environ.get("SHAREDSTATE_PASSED")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if _PASSED and report.when == "call" and report.passed:
        with open(_PASSED, "a", encoding="utf-8") as file:
            file.write(f"{report.nodeid}\n")


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a Redis server of this session's, without a store's name."""
    from redis_server import RedisServer

    directory = tempfile.mkdtemp(prefix="ss-")  # not pytest's own: a socket's path has at most 107 bytes
    try:
        with RedisServer(directory) as server:
            yield f"redis+unix:{server.socket}"
    finally:
        shutil.rmtree(directory)


_EVERY = ("memory", "file", "sqlite", "shm", "redis")


def _temporary(scheme: str, directory: Path) -> Iterator[str]:
    yield from _witnessed(find_plugin(parse_url(f"{scheme}:any")).temporary_url(str(directory)))


def _requested(request: pytest.FixtureRequest, directory: Path) -> Iterator[str]:
    if request.param == "redis":
        yield from _witnessed(f"{request.getfixturevalue('redis_url')}?name=unit-{uuid4()}")
    else:
        yield from _temporary(request.param, directory)


def _witnessed(url: str) -> Iterator[str]:
    with sharedstate.open(url) as witness:
        try:
            yield url
            witness.check()
        finally:
            sharedstate.remove(url)


@pytest.fixture(params=_EVERY)
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh store of each backend; its invariants are checked afterwards."""
    yield from _requested(request, tmp_path)


@pytest.fixture(params=_EVERY[1:])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh store of each backend that processes share."""
    yield from _requested(request, tmp_path)


@pytest.fixture
def memory_url(tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh store, where one backend is enough."""
    yield from _temporary("memory", tmp_path)


@pytest.fixture
def shm_url(tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh shared-memory store, where one backend is enough."""
    yield from _temporary("shm", tmp_path)
