"""A handle has one place among the sharers in each process, whoever asks for it, and whatever that sets off."""

from __future__ import annotations

import glob
import os
import signal
import threading
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

import sharedstate
from sharedstate.deployment import identity
from sharedstate.registry import find_plugin, parse_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def store() -> Iterator[sharedstate.Store]:
    url = f"shm://membership-{uuid4().hex[:12]}"
    with sharedstate.open(url) as opened:
        yield opened
    sharedstate.remove(url)


def in_child(body: Callable[[], bool]) -> bool:
    """Fork, and return whether `body()` held in the child; a child that hangs, in a hook say, is killed."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if body() else 1)
        finally:
            os._exit(2)
    watch = threading.Timer(10, os.kill, (pid, signal.SIGKILL))
    watch.start()
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        watch.cancel()


@pytest.mark.parametrize("where", ["this thread", "another thread"])
def test_joining_while_joining_takes_one_place(
    store: sharedstate.Store, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The first look at a forked worker may call the program, which claims tasks by its place: it keeps that place."""
    seen: list[str] = []
    describe = identity.describe_self

    def describe_and_begin_to_serve() -> dict[str, Any]:
        monkeypatch.setattr(identity, "describe_self", describe)
        if where == "this thread":
            seen.append(store.join())
        else:  # and wait for it, as a program may
            thread = threading.Thread(target=lambda: seen.append(store.join()))
            thread.start()
            thread.join()
        return describe()

    def joins_once() -> bool:
        return [store.join()] == seen and store.is_present(seen[0])

    before = store.join()
    # The child joins as it is forked, by a hook.
    monkeypatch.setattr(identity, "describe_self", describe_and_begin_to_serve)

    assert in_child(joins_once)
    assert store.join() == before
    assert store.is_present(before)


def test_child_joins_while_a_thread_of_its_parent_was_joining(
    store: sharedstate.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That thread is not in the child, so nobody waits for it."""
    (place,) = store._places
    with place._turn():
        assert in_child(lambda: store.join() != "")


@pytest.mark.parametrize("scheme", ["shm", "file", "sqlite"])
def test_nothing_appears_in_the_place_of_a_removed_store(scheme: str, tmp_path: Path) -> None:
    """Neither by a handle that is open still, which is told, nor by those of forked children, which join by a hook."""
    url = find_plugin(parse_url(f"{scheme}:any")).temporary_url(str(tmp_path))
    shm = f"/dev/shm/sharedstate-{url.removeprefix('shm://').partition('?')[0]}"

    def found() -> list[str]:
        return glob.glob(f"{shm}*") + os.listdir(tmp_path)

    with sharedstate.open(url) as opened:
        opened.join()
        assert found()
        sharedstate.remove(url)
        with pytest.raises(sharedstate.UnavailableError):
            opened.lock("l").acquire(0)
        assert found() == []
        assert in_child(lambda: found() == [])
    assert found() == []
