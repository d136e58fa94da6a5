"""A move amid what may go wrong: others who move, servers that forget, signals, forks, and who makes no call."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import sharedstate
from moves import move
from sharedstate import following, registry
from sharedstate.cli.main import main
from sharedstate.errors import UnavailableError
from sharedstate.testing.conformance.support import run_together, until
from sharedstate_redis.backend import RedisBackend
from sharedstate_sqlite import connections, gates, moving, schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis_server import RedisServer
    from sharedstate import Store


@pytest.fixture
def holding() -> Iterator[Callable[[Store, Callable[[], object]], None]]:
    """Have another thread hold a lock of the store until a body has run there; the move waits for that."""
    threads: list[threading.Thread] = []

    def hold(store: Store, body: Callable[[], object]) -> None:
        is_held = threading.Event()

        def work() -> None:
            with store.lock("held meanwhile"):
                is_held.set()
                body()

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        assert is_held.wait(30)

    yield hold
    for thread in threads:
        thread.join(60)


# --- The target (G6) ------------------------------------------------------------------


def test_a_server_that_loses_what_was_brought(
    old: Store, old_url: str, serve: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It crashes, and is empty when it comes back, after all was brought: the store does not move into that."""
    server = serve()
    url = f"redis+unix:{server.socket}?name=x"
    old.update({f"k{n}": n for n in range(50)})
    wait = moving.Move._wait_for_locks

    def lose_and_wait(self: Any) -> list[str]:
        assert self._target.count() == 50
        server.kill()
        server.start()
        return wait(self)

    monkeypatch.setattr(moving.Move, "_wait_for_locks", lose_and_wait)
    with pytest.raises(UnavailableError, match="gone"):
        move(old_url, url)
    assert len(old) == 50
    assert old.url == old_url


