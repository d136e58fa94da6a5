"""What every kind of evidence shares: the settings of Hypothesis, and a list of what passed.

SHAREDSTATE_PASSED names a file that gets the id of each test that passed, a line
each; `scripts/guarantees.py` holds the promises in docs/guarantees.md to it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

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
