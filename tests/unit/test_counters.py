"""Where the handles of a store count, and who may look: K1 to K4 of `backend.counters`."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from fcntl import LOCK_EX, flock
from typing import TYPE_CHECKING, Any

import pytest

import sharedstate
from sharedstate.backend import counters, presence
from sharedstate.errors import CorruptError, UnavailableError
from sharedstate.registry import find_plugin, parse_url
from sharedstate.testing.conformance.support import fork_and_run

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from sharedstate.backend.activity import Activity
    from sharedstate.store import Store

SHARED = ("file", "sqlite", "shm")


@pytest.fixture(params=("memory", *SHARED))
def counting_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh store of each backend that counts."""
    yield from _fresh(request.param, tmp_path)


@pytest.fixture(params=SHARED)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh store of each backend whose handles others can look at."""
    yield from _fresh(request.param, tmp_path)


def _fresh(scheme: str, directory: Path) -> Iterator[str]:
    url = find_plugin(parse_url(f"{scheme}:any")).temporary_url(str(directory))
    yield url
    sharedstate.remove(url)


def _totals(store: Store) -> tuple[Any, ...]:
    return tuple(store.stats()[name] for name in ("hits", "misses", "writes"))


def _pages(store: Store) -> list[Activity]:
    return store.backend.activity()


def _path(store: Store) -> str:
    directory: Any = getattr(store.backend, "_locks", None) or getattr(store.backend, "backend", None)
    return counters.counters_path(directory if hasattr(directory, "path") else directory._lock_files())


# --- What counts as what ---------------------------------------------------------


def _refused(store: Store) -> None:
    with pytest.raises(sharedstate.ConflictError):
        store.compare_and_set("there", 2, 1 << 60)


def _move_one(transaction: Any) -> None:
    transaction["other"] = transaction["there"]
    del transaction["there"]


QUESTIONS: dict[str, tuple[Callable[[Store], object], tuple[int, int, int]]] = {
    "get": (lambda store: (store.get("there"), store.get("absent", 7)), (1, 1, 0)),
    "a stored None": (lambda store: store.get("none", 7), (1, 0, 0)),
    "item": (lambda store: store["there"], (1, 0, 0)),
    "in": (lambda store: ("there" in store, "absent" in store), (1, 1, 0)),
    "read": (lambda store: (store.read("there"), store.read("absent")), (1, 1, 0)),
    "get_many": (lambda store: store.get_many(["there", "none", "absent"]), (2, 1, 0)),
    "set": (lambda store: store.set("new", 1), (0, 0, 1)),
    "set with a time to live": (lambda store: store.set("new", 1, 60), (0, 0, 1)),
    "set_many": (lambda store: store.set_many({"a": 1, "b": 2, "there": 3}), (0, 0, 3)),
    "add": (lambda store: (store.add("new", 1), store.add("new", 2)), (0, 0, 1)),
    "increment": (lambda store: (store.increment("n"), store.increment("n", 0.5)), (0, 0, 2)),
    "touch": (lambda store: (store.touch("there", 60), store.touch("absent", 60)), (0, 0, 1)),
    "delete": (lambda store: (store.delete("there"), store.delete("absent")), (0, 0, 1)),
    "delete_many": (lambda store: store.delete_many(["there", "none", "absent"]), (0, 0, 2)),
    "pop": (lambda store: (store.pop("there"), store.pop("absent", 7)), (0, 0, 1)),
    "clear": (lambda store: store.clear(), (0, 0, 2)),
    "compare_and_set": (lambda store: store.compare_and_set("new", 1, sharedstate.ABSENT), (0, 0, 1)),
    "compare_and_set that is refused": (_refused, (0, 0, 0)),
    "keys": (lambda store: (list(store), len(store)), (0, 0, 0)),
    "transact": (lambda store: store.transact(_move_one), (1, 0, 2)),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_each_verb_counts_for_what_it_did(counting_url: str, question: str) -> None:
    """A question for one entry is a hit or a miss; a change of one is a write; what was refused is nothing."""
    ask, expected = QUESTIONS[question]
    with sharedstate.open(counting_url) as store:
        store.set("there", {"a": 1})
        store.set("none", None)
        before = _totals(store)

        ask(store)

        assert tuple(after - earlier for after, earlier in zip(_totals(store), before, strict=True)) == expected


# --- Where others can look ---------------------------------------------------------


@contextmanager
def _child(body: Callable[[], object]) -> Generator[int]:
    """Run `body` in a process, which is ready when this yields, and then waits to be killed."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            body()
            os.write(tell, b"!")
            signal.pause()
        finally:
            os._exit(1)
    os.close(tell)
    try:
        assert os.read(ready, 1) == b"!"
        yield pid
    finally:
        os.close(ready)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_killed_process_takes_no_count_with_it(url: str) -> None:
    """What 5 processes have counted is there while they live, and after each was killed (K2)."""
    kept: list[Store] = []

    def work() -> None:
        kept.append(sharedstate.open(url))
        for number in range(40):
            kept[0].set(f"k{number}", number)
            kept[0].get("absent")

    with ExitStack() as alive:
        for _ in range(5):
            alive.enter_context(_child(work))
        with sharedstate.open(url) as store:
            assert _totals(store) == (0, 200, 200)
            assert sorted(page.writes for page in _pages(store)) == [0, 40, 40, 40, 40, 40]
    with sharedstate.open(url) as store:
        assert _totals(store) == (0, 200, 200)
        assert len(store.sharers()) == 1


