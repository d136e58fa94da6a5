"""Mutex: an exception out of a signal handler, wherever it comes, leaves it held by whom it was held."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from sharedstate.backend import Mutex
from sharedstate.testing.conformance.support import PATIENCE_S, interrupt, interrupt_at


def is_free(mutex: Mutex) -> bool:
    """Return whether another thread gets it."""

    def try_it() -> bool:
        if is_taken := mutex.acquire(blocking=False):
            mutex.release()
        return is_taken

    with ThreadPoolExecutor(1) as other:
        return other.submit(try_it).result()


def test_block_that_is_interrupted_leaves_it_free() -> None:
    """Between any two instructions, also of a block in a block; up to CPython 3.13 an RLock does it too."""
    mutex = Mutex()

    def enter() -> None:
        with mutex, mutex:
            pass

    interrupt(enter, times=2000)

    assert is_free(mutex)


def test_block_that_is_interrupted_at_any_call_leaves_it_free() -> None:
    """Python runs signal handlers there: as `__enter__` begins, once the lock is taken, once it is given back."""
    mutex = Mutex()

    def enter() -> None:
        with mutex:
            len(())

    for point in count(1):
        if not interrupt_at(point, enter):
            break
        assert is_free(mutex)
    assert point > 1


def test_inner_block_that_is_interrupted_leaves_it_to_the_outer_one() -> None:
    """What the outer block has taken, an inner one gives back on no way out."""
    mutex = Mutex()

    def enter() -> None:
        with mutex:
            pass

    with mutex:
        interrupt(enter, times=2000)

        assert not is_free(mutex)
    assert is_free(mutex)


def test_wait_that_is_interrupted_takes_nothing() -> None:
    """The handler's exception comes out as it is, and the holder goes on holding."""

    class Interruption(BaseException): ...

    def handle(*_: Any) -> None:
        raise Interruption

    mutex, is_held, may_go = Mutex(), threading.Event(), threading.Event()

    def hold() -> None:
        with mutex:
            is_held.set()
            assert may_go.wait(PATIENCE_S)
            mutex.release()  # which raises if it is not ours any more
            mutex.acquire()

    before = signal.signal(signal.SIGALRM, handle)
    try:
        with ThreadPoolExecutor(1) as other:
            holding = other.submit(hold)
            assert is_held.wait(PATIENCE_S)
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            with pytest.raises(Interruption), mutex:
                pass
            may_go.set()
            holding.result()
    finally:
        signal.signal(signal.SIGALRM, before)

    assert is_free(mutex)
