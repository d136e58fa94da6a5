"""The entries of memory: in C and in Python, by their invariants M1 to M8 (`sharedstate_memory/entries.py`).

Each test runs against both; that the two do the same, call by call, is in
test_memory_in_c_and_python.py, and what is about C alone (memory,
interpreters) in test_memory_native.py.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
from datetime import datetime, timedelta, tzinfo
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from sharedstate import ABSENT, ClosedError, ConflictError, UnavailableError, ValueTypeError, registry
from sharedstate.backend import parse_url
from sharedstate.model import Put
from sharedstate.testing.conformance.support import PATIENCE_S, interrupt_at, run_together
from sharedstate_memory import _entries
from sharedstate_memory import backend as plugin
from sharedstate_memory import entries as in_python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sharedstate_memory.backend import MemoryBackend

IMPLEMENTATIONS: dict[str, Any] = {"c": _entries, "python": in_python}
LONG_AGO, FAR = 0.5, 1e12  # deadlines


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of that name, in the plug-in's use too."""
    module = IMPLEMENTATIONS[request.param]
    monkeypatch.setattr(plugin, "Entries", module.Entries)
    monkeypatch.setattr(plugin, "Handle", module.Handle)
    return module


@pytest.fixture
def entries(implementation: Any) -> Any:
    return implementation.Entries()


@pytest.fixture
def handle(implementation: Any, entries: Any) -> Any:
    return implementation.Handle(entries, "memory:unit", plugin._refuse)


@pytest.fixture
def backend(implementation: Any) -> Iterator[MemoryBackend]:
    backend: Any = registry.connect(plugin.temporary_url(""))
    assert type(backend._handle) is implementation.Handle
    yield backend
    if backend.url in plugin.discover():
        plugin.remove(parse_url(backend.url))


# --- Arguments ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda handle: handle.get(),
        lambda handle: handle.get("k", 1, 2),
        lambda handle: handle.get("k", defaults=1),
        lambda handle: handle.get("k", key="k"),
        lambda handle: handle.set("k"),
        lambda handle: handle.set("k", 1, ttl=1),
        lambda handle: handle.set(value=1),
        lambda handle: handle.increment(by=1),
        lambda handle: handle.increment("k", 1, 0, None, 5),
    ],
)
def test_wrong_arguments_are_refused(handle: Any, entries: Any, call: Callable[[Any], Any]) -> None:
    """With TypeError, and nothing is written."""
    with pytest.raises(TypeError):
        call(handle)

    assert entries.last == ABSENT


def test_arguments_may_be_named(handle: Any) -> None:
    """By the contract's names, in any order."""
    handle.set(ttl_s=100, value=5, key="k")

    assert handle.increment(initial=9, by=2, key="k") == 7
    assert handle.increment("new", ttl_s=None, initial=9) == 10
    assert handle.get(default=1, key="none") == 1


# --- M1, M2: generations ---------------------------------------------------------------------


def test_generations_only_grow(entries: Any, handle: Any) -> None:
    """Every change takes a new one, deletes and new deadlines too, so none comes twice; a refused one takes none."""
    handle.set("a", 1)
    handle.increment("a")
    assert entries.look("a") == (2, False, 2, None)
    assert entries.take("a") == (2, False, 2, None)
    assert entries.take("a") is None
    assert entries.commit({"a": (1, False, None), "b": None, "c": (1, False, FAR)}, {"a": ABSENT}) == 4
    assert entries.touch("c", LONG_AGO)
    assert not entries.touch("c", None)
    with pytest.raises(ConflictError) as conflict:
        entries.commit({"a": None}, {"b": ABSENT, "a": 3})
    assert (conflict.value.key, conflict.value.expected, conflict.value.found) == ("a", 3, 4)
    with pytest.raises(ValueTypeError):
        handle.set("a", {1})

    assert entries.last == 7
    assert entries.look("a") == (1, False, 4, None)
    assert entries.look("b") is entries.look("c") is None
    assert entries.commit({}, {}) == 8
    assert entries.last == 7


# --- M3, M4: nothing comes in between -----------------------------------------------------------