def test_a_handle_that_is_closed_leaves_its_counts(url: str) -> None:
    """Its page is nobody's then, and the next handle counts on in it (K1, K2)."""
    with sharedstate.open(url) as first:
        first.get("absent")
    with sharedstate.open(url) as second:
        assert [page.misses for page in _pages(second)] == [1]
        second.get("absent")

        assert [(page.misses, bool(page.token)) for page in _pages(second)] == [(2, True)]


def test_pages_of_the_dead_are_given_away(url: str) -> None:
    """40 processes one after the other, each killed, need no more than a few pages."""
    kept: list[Store] = []
    with sharedstate.open(url) as store:
        for _ in range(40):
            with _child(lambda: kept.append(sharedstate.open(url))):
                pass

        assert len(_pages(store)) <= 4


def test_no_two_that_come_at_once_share_a_page(url: str) -> None:
    """12 processes open the store together: 12 tokens, and each count is exact (K1)."""
    sharedstate.open(url).close()
    kept: list[Store] = []
    ready, begin = os.pipe()

    def work() -> None:
        os.read(ready, 1)
        kept.append(sharedstate.open(url))
        for _ in range(500):
            kept[0].get("absent")
        kept[0].set(kept[0].join(), 1)

    waits = [fork_and_run(work) for _ in range(12)]
    os.write(begin, b"!" * 12)
    for wait in waits:
        wait()
    with sharedstate.open(url) as store:
        assert _totals(store)[1:] == (6000, 12)
    os.close(ready)
    os.close(begin)


def test_a_forked_child_has_a_page_of_its_own(url: str) -> None:
    """It is another sharer, so it counts beside its parent."""
    with sharedstate.open(url) as store:
        store.get("absent")

        def child() -> None:
            store.get("absent")
            assert sorted((page.misses, page.token == store.join()) for page in _pages(store)) == [
                (1, False),
                (1, True),
            ]

        fork_and_run(child)()

        assert _totals(store)[1] == 2


def test_samples_tell_whose_calls_they_are(url: str) -> None:
    """Each handle's page has its own keys."""
    with sharedstate.open(url) as one, sharedstate.open(url) as other:
        for _ in range(300):
            one.get("absent")
            other.set("present", 1)

        found = {page.token: {(each.kind, each.key) for each in page.samples} for page in _pages(one)}
        assert found == {one.join(): {("miss", "absent")}, other.join(): {("write", "present")}}


