"""Processes that use an adapter at the same time."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING

import pytest

from sharedstate.contrib._caching import close_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def _no_handle_outlives_its_test() -> Iterator[None]:
    """Close what the adapters opened: an interpreter would keep it to its end, and announce it in each forked child."""
    yield
    close_all()


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
