"""Whoever does each step, thread, sub-interpreter or process, store and model agree."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from redis_server import interpreters_for
from sharedstate.model import Scope
from sharedstate.probe.actors import Kind
from sharedstate.testing.machine import check_agreement

if TYPE_CHECKING:
    from pathlib import Path

_SCOPES = {"memory": Scope.INTERPRETER, **dict.fromkeys(("file", "sqlite", "shm", "redis"), Scope.HOST)}


def url_of(scheme: str, directory: Path, number: int, server: str) -> str:
    return {
        "memory": f"memory:machine-{number}",
        "file": f"file:{directory}/store-{number}",
        "sqlite": f"sqlite:{directory}/state-{number}.db",
        "shm": f"shm://machine-{uuid4()}?size=4MiB",
        "redis": f"{server}?name=machine-{uuid4()}",
    }[scheme]


def kinds_of(scheme: str) -> list[Kind]:
    """Return two actors of each kind that a store of this scheme must reach, where this Python can make it."""
    scope = _SCOPES[scheme]
    kinds = [Kind.THREAD, Kind.THREAD]
    if scope >= Scope.PROCESS:
        kinds += interpreters_for(scheme) * 2
    if scope >= Scope.HOST:
        kinds += [Kind.FORKED, Kind.SPAWNED, Kind.UNRELATED]
    return kinds


@pytest.mark.parametrize("scheme", _SCOPES)
def test_store_agrees_with_the_model(scheme: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """30 random programs of up to 40 steps, each step by any actor within the scope, leave no disagreement."""
    numbers = count()
    server = request.getfixturevalue("redis_url") if scheme == "redis" else ""

    check_agreement(lambda: url_of(scheme, tmp_path, next(numbers), server), kinds_of(scheme), examples=30, steps=40)
