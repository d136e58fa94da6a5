"""Dice and evidence for every experiment."""

from __future__ import annotations

import os
import random
import shutil
import zlib
from typing import TYPE_CHECKING

import pytest

from campaign import SEED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_EVIDENCE = os.path.join("build", "torture", "evidence")
_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Remember for `evidence` that a test has failed, and say how to run it again."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
        report.sections.append(("replay", f"SHAREDSTATE_TORTURE_SEED={SEED} pytest '{item.nodeid}'"))
    return report


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of this test's own, the same in each run with the same SHAREDSTATE_TORTURE_SEED."""
    return random.Random(SEED ^ zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def evidence(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory for stores and histories; after a failure it is kept under build/torture/evidence."""
    yield tmp_path
    if request.node.stash.get(_FAILED, False):
        kept = os.path.join(_EVIDENCE, request.node.name.replace(os.sep, "_"))
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(tmp_path, kept, symlinks=True)
        print(f"Kept for you: {kept}")  # noqa: T201  pytest shows it with the failure
