"""Processes, threads and interpreters that fork, exec, end or are interrupted in the middle of something.

Invariants:
    F1  a child of a fork, made at any moment, does every verb and waits for
        nobody of its parent's; no increment is lost
    F2  what exec replaces, what a destroyed interpreter had, and what a dead
        parent had, is free
    F3  a thread that ended holding a lock holds it until the Lock object goes
    F4  KeyboardInterrupt out of any wait leaves nothing locked, for this thread,
        for another one, and for another process
"""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
import sys
import threading
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

import sharedstate
from campaign import record, scale
from hardship.children import Child, ChildDiedError, ChildFailedError, fork, in_child
from hardship.kernel import stop
from sharedstate import ABSENT, LockTimeoutError
from sharedstate.backend import Backoff, Deadline
from sharedstate.model import Put
from sharedstate.probe.interpreters import LEGACY, run_in_interpreter
from sharedstate_file.writers import WriterLock

if TYPE_CHECKING:
    from collections.abc import Callable

_SCHEMES = ["file", "sqlite", "shm"]


def use(store: sharedstate.Store, name: str) -> int:
    """Do something of everything; return how many increments that were."""
    store.increment("count")
    store[name] = [name] * 20
    assert store[name] == [name] * 20
    store.transact(lambda tx: tx.set("tx", tx.get("tx", 0) + 1))
    with store.lock("name", timeout_s=30):
        store.increment("count")
    store.set_many({f"{name}-{i}": i for i in range(5)})
    store.wait_for_change("count", since=0, timeout_s=0)
    del store[name]
    return 2


# --- Forks ---------------------------------------------------------------------------


def fork_amid_verbs(url: str, forks: int, patience_s: float = 60.0) -> dict[str, int]:
    """Fork again and again while three threads are busy in every verb; each child does every verb."""
    store = sharedstate.open(url, allow_narrow=True)
    is_memory = url.startswith("memory")
    use(store, "warm")
    ending = threading.Event()
    done = [0, 0, 0]
    failures: list[BaseException] = []

    def work(index: int) -> None:
        try:
            while not ending.is_set():
                done[index] += use(store, f"thread{index}")
        except BaseException as error:  # noqa: BLE001  it is judged below
            failures.append(error)

    def be_child() -> int:
        return use(store, "child")

    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(3)]
    for thread in threads:
        thread.start()
    by_children = 0
    try:
        for _ in range(forks):
            by_children += Child(be_child).result(patience_s)
    finally:
        ending.set()
        for thread in threads:
            thread.join(60)
    assert not failures, failures
    wanted = 2 + sum(done) + (0 if is_memory else by_children)
    assert store["count"] == wanted, f"lost updates: {store['count']} of {wanted}"
    assert store.lock("name").acquire(5)
    store.check()
    return {"forks": forks, "verbs": sum(done) + by_children}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("scheme", [*_SCHEMES, "memory"])
def test_forks_amid_the_verbs_of_other_threads(scheme: str, url_of) -> None:
    """F1: three threads, and a child at any moment of theirs."""
    url = f"memory:{uuid4().hex}" if scheme == "memory" else url_of(scheme)

    found = in_child(lambda: fork_amid_verbs(url, scale(25, 1000)), patience_s=1500)

    record("forks amid verbs", scheme, bad=0, **found)


