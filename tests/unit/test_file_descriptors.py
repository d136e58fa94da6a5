"""The descriptors of `file:`: of a removed store, of a closed or forgotten handle, and in a forked child."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

import sharedstate
from sharedstate import ClosedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file:{tmp_path}/store"


# --- Removing and closing -----------------------------------------------------------


def test_removed_store_is_never_written_as_a_ghost(url: str, tmp_path: Path) -> None:
    """After remove() open handles raise on every verb, and a new store of that name is another one."""
    store = sharedstate.open(url)
    lock = store.lock("named")
    lock.acquire()
    lock.release()
    store["k"] = 1

    sharedstate.remove(url)

    verbs: list[Callable[[], Any]] = [
        lambda: store["k"],
        lambda: store.set("k", 2),
        lambda: store.increment("n"),
        lambda: store.keys().__len__(),
        lambda: store.lock("named"),
        lock.acquire,
        store.check,
        store.stats,
    ]
    for verb in verbs:
        with pytest.raises(UnavailableError, match="removed"):
            verb()
    assert not (tmp_path / "store").exists()
    with sharedstate.open(url) as new:
        assert dict(new) == {}
        with pytest.raises(UnavailableError, match="removed"):
            store["k"] = 2
        assert dict(new) == {}
    with pytest.raises(UnavailableError, match="no store"):
        sharedstate.remove(f"{url}2")


def test_directory_removed_by_other_means_is_never_written(url: str, tmp_path: Path) -> None:
    """After `rm -r`, and after a new store took the place, a write through an old handle is refused."""
    store = sharedstate.open(url)
    store["k"] = 1
    subprocess.run(["rm", "-r", str(tmp_path / "store")], check=True)

    with pytest.raises(UnavailableError, match="removed"):
        store["k"] = 2
    new = sharedstate.open(url)
    with pytest.raises(UnavailableError, match="removed"):
        store["k"] = 2

    assert dict(new) == {}


def test_removal_that_was_interrupted_is_finished_by_the_next_opener(url: str, tmp_path: Path) -> None:
    """A store whose head says removed is empty to the next opener, whatever files are left of it."""
    store = sharedstate.open(url)
    store["k"] = 1
    store._backend._head.store(2**64 - 1)

    assert dict(sharedstate.open(url)) == {}
    with pytest.raises(UnavailableError, match="removed"):
        store.get("k")
    sharedstate.remove(url)
    assert not (tmp_path / "store").exists()


def test_closed_backend_refuses_every_verb_and_frees_its_descriptors(url: str) -> None:
    """A handle kept by its backend's own methods is closed too, and 50 handles leave no descriptor behind."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        store = sharedstate.open(url)
        store["k"] = 1
        get, set_, backend = store.get, store.set, store._backend
        store.close()
        backend.close()

    with pytest.raises(ClosedError):
        get("k")
    with pytest.raises(ClosedError):
        set_("k", 2)
    del store, get, set_, backend
    assert len(os.listdir("/proc/self/fd")) == before


def test_store_left_to_the_collector_frees_its_descriptors(url: str) -> None:
    """Handles that nobody closes give their descriptors back when they are collected."""
    before = len(os.listdir("/proc/self/fd"))

    for _ in range(20):
        sharedstate.open(url)["k"] = 1

    assert len(os.listdir("/proc/self/fd")) == before


# --- Forks -------------------------------------------------------------------------


def test_child_does_not_keep_its_dead_parents_turn(tmp_path: Path) -> None:
    """A writer killed inside its turn frees the lock although a child that it forked lives on."""
    url = f"file:{tmp_path}/store?timeout=2"
    store = sharedstate.open(url)
    reader, writer = os.pipe()
    gate_reader, gate_writer = os.pipe()

    parent = os.fork()
    if parent == 0:
        own = sharedstate.open(url)

        def fork_and_stay() -> None:
            if os.fork() == 0:
                os.close(gate_writer)
                os.read(gate_reader, 1)
                os._exit(0)
            os.write(writer, b"!")
            signal.pause()

        own._backend._writers.run(fork_and_stay)
    os.read(reader, 1)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)

    store["k"] = "written while the child lives"

    for fd in (reader, writer, gate_reader, gate_writer):
        os.close(fd)
    assert store["k"]
