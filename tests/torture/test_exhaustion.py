"""No room: in /dev/shm and on the disk, at every call that needs some.

After each failure, whatever ran out:
    X1  the verb was refused by an error that says what to do next, and changed
        nothing (a batch: each entry is old or new); or it was acknowledged
    X2  what was acknowledged is there, for this handle and for a new one, and
        `check()` passes
    X3  nobody died of SIGBUS, and nothing hung
    X4  with room again, every verb works
    X5  full=evict refuses nothing, and counts each entry that it gave up
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import sharedstate
from campaign import record, scale
from hardship.children import Child, ChildDiedError, ChildFailedError, in_child
from hardship.kernel import CLONE_NEWNS, PAGE, fake_reservations, fill_to, mount_small, resize, unshare
from hardship.ledger import VERBS, Ledger, payload
from sharedstate import CapacityError, CorruptError
from sharedstate_file import compaction
from sharedstate_file.log import Log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_SHM = "/dev/shm"
_PLENTY = 64 << 20


def small_shm(size: int) -> None:
    """Mount a tmpfs over /dev/shm, for this child only."""
    unshare(CLONE_NEWNS)
    mount_small(_SHM, size)


# --- A full /dev/shm -----------------------------------------------------------------


def create_in_every_size(step: int) -> dict[str, int]:
    """Create a region in a /dev/shm of every size up to one that suffices."""
    small_shm(PAGE)
    refused, size = 0, PAGE
    while True:
        resize(_SHM, size)
        try:
            store = sharedstate.open("shm://small?size=1MiB")
        except CapacityError as error:
            assert "Free space" in str(error)  # noqa: PT017  the last one succeeds
            assert os.listdir(_SHM) == []
            assert os.statvfs(_SHM).f_bfree == os.statvfs(_SHM).f_blocks
            refused, size = refused + 1, size + step
            continue
        store.check()
        store.close()
        return {"refused": refused, "bytes": size}


def test_creation_in_a_full_shm_leaves_nothing_behind() -> None:
    """X1, X3: in each size that is too small, `open` says so and no page stays taken."""
    found = in_child(lambda: create_in_every_size(scale(4 * PAGE, PAGE)))

    assert found["refused"] >= 5
    record("full /dev/shm at creation", "shm", bad=0, sizes=found["refused"])


def grow_page_by_page(pages: int, full: str) -> dict[str, int]:
    """Give a region's file system one page more at a time, and do every verb in each size."""
    small_shm(_PLENTY)
    store = sharedstate.open(f"shm://small?size=4MiB&full={full}")
    ledger = Ledger(store)
    sizes = 0
    for _ in range(pages):
        fill_to(_SHM, PAGE)
        sizes += 1
        ledger.do_all()
        for verb in ("add", "set_large"):  # these need new pages, and a larger table
            for _ in range(60):
                if not ledger.do(verb):
                    break
        if sizes % 4 == 0:
            ledger.audit_anew()
    ledger.audit_anew()
    resize(_SHM, _PLENTY)
    assert ledger.do_all() == 0, "refused although there is room again"
    ledger.audit_anew()
    return {"sizes": sizes, "acknowledged": ledger.acknowledged, "refused": ledger.refused}


def test_full_shm_at_every_growth_loses_nothing() -> None:
    """X1 to X4: table growth, page allocation and transactions meet a full /dev/shm at each page of it."""
    found = in_child(lambda: grow_page_by_page(scale(60, 1500), "raise"))

    assert found["refused"] > found["sizes"]
    record("full /dev/shm at every growth", "shm", bad=0, **found)


def test_a_region_without_reservation_would_die_of_sigbus() -> None:
    """Planted: fallocate that reserves nothing, as ftruncate does; the experiment sees the SIGBUS."""

    def body() -> None:
        fake_reservations()
        grow_page_by_page(10, "raise")

    with pytest.raises(ChildDiedError) as died:
        in_child(body)
    assert died.value.signal == signal.SIGBUS


