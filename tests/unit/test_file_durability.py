"""`sync=disk`: what was acknowledged was on disk before, and one fdatasync serves many writers."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import threading
from typing import TYPE_CHECKING, Any

import pytest

import sharedstate
from sharedstate.errors import OutcomeUnknownError, UnavailableError
from sharedstate.testing.conformance.support import fork_and_run
from sharedstate_file import compaction, durability
from sharedstate_file.head import Head, length_of, number_of, word_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sharedstate.store import Store


class Disk:
    """A disk that counts: what lies on it is what `fdatasync` was called for."""

    def __init__(self) -> None:
        self.calls = 0
        self.synced: dict[int, int] = {}  # bytes on disk, by inode
        self.amid: Callable[[], None] = lambda: None  # what happens while a call lasts

    def fdatasync(self, fd: int) -> None:
        before = os.fstat(fd)
        self.amid()
        self.calls += 1
        self.synced[before.st_ino] = max(before.st_size, self.synced.get(before.st_ino, 0))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(durability.os, "fdatasync", disk.fdatasync)
    return disk


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file:{tmp_path}/store"


@pytest.fixture
def store(url: str, disk: Disk) -> Iterator[Store]:
    with sharedstate.open(f"{url}?sync=disk") as store:
        store.update({"a": 1, "b": 2, "c": 3, "d": 4})
        yield store


def log_of(store: Store) -> tuple[int, int]:
    """Return the inode and the committed length of the current log."""
    backend: Any = store._backend
    return os.fstat(backend._log.fd).st_ino, length_of(backend._words[0])


def head_of(store: Store) -> Head:
    backend: Any = store._backend
    return backend._head


VERBS: dict[str, Callable[[Store], Any]] = {
    "set": lambda store: store.set("a", 5),
    "increment": lambda store: store.increment("a"),
    "compare_and_set": lambda store: store.compare_and_set("a", 5, store.generation("a")),
    "delete": lambda store: store.delete("a"),
    "pop": lambda store: store.pop("a"),
    "touch": lambda store: store.touch("a", ttl_s=60),
    "update": lambda store: store.update({"a": 5, "e": 6}),
    "transaction": lambda store: store.transact(lambda transaction: transaction.increment("a")),
    "clear": lambda store: store.clear(),
}


@pytest.mark.parametrize("verb", VERBS)
def test_verb_returns_when_its_write_is_on_disk(store: Store, disk: Disk, verb: str) -> None:
    calls, (_, before) = disk.calls, log_of(store)

    VERBS[verb](store)

    inode, after = log_of(store)
    assert after > before
    assert disk.synced[inode] == after
    assert disk.calls == calls + 1


def test_reading_and_writing_nothing_waits_for_no_disk(store: Store, disk: Disk) -> None:
    calls = disk.calls

    assert store["a"] == 1
    assert not store.delete("absent")
    assert store.pop("absent", None) is None

    assert disk.calls == calls


def test_sync_os_waits_for_no_disk(url: str, disk: Disk) -> None:
    with sharedstate.open(url) as store:
        store["a"] = 1
    assert disk.calls == 0


def test_what_was_computed_from_another_handles_write_has_that_on_disk_too(store: Store, url: str, disk: Disk) -> None:
    """D3, with a writer that does not sync."""
    with sharedstate.open(url) as other:
        other["a"] = 10
    assert store.increment("a") == 11

    inode, length = log_of(store)
    assert disk.synced[inode] == length


def test_writers_at_one_time_share_a_sync(url: str, disk: Disk) -> None:
    """Each finds its own frame on disk when its verb returns; together they sync less often than they write."""
    disk.amid = lambda: threading.Event().wait(0.003)
    too_early: list[int] = []
    start = threading.Barrier(8)

    def write(number: int) -> None:
        with sharedstate.open(f"{url}?sync=disk") as store:
            start.wait()
            for i in range(20):
                store[f"{number}:{i}"] = i
                inode, _ = log_of(store)
                # Its own frame ends within what its own handle had seen when the verb returned.
                if disk.synced[inode] < own_end[threading.get_ident()]:
                    too_early.append(i)

    own_end: dict[int, int] = {}
    append = durability.SharedSync.wait

    def note_and_wait(self: Any, log: Any, word: int) -> None:
        own_end[threading.get_ident()] = length_of(word)
        append(self, log, word)

    durability.SharedSync.wait = note_and_wait  # type: ignore[method-assign]
    try:
        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        durability.SharedSync.wait = append  # type: ignore[method-assign]

    assert not too_early
    assert len(own_end) == 8
    assert disk.calls < 8 * 20 / 2
    with sharedstate.open(url) as store:
        assert len(store) == 8 * 20
        store.check()


def test_what_comes_during_a_sync_is_not_counted_as_synced(store: Store, url: str, disk: Disk) -> None:
    """D1: the word is read before the call."""
    with sharedstate.open(url) as other:
        disk.amid = lambda: other.set("late", 1)
        store["a"] = 2
        disk.amid = lambda: None

    inode, length = log_of(store)
    assert length_of(head_of(store).synced()) == disk.synced[inode] < length
    store["a"] = 3
    assert disk.synced[inode] == log_of(store)[1]


def fail(_fd: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


def number_of_log(store: Store) -> int:
    return number_of(head_of(store).words[0])


def test_failed_sync_is_told_to_all_who_wait(store: Store, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """D5: the kernel tells of an error once and then calls the pages clean; so nobody tries that log again."""
    amid, appended = threading.Event(), threading.Event()
    outcomes: dict[str, str] = {}

    def fail_late(_fd: int) -> None:
        amid.set()
        assert appended.wait(10)
        monkeypatch.setattr(durability.os, "fdatasync", disk.fdatasync)  # which says that all is well
        raise OSError(errno.EIO, "Input/output error")

    def write(key: str) -> None:
        try:
            store[key] = 1
        except OutcomeUnknownError as error:
            outcomes[key] = str(error)

    monkeypatch.setattr(durability.os, "fdatasync", fail_late)
    first = threading.Thread(target=write, args=("first",))
    first.start()
    assert amid.wait(10)
    word = head_of(store).words[0]
    second = threading.Thread(target=write, args=("second",))
    second.start()
    while head_of(store).words[0] == word:
        pass  # until the second has appended its frame behind the one that the failing call is for
    appended.set()
    first.join()
    second.join()

    assert "Input/output error" in outcomes["first"]
    assert "an earlier sync failed" in outcomes["second"]


def test_failed_sync_is_told_in_other_processes(store: Store, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they share the description, and so the one report of the error, by a fork."""
    backend: Any = store._backend
    with sharedstate.open(store.url.split("?")[0]) as other:
        other["a"] = 2  # appended, and synced by nobody
    word = head_of(store).words[0]

    def fail_in_child() -> str:
        monkeypatch.setattr(durability.os, "fdatasync", fail)
        with pytest.raises(OutcomeUnknownError) as failed:
            backend._disk.wait(backend._log, word)
        return str(failed.value)

    assert "Input/output error" in fork_and_run(fail_in_child)()
    with pytest.raises(OutcomeUnknownError, match="an earlier sync failed"):
        backend._disk.wait(backend._log, word)


