"""A ring wakes who waits in another thread or process, long before they would look by themselves.

No time is measured: the looks are put off beyond each test's end, so a ring that
wakes nobody is a test that does not end.
"""

from __future__ import annotations

import mmap
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

import sharedstate
from sharedstate import _native
from sharedstate.backend import BELL_BYTES, Bell, Deadline, bells
from sharedstate.testing.conformance.support import fork_and_run
from sharedstate_file import durability

if TYPE_CHECKING:
    from pathlib import Path

NEVER_S = 1000.0


@pytest.fixture(autouse=True)
def _nobody_looks_by_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bells, "_LOOK_S", NEVER_S)


@pytest.fixture
def shared() -> memoryview:
    """One page that forked children share."""
    return memoryview(mmap.mmap(-1, 4096))


def test_ring_wakes_another_process(shared: memoryview) -> None:
    """200 times in turn: a child waits for the parent's word, and the parent for the child's."""
    turn, ours, theirs = shared[:1], Bell(shared[64:72]), Bell(shared[128:136])

    def answer() -> None:
        for number in range(1, 200, 2):
            ours.wait_until(lambda: turn[0] == number, Deadline(60))  # noqa: B023  called before the next round
            turn[0] = number + 1
            theirs.ring()

    answered = fork_and_run(answer)
    for number in range(1, 200, 2):
        turn[0] = number
        ours.ring()
        theirs.wait_until(lambda: turn[0] == number + 1, Deadline(60))  # noqa: B023
    answered()
    assert turn[0] == 200


def test_ring_between_look_and_sleep_is_not_missed(shared: memoryview) -> None:
    """What comes to be after the look, and is rung, keeps the waiter from sleeping."""
    bell, looks = Bell(shared[:BELL_BYTES]), []

    def is_over() -> bool:
        looks.append(1)
        if len(looks) == 1:
            bell.ring()
        return len(looks) > 1

    assert bell.wait_until(is_over, Deadline(None))
    assert len(looks) == 2


def test_deadline_ends_a_wait(shared: memoryview) -> None:
    assert not Bell(shared[:BELL_BYTES]).wait_until(lambda: False, Deadline(0.05))


def test_ring_that_nobody_waits_for_costs_no_wake_up(shared: memoryview) -> None:
    """It changes nothing in the bytes; the first ring after a wait does, once."""
    bell = shared[:BELL_BYTES]

    _native.bell_ring(bell)
    assert bytes(bell) == bytes(BELL_BYTES)

    assert _native.bell_announce(bell) == 0
    _native.bell_ring(bell)
    _native.bell_ring(bell)
    assert _native.bell_announce(bell) == 1


def test_signal_handler_ends_a_sleep_with_its_exception(shared: memoryview) -> None:
    """KeyboardInterrupt, say, comes out of the wait at once."""

    class Stop(Exception):  # noqa: N818  no error
        pass

    def stop(*_: object) -> None:
        raise Stop

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        with pytest.raises(Stop):
            Bell(shared[:BELL_BYTES]).wait_until(lambda: False, Deadline(None))
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("place", [slice(0, 7), slice(4, 12)], ids=["short", "askew"])
def test_what_is_no_bell_is_refused(shared: memoryview, place: slice) -> None:
    with pytest.raises(ValueError, match="eight aligned bytes"):
        _native.bell_ring(shared[place])
    with pytest.raises(BufferError):
        _native.bell_announce(memoryview(bytes(8)))
    with pytest.raises(TypeError):
        _native.bell_sleep(shared[:8], 0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_waiter_on_a_file_is_woken_by_another_process(tmp_path: Path) -> None:
    """50 changes, one after another: each is seen before the next is made."""
    url = f"file:{tmp_path}/store"
    with sharedstate.open(url) as store:
        store["seen"] = 0

        def write() -> None:
            with sharedstate.open(url) as theirs:
                for number in range(1, 51):
                    generation = theirs.read("seen").generation
                    theirs["asked"] = number
                    theirs.wait_for_change("seen", generation, timeout_s=60)

        written = fork_and_run(write)
        last = sharedstate.ABSENT
        for number in range(1, 51):
            last = store.wait_for_change("asked", last, timeout_s=60)
            store["seen"] = number
        written()
        assert store["asked"] == store["seen"] == 50


def test_writers_that_wait_for_the_disk_are_woken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four processes, 50 synced writes each: none sleeps over the end of the sync that it waits for."""
    url = f"file:{tmp_path}/store?sync=disk"
    sharedstate.open(url).close()
    fdatasync = os.fdatasync
    monkeypatch.setattr(durability.os, "fdatasync", lambda fd: (os.sched_yield(), fdatasync(fd)))

    def write() -> None:
        with sharedstate.open(url) as store:
            for _ in range(50):
                store.increment("n")

    for written in [fork_and_run(write) for _ in range(4)]:
        written()
    with sharedstate.open(url) as store:
        assert store["n"] == 200