def test_no_increment_is_lost(handle: Any) -> None:
    """8 threads: each sum is handed out once, whether C adds (ints) or Python does (int to float)."""
    ints = run_together(*[lambda: [handle.increment("int") for _ in range(2000)]] * 8)
    floats = run_together(*[lambda: [handle.increment("float", 0.5) for _ in range(500)]] * 8)
    mixed = run_together(*[lambda: [handle.increment("mixed", 1, 0.0) for _ in range(500)]] * 8)

    assert sorted(total for each in ints for total in each) == list(range(1, 16001))
    assert sorted(total for each in floats for total in each) == [half / 2 for half in range(1, 4001)]
    assert sorted(total for each in mixed for total in each) == [float(total) for total in range(1, 4001)]


def test_commit_is_seen_as_a_whole(entries: Any, handle: Any) -> None:
    """While one thread writes two keys at once, and removes and makes a third, no look sees one without the other."""
    entries.commit({"a": (0, False, None), "b": (0, False, None)}, {})
    is_done = threading.Event()

    def write() -> None:
        for i in range(1, 4000):
            entries.commit({"a": (i, False, None), "c": None if i % 2 else (i, False, None), "b": (i, False, None)}, {})
        is_done.set()

    def snapshot() -> None:
        while not is_done.is_set():
            rows = {row[0]: (row[1], row[3]) for row in entries.snapshot() if row[4] is None}
            value, generation = rows["a"]
            if value:
                assert rows["b"] == (value, generation + 2)
                assert rows.get("c") == (None if value % 2 else (value, generation + 1))

    def read() -> None:
        while not is_done.is_set():
            first = handle.get("a")
            assert handle.get("b") >= first

    run_together(write, snapshot, read)


def test_of_several_commits_on_one_generation_one_wins(entries: Any) -> None:
    """6 threads that compare and set count each success once, and both keys stay alike."""
    entries.commit({"a": (0, False, None), "b": (0, False, None)}, {})

    def count() -> int:
        wins = 0
        for _ in range(1500):
            value, _, generation, _ = entries.look("a")
            with contextlib.suppress(ConflictError):
                entries.commit({"a": (value + 1, False, None), "b": (value + 1, False, None)}, {"a": generation})
                wins += 1
        return wins

    wins = run_together(*[count] * 6)

    assert entries.look("a")[0] == entries.look("b")[0] == sum(wins)


def test_each_entry_is_taken_once(entries: Any, handle: Any) -> None:
    """By one of 4 threads, while a fifth makes them."""
    is_done = threading.Event()

    def make() -> None:
        for i in range(3000):
            handle.set(f"k{i % 7}", i)
        is_done.set()

    def take() -> list[int]:
        taken = []
        while not is_done.is_set():
            taken += [stored[0] for i in range(7) if (stored := entries.take(f"k{i}"))]
        return taken

    _, *taken = run_together(make, take, take, take, take)

    everything = [i for each in taken for i in each]
    assert len(everything) == len(set(everything))


def test_signal_handlers_may_write(entries: Any, handle: Any) -> None:
    """Whenever one comes, what it writes and what it interrupts are both there, and generations only grow."""
    hits = newest = 0
    is_inside = False

    def handle_signal(*_: Any) -> None:
        nonlocal hits, newest, is_inside
        if is_inside:  # a slow machine would recurse without end
            return
        is_inside = True
        hits += 1
        handle.increment("n")
        before = entries.last
        assert entries.commit({"a": (hits, False, None), "b": (hits, False, None)}, {}) > before
        handle.set("k", [hits])
        entries.take("t")
        newest = entries.last
        is_inside = False

    before = signal.signal(signal.SIGALRM, handle_signal)
    try:
        signal.setitimer(signal.ITIMER_REAL, 50e-6, 50e-6)
        rounds = 0
        while hits < 500:
            rounds += 1
            handle.increment("n")
            handle.increment("f", 1, 0.0)
            handle.set("k", [rounds])
            handle.set("t", rounds)
            entries.take("t")
            entries.commit({"a": (-rounds, False, None), "b": (-rounds, False, None)}, {})
            entries.touch("a", None)
            floor = newest
            assert entries.last >= floor
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert handle.get("n") == rounds + hits
    assert handle.get("f") == rounds
    assert handle.get("a") == handle.get("b")


