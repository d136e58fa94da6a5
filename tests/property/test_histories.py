"""What actors did at the same time, on every backend and across every boundary, has an explanation."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from redis_server import interpreters_for
from sharedstate.model import Scope
from sharedstate.probe.actors import Actor, Kind, Stage
from sharedstate.testing.histories import (
    Operation,
    judge_counter,
    judge_locks,
    judge_register,
    judge_transfers,
    record_holds,
    record_rounds,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SCOPES = {"memory": Scope.INTERPRETER, **dict.fromkeys(("file", "sqlite", "shm", "redis"), Scope.HOST)}


@pytest.fixture(params=_SCOPES)
def cast(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Actor]]:
    """Actors by name, of each kind that the backend's scope covers, each with a handle on one fresh store."""
    scheme = request.param
    server = request.getfixturevalue("redis_url") if scheme == "redis" else ""
    url = {
        "memory": "memory:history",
        "file": f"file:{tmp_path}/store",
        "sqlite": f"sqlite:{tmp_path}/state.db",
        "shm": f"shm://history-{uuid4()}?size=4MiB",
        "redis": f"{server}?name=history-{uuid4()}",
    }[scheme]
    kinds = [Kind.THREAD] * 4
    if _SCOPES[scheme] >= Scope.HOST:
        kinds = [Kind.FORKED, Kind.THREAD, Kind.THREAD, Kind.UNRELATED]
        kinds += interpreters_for(scheme)
    with Stage() as stage:
        actors = [stage.actor(kind, url) for kind in kinds]
        yield {f"{actor.kind.value} {i}": actor for i, actor in enumerate(actors)}
        actors[0].call("check")
        for actor in actors:
            actor.call("close_store")
        actors[0].call("remove", url)


def _one_of(cast: dict[str, Actor]) -> Actor:
    return next(iter(cast.values()))


def test_one_key_is_linearizable(cast: dict[str, Actor]) -> None:
    """80 rounds of six verbs on two keys, all actors at once: some order explains what each was told."""
    dice = random.Random(7)
    steps = [(verb, key, None) for verb in ("get", "read", "delete") for key in "kl"]
    steps += [(verb, key, number) for verb in ("set", "add", "increment") for key in "kl" for number in (1, 2)]

    history = record_rounds(cast, [[dice.choice(steps) for _ in cast] for _ in range(80)])

    assert judge_register(history) == []


def test_compare_and_set_is_linearizable(cast: dict[str, Actor]) -> None:
    """60 rounds in which all actors compare-and-set from the same generation: one wins, and reads agree."""
    history: list[Operation] = []
    for number in range(60):
        generation = _one_of(cast).call("generation", "k")
        steps = [("compare_and_set", "k", ([number, i], generation)) for i in range(len(cast) - 1)]
        history += record_rounds(cast, [[*steps, ("read", "k", None)]])
    history += record_rounds(cast, [[("read", "k", None)] * len(cast)])

    assert judge_register(history) == []


def test_no_increment_is_lost(cast: dict[str, Actor]) -> None:
    """100 rounds of increments by all actors: every total once, in the order of time, and the last is their number."""
    history = record_rounds(cast, [[("increment", "n", 1)] * len(cast)] * 100)

    assert judge_counter(history, _one_of(cast).call("get", "n")) == []
    assert len(history) == 100 * len(cast)


def test_lock_has_one_holder(cast: dict[str, Actor]) -> None:
    """All actors want one lock, 8 times each: never two at a time, and each time with a greater token."""
    holds = record_holds(cast, "l", 8)

    assert judge_locks(holds) == []
    assert len(holds) == 8 * len(cast)


def test_transfers_keep_the_sum(cast: dict[str, Actor]) -> None:
    """While half the actors move amounts between accounts by transactions, the others see no other sum."""
    accounts = ["a", "b", "c", "d"]
    _one_of(cast).call("set_many", dict.fromkeys(accounts, 100))
    movers, auditors = list(cast.items())[::2], list(cast.items())[1::2]
    now_ns = time.monotonic_ns()
    span = (now_ns, now_ns + 10**10, 100)

    for step, (_, actor) in enumerate(movers):
        actor.start("transfer_many", accounts, 3 + 2 * step, span)
    for _, actor in auditors:
        actor.start("audit_many", accounts, span)
    moved = [actor.result() for _, actor in movers]
    seen = {name: actor.result() for name, actor in auditors}

    audits = [
        Operation(name, "audit", "", None, [total], now_ns, time.monotonic_ns())
        for name, (_, sums) in {**seen, "last": (1, [sum(_one_of(cast).call("get_many", accounts).values())])}.items()
        for total in sums
    ]
    assert judge_transfers(audits, 400) == []
    assert sum(committed for committed, _ in moved) > 0
    assert audits
