"""Clocks that step, and processes that are not who they seem.

Invariants:
    T1  an entry is absent while its storage's clock is at or past its deadline,
        and present before, unless the clock had been there already; steps of
        the clock lose nothing else, and generations and fencing tokens only grow
    T2  the boot clock's stores do not follow the wall clock
    T3  a holder that is stopped holds on; one whose lock passed on is told so,
        and its late write is refused by its smaller token
    T4  who is dead is dead, whoever has its pid now
    T5  processes of two pid namespaces exclude, and see, each other
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

import sharedstate
from campaign import record, scale
from hardship.children import Child, ChildFailedError, in_child
from hardship.kernel import in_pid_namespace, in_time_namespace, next_pid, stop
from sharedstate import LockLostError, LockTimeoutError
from sharedstate.backend import Backoff, Deadline
from sharedstate.backend.locks import FileLock
from sharedstate.backend.presence import PresenceFiles
from sharedstate_sqlite.sessions import Session

if TYPE_CHECKING:
    import random

_SCHEMES = ["file", "sqlite", "shm"]


# --- Clocks --------------------------------------------------------------------------


class WallClock:
    """A wall clock that is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = float(int(time.time()))  # and steps of whole milliseconds, as sqlite:'s deadlines
        # By their names first, which imports them: else they would take our clock for theirs, for good.
        for name in (
            "sharedstate_file.backend._now",
            "sharedstate_file.handle._now",
            "sharedstate_sqlite.backend.time",
        ):
            monkeypatch.setattr(name, self.read)
        monkeypatch.setattr(time, "time", self.read)
        monkeypatch.setattr(time, "time_ns", lambda: int(self.now * 1e9))
        make = Session.__init__

        def make_with_our_clock(session: Session, connection: Any) -> None:
            make(session, connection)
            connection.create_function("julianday", 1, lambda _: int(self.now * 1000) / 86_400_000 + 2_440_587.5)

        monkeypatch.setattr(Session, "__init__", make_with_our_clock)

    def read(self) -> float:
        return self.now


def judge_expiry(url: str, clock: WallClock, dice: random.Random, steps: int) -> dict[str, int]:
    """Write with and without deadlines while the clock steps; hold each read to T1."""
    first, second = sharedstate.open(url), sharedstate.open(url)
    entries: dict[str, tuple[int, float | None]] = {}
    was_due: set[str] = set()
    newest: dict[str, int] = {}
    token = steps_made = 0
    for number in range(steps):
        store, key = dice.choice((first, second)), f"k{dice.randrange(12)}"
        ttl_s = dice.choice((None, 1.0, 50.0, 3000.0))
        act = dice.randrange(5)
        if act == 0:
            clock.now += dice.choice((-1e6, -4000.0, -10.0, -0.5, 0.5, 10.0, 4000.0, 1e6))
            steps_made += 1
        elif act == 1 and key in entries:
            there = store.touch(key, ttl_s)
            assert there or key in was_due, f"{key} was lost before {number}"
            if there:
                entries[key] = (entries[key][0], None if ttl_s is None else clock.now + ttl_s)
        elif act == 2:
            with store.lock("name", timeout_s=1) as lock:
                assert lock.token > token, "a fencing token went back with the clock"
                token = lock.token
        else:
            store.set(key, number, ttl_s)
            entries[key] = (number, None if ttl_s is None else clock.now + ttl_s)
            was_due.discard(key)
            generation = store.generation(key)
            assert generation, f"{key} was lost as it was written"
            assert generation > newest.get(key, 0), "a generation did not grow"
            newest[key] = generation
        for key, (value, deadline) in entries.items():
            is_due = deadline is not None and clock.now >= deadline
            if is_due:
                was_due.add(key)
            wanted = {None} if is_due else {value, None} if key in was_due else {value}
            for handle in (first, second):
                entry = handle.read(key)
                for found in (handle.get(key), entry.value if entry else None):
                    assert found in wanted, f"{key} is {found!r} where {wanted} is right"
    first.check()
    second.close()
    first.close()
    return {"writes": steps, "steps": steps_made}


@pytest.mark.parametrize("scheme", ["file", "sqlite"])
def test_a_wall_clock_that_steps_back_and_forth(scheme: str, url_of, dice, monkeypatch: pytest.MonkeyPatch) -> None:
    """T1: steps of up to eleven days, either way, between any two verbs of two handles."""
    clock = WallClock(monkeypatch)

    found = judge_expiry(url_of(scheme), clock, dice, scale(1_500, 60_000))

    record("wall clock that steps", scheme, bad=0, **found)