def test_finalizers_may_take_what_a_call_is_taking(entries: Any, handle: Any) -> None:
    """Whenever the collector runs one (3.11: also on an allocation in the middle of a call), an entry is taken once."""
    taken = []

    class Mortal:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            if stored := entries.take("k"):
                taken.append(stored[0])
            handle.set("k2", b"y" * 100)

    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for i in range(3000):
            handle.set("k", f"value {i}")
            handle.set("k2", b"x" * 100)
            Mortal()
            if stored := entries.take("k"):
                taken.append(stored[0])
            entries.take("k2")
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()

    assert len(taken) == len(set(taken)) == 3000


# --- M5: what is kept ------------------------------------------------------------------------------


class Zone(tzinfo):
    """A time zone that does something when it is asked."""

    def __init__(self, act: Callable[[], object] = lambda: None) -> None:
        self.act = act

    def utcoffset(self, _when: datetime | None) -> timedelta:
        self.act()
        return timedelta(hours=2)


def test_what_is_kept_has_no_code_of_its_own(backend: MemoryBackend) -> None:
    """A datetime comes back with its offset, not with the object that was its time zone; as from every backend."""
    moment = datetime(2026, 7, 1, 12, tzinfo=Zone())
    backend.set("k", moment)
    backend.commit({"c": Put(moment)})

    for key in ("k", "c"):
        found = backend.get(key)
        assert found == moment
        assert type(found.tzinfo) is not Zone


def test_what_is_no_scalar_is_refused_by_c() -> None:
    """An entry's value that could run code when it is dropped: the one thing that its caller has to see to."""
    entries = _entries.Entries()
    for value in ([1], Zone(), object(), datetime(2026, 1, 1)):  # noqa: DTZ001
        with pytest.raises(TypeError):
            entries.commit({"k": (value, False, None)}, {})
    assert entries.last == ABSENT


# --- M6: whoever waits is woken -----------------------------------------------------------------------


CHANGES: dict[str, Callable[[Any, Any], object]] = {
    "set": lambda _entries, handle: handle.set("k", 1),
    "set a container": lambda _entries, handle: handle.set("k", [1]),
    "increment": lambda _entries, handle: handle.increment("n"),
    "increment in Python": lambda _entries, handle: handle.increment("n", 0.5),
    "commit": lambda entries, _handle: entries.commit({"k": (1, False, None)}, {}),
    "commit a delete": lambda entries, _handle: entries.commit({"k": None}, {}),
    "take": lambda entries, _handle: entries.take("n"),
    "touch": lambda entries, _handle: entries.touch("n", FAR),
    "wake": lambda entries, _handle: entries.wake(),
    "remove": lambda entries, _handle: entries.remove(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_change_wakes_all_who_wait(entries: Any, handle: Any, change: Callable[[Any, Any], object]) -> None:
    """Each once, and never again; nobody is enlisted for a change that has been."""
    handle.set("n", 1)
    woken: list[int] = []
    wakes = [lambda i=i: woken.append(i) for i in range(20)]
    assert all(entries.enlist(1, wake) for wake in wakes)
    entries.leave(wakes[3])
    entries.leave(wakes[3])

    change(entries, handle)

    assert sorted(woken) == [i for i in range(20) if i != 3]
    if not entries.is_removed:
        handle.set("more", 1)
        assert len(woken) == 19
    assert not entries.enlist(1, wakes[3])
    assert not entries.enlist(2**64, wakes[3])
    assert not entries.enlist(-1, wakes[3])


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_change_that_is_interrupted_wakes_all_or_is_none(
    implementation: Any, change: Callable[[Any, Any], object]
) -> None:
    """Whichever call of it an exception of a signal handler hits, no waiter is forgotten, and none left asleep."""
    for point in count(1):
        entries = implementation.Entries()
        handle = implementation.Handle(entries, "memory:unit", plugin._refuse)
        handle.set("n", 1)
        waiters = [threading.Lock() for _ in range(3)]
        for waiter in waiters:
            waiter.acquire()
            assert entries.enlist(1, waiter.release)

        if not interrupt_at(point, lambda: change(entries, handle)):  # noqa: B023  called at once
            break
        is_unchanged = entries.last == 1 and not entries.is_removed
        assert is_unchanged or not any(waiter.locked() for waiter in waiters)
        entries.wake()
        assert not any(waiter.locked() for waiter in waiters)


def test_reading_and_refused_writes_wake_nobody(entries: Any, handle: Any) -> None:
    """Who waits for a change sleeps through everything else."""
    handle.set("n", "text")
    woken: list[int] = []
    assert entries.enlist(1, lambda: woken.append(1))

    handle.get("n")
    entries.take("none")
    entries.touch("none", None)
    for refused in (lambda: handle.increment("n"), lambda: handle.set("k", {1}), lambda: handle.set("", 1)):
        with pytest.raises((TypeError, ValueError)):
            refused()
    with pytest.raises(ConflictError):
        entries.commit({"n": None}, {"n": 5})

    assert woken == []


def test_no_wake_up_is_lost(backend: MemoryBackend) -> None:
    """Two threads that write in turn, each waiting for the other, and a third that looks on, never wait in vain."""

    def play(mine: int) -> None:
        for turn in range(mine, 3000, 2):
            while (token := backend.change_token()) != turn:
                assert backend.wait(token, PATIENCE_S)
            backend.set("turn", turn)

    def look_on() -> None:
        while (token := backend.change_token()) < 3000:
            assert backend.wait(token, PATIENCE_S)

    run_together(lambda: play(0), lambda: play(1), look_on)


def test_the_close_of_another_handle_ends_no_wait(backend: MemoryBackend) -> None:
    """Who is woken by it goes on waiting, until the write or the end of its own time."""
    token = backend.change_token()
    steps = []

    class Waking(plugin.Deadline):
        def remaining_s(self, at_most: float) -> float:
            steps.append(len(steps))
            if len(steps) == 1:
                registry.connect(backend.url).close()
            else:
                backend.set("k", 1)
            return super().remaining_s(at_most)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plugin, "Deadline", Waking)
        assert backend.wait(token, PATIENCE_S)

    assert steps == [0, 1]
    assert not backend.wait(backend.change_token(), 0)


def test_the_close_of_its_own_handle_ends_a_wait(backend: MemoryBackend) -> None:
    """With ClosedError, as of every verb of a closed handle."""

    class Closing(plugin.Deadline):
        def remaining_s(self, at_most: float) -> float:
            backend.close()
            return super().remaining_s(at_most)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plugin, "Deadline", Closing)
        with pytest.raises(ClosedError):
            backend.wait(backend.change_token(), PATIENCE_S)


