"""Handles and crews for the tests of coordination; makes crew/ importable, here and in the members' processes."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

import sharedstate
from sharedstate.probe.boundaries import Kind, available_kinds

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "crew"))

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from crew import Crew
    from sharedstate.store import Store


@pytest.fixture
def open_any(any_url: str) -> Iterator[Callable[[], Store]]:
    """Open one more handle on a fresh store of each backend each time it is called."""
    yield from _opener(any_url)


@pytest.fixture
def open_shared(shared_url: str) -> Iterator[Callable[[], Store]]:
    """Open one more handle on a fresh store of each backend that processes share."""
    yield from _opener(shared_url)


def _opener(url: str) -> Iterator[Callable[[], Store]]:
    handles: list[Store] = []

    def open_one() -> Store:
        handles.append(sharedstate.open(url))
        return handles[-1]

    yield open_one
    for handle in handles:
        handle.close()


@pytest.fixture
def crew(shared_url: str, tmp_path: Path) -> Iterator[Crew]:
    """A crew over a fresh store of each backend that processes share."""
    from crew import Crew

    with Crew(shared_url, str(tmp_path)) as crew:
        yield crew


@pytest.fixture
def shm_crew(shm_url: str, tmp_path: Path) -> Iterator[Crew]:
    """A crew over a fresh shared-memory store, where one backend is enough."""
    from crew import Crew

    with Crew(shm_url, str(tmp_path)) as crew:
        yield crew


_INTERPRETERS = [kind.value for kind in (Kind.LEGACY, Kind.ISOLATED) if not available_kinds()[kind]]


@pytest.fixture(params=_INTERPRETERS)
def interpreter_kind(request: pytest.FixtureRequest) -> str:
    """Each kind of sub-interpreter that this Python can make."""
    return str(request.param)


@pytest.fixture(params=["forked", "spawned", *_INTERPRETERS])
def process_kind(request: pytest.FixtureRequest) -> str:
    """Each kind of member with a process of its own that this Python can make."""
    return str(request.param)