@pytest.mark.parametrize("place", ["sharedstate_file.handle._now", "sharedstate_file.backend._now"])
def test_a_deadline_on_another_clock_is_found(place: str, url_of, dice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: one of the places that compare deadlines asks the monotonic clock."""
    clock = WallClock(monkeypatch)
    monkeypatch.setattr(place, time.monotonic)

    with pytest.raises(AssertionError, match=r"is right|was lost"):
        judge_expiry(url_of("file"), clock, dice, 1_500)


def judge_boot_clock(url: str, clock: WallClock) -> None:
    """Step the wall clock; an entry must neither go nor stay for that."""
    with sharedstate.open(url, allow_narrow=True) as store:
        store.set("long", 1, ttl_s=1000)
        for step in (1e6, -2e6, 1e6):
            clock.now += step
            assert store.get("long") == 1, "gone with the wall clock"
            left = store.ttl("long")
            assert left is not None
            assert 800 < left <= 1000, f"its time to live became {left}"
        store.set("short", 1, ttl_s=0.01)
        end = time.monotonic() + 30
        while "short" in store:
            assert time.monotonic() < end, "it never expires"
        store.check()


@pytest.mark.parametrize("scheme", ["memory", "shm"])
def test_stores_on_the_boot_clock_ignore_the_wall_clock(scheme: str, url_of, monkeypatch: pytest.MonkeyPatch) -> None:
    """T2, also where the boot clock is years ahead, in a time namespace."""
    url = f"memory:{uuid4().hex}" if scheme == "memory" else url_of(scheme)
    clock = WallClock(monkeypatch)

    judge_boot_clock(url, clock)
    for ahead_s in (3600, 10**8):
        in_child(lambda ahead_s=ahead_s: in_time_namespace(lambda: judge_boot_clock(url, clock), ahead_s))

    record("boot clock", scheme, bad=0, clocks=3)


def test_a_store_that_follows_the_wall_clock_is_found(url_of, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a store that claims the boot clock and has the wall clock; file, here."""
    with pytest.raises(AssertionError, match="gone with the wall clock"):
        judge_boot_clock(url_of("file"), WallClock(monkeypatch))


# --- A holder that is stopped -----------------------------------------------------------


def write_fenced(store: sharedstate.Store, token: int, value: str) -> bool:
    """Write to a resource that refuses tokens smaller than the greatest it saw."""

    def body(tx: Any) -> bool:
        if token < tx.get("fence", 0):
            return False
        tx["fence"], tx["resource"] = token, value
        return True

    return store.transact(body)


def depose_a_stopped_holder(url: str) -> None:
    """Stop a holder, pass its lock on as an operator would, and let it go on."""
    store = sharedstate.open(url)
    ready, go = os.pipe(), os.pipe()

    def hold() -> list[Any]:
        with sharedstate.open(url) as mine:
            lock = mine.lock("name")
            lock.acquire()
            token = lock.token
            assert write_fenced(mine, token, "first")
            os.write(ready[1], b".")
            os.read(go[0], 1)
            try:
                lock.token  # noqa: B018  it raises
                is_told = False
            except LockLostError:
                is_told = True
            return [is_told, write_fenced(mine, token, "stale")]

    child = Child(hold)
    os.read(ready[0], 1)
    stop(child.pid)
    lock = store.lock("name")
    with pytest.raises(LockTimeoutError):  # slow is not dead
        lock.acquire(0.05)
    os.unlink(lock.path)
    lock.acquire(5)
    assert write_fenced(store, lock.token, "second")
    os.write(go[1], b".")
    os.kill(child.pid, signal.SIGCONT)
    is_told, is_written = child.result()
    for fd in (*ready, *go):
        os.close(fd)
    assert is_told, "the deposed holder believes that it holds the lock"
    assert not is_written, "a stale write was accepted"
    assert store["resource"] == "second"
    lock.release()
    store.check()
    store.close()


@pytest.mark.parametrize("scheme", _SCHEMES)
def test_a_stopped_holder_that_was_deposed_is_refused(scheme: str, url_of) -> None:
    """T3: SIGSTOP, another acquisition, SIGCONT: told by `token`, and refused by the resource."""
    for _ in range(rounds := scale(3, 100)):
        depose_a_stopped_holder(url_of(scheme))

    record("stopped holders", scheme, bad=0, rounds=rounds)


def test_a_loss_that_nobody_notices_is_found(url_of, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a lock that does not look whether its file is still there."""
    monkeypatch.setattr(FileLock, "_loss", lambda lock: None)

    with pytest.raises(AssertionError, match="believes"):
        depose_a_stopped_holder(url_of("file"))


# --- Pids ----------------------------------------------------------------------------


_PID = 700


def reuse_a_pid(url: str) -> int:
    """Kill an owner of everything, give its pid to another process, and take over what it had."""
    store = sharedstate.open(url)
    tasks = sharedstate.Tasks(store, "jobs")
    tasks.add("task")
    ready = os.pipe()

    def own() -> None:
        with sharedstate.open(url) as mine:
            mine.join()
            mine.lock("name").acquire()
            with sharedstate.Tasks(mine, "jobs").run("task"):
                os.write(ready[1], b".")
                signal.pause()

    next_pid(_PID)
    dead = Child(own)
    assert dead.pid == _PID
    os.read(ready[0], 1)
    owners = [sharer for sharer in store.sharers() if sharer.owner.pid == _PID]
    assert owners, "the owner is not among the sharers"
    dead.kill()
    ticks = os.sysconf("SC_CLK_TCK")
    while time.clock_gettime(time.CLOCK_BOOTTIME) * ticks < owners[0].owner.started + 2:
        time.sleep(0.005)  # by then a new process is a tick younger
    next_pid(_PID)
    heir = Child(signal.pause)
    assert heir.pid == _PID
    try:
        assert not owners[0].owner.is_alive(), "the heir of its pid passes for the owner"
        # The last reference to a dead process's file may be that of another one, which looks into /proc.
        end, wait = Deadline(5), Backoff()
        # Not by its pid: the heir is a sharer too, for it was forked from one.
        while {sharer.token for sharer in store.sharers()} & {sharer.token for sharer in owners}:
            assert not end.has_passed(), "the dead is among the sharers"
            wait.sleep(end)
        assert not any(found.held for found in store.locks()), "the dead holds a lock"
        store.lock("name").acquire(0)
        done: list[int] = []
        tasks.resume(lambda task: done.append(1))
        assert done, "the dead one's task was not taken over"
        store.check()
    finally:
        heir.kill()
    return 1


@pytest.mark.parametrize("scheme", _SCHEMES)
def test_who_gets_a_dead_owners_pid_owns_nothing(scheme: str, url_of) -> None:
    """T4: presence, lock and task of a dead process are free, although its pid is alive."""
    for _ in range(rounds := scale(2, 50)):
        url = url_of(scheme)
        in_child(lambda url=url: in_pid_namespace(lambda: reuse_a_pid(url)))
        sharedstate.remove(url)

    record("pid reuse", scheme, bad=0, rounds=rounds)


def test_an_owner_known_by_its_pid_only_is_found(url_of, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: presence that asks whether there is a process of that pid."""

    def bury(files: PresenceFiles, fd: int, path: str) -> bool:
        return not os.path.exists(f"/proc/{files._parse(os.pread(fd, 4096, 0), path).owner.pid}")

    monkeypatch.setattr(PresenceFiles, "_bury", bury)
    url = url_of("file")
    with pytest.raises(ChildFailedError, match="the dead is among the sharers"):
        in_child(lambda: in_pid_namespace(lambda: reuse_a_pid(url)))


def share_between_namespaces(url: str, turns: int) -> dict[str, int]:
    """Have two containers count under a lock and without one, each seeing the other."""
    with sharedstate.open(url) as store:  # closed, or each child would be a sharer by this handle too
        store.update({"locked": 0, "atomic": 0})
    go = [os.pipe(), os.pipe()]
    ready = os.pipe()

    def work(gate: int) -> int:
        with sharedstate.open(url) as mine:
            assert os.getpid() == 1
            os.write(ready[1], b".")
            os.read(gate, 1)
            for _ in range(turns):
                mine.increment("atomic")
                with mine.lock("name", timeout_s=60):
                    count = mine["locked"]
                    mine["locked"] = count + 1
            seen = sum(sharer.owner.pid == 1 for sharer in mine.sharers())
            os.write(ready[1], b".")
            os.read(gate, 1)
            return seen

    children = [Child(lambda gate=gate: in_pid_namespace(lambda: work(gate[0]))) for gate in go]
    for _ in range(2):
        for _ in children:
            os.read(ready[0], 1)
        for gate in go:
            os.write(gate[1], b".")
    seen = [child.result() for child in children]
    for fd in (*go[0], *go[1], *ready):
        os.close(fd)
    store, total = sharedstate.open(url), 2 * turns
    assert store["atomic"] == total, f"lost updates: {store['atomic']} of {total}"
    assert store["locked"] == total, f"two were in the lock: {store['locked']} of {total}"
    assert seen == [2, 2], f"of two sharers {seen} were seen"
    store.check()
    store.close()
    return {"turns": total}


@pytest.mark.parametrize("scheme", _SCHEMES)
def test_two_pid_namespaces_share_one_store(scheme: str, url_of) -> None:
    """T5: both are process 1, with one thread id; no update is lost, none is in the lock with the other."""
    found = share_between_namespaces(url_of(scheme), scale(200, 20_000))

    record("two pid namespaces", scheme, bad=0, **found)


def test_a_lock_that_does_not_exclude_is_found(url_of, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a lock that waits for nobody."""
    monkeypatch.setattr(FileLock, "_wait", lambda lock, fd, deadline: None)

    with pytest.raises(AssertionError, match="two were in the lock"):
        share_between_namespaces(url_of("file"), 2_000)