@pytest.mark.parametrize("late", ["_wait_for_locks", "_wait_for_clock"])
def test_somebody_else_who_writes_to_the_target(
    old: Store, old_url: str, url: str, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    """What he did is unknown, so the move is refused, and says how to go on."""
    old["k"] = 1
    wait = getattr(moving.Move, late)
    with sharedstate.open(url) as stranger:

        def write_and_wait(self: Any) -> Any:
            stranger["k"] = 2
            return wait(self)

        monkeypatch.setattr(moving.Move, late, write_and_wait)
        with pytest.raises(UnavailableError, match=r"not as the move left it.*--overwrite"):
            move(old_url, url)
    assert old["k"] == 1
    assert old.url == old_url


# --- Several movers -------------------------------------------------------------------


def test_a_second_mover_does_not_clear_under_the_first(
    old: Store, old_url: str, url: str, holding: Callable[..., None]
) -> None:
    """`overwrite` is done by who moves, and by nobody before that."""
    old.update({f"k{n}": n for n in range(50)})

    def try_too() -> None:
        with sharedstate.open(url) as target:
            until(lambda: len(target) == 50)
        with pytest.raises(sharedstate.LockTimeoutError):
            move(f"{old_url}?timeout=0.1", url, overwrite=True)

    holding(old, try_too)
    assert move(old_url, url, timeout_s=60.0).entries == 50
    assert len(old) == 50


def test_a_mover_who_comes_too_late_clears_nothing(old: Store, old_url: str, url: str) -> None:
    """Though it had opened the store before it moved, and the new one is in use by now."""
    old["k"] = 1
    with sharedstate.open(old_url) as source, sharedstate.open(url) as target:
        move(old_url, url)
        old["more"] = 2
        with pytest.raises(sharedstate.MovedError):
            sharedstate.move_store(source, target, overwrite=True)
    assert dict(old) == {"k": 1, "more": 2}


def test_what_an_earlier_mover_left_does_not_come_back(
    old: Store, old_url: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that was brought by one that failed, and was deleted since, is seen by the next as what it is."""
    old.update(session="ada", k=1)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "move", _fail)
        with pytest.raises(ZeroDivisionError):
            move(old_url, url)
    del old["session"]
    with pytest.raises(UnavailableError, match="holds 2 entries"):
        move(old_url, url)
    move(old_url, url, overwrite=True)
    assert dict(old) == {"k": 1}


def _fail(*_: Any) -> None:
    raise ZeroDivisionError


# --- Locks (G3) -----------------------------------------------------------------------


def test_nobody_removes_the_gate_of_a_mover(old: Store, old_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two look at one that was left behind; the first removes it, a mover makes his, and the second lets that be."""
    backend: Any = old.backend
    pool, locks = backend.backend._pool, backend.backend._lock_files()
    mover = gates.MovingGate(old_url, locks.path, pool)
    mover.close(locks)
    mover.open()
    slow, quick = (gates.MovingGate(old_url, locks.path, pool) for _ in range(2))
    require_unmoved = pool.require_unmoved

    def look_slowly() -> None:
        require_unmoved()
        monkeypatch.setattr(pool, "require_unmoved", require_unmoved)
        quick.is_open()
        os.unlink(os.path.join(locks.path, "moving.gate"))  # as quick would have, had slow not been there
        mover.close(locks)

    monkeypatch.setattr(pool, "require_unmoved", look_slowly)
    slow.is_open()

    assert not quick.is_open()
    with pytest.raises(sharedstate.LockTimeoutError):
        old.lock("l", 0.05).acquire()
    mover.open()
    assert old.lock("l").try_acquire()


def test_who_keeps_the_database_locked_is_waited_for(old_url: str, url: str) -> None:
    """For as long as the move may take, and not only as long as a call of the store's."""
    with sharedstate.open(f"{old_url}?timeout=0.2") as store:
        store["k"] = 1
        pool = store.backend.backend._pool  # type: ignore[attr-defined]
        session = pool.take()
        session.execute("BEGIN IMMEDIATE")
        threading.Timer(1.0, lambda: (session.execute("COMMIT"), pool._idle.append(session))).start()
        with sharedstate.open(url) as target:
            sharedstate.move_store(store, target, timeout_s=60.0, linger_s=0.0)
        assert store["k"] == 1
        assert store.url == url


def test_writers_are_not_held_for_longer_than_they_wait(
    old: Store, old_url: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store in which one look at all generations takes too long is refused, and says what to do."""
    clock = iter(range(0, 10**9, 100))
    monkeypatch.setattr(moving, "monotonic", lambda: next(clock))
    old["k"] = 1
    with pytest.raises(UnavailableError, match=r"held for 100\.0 s.*timeout=60"):
        move(old_url, url)
    assert old["k"] == 1


# --- Who has gone along (F2) ----------------------------------------------------------


def test_nothing_of_a_handle_is_left_at_the_old_place(old: Store, old_url: str, url: str) -> None:
    """It went along by one verb; then the old store goes, and another one comes in its place."""
    lock, waiting = old.lock("l"), old.lock("other")
    with lock:
        pass
    old["k"] = 1
    get, increment = old.get, old.increment
    move(old_url, url)
    assert get("k") == 1
    assert not [fd for fd in os.listdir("/proc/self/fd") if "old.db" in _target(fd)]

    sharedstate.remove(old_url)
    with sharedstate.open(old_url) as another, sharedstate.open(url) as new:
        assert increment("k") == 2
        old.set_many({f"k{n}": n for n in range(3)})
        assert old.lock("l").try_acquire()
        with lock, waiting:
            assert not new.lock("l").try_acquire()
            assert another.lock("l").try_acquire()
        assert len(another) == 0
        assert new["k"] == 2


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def test_a_handle_that_is_closed_while_it_goes_along(
    old: Store, old_url: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is closed, and so is what it had just opened."""
    old["k"] = 1
    move(old_url, url)
    get, connect, opened = old.get, registry.connect, list[Any]()

    def connect_and_close(text: str) -> Any:
        opened.append(connect(text))
        old.close()
        return opened[-1]

    monkeypatch.setattr(registry, "connect", connect_and_close)
    with pytest.raises(sharedstate.ClosedError):
        get("k")
    monkeypatch.undo()
    with pytest.raises(sharedstate.ClosedError):
        get("k")
    with pytest.raises(sharedstate.ClosedError):
        opened[0].get("k")


def test_threads_share_a_refusal(old: Store, old_url: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waited while another tried in vain does not wait as long again for the same answer."""
    old["k"] = 1
    move(old_url, url)
    tries: list[str] = []
    begun: list[float] = []

    def note_and_tell() -> float:
        begun.append(time.monotonic())
        return begun[-1]

    def refuse(text: str) -> Any:
        tries.append(text)
        until(lambda: len(begun) >= 8)  # all are on their way by then
        raise UnavailableError(url=text, reason="it hangs", advice="Wait.")

    def get() -> None:
        with pytest.raises(UnavailableError, match="it hangs"):
            old.get("k")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "connect", refuse)
        patch.setattr(following, "monotonic", note_and_tell)
        run_together(*[get] * 8)
    assert len(tries) == 1
    assert old["k"] == 1


# --- Who shares it (S5, G7) -----------------------------------------------------------


def test_a_place_that_is_taken_amid_taking_it(
    old: Store, old_url: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler uses the store between the server's answer and ours: the handle stays present."""
    token = old.join()
    move(old_url, url)
    readmit = RedisBackend.readmit

    def readmit_and_be_interrupted(self: Any, *arguments: Any) -> Any:
        made = readmit(self, *arguments)
        monkeypatch.setattr(RedisBackend, "readmit", readmit)
        old.get("k")
        return made

    monkeypatch.setattr(RedisBackend, "readmit", readmit_and_be_interrupted)
    old.get("k")
    with sharedstate.open(url) as new:
        assert old.join() == token
        assert new.is_present(token)
        assert [sharer.token for sharer in new.sharers()].count(token) == 1


def test_who_makes_no_call_is_not_taken_for_absent(old: Store, old_url: str, url: str) -> None:
    """The mover stands in for him as long as it stays; then he counts as absent until he comes."""
    token = old.join()
    seen: list[bool] = []

    def look(report: sharedstate.MoveReport) -> None:
        assert report.waiting == 1
        with sharedstate.open(url) as new:
            seen.append(new.is_present(token))

    assert move(old_url, url, linger_s=0.2, when_moved=look).waiting == 1
    with sharedstate.open(url) as new:
        assert seen == [True]
        assert not new.is_present(token)
        old.get("k")
        assert new.is_present(token)


def test_the_mover_leaves_when_all_have_come(old: Store, old_url: str, url: str) -> None:
    """Or have ended; and takes nobody's place along."""
    token = old.join()
    another = sharedstate.open(old_url)
    gone = another.join()

    def come() -> None:
        old.get("k")
        another.close()

    threading.Timer(0.3, come).start()
    assert move(old_url, url, linger_s=None).waiting == 0
    with sharedstate.open(url) as new:
        assert new.is_present(token)
        assert not new.is_present(gone)


def test_the_command_ends_its_wait_by_ctrl_c(
    old: Store, old_url: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has moved, so that is what it says."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    old["k"] = 1
    monkeypatch.setattr("sharedstate.migration.moving._linger", interrupt)
    result = CliRunner().invoke(main, ["move", old_url, url])
    assert result.exit_code == 0, result.output
    assert "Waiting for 1 handle that" in result.stderr
    assert "the store is here now, 1 entries" in result.stdout
    assert "1 handle has made no call" in result.stdout


# --- Forks (C3) -----------------------------------------------------------------------


def test_no_child_inherits_a_connection(old: Store) -> None:
    """While other threads make one call after the other, and look whether the store has moved."""
    backend: Any = old.backend
    path = backend.backend._pool.path
    stop = threading.Event()

    def lock_and_unlock() -> None:
        lock = old.lock("l")
        while not stop.is_set():
            with open(f"{path}.locks/moving.gate", "w", opener=lambda name, flags: os.open(name, flags, 0o600)):
                pass
            with lock:
                pass

    def read() -> None:
        while not stop.is_set():
            old.get("k")

    threads = [threading.Thread(target=body) for body in (lock_and_unlock, read)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(40):
            pid = os.fork()
            if pid == 0:
                inherited = [fd for fd in os.listdir("/proc/self/fd") if _target(fd) == path]
                os._exit(1 if inherited or connections.inherited else 0)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