@pytest.mark.parametrize("sync", ["disk", "os"])
def test_after_a_failed_sync_the_store_goes_on_in_a_new_log(
    store: Store, url: str, disk: Disk, monkeypatch: pytest.MonkeyPatch, sync: str
) -> None:
    """D5: made from memory and synced whole, by whoever writes next with sync=disk."""
    before = number_of_log(store)
    with monkeypatch.context() as patched:
        patched.setattr(durability.os, "fdatasync", fail)
        with pytest.raises(OutcomeUnknownError):
            store["a"] = "doubtful"
    with sharedstate.open(f"{url}?sync={sync}") as other:
        other["b"] = "next"
        assert (number_of_log(store) > before) == (sync == "disk")
    store["c"] = "last"

    assert number_of_log(store) > before
    inode, length = log_of(store)
    assert disk.synced[inode] == length
    assert (store["a"], store["b"], store["c"], store["d"]) == ("doubtful", "next", "last", 4)


def test_disk_that_takes_no_new_log_refuses_the_next_write(
    store: Store, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(durability.os, "fdatasync", fail)
        with pytest.raises(OutcomeUnknownError):
            store["a"] = 2
        patched.setattr(durability.os, "fsync", fail)
        with pytest.raises(UnavailableError, match="Input/output error"):
            store["a"] = 3

    assert store["a"] == 2
    store["a"] = 4


def test_compaction_whose_sync_fails_has_the_log_doubted(url: str, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its call may have been the one that the kernel told of the error: the next write goes on in a new log."""
    monkeypatch.setattr(compaction, "FLOOR_BYTES", 500)
    store = sharedstate.open(f"{url}?sync=disk")
    head, backend = head_of(store), store._backend
    with monkeypatch.context() as patched:
        patched.setattr(durability.os, "fsync", lambda fd: fail(fd) if fd == backend._log.fd else None)
        for i in range(100):
            store["a"] = i
            if head.is_doubtful(number_of(head.words[0])):
                break
    assert head.is_doubtful(number_of(head.words[0]))
    store["a"] = "in a new log"
    assert not head.is_doubtful(number_of(head.words[0]))
    store.close()


def test_write_without_a_descriptor_to_spare_is_synced(store: Store, disk: Disk) -> None:
    """It is done by then, and must not be reported as refused."""
    backend: Any = store._backend
    backend._disk.close()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (backend._log.fd + 1, limits[1]))
    try:
        store["a"] = 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    inode, length = log_of(store)
    assert disk.synced[inode] == length


def test_handles_leave_no_descriptor_behind(url: str, disk: Disk) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with sharedstate.open(f"{url}?sync=disk") as store:
            store["a"] = 1
    store = sharedstate.open(f"{url}?sync=disk")
    store["a"] = 2
    del store
    assert len(os.listdir("/proc/self/fd")) == before


def test_process_that_is_stopped_amid_a_sync_holds_up_nobody_for_long(store: Store, disk: Disk) -> None:
    """D4: whoever waited long enough syncs for himself."""
    backend: Any = store._backend
    with open(backend._log.path, "rb") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)

        store["a"] = 2

    inode, length = log_of(store)
    assert disk.synced[inode] == length


def test_forked_child_of_a_thread_that_syncs_waits_for_nobody(store: Store, disk: Disk) -> None:
    amid, over = threading.Event(), threading.Event()

    def hold() -> None:
        amid.set()
        over.wait(10)

    disk.amid = hold
    thread = threading.Thread(target=store.set, args=("a", 2))
    thread.start()
    assert amid.wait(10)

    def write_in_child() -> int:
        disk.amid = lambda: None
        store["b"] = 3
        inode, length = log_of(store)
        return length - disk.synced[inode]

    result = fork_and_run(write_in_child)
    try:
        assert result() == 0
    finally:
        over.set()
        thread.join()


def test_compaction_is_on_disk_as_a_whole(url: str, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """D2: a write whose log was left behind needs no sync any more, and the next one syncs the new log."""
    monkeypatch.setattr(compaction, "FLOOR_BYTES", 500)
    store = sharedstate.open(f"{url}?sync=disk")
    numbers: set[int] = set()
    for i in range(60):
        number = number_of(head_of(store).words[0])
        store["a"] = i
        word, synced = head_of(store).words[0], head_of(store).synced()
        assert synced == word
        inode, length = log_of(store)
        if number_of(word) == number:
            assert disk.synced[inode] >= length
        numbers.add(number)
    assert len(numbers) > 1
    store.close()


def test_after_a_reboot_nothing_counts_as_synced(store: Store, url: str, disk: Disk) -> None:
    """A log that lost its end would else grow to where it was synced once, and not be synced."""
    for i in range(20):
        store["a"] = i
    backend: Any = store._backend
    place, synced = backend._place, length_of(head_of(store).synced())
    store.close()
    with open(place.head, "r+b") as file:
        file.seek(12)
        file.write(b"another boot".ljust(40))  # its checksum does not hold either
    frame = (synced - 32) // 24
    os.truncate(backend._log.path, synced - frame)  # the last frame is torn

    with sharedstate.open(f"{url}?sync=disk") as again:
        calls = disk.calls
        again["a"] = 1
        assert disk.calls == calls + 1
        inode, length = log_of(again)
        assert disk.synced[inode] >= length


def test_doubt_outlasts_a_head_that_is_made_true_in_the_same_boot(tmp_path: Path) -> None:
    """The log is then read from the kernel's cache, which calls lost pages clean; after a reboot it is not."""
    head = Head.make("file:x", f"{tmp_path}/head", 0o600)
    head.make_true("one", word_of(3, 100))
    head.doubt(3)

    head.make_true("one", word_of(3, 120))
    assert head.is_doubtful(3)

    head.make_true("other", word_of(3, 120))
    assert not head.is_doubtful(3)


def test_log_that_was_removed_by_hand_is_waited_for_by_nobody(store: Store, disk: Disk, tmp_path: Path) -> None:
    """The first synced write to it is an unknown outcome, not a wait for ever."""
    os.unlink(f"{tmp_path}/store/log-1")
    store._backend._disk.close()  # so that the log's name is needed

    with pytest.raises(OutcomeUnknownError, match="removed"):
        store["a"] = 5