@pytest.mark.parametrize("end", ["close", "remove"])
def test_the_end_wakes_whoever_waits(backend: MemoryBackend, end: str) -> None:
    """As the handle is closed, or the store removed, 50 times over at the moment that the wait begins."""
    for _ in range(50):
        other: Any = registry.connect(backend.url)
        token = other.change_token()

        def wait(other: Any = other, token: int = token) -> None:
            with contextlib.suppress(ClosedError, UnavailableError):
                assert not other.wait(token, PATIENCE_S)

        def finish(other: Any = other) -> None:
            if end == "close":
                other.close()
            else:
                plugin.remove(parse_url(other.url))

        run_together(wait, finish)


# --- M7, M8: the end -------------------------------------------------------------------------------------


def test_a_removed_store_stays_empty(implementation: Any, entries: Any, handle: Any) -> None:
    """Every write is refused, also one that began before: its value's own code removes the store here."""
    moment = datetime(2026, 7, 1, 12, tzinfo=Zone(entries.remove))

    with pytest.raises(UnavailableError):
        handle.set("k", [moment])
    with pytest.raises(UnavailableError):
        handle.increment("n")
    with pytest.raises(UnavailableError):
        handle.increment("n", 0.5)
    assert entries.commit({"k": (1, False, None)}, {"k": ABSENT}) is None

    assert entries.snapshot() == []
    assert handle.get("k", "nothing") == "nothing"


def test_a_commit_that_began_before_its_store_was_removed_is_refused(backend: MemoryBackend) -> None:
    """By whatever its value's own code may do."""
    moment = datetime(2026, 7, 1, 12, tzinfo=Zone(lambda: plugin.remove(parse_url(backend.url))))

    with pytest.raises(UnavailableError):
        backend.commit({"k": Put(moment)})


def test_verbs_that_were_kept_know_that_the_handle_is_closed(handle: Any, entries: Any) -> None:
    """A bound method that a program holds on to raises ClosedError, and writes nothing."""
    get, put, increment = handle.get, handle.set, handle.increment
    put("k", 1)
    handle.close()
    handle.close()

    for refused in (lambda: get("k"), lambda: get("none", 1), lambda: put("k", 2), lambda: increment("k")):
        with pytest.raises(ClosedError):
            refused()
    assert entries.look("k") == (1, False, 1, None)
