"""An exception out of a signal handler, at any point of a verb, leaves the handle usable and the lock free."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

import sharedstate
from sharedstate.testing.conformance.support import interrupt, interrupt_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate import Store

_MOST_POINTS = 2000


def _interrupt_everywhere(body: Callable[[], object], afterwards: Callable[[], object]) -> int:
    """Interrupt `body` at its first point, its second, and so on until it is through; return how many there were."""
    for point in range(1, _MOST_POINTS):
        if not interrupt_at(point, body):
            return point
        afterwards()
    raise AssertionError("it has no end")


def test_a_lock_is_free_after_an_interruption(url: str, store: Store) -> None:
    """At whatever call acquire or release was interrupted, the end of the Lock object frees it for others."""
    with sharedstate.open(f"{url}&timeout=0.05") as hasty:

        def take_and_give_back() -> None:
            with hasty.lock("l"):
                pass

        def others_get_it() -> None:
            gc.collect(0)
            with store.lock("l", timeout_s=30):
                assert not hasty.lock("l").try_acquire()

        take_and_give_back()
        points = _interrupt_everywhere(take_and_give_back, others_get_it)

        assert points > 20
        take_and_give_back()


def test_a_verb_that_was_interrupted_confuses_no_later_one(url: str) -> None:
    """Its reply is not taken for that of the next call: each key keeps answering with its own value."""
    with sharedstate.open(f"{url}&timeout=1") as store:
        store.update(a="a", b="b")

        def write_and_read() -> None:
            store.set("n", 1)
            assert store["a"] == "a"

        _interrupt_everywhere(write_and_read, lambda: store["b"] == "b" or 1 / 0)

        assert store.get_many(["a", "b", "n"]) == {"a": "a", "b": "b", "n": 1}


# redis-py leaves a socket that is interrupted while it connects to the garbage collector, which closes it.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_signals_in_the_middle_of_anything(url: str) -> None:
    """A hundred timer signals amid increments under a lock: the handle goes on, and every value is whole."""
    with sharedstate.open(f"{url}&timeout=1") as store:
        store["n"] = 0

        def work() -> None:
            with store.lock("l"):
                store.increment("n")
            assert type(store["n"]) is int

        interrupt(work, 100)

        before = store["n"]
        with store.lock("l", timeout_s=30):
            assert store.increment("n") == before + 1
