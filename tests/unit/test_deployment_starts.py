"""Workers agree on the start of the server that they belong to, and tell each other what is hidden from one alone."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from sharedstate.coordination.incarnations import agree
from sharedstate.deployment.model import Incarnation

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate.store import Store


def start(restart: str = "", *, started: int = 500, age: int = 0, supervisor: int = 7) -> Incarnation:
    return Incarnation("boot", supervisor, started, restart, "planted", age)


def test_token_tells_starts_apart() -> None:
    """Boot, process, its start and the restart: another one of any is another token."""
    first = start()
    others = [
        first._replace(boot="other"),
        first._replace(supervisor=8),
        first._replace(started=501),
        first._replace(restart="1"),
    ]

    assert len({item.token for item in [first, *others]}) == 5
    assert first._replace(evidence="other", age=3).token == first.token


def test_certain_start_stays_as_it_is(open_any: Callable[[], Store]) -> None:
    """I1: whoever knows does not change his mind, whatever is written down."""
    store = open_any()
    agree(store, start("5", age=6))

    assert agree(store, start("0")) == start("0")
    assert agree(store, start("9", started=900)) == start("9", started=900)


def test_replacing_worker_belongs_to_the_latest_reload(open_any: Callable[[], Store]) -> None:
    """I3: of those that it is old enough for; before the first reload, to the start itself."""
    store = open_any()
    assert agree(store, start(age=3)).restart == ""  # the first workers
    agree(store, start("4", age=4))  # a reload
    agree(store, start("8", age=9))  # another one

    assert [agree(store, start(age=age)).restart for age in (3, 6, 7, 8, 12)] == ["", "4", "4", "8", "8"]
    assert agree(store, start("4", age=5)).restart == "4"
    assert all(agree(store, start(age=age)).is_settled for age in (3, 12))


def test_order_of_agreeing_does_not_matter(open_any: Callable[[], Store]) -> None:
    """Once each reload has been told of, all workers get the same, in whatever order they ask."""
    workers = [start("4", age=5), start("8", age=8), start(age=3), start(age=7), start(age=11)]
    found: set[tuple[str, ...]] = set()
    for order in itertools.islice(itertools.permutations(workers), 0, 120, 7):
        store = open_any()
        store.clear()
        for worker in order:
            agree(store, worker)
        found.add(tuple(agree(store, worker).restart for worker in workers))

    assert found == {("4", "8", "", "4", "8")}


def test_late_worker_learns_when_its_dead_supervisor_started(open_any: Callable[[], Store]) -> None:
    """From what its siblings wrote down while it lived; without them the start stays unknown, and one."""
    store = open_any()
    late = start("2", started=0)
    assert agree(store, late).token == late.token

    agree(store, start("2"))

    assert agree(store, late).token == start("2").token


def test_pid_that_is_used_again_is_another_supervisor(open_any: Callable[[], Store]) -> None:
    """I2: a later process of that pid knows when it started, and does not inherit the reloads."""
    store = open_any()
    agree(store, start("4", age=4))

    assert agree(store, start(started=900, age=6)).restart == ""
    assert agree(store, start("0", started=0)).started == 900


def test_supervisors_do_not_mix(open_any: Callable[[], Store]) -> None:
    """Two servers on one store have a record each."""
    store = open_any()
    agree(store, start("4", age=4, supervisor=8))

    assert agree(store, start(age=6, supervisor=9)).restart == ""


@pytest.mark.parametrize(
    "planted",
    [None, 7, "text", [], {}, {"started": "x", "reloads": []}, {"started": 1, "reloads": ["x"]}, {"started": 1}],
)
def test_record_of_another_shape_is_replaced(open_any: Callable[[], Store], planted: Any) -> None:
    """What no version of ours wrote counts as nothing."""
    store = open_any()
    agree(store, start("4", age=4))
    [key] = list(store)
    store[key] = planted

    assert agree(store, start("4", age=5)).restart == "4"
    assert agree(store, start(age=6)).restart == "4"


def test_record_goes_after_a_while(open_any: Callable[[], Store]) -> None:
    """A record expires, for servers come and go, and asking without news does not write."""
    store = open_any()
    agree(store, start("4", age=4))
    [key] = list(store)
    before = store.generation(key)

    agree(store, start("4", age=5))

    assert store.generation(key) == before
    assert store.ttl(key) is not None


def test_workers_that_come_together_agree(shared_url: str) -> None:
    """Eight at once, each on a handle of its own: no one's reload is lost."""
    import threading

    import sharedstate

    barrier = threading.Barrier(8)

    def come(number: int) -> None:
        with sharedstate.open(shared_url) as store:
            barrier.wait()
            agree(store, start(str(10 * number), age=10 * number))

    threads = [threading.Thread(target=come, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with sharedstate.open(shared_url) as store:
        assert [agree(store, start(age=10 * number + 5)).restart for number in range(1, 9)] == [
            str(10 * number) for number in range(1, 9)
        ]