def evict(total: int) -> dict[str, int]:
    """Write keys that are all new into a region whose file system is full."""
    small_shm(_PLENTY)
    store = sharedstate.open("shm://small?size=4MiB&full=evict")
    for n in range(50):
        store[f"k{n}"] = payload(n)
    fill_to(_SHM, PAGE)
    for n in range(50, total):
        store[f"k{n}"] = payload(n)
        assert store[f"k{n}"] == payload(n), "the newest was evicted"
    store.check()
    there, evictions = dict(store), int(store.stats()["evictions"])
    assert all(value == payload(int(key[1:])) for key, value in there.items())
    assert len(there) + evictions == total, f"{len(there)} there and {evictions} counted, of {total}"
    assert evictions, "nothing was evicted: there was room"
    return {"written": total, "evicted": evictions}


def test_eviction_in_a_full_shm_counts_what_it_evicts() -> None:
    """X5: where /dev/shm is full before the region is, nothing is refused and each loss is counted."""
    found = in_child(lambda: evict(scale(3000, 100_000)))

    record("eviction in a full /dev/shm", "shm", bad=0, **found)


def test_uncounted_evictions_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: stats() that knows of fewer evictions."""
    stats = sharedstate.Store.stats

    def forget_one(store: sharedstate.Store) -> dict[str, Any]:
        figures = stats(store)
        return {**figures, "evictions": int(figures["evictions"]) - 1}

    monkeypatch.setattr(sharedstate.Store, "stats", forget_one)
    with pytest.raises(ChildFailedError, match="counted, of 500"):
        in_child(lambda: evict(500))


def fill_while_others_read(readers: int, total: int) -> dict[str, int]:
    """Fill a region in a small /dev/shm while processes read all of it."""
    small_shm(2 << 20)
    store = sharedstate.open("shm://small?size=4MiB")
    end_reader, end_writer = os.pipe()

    def read() -> int:
        os.close(end_writer)
        os.set_blocking(end_reader, False)
        looks = 0
        with sharedstate.open(store.url) as mine:
            while True:
                for key, value in mine.items():
                    assert value == payload(int(key[1:])), f"{key!r} is torn, or another's"
                looks += 1
                try:
                    if os.read(end_reader, 1) == b"":
                        return looks
                except BlockingIOError:
                    continue

    children = [Child(read) for _ in range(readers)]
    refused = 0
    for n in range(total):
        try:
            store[f"k{n % 5000}"] = payload(n % 5000)
        except CapacityError:
            refused += 1
            store.delete(f"k{(n * 7) % 5000}")
    os.close(end_writer)
    looks = sum(child.result() for child in children)
    store.check()
    assert refused
    return {"refused": refused, "looks": looks}


def test_a_store_that_fills_serves_its_readers() -> None:
    """X2, X3: readers see whole values and no error while the writer is refused again and again."""
    found = in_child(lambda: fill_while_others_read(2, scale(8_000, 400_000)))

    record("fills while others read", "shm", bad=0, **found)


# --- A full disk ---------------------------------------------------------------------


@pytest.fixture
def _compacts_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "FLOOR_BYTES", 20_000)
    monkeypatch.setattr("sharedstate_file.handle.FLOOR_BYTES", 20_000)


def every_free_size(place: str, url: str, pages: range) -> dict[str, int]:
    """Do every verb, and a compaction, on a disk with each number of free pages."""
    unshare(CLONE_NEWNS)
    mount_small(place, _PLENTY)
    store = sharedstate.open(url)
    ledger = Ledger(store)
    for _ in range(4):
        ledger.do_all()
    for free in pages:
        fill_to(place, free * PAGE)
        for _ in range(2):
            ledger.do_all()
        ledger.audit()
        if free % 4 == 0:
            resize(place, _PLENTY)
            assert ledger.do_all() == 0, "refused although there is room again"
            ledger.audit_anew()
    return {"sizes": len(pages), "acknowledged": ledger.acknowledged, "refused": ledger.refused}


@pytest.mark.parametrize("scheme", ["file", "sqlite"])
@pytest.mark.usefixtures("_compacts_soon")
def test_full_disk_of_every_size_loses_nothing(scheme: str, tmp_path: Path) -> None:
    """X1 to X4 on a real file system, from no free page to enough for all."""
    url = f"{scheme}:{tmp_path}/store"

    found = in_child(lambda: every_free_size(str(tmp_path), url, scale(range(24), range(200))))

    assert found["refused"] > 10
    record("full disk of every size", scheme, bad=0, **found)


_NEED_ROOM = ("pwrite", "posix_fallocate", "open", "mkdir", "rename", "fsync", "fdatasync", "ftruncate")


class FullDisk:
    """Fails the n-th call that needs room, or the n-th and all that follow.

    Attributes:
        calls: how many there were.
    """

    def __init__(self, at: int, lasting: bool, short: bool) -> None:
        self.calls = 0
        self._at = at
        self._is_lasting = lasting
        self._is_short = short  # a write ends in a short count first, as on a real disk

    @contextmanager
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with monkeypatch.context() as patch:
            for name in _NEED_ROOM:
                patch.setattr(os, name, self._failing(name, getattr(os, name)))
            yield

    def _failing(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **named)
            self.calls += 1
            is_due = self.calls == self._at or (self._is_lasting and self.calls > self._at and name != "ftruncate")
            if not is_due:
                return real(*args, **named)
            if name == "pwrite" and self._is_short and self.calls == self._at and len(args[1]) > 1:
                self._at += 1
                return real(args[0], bytes(args[1])[: len(args[1]) // 2], args[2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return call


def fail_nth_call(
    place: Path, at: int, monkeypatch: pytest.MonkeyPatch, *, sync: str, lasting: bool = False, short: bool = False
) -> int:
    """Open, do every verb and compact, with one call failing; return how many calls there were."""
    shutil.rmtree(place, ignore_errors=True)
    url = f"file:{place}?sync={sync}"
    disk = FullDisk(at, lasting, short)
    with disk.installed(monkeypatch):
        try:
            store = sharedstate.open(url)
        except CapacityError:
            store = None
        ledger = None if store is None else Ledger(store)
        for _ in range(2):
            if ledger is not None:
                ledger.do_all()
    if ledger is None:
        ledger = Ledger(sharedstate.open(url))
    ledger.audit_anew()
    assert ledger.do_all() == 0, f"call {at}: refused although there is room again"
    ledger.audit_anew()
    ledger.store.close()
    ledger.close()
    return disk.calls


@pytest.mark.parametrize("sync", ["os", "disk"])
def test_no_room_at_every_call_of_a_commit_and_of_a_compaction(
    sync: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X1, X2, X4: ENOSPC at the n-th call for each n, alone, with a short write first, or from there on."""
    monkeypatch.setattr(compaction, "FLOOR_BYTES", 4_000)
    monkeypatch.setattr("sharedstate_file.handle.FLOOR_BYTES", 4_000)
    place = tmp_path / "store"
    forms: list[dict[str, Any]] = [{}, {"short": True}, {"lasting": True}]
    calls = fail_nth_call(place, 0, monkeypatch, sync=sync)
    failures = 0
    for form in forms:
        for at in range(1, calls + 1, scale(3 if sync == "disk" else 1, 1)):
            fail_nth_call(place, at, monkeypatch, sync=sync, **form)
            failures += 1

    assert calls >= 30
    record("ENOSPC at every call", f"file sync={sync}", bad=0, calls=calls, failures=failures)


def test_a_write_reported_as_done_on_a_full_disk_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: `append` that takes ENOSPC for success."""
    append = Log.append

    def careless(log: Log, frame: bytes, end: int) -> int:
        try:
            return append(log, frame, end)
        except OSError:
            return end

    monkeypatch.setattr(Log, "append", careless)
    monkeypatch.setattr(compaction, "FLOOR_BYTES", 1 << 30)

    def fail_each() -> None:
        for at in range(15, 40):  # those of opening are not the log's
            fail_nth_call(tmp_path / "store", at, monkeypatch, sync="os")

    with pytest.raises((AssertionError, CorruptError)):
        fail_each()


def test_a_refusal_that_wrote_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a sqlite store whose full disk is told only after the commit."""
    store = sharedstate.open(f"sqlite:{tmp_path}/store")
    ledger = Ledger(store)

    def late(key: str, value: Any, ttl_s: float | None = None) -> None:
        del ttl_s
        store.update({key: value})
        raise CapacityError(url=store.url, reason="full", advice="Free space.")

    monkeypatch.setitem(VERBS, "set", lambda target, n: (late if target is store else target.set)(f"k{n}", n))
    ledger.do("set")
    with pytest.raises(AssertionError, match="differ"):
        ledger.audit()
    store.close()
