"""Fresh stores for the adapters, and processes that use them at the same time."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING

import pytest

import sharedstate
from sharedstate.registry import find_plugin, parse_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_EVERY = ("memory", "file", "sqlite", "shm")


def _temporary(scheme: str, directory: Path) -> Iterator[str]:
    url = find_plugin(parse_url(f"{scheme}:any")).temporary_url(str(directory))
    with sharedstate.open(url) as witness:
        try:
            yield url
            witness.check()
        finally:
            sharedstate.remove(url)


@pytest.fixture(params=_EVERY)
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh store of each backend; its invariants are checked afterwards."""
    yield from _temporary(request.param, tmp_path)


@pytest.fixture(params=_EVERY[1:])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh store of each backend that processes share."""
    yield from _temporary(request.param, tmp_path)


@pytest.fixture
def memory_url(tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh store, where one backend is enough."""
    yield from _temporary("memory", tmp_path)


@pytest.fixture
def in_four_processes() -> Callable[[Callable[[], object]], None]:
    """Run a body in four forked processes at the same time; fail if it fails in one."""
    return _run_in_four


def _run_in_four(body: Callable[[], object]) -> None:
    gate, opener = os.pipe()
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            os.close(opener)
            os.read(gate, 1)  # returns when the parent, the last to have it open, closes it
            _run_and_exit(body)
        children.append(pid)
    os.close(gate)
    os.close(opener)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4


def _run_and_exit(body: Callable[[], object]) -> None:
    try:
        body()
    except BaseException:  # noqa: BLE001  whatever it is, the child must not go on as a second pytest
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