def test_a_page_that_was_given_away_stays_its_new_owners(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody removed the file that says who is present: whoever closes then takes nothing from who came."""
    monkeypatch.setattr(counters, "PAGES", 1)
    first = sharedstate.open(url)
    directory = os.path.dirname(_path(first))
    os.unlink(os.path.join(directory, f"{first.join()}.sharer"))
    with sharedstate.open(url) as second:
        token = second.join()
        assert [page.token for page in _pages(second)] == [token]

        first.close()

        assert [page.token for page in _pages(second)] == [token]


def test_whoever_was_lost_and_comes_again_counts_in_a_page_of_its_own(url: str) -> None:
    """Its file was removed, another has its page, and it takes a place anew: neither counts in the other's (K1)."""
    with sharedstate.open(url) as one:
        os.unlink(os.path.join(os.path.dirname(_path(one)), f"{one.join()}.sharer"))
        with sharedstate.open(url) as other:
            one.join()
            one.get("absent")
            other.set("present", 1)

            of = {page.token: (page.misses, page.writes) for page in _pages(one)}
            assert of[one.join()] == (1, 0)
            assert of[other.join()] == (0, 1)


# --- What comes in between -------------------------------------------------------------


_INTERRUPTED = """
import gc, sys
from fcntl import LOCK_EX, LOCK_NB, flock

import sharedstate
from sharedstate.testing.conformance.support import interrupt_at

url, path, verb = sys.argv[1:]
was_raised, point = True, 0
while was_raised:
    point += 1
    sharedstate.open(url).close()  # each way is the same: what is imported is there, and a page that is nobody's
    made = [sharedstate.open(url)] if verb == "close" else []
    was_raised = interrupt_at(point, made[0].close if made else lambda: made.append(sharedstate.open(url)))
    made.clear()
    gc.collect()
    with open(path, "rb") as file:
        flock(file, LOCK_EX | LOCK_NB)  # raises where somebody has it
with sharedstate.open(url) as store:
    assert store.join() in {page.token for page in store.backend.activity()}
print(point)
"""


@pytest.mark.parametrize("verb", ["open", "close"])
def test_an_exception_at_any_point_locks_nobody_out(shm_url: str, verb: str) -> None:
    """Whatever a signal handler raises as a handle is opened or closed: the next who comes has a page at once.

    Of all stores that count in pages, the one that is opened by the fewest steps; in a process of its own, where no
    other test's finalizers are interrupted.
    """
    with sharedstate.open(shm_url) as witness:
        done = subprocess.run(
            [sys.executable, "-c", _INTERRUPTED, shm_url, _path(witness), verb],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    assert int(done.stdout) > 20


# --- Where there is no page ---------------------------------------------------------


def test_without_a_page_a_handle_counts_for_itself(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third of three handles, where there are pages for two: it tells of all, the others of theirs (K4)."""
    monkeypatch.setattr(counters, "PAGES", 2)
    with ExitStack() as opened:
        stores = [opened.enter_context(sharedstate.open(url)) for _ in range(3)]
        for store in stores:
            store.get("absent")

        assert [_totals(store)[1] for store in stores] == [2, 2, 3]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_keeps_no_store_from_being_opened(url: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no room for a page: told before anybody writes to one, and by no signal (K3, K4)."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    sharedstate.open(url).close()
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with sharedstate.open(url) as store:
        store.get("absent")

        assert _totals(store) == (0, 1, 0)


def test_a_process_that_was_stopped_holds_nobody_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever keeps the file locked costs those who come their page, and no more (K4)."""
    monkeypatch.setattr(counters, "_PATIENCE_S", 0.01)
    with sharedstate.open(url) as first, open(_path(first), "rb") as held:
        flock(held, LOCK_EX)
        with sharedstate.open(url) as second:
            second.get("absent")

            assert _totals(second)[1] == 1
            assert len(_pages(second)) == 1


@pytest.mark.parametrize("content", [b"something else\n", b"sharedstate counters 2\n", b"x" * 100_000])
def test_a_foreign_file_is_left_alone_and_told_by_check(url: str, content: bytes) -> None:
    """It keeps no store from being used, nor `stats` from telling the rest; whoever asks learns which file it is."""
    with sharedstate.open(url) as store:
        path = _path(store)
    with open(path, "wb") as file:
        file.write(content)

    with sharedstate.open(url) as store:
        store.set("k", 1)
        assert "entries" in store.stats()
        assert "hits" not in store.stats()
        for ask in (store.check, store.backend.activity):
            with pytest.raises(CorruptError, match="holds no counters"):
                ask()
        assert store["k"] == 1

    with open(path, "rb") as file:
        assert file.read() == content
    os.unlink(path)


def test_a_file_that_somebody_lengthened_is_read_to_its_own_end(url: str) -> None:
    """A thousand pages are all there may be: who may write to it can make nobody read for hours."""
    with sharedstate.open(url) as store:
        store.get("absent")
        os.truncate(_path(store), 2**40)

        assert _totals(store) == (0, 1, 0)
        assert len(_pages(store)) == 1000


def test_a_full_table_costs_a_few_looks(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a thousand live pages are taken whoever comes does not ask after each of their owners."""
    monkeypatch.setattr(counters, "PAGES", 40)
    with ExitStack() as opened:
        for _ in range(40):
            opened.enter_context(sharedstate.open(url))
        looked: list[str] = []
        is_gone = presence.PresenceFiles._is_gone
        monkeypatch.setattr(
            presence.PresenceFiles, "_is_gone", lambda self, token: looked.append(token) or is_gone(self, token)
        )

        with sharedstate.open(url) as store:
            store.get("absent")

            assert len(set(looked)) == 32
            assert _totals(store)[1] == 1


def test_a_first_line_that_a_full_disk_cut_is_begun_anew(url: str) -> None:
    """Part of it is no foreign bytes either."""
    with sharedstate.open(url) as store:
        path = _path(store)
    with open(path, "wb") as file:
        file.write(b"sharedstate cou")

    with sharedstate.open(url) as store:
        store.get("absent")
        store.check()

        assert _totals(store) == (0, 1, 0)
        assert len(_pages(store)) == 1


@pytest.mark.parametrize("size", [0, 10, 64, 40_000])
def test_a_file_that_a_power_loss_emptied_is_begun_anew(url: str, size: int) -> None:
    """Zeros of any length are no foreign bytes."""
    with sharedstate.open(url) as store:
        path = _path(store)
    with open(path, "wb") as file:
        file.truncate(size)

    with sharedstate.open(url) as store:
        store.get("absent")
        store.check()

        assert _totals(store) == (0, 1, 0)
        assert len(_pages(store)) == 1


def test_the_file_is_as_private_as_the_store_and_goes_with_it(url: str) -> None:
    """Keys are in it: whoever may not read the store may not read them there; nothing stays behind."""
    with sharedstate.open(url) as store:
        path = _path(store)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600

        sharedstate.remove(url)

        assert not os.path.exists(path)
        with pytest.raises(UnavailableError):
            store.set("k", 1)
    sharedstate.open(url).close()
