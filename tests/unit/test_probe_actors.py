"""The stage and its actors, of every kind that this Python can make."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sharedstate.errors import ConflictError, UrlError, ValueTypeError
from sharedstate.model import Entry, Scope, process_start_time
from sharedstate.probe.actors import (
    ActorError,
    ActorGoneError,
    ActorTimeoutError,
    Boundary,
    Kind,
    Stage,
    available_kinds,
)
from sharedstate.probe.host import command_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS = [kind for kind, reason in available_kinds().items() if not reason]
URL = "memory:actors"


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage(patience_s=20) as stage:
        yield stage


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_every_kind_obeys_and_ends(stage: Stage, kind: Kind) -> None:
    """An actor of each kind stores and returns values exactly, raises errors with their fields, and ends when told."""
    value = (1, b"\0", float("inf"), {"a": [None, {2: ()}]})
    actor = stage.actor(kind, URL)

    actor.call("set", "k", value)
    entry = actor.call("read", "k")

    assert entry == Entry(value, entry.generation, None)
    assert actor.call("increment", "n", by=2) == 2
    assert actor.call("capabilities").scope is Scope.INTERPRETER
    with pytest.raises(ConflictError) as raised:
        actor.call("compare_and_set", "n", 1, expected=entry.generation)
    assert raised.value.key == "n"
    with pytest.raises(ValueTypeError):
        actor.call("increment", "k")
    with pytest.raises(KeyError):
        actor.call("pop", "absent")
    with pytest.raises(ValueError, match="no verb"):
        actor.call("frobnicate")
    actor.close()
    with pytest.raises(ActorError):
        actor.call("len")


def test_kinds_are_where_they_say(stage: Stage) -> None:
    """Threads share a process and an interpreter, interpreters a process, and the others share neither."""
    pairs = {
        boundary: stage.pair(boundary, URL)
        for boundary in Boundary
        if boundary is not Boundary.ISOLATED or Kind.ISOLATED in KINDS
    }

    for boundary, (one, other) in pairs.items():
        assert (one.pid == other.pid) is boundary.is_within_process
        assert (one.interpreter == other.interpreter) is (boundary not in {Boundary.LEGACY, Boundary.ISOLATED})
        assert os.getpid() not in {one.pid, other.pid}
    assert parent_of(pairs[Boundary.FORKED][1].pid) == pairs[Boundary.FORKED][0].pid
    assert parent_of(pairs[Boundary.SPAWNED][1].pid) == pairs[Boundary.SPAWNED][0].pid
    unrelated = pairs[Boundary.UNRELATED][1].pid
    assert parent_of(unrelated) not in {os.getpid(), pairs[Boundary.UNRELATED][0].pid}
    assert os.getsid(unrelated) not in {os.getsid(0), os.getsid(pairs[Boundary.UNRELATED][0].pid)}


def test_transactions_and_locks_go_a_step_at_a_time(stage: Stage) -> None:
    """Two actors' transactions interleave as told, so that one of them loses; a lock is held between two commands."""
    one, other = stage.pair(Boundary.THREADS, URL)

    for actor in (one, other):
        actor.call("tx_begin")
        actor.call("tx_set", "k", actor.call("tx_get", "k", 0) + 1)
    one.call("tx_commit")
    token = one.call("lock_acquire", "door", 5.0)

    with pytest.raises(ConflictError):
        other.call("tx_commit")
    assert not other.call("lock_try", "door")
    one.call("lock_release", "door")
    assert other.call("lock_acquire", "door", 5.0) > token


def test_forked_actor_may_use_its_parents_handle(stage: Stage) -> None:
    """An inherited handle works in the child; of a store in memory the child has a copy."""
    parent = stage.actor(Kind.THREAD, URL)
    parent.call("set", "k", "before the fork")

    child = stage.actor(Kind.FORKED, URL, inherits=True)
    parent.call("set", "k", "after the fork")

    assert child.call("get", "k") == "before the fork"


def test_killed_actor_is_gone_and_what_it_told_remains(stage: Stage) -> None:
    """After `kill` the process is dead, every call raises, and what had been told can still be had."""
    actor = stage.actor(Kind.SPAWNED, URL)
    actor.start("write_until_killed", "k", 10_000_000)
    actor.told(20)

    actor.kill()

    assert process_start_time(actor.pid) == 0
    told = actor.told()
    assert len(told) >= 20
    assert told == list(range(len(told)))
    with pytest.raises(ActorGoneError, match="SIGKILL") as raised:
        actor.result()
    assert raised.value.status == -signal.SIGKILL


def test_host_that_crashes_becomes_an_error_with_its_stderr(stage: Stage) -> None:
    """A host killed by a signal, as by a crash of CPython, is told with the signal's name, and replaced when needed."""
    actor = stage.actor(Kind.THREAD, URL)

    watched = os.pidfd_open(actor.pid)
    os.kill(actor.pid, signal.SIGSEGV)

    assert is_ended(watched)
    os.close(watched)
    with pytest.raises(ActorGoneError, match=r"SIGSEGV(.|\n)*Fatal Python error: Segmentation fault"):
        actor.call("len")
    assert stage.actor(Kind.THREAD, URL).call("len") == 0


def test_waiting_has_an_end() -> None:
    """An actor that does not answer in time raises an error that says so, and the stage can still be closed."""
    with Stage(patience_s=1) as stage:
        actor = stage.actor(Kind.THREAD, URL)
        holder = stage.actor(Kind.THREAD, URL)
        holder.call("lock_acquire", "door")

        actor.start("lock_acquire", "door", 60.0)

        with pytest.raises(ActorTimeoutError, match=r"no answer within 0\.2 s"):
            actor.result(0.2)


def test_store_that_cannot_be_opened_raises_its_own_error(stage: Stage) -> None:
    """The error of opening is the store's, raised where the actor is made."""
    with pytest.raises(UrlError):
        stage.actor(Kind.SPAWNED, "memory:a?typo=1")


def test_processes_end_with_the_stages_process(tmp_path: Path) -> None:
    """When the probe's process is killed, every actor's process ends by itself, even in the middle of a command."""
    script = """
import sys
from sharedstate.probe.actors import Kind, Stage
stage = Stage()
actors = [stage.actor(kind, "memory:orphans") for kind in (Kind.THREAD, Kind.FORKED, Kind.SPAWNED, Kind.UNRELATED)]
for actor in actors:
    actor.start("write_until_killed", "k", 10**9)
print(*{actor.pid for actor in actors}, flush=True)
sys.stdin.read()
"""
    path = f"import sys; sys.path[:] = {sys.path!r}\n"
    probe = subprocess.Popen(
        [sys.executable, "-c", path + script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # its directory stays behind
        text=True,
    )
    assert probe.stdout is not None
    pids = [int(pid) for pid in probe.stdout.readline().split()]
    watched = [os.pidfd_open(pid) for pid in pids]

    probe.kill()
    probe.communicate()

    assert len(pids) == 4
    for fd in watched:
        assert is_ended(fd)
        os.close(fd)


def test_actors_see_our_path() -> None:
    """A process of an actor gets our `sys.path`, so that plug-ins found here are found there."""
    command = command_line(sys.executable, "run_host", "/nowhere", 1)

    assert repr(sys.path[-1]) in command[-1]


def parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def is_ended(pidfd: int) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(10_000))
