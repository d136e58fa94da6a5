"""Dice and evidence for every experiment."""

from __future__ import annotations

import os
import random
import shutil
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

import sharedstate
from campaign import SEED
from sharedstate import StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
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
def url_of(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Return the URL of a store of a scheme, with parameters if there are any; removed afterwards."""
    made: list[str] = []

    def url_of(scheme: str, parameters: str = "") -> str:
        place = f"//torture-{uuid4().hex}" if scheme == "shm" else f"{tmp_path}/store"
        made.append(f"{scheme}:{place}")
        return made[-1] + parameters

    yield url_of
    for url in made:
        with suppress(StateError):
            sharedstate.remove(url)


@pytest.fixture
def evidence(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory for stores and histories; after a failure it is kept under build/torture/evidence."""
    yield tmp_path
    if request.node.stash.get(_FAILED, False):
        kept = os.path.join(_EVIDENCE, request.node.name.replace(os.sep, "_"))
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(tmp_path, kept, symlinks=True)
        print(f"Kept for you: {kept}")  # noqa: T201  pytest shows it with the failure
