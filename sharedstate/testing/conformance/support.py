"""What every group of claims stands on: the fixtures, and how to wait, to run together and to fork.

No claim sleeps: whoever must wait polls a condition through `until`, and fails
when it does not come true in time.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import threading
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import pytest

import sharedstate
from sharedstate import registry
from sharedstate.backend.waiting import Backoff, Deadline
from sharedstate.model import MISSING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from types import FrameType

    from sharedstate.backend import Backend
    from sharedstate.store import Store

__all__ = [
    "PATIENCE_S",
    "SOON_S",
    "Claims",
    "fork_and_run",
    "interrupt",
    "interrupt_at",
    "run_together",
    "unchanged",
    "until",
]

PATIENCE_S = 60.0
"""How long a claim waits for what must happen, on a loaded machine."""

SOON_S: Final = 0.03
"""A time to live that passes while a claim waits for it."""


class Claims:
    """The fixtures of every claim."""

    @pytest.fixture
    def url(self) -> str:
        """The URL of a store that does not exist yet.  A backend's own test class overrides this fixture."""
        raise NotImplementedError("override the fixture `url` with the URL of a store that does not exist yet")

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        """A fresh store.  After the test its invariants are checked, and it is removed."""
        # A second handle keeps a store alive that dies with its last user, and
        # checks it also after a test that closed the first.
        with sharedstate.open(url) as witness:
            try:
                with sharedstate.open(url) as store:
                    yield store
                witness.check()
            finally:
                sharedstate.remove(url)

    @pytest.fixture
    def backend(self, store: Store) -> Iterator[Backend]:
        """A handle of the plug-in's own on the store."""
        backend = registry.connect(store.url)
        yield backend
        backend.close()

    @pytest.fixture
    def open_another(self, store: Store) -> Iterator[Callable[[], Store]]:
        """Open one more handle on the same store each time it is called."""
        handles: list[Store] = []

        def open_one() -> Store:
            handles.append(sharedstate.open(store.url))
            return handles[-1]

        yield open_one
        for handle in handles:
            handle.close()


def until(condition: Callable[[], object]) -> None:
    """Return as soon as `condition()` is true, or fail after `PATIENCE_S`."""
    deadline, backoff = Deadline(PATIENCE_S), Backoff()
    while not condition():
        assert not deadline.has_passed(), f"still not true after {PATIENCE_S:g} s: {condition}"
        backoff.sleep(deadline)


@contextmanager
def unchanged(store: Store, key: str) -> Generator[None]:
    """Fail if the block leaves `key` other than it found it."""
    before = store.read(key)
    yield
    after = store.read(key)
    assert before == after, f"{key!r} was {before}, is {after}"


def run_together(*bodies: Callable[[], Any]) -> list[Any]:
    """Run each body in a thread of its own, all starting at once; return their results in order.

    Raises:
        Exception: the first one that a body raised.
    """
    barrier = threading.Barrier(len(bodies))
    results: list[Any] = [MISSING] * len(bodies)
    failures: list[BaseException] = []

    def run(index: int, body: Callable[[], Any]) -> None:
        try:
            barrier.wait(PATIENCE_S)
            results[index] = body()
        except BaseException as error:  # noqa: BLE001  handed to the caller below
            failures.append(error)

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in enumerate(bodies)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # turns often, so that a race which is possible happens
    try:
        for thread in threads:
            thread.start()
        deadline = Deadline(PATIENCE_S)
        for thread in threads:
            thread.join(deadline.remaining_s(PATIENCE_S))
    finally:
        sys.setswitchinterval(interval)
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads), f"a thread still runs after {PATIENCE_S:g} s"
    return results


def interrupt(body: Callable[[], Any], times: int) -> None:
    """Call `body` again and again in the main thread while signals raise an exception in it, at any line.

    Where that is a finalizer's, Python swallows the exception and says so; that is nothing to report.
    """

    class Interruption(BaseException): ...

    def handle(*_: Any) -> None:
        if is_running:
            raise Interruption

    is_running = False  # inside of the inner try; Python runs no handler between a store and the lines around it
    before = signal.signal(signal.SIGALRM, handle)
    try:
        with _not_reporting(Interruption):
            for i in range(times):
                # Once more after a while, should the first one be swallowed.
                signal.setitimer(signal.ITIMER_REAL, (50 + i % 97) * 1e-6, 0.1)
                try:
                    is_running = True
                    while True:
                        body()
                except Interruption:
                    is_running = False
    finally:
        is_running = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def interrupt_at(point: int, body: Callable[[], Any]) -> bool:
    """Call `body`, and raise an exception in it where Python may run a signal handler; return whether it was raised.

    Args:
        point: from 1 on; the how-many-eth beginning of a function of Python, or end of one of C, that is to raise.
        body: what is interrupted.
    """

    class Interruption(BaseException): ...

    passed = 0

    def look(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal passed
        passed += event in {"call", "c_return"}
        if passed == point:
            raise Interruption  # which also ends the profiling

    with _not_reporting(Interruption), suppress(Interruption):
        sys.setprofile(look)
        try:
            body()
        finally:
            sys.setprofile(None)
    return passed >= point


@contextmanager
def _not_reporting(kind: type[BaseException]) -> Generator[None]:
    """Have Python not report exceptions of that kind which it swallowed in a finalizer."""

    def report(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type is not kind:
            before(unraisable)

    before, sys.unraisablehook = sys.unraisablehook, report
    try:
        yield
    finally:
        sys.unraisablehook = before


def fork_and_run(body: Callable[[], Any]) -> Callable[[], Any]:
    """Run `body` in a forked child; return a function that waits for its result, or raises what it raised."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of threads; the claims fork with none of their own running.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _answer(writer, body)
    os.close(writer)

    def result() -> Any:
        try:
            answer = _read_all(reader, Deadline(PATIENCE_S))
        finally:
            os.close(reader)
            os.kill(child, 9)  # it is done, or it hangs
            os.waitpid(child, 0)
        assert answer, "the child died without an answer"
        is_error, outcome = pickle.loads(answer)  # noqa: S301  our own child's
        if is_error:
            raise outcome
        return outcome

    return result


def _answer(writer: int, body: Callable[[], Any]) -> None:
    try:
        try:
            answer = pickle.dumps((False, body()))
        except BaseException as error:  # noqa: BLE001  raised in the parent
            answer = pickle.dumps((True, error))
        with os.fdopen(writer, "wb") as file:
            file.write(answer)
    finally:
        os._exit(0)  # not a second time through pytest


def _read_all(reader: int, deadline: Deadline) -> bytes:
    answer = b""
    while select.select([reader], [], [], deadline.remaining_s(PATIENCE_S))[0]:
        part = os.read(reader, 65536)
        if not part:
            return answer
        answer += part
    raise AssertionError(f"the child gave no answer within {PATIENCE_S:g} s")