def test_a_child_that_waits_for_its_parents_threads_is_found(url_of, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a file store whose child goes on with the locks of its parent's threads."""
    monkeypatch.setattr("sharedstate_file.writers.fork_epoch", lambda: 1)
    url = url_of("file")

    with pytest.raises((ChildDiedError, ChildFailedError)):
        in_child(lambda: fork_amid_verbs(f"{url}?timeout=1", 200, 3.0))


# --- exec, and other ends --------------------------------------------------------------


def name_of(pid: int) -> str:
    with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
        return file.read().strip()


def exec_while_holding(url: str) -> None:
    """Replace a holder by another program, and take over what it had while that runs."""
    with sharedstate.open(url) as store:
        use(store, "warm")

        def hold() -> None:
            mine = sharedstate.open(url)
            mine.join()
            mine.lock("name").acquire()
            mine.increment("count")
            os.execv("/bin/sleep", ["sleep", "1000"])

        child = Child(hold)
        end, wait = Deadline(30), Backoff()
        while name_of(child.pid) != "sleep":
            assert not end.has_passed()
            wait.sleep(end)
        try:
            # The kernel has closed the files by then, and lets go of them on the way out of the call.
            end, wait = Deadline(5), Backoff()
            while child.pid in [sharer.owner.pid for sharer in store.sharers()]:
                assert not end.has_passed(), "a program that was replaced is present"
                wait.sleep(end)
            store.lock("name").acquire(1)
            store.increment("count")
        except LockTimeoutError as error:
            raise AssertionError("a lock went on through exec") from error
        finally:
            child.kill()


@pytest.mark.parametrize("scheme", _SCHEMES)
def test_exec_frees_what_was_held(scheme: str, url_of) -> None:
    """F2: lock and presence end with the program that had them, not with its process."""
    exec_while_holding(url_of(scheme))
    record("exec while holding", scheme, bad=0, rounds=1)


def test_a_lock_file_without_close_on_exec_is_found(url_of, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: files that are opened for whatever program comes next."""
    open_file = os.open

    def leaky(*args: Any, **named: Any) -> int:
        fd = open_file(*args, **named)
        os.set_inheritable(fd, True)
        return fd

    monkeypatch.setattr(os, "open", leaky)
    with pytest.raises(AssertionError, match=r"through exec|is present"):
        exec_while_holding(url_of("file"))


@pytest.mark.parametrize("scheme", _SCHEMES)
def test_a_thread_that_ended_holds_until_its_lock_object_goes(scheme: str, url_of) -> None:
    """F3: nobody else gets it before, also not a thread of the same ident; then it is free at once."""
    with sharedstate.open(url_of(scheme)) as store:
        kept = [store.lock("name")]
        holder = threading.Thread(target=kept[0].acquire)
        holder.start()
        holder.join()

        assert not store.lock("name").try_acquire()
        assert in_child(lambda: store.lock("name").try_acquire()) is False
        kept.clear()
        del holder
        assert store.lock("name").try_acquire()


@pytest.mark.parametrize("scheme", _SCHEMES)
def test_a_destroyed_interpreter_holds_nothing(scheme: str, url_of) -> None:
    """F2: an interpreter that ended while its thread had locks and a presence leaves neither."""
    url = url_of(scheme)
    with sharedstate.open(url) as store:
        before = len(store.sharers())
        script = (
            f"import sys; sys.path[:] = {sys.path!r}\nimport _thread, sharedstate\n"
            f"store = sharedstate.open({url!r})\nstore.join()\n"
            "lock = store.lock('name')\nready = _thread.allocate_lock()\n"
            "ready.acquire()\ndef hold():\n    lock.acquire()\n    ready.release()\n"
            "_thread.start_new_thread(hold, ())\nready.acquire()\n"
        )
        assert run_in_interpreter(LEGACY, script) == ""

        assert store.lock("name").acquire(5)
        assert len(store.sharers()) == before
        store.check()


@pytest.mark.parametrize("scheme", _SCHEMES)
def test_a_dead_parents_lock_is_not_its_childs(scheme: str, url_of) -> None:
    """F2: the parent is killed while its child lives and works; its lock is free, its child goes on."""
    with sharedstate.open(url_of(scheme)) as store:
        go, told = os.pipe(), os.pipe()

        def parent() -> None:
            lock = store.lock("name")
            lock.acquire()
            if fork() == 0:
                os.write(told[1], b".")
                os.read(go[0], 1)
                store.increment("by child")
                os.write(told[1], b".")
                os._exit(0)
            signal.pause()

        child = Child(parent)
        os.read(told[0], 1)
        child.kill()
        assert store.lock("name").acquire(5)
        os.write(go[1], b".")
        os.read(told[0], 1)
        assert store["by child"] == 1
        for fd in (*go, *told):
            os.close(fd)


# --- Signals during waits ----------------------------------------------------------------


def _hold_lock(store: sharedstate.Store) -> object:
    lock = store.lock("held")
    lock.acquire()
    return lock


def _hold_writers(store: sharedstate.Store) -> object:
    path = store.url.partition(":")[2].partition("?")[0]
    if store.url.startswith("sqlite"):
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        return connection
    fd = os.open(f"{path}/lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def _nothing(_: sharedstate.Store) -> object:
    return None


_WAITS: list[tuple[str, str, Any, Any]] = [
    *((scheme, "lock", _hold_lock, lambda store: store.lock("held").acquire(60)) for scheme in _SCHEMES),
    *((scheme, "lock for ever", _hold_lock, lambda store: store.lock("held").acquire(None)) for scheme in _SCHEMES),
    *(
        (scheme, "change", _nothing, lambda store: store.wait_for_change("none", since=0, timeout_s=60))
        for scheme in _SCHEMES
    ),
    *((scheme, "writers", _hold_writers, lambda store: store.set("k", 1)) for scheme in ("file", "sqlite")),
]


def wait_until_asleep(pid: int) -> None:
    """Return once a process was seen to sleep ten times in a row: it waits."""
    seen, end, wait = 0, Deadline(30), Backoff(longest_s=2e-3)
    while seen < 10 and not end.has_passed():
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            seen = seen + 1 if file.read().rpartition(")")[2].split()[0] == "S" else 0
        wait.sleep(end)  # no event tells that somebody sleeps


def interrupt_a_wait(url: str, hold: Callable[[Any], object], wait: Callable[[Any], object]) -> None:
    """Interrupt a process while it waits for another one; then everybody goes on."""
    with sharedstate.open(url) as store:
        store["k1"] = 1
    ready, go, goes_on = os.pipe(), os.pipe(), os.pipe()

    def holder() -> None:
        with sharedstate.open(url) as mine:
            held = hold(mine)
            os.write(ready[1], b".")
            os.read(go[0], 1)
            del held

    def waiter() -> str:
        with sharedstate.open(f"{url}?timeout=5") as mine:
            use(mine, "warm")
            os.read(goes_on[0], 1)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                wait(mine)
            except KeyboardInterrupt:
                os.write(ready[1], b".")
            else:
                return "it did not wait"
            os.read(goes_on[0], 1)
            use(mine, "waiter")
            with mine.lock("held", timeout_s=10):
                pass
            done: list[int] = []
            thread = threading.Thread(target=lambda: done.append(use(mine, "thread")), daemon=True)
            thread.start()
            thread.join(60)
            return "" if done else "another thread is locked out"

    waiting = Child(waiter)
    assert in_child(lambda: sharedstate.open(url).wait_for_change("count", ABSENT, timeout_s=60)) != ABSENT
    wait_until_asleep(waiting.pid)
    holding = Child(holder)
    os.read(ready[0], 1)
    os.write(goes_on[1], b".")
    wait_until_asleep(waiting.pid)
    os.kill(waiting.pid, signal.SIGINT)
    os.read(ready[0], 1)
    os.write(go[1], b".")
    holding.result()
    os.write(goes_on[1], b".")
    found = waiting.result()
    for fd in (*ready, *go, *goes_on):
        os.close(fd)
    assert not found, found
    with sharedstate.open(url) as store:
        use(store, "afterwards")
        assert store.lock("held").acquire(5)
        store.check()


@pytest.mark.parametrize(("scheme", "name", "hold", "wait"), _WAITS)
def test_an_interrupted_wait_leaves_nothing_locked(scheme: str, name: str, hold, wait, url_of) -> None:
    """F4: KeyboardInterrupt during each kind of wait."""
    for _ in range(rounds := scale(1, 50)):
        interrupt_a_wait(url_of(scheme), hold, wait)

    record("signals during waits", scheme, bad=0, rounds=rounds)


def test_an_interrupted_wait_for_a_stripe_leaves_nothing_locked(url_of) -> None:
    """F4 for shm: a writer that is stopped amid a commit holds others up; who is interrupted there holds nothing."""
    url = url_of("shm")
    keys = [f"k{n}" for n in range(4000)]

    def commit() -> None:
        writes = {key: Put(0, None) for key in keys}
        with sharedstate.open(f"{url}?timeout=60") as mine:
            while True:
                mine._backend.commit(writes)

    def be_interrupted() -> bool:
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        with sharedstate.open(f"{url}?timeout=30") as mine:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            try:
                for key in keys:
                    mine.increment(key)
            except KeyboardInterrupt:
                return True
            return False

    with sharedstate.open(f"{url}?timeout=0.05") as store:
        store["k0"] = 0
        child = Child(commit)
        caught = False
        for turn in range(3000):
            time.sleep(turn % 7 * 5e-4)  # let it go on by another length each time
            stop(child.pid)
            try:
                for key in keys[:50]:
                    store.increment(f"other-{key}")
            except LockTimeoutError:
                caught = True
                break
            os.kill(child.pid, signal.SIGCONT)
        assert caught, "the writer was never stopped inside a commit"
        assert in_child(be_interrupted)
        child.kill()
        for key in keys:
            store.set(key, 1)
        store.check()
    record("signals during waits", "shm stripe", bad=0, rounds=1)


def test_an_interruption_that_leaves_a_lock_is_found(url_of, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the writers' section, left by an exception, keeps the lock between threads."""
    run = WriterLock.run

    def careless(writers: WriterLock, body: Callable[[], Any]) -> Any:
        writers._turn.lock.acquire(timeout=0.1)
        result = run(writers, body)
        writers._turn.lock.release()
        return result

    monkeypatch.setattr(WriterLock, "run", careless)
    with pytest.raises((AssertionError, ChildFailedError), match=r"locked out|LockTimeout"):
        interrupt_a_wait(url_of("file"), _hold_writers, lambda store: store.set("k", 1))
