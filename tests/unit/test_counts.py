"""What one handle counts, in C and in Python: C1 to C3 of `c/counts.h`."""

from __future__ import annotations

import gc
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sharedstate.backend import Counts, counts
from sharedstate.backend.activity import read_activity
from sharedstate.backend.counters import MAGIC, PAGE_BYTES, PAGES_AT, counters_path
from sharedstate.backend.locks import LockDirectory
from sharedstate.testing.conformance.support import fork_and_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


KINDS: dict[str, Any] = {"as built": Counts, "in Python": counts.Counts}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    """Each of the two classes."""
    return KINDS[request.param]


@pytest.fixture
def directory(tmp_path: Path) -> LockDirectory:
    """That of a store with three pages of counters."""
    directory = LockDirectory("test:", str(tmp_path / "locks"))
    os.mkdir(directory.path)
    with open(counters_path(directory), "wb") as file:
        file.write(MAGIC)
        file.truncate(PAGES_AT + 3 * PAGE_BYTES)
    return directory


@pytest.fixture
def fd(directory: LockDirectory) -> Iterator[int]:
    """The file of those counters."""
    fd = os.open(counters_path(directory), os.O_RDWR)
    yield fd
    os.close(fd)


def _page(directory: LockDirectory, number: int) -> tuple[int, int, int]:
    found = read_activity(directory)[number]
    return found.hits, found.misses, found.writes


def test_counts_by_itself_until_it_has_a_page(kind: Callable[[], Counts]) -> None:
    """Hits, misses and writes, each where it belongs."""
    own = kind()

    for _ in range(3):
        own.hit("k")
    own.miss("k")
    own.wrote("k")
    own.wrote_many(4)

    assert not own.is_attached
    assert own.own() == (3, 1, 5)


def test_a_page_gets_what_was_counted_before_once(
    kind: Callable[[], Counts], directory: LockDirectory, fd: int
) -> None:
    """From the first page to the next nothing is lost, and nothing is told twice (C3)."""
    own = kind()
    own.hit("k")

    own.attach(fd, PAGES_AT + PAGE_BYTES)
    own.hit("k")
    own.miss("k")
    own.detach()
    own.wrote("k")
    own.attach(fd, PAGES_AT + 2 * PAGE_BYTES)
    own.wrote("k")

    assert _page(directory, 0) == (0, 0, 0)
    assert _page(directory, 1) == (2, 1, 0)
    assert _page(directory, 2) == (0, 0, 2)
    assert own.own() == (0, 0, 0)


def test_a_page_stays_mapped_until_the_object_goes(
    kind: Callable[[], Counts], directory: LockDirectory, fd: int
) -> None:
    """Not at detaching, for another thread may be about to add to it (C1): 50 pages, and then none."""
    own = kind()
    path = os.path.realpath(counters_path(directory))

    for _ in range(50):
        own.attach(fd, PAGES_AT)
        own.detach()
    while_it_lives = Path("/proc/self/maps").read_text().count(path)
    del own
    gc.collect()

    assert while_it_lives >= 1
    assert path not in Path("/proc/self/maps").read_text()


def test_a_child_counts_from_zero_and_not_in_its_parents_page(
    kind: Callable[[], Counts], directory: LockDirectory, fd: int
) -> None:
    """Else both would add to the same words, and lose some (C2)."""
    own = kind()
    own.hit("k")
    own.attach(fd, PAGES_AT)

    def child() -> None:
        assert not own.is_attached
        assert own.own() == (0, 0, 0)
        own.hit("k")
        own.attach(fd, PAGES_AT + PAGE_BYTES)
        own.miss("k")

    fork_and_run(child)()
    own.hit("k")

    assert _page(directory, 0) == (2, 0, 0)
    assert _page(directory, 1) == (1, 1, 0)


def test_about_one_call_in_sixteen_leaves_its_key(
    kind: Callable[[], Counts], directory: LockDirectory, fd: int
) -> None:
    """At random distances: two keys in turn are both there, about as often."""
    own = kind()
    own.attach(fd, PAGES_AT)

    seen = {"even": 0, "odd": 0}
    latest = 0
    for _ in range(200):
        for _ in range(50):
            own.hit("even")
            own.miss("odd")
        for sample in read_activity(directory, with_samples=True)[0].samples:
            if sample.number > latest:
                assert sample.kind == {"even": "hit", "odd": "miss"}[sample.key]
                seen[sample.key] += 1
        latest = max(sample.number for sample in read_activity(directory, with_samples=True)[0].samples)

    total = sum(seen.values())
    assert 20_000 / 16 * 0.7 < total < 20_000 / 16 * 1.4
    assert 0.35 < seen["even"] / total < 0.65


def test_a_page_keeps_the_newest_63_samples(kind: Callable[[], Counts], directory: LockDirectory, fd: int) -> None:
    """And of a long key its first 54 bytes, which end with a whole character."""
    own = kind()
    own.attach(fd, PAGES_AT)
    key = "é" * 26 + "x€y" + "z" * 300

    for _ in range(3000):
        own.wrote(key)

    samples = read_activity(directory, with_samples=True)[0].samples
    numbers = sorted(sample.number for sample in samples)
    assert len(samples) == 63
    assert numbers == list(range(numbers[0], numbers[0] + 63))
    assert {(sample.kind, sample.key, sample.is_cut) for sample in samples} == {("write", "é" * 26 + "x", True)}


def test_a_sample_that_changes_just_now_is_not_told(
    kind: Callable[[], Counts], directory: LockDirectory, fd: int
) -> None:
    """Whoever stopped amid one leaves its two numbers apart."""
    own = kind()
    own.attach(fd, PAGES_AT)
    own.hit("k")
    assert len(read_activity(directory, with_samples=True)[0].samples) == 1

    os.pwrite(fd, b"\x07", PAGES_AT + 64 + 64 + 60)  # the place of sample 1, its last word

    assert read_activity(directory, with_samples=True)[0].samples == ()


def test_threads_lose_no_count(kind: Callable[[], Counts], directory: LockDirectory, fd: int) -> None:
    """4 threads count 5,000 calls each, while the page is taken from them and given back."""
    own = kind()
    own.attach(fd, PAGES_AT)
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)

    def work() -> None:
        for _ in range(5_000):
            own.hit("k")

    threads = [threading.Thread(target=work) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(50):
            own.detach()
            own.attach(fd, PAGES_AT)
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval_s)

    assert _page(directory, 0)[0] + own.own()[0] == 20_000


def test_native_counts_refuse_what_is_no_file() -> None:
    """A wrong descriptor or place is an error, and nothing changes."""
    own = Counts()
    own.hit("k")

    for wrong in (-1, 2**31, 10**20):
        with pytest.raises((ValueError, OverflowError)):
            own.attach(wrong, 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        own.attach(10**6, 0)
    with pytest.raises(TypeError):
        Counts(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    assert own.own() == (1, 0, 0)
