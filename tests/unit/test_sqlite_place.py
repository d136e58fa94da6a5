"""Creation, permission, removal: who may open what, and what becomes of open handles."""

from __future__ import annotations

import gc
import os
import pathlib
import stat
import subprocess
import sys
import tempfile
import threading
import time

import pytest

import sharedstate
from sharedstate.model import Put
from sharedstate.testing.conformance.support import interrupt
from sharedstate_sqlite import statements

_ROOTS = [root for root in sys.path if os.path.isdir(os.path.join(root, "sharedstate"))]


@pytest.fixture
def path(tmp_path):
    return f"{tmp_path}/state.db"


@pytest.fixture
def open_to_all():
    """A directory that other users reach; pytest's own are 0700 from the root down."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield pathlib.Path(name)


def _in_child(body, uid: int = 0) -> str:
    """Return what `body` returns in a forked child, under another uid if we are root."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            if uid:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            answer = str(body())
        except BaseException as error:  # noqa: BLE001  the parent judges
            answer = f"{type(error).__name__}: {error}"
        os.write(write, answer.encode()[:4000])
        os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


def test_missing_parents_are_made_and_the_umask_is_ignored(tmp_path) -> None:
    """Directories are 0700 and every file gets the mode that the URL asks for."""
    old = os.umask(0o077)
    try:
        with sharedstate.open(f"sqlite:{tmp_path}/a/b/state.db?mode=0660") as store:
            store["k"] = 1
            modes = {
                name: stat.S_IMODE(os.stat(f"{tmp_path}/a/b/{name}").st_mode) for name in os.listdir(f"{tmp_path}/a/b")
            }
    finally:
        os.umask(old)

    assert stat.S_IMODE(os.stat(f"{tmp_path}/a").st_mode) == 0o700
    locks = modes.pop("state.db.locks")
    assert modes == {"state.db": 0o660, "state.db-wal": 0o660, "state.db-shm": 0o660}
    assert locks & 0o660 == 0o660


def test_thirty_concurrent_creators_share_one_store(path) -> None:
    """None fails and none makes a second database: all their increments add up."""
    script = (
        f"import sys; sys.path[:0] = {_ROOTS!r}\nimport sharedstate\nsys.stdin.read()\n"
        f"with sharedstate.open('sqlite:{path}?timeout=60') as s: print(s.increment('n'))"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(30)
    ]

    for worker in workers:
        worker.stdin.close()  # all at once
        worker.stdin = None
    totals = sorted(int(worker.communicate()[0]) for worker in workers)

    assert totals == list(range(1, 31))
    # Two that close at once may each leave the -wal to the other.
    assert set(os.listdir(os.path.dirname(path))) <= {"state.db", "state.db-wal", "state.db-shm", "state.db.locks"}


def test_a_leftover_of_a_killed_creator_is_cleared_away(path) -> None:
    """Its half-made database never had the store's name."""
    for name in ("creating", "creating-wal"):
        with open(f"{path}.{name}", "wb") as file:
            file.write(b"half")

    sharedstate.open(f"sqlite:{path}").close()

    assert sorted(os.listdir(os.path.dirname(path))) == ["state.db", "state.db.locks"]


def test_a_link_is_refused(path) -> None:
    """Also one that stands where SQLite would look for its write-ahead log."""
    os.symlink("/etc/passwd", path)

    with pytest.raises(sharedstate.StoreAccessError, match="symbolic link"):
        sharedstate.open(f"sqlite:{path}")
    os.unlink(path)
    sharedstate.open(f"sqlite:{path}").close()
    os.symlink("/etc/passwd", f"{path}-wal")

    with pytest.raises(sharedstate.StoreAccessError, match="symbolic link"):
        sharedstate.open(f"sqlite:{path}")


def test_a_directory_is_refused(tmp_path) -> None:
    """With an error that says so."""
    with pytest.raises(sharedstate.UnavailableError, match="is a directory"):
        sharedstate.open(f"sqlite:{tmp_path}")


@pytest.mark.parametrize("target", ["missing", "present"])
def test_a_read_only_directory_is_refused(open_to_all, target) -> None:
    """To create there, and to open what is there: SQLite keeps files beside the database."""
    directory = open_to_all / "d"
    url = f"sqlite:{directory}/state.db?mode=0666"
    if target == "present":
        sharedstate.open(url).close()
    else:
        directory.mkdir(0o755)
    uid = 65534 if os.geteuid() == 0 else 0
    directory.chmod(0o555)

    answer = _in_child(lambda: sharedstate.open(url).set("k", 1), uid)
    directory.chmod(0o755)

    assert answer.startswith("StoreAccessError")


def test_a_strangers_file_is_refused(open_to_all) -> None:
    """It may have been planted.  Only root can plant one; without, every file here is ours."""
    path = f"{open_to_all}/state.db"
    sharedstate.open(f"sqlite:{path}?mode=0666").close()
    uid = 65534 if os.geteuid() == 0 else 0
    if uid:
        os.chown(path, 1234, 1234)

    answer = _in_child(lambda: sharedstate.open(f"sqlite:{path}"), uid)

    assert answer.startswith("StoreAccessError" if uid else "<Store")


def test_a_path_with_reserved_characters_works(tmp_path) -> None:
    """`?`, `#` and `%` mean something in SQLite's URIs and in ours."""
    with sharedstate.open(f"sqlite:{tmp_path}/a%3Fb%23c%25d e.db") as store:
        store["k"] = 1
        with sharedstate.open(store.url) as other:
            assert other["k"] == 1

    assert os.path.exists(f"{tmp_path}/a?b#c%d e.db")


# --- Removal ------------------------------------------------------------------


def test_open_handles_see_a_removed_store_as_gone(path) -> None:
    """Through `remove` at once, for reads and writes; a new store of that name is not theirs."""
    store = sharedstate.open(f"sqlite:{path}")
    store["k"] = 1
    sharedstate.remove(f"sqlite:{path}")
    with sharedstate.open(f"sqlite:{path}") as new:
        for attempt in (lambda: store["k"], lambda: store.set("k", 2), lambda: store._backend.commit({"k": Put(2)})):
            with pytest.raises(sharedstate.UnavailableError, match="another file has taken"):
                attempt()
        store.close()

        assert dict(new) == {}
        new["k"] = 3
    with sharedstate.open(f"sqlite:{path}") as again:
        assert again["k"] == 3


def test_a_store_removed_by_hand_is_not_written_as_a_ghost(path, monkeypatch) -> None:
    """The next look at the path, a tenth of a second later at most, ends it."""
    store = sharedstate.open(f"sqlite:{path}")
    store["k"] = 1
    for suffix in ("", "-wal", "-shm"):
        os.unlink(path + suffix)
    later = time.monotonic() + 0.1
    monkeypatch.setattr("sharedstate_sqlite.connections.monotonic", lambda: later)

    with pytest.raises(sharedstate.UnavailableError, match="was removed"):
        store["k"] = 2
    store.close()


def test_removing_leaves_nothing_behind(path) -> None:
    """Nor may a second call find anything."""
    with sharedstate.open(f"sqlite:{path}") as store:
        store["k"] = 1
        with store.lock("job"):
            pass

    sharedstate.remove(f"sqlite:{path}")

    assert os.listdir(os.path.dirname(path)) == []
    with pytest.raises(sharedstate.UnavailableError, match="no such store"):
        sharedstate.remove(f"sqlite:{path}")


# --- Threads, waiting, closing ------------------------------------------------


def test_threads_share_a_handle_and_lose_nothing(path) -> None:
    """8 threads of 100 increments and 25 transactions each."""
    store = sharedstate.open(f"sqlite:{path}?timeout=60")
    totals: list[int] = []

    def work() -> None:
        for number in range(100):
            totals.append(store.increment("n"))
            if number % 4 == 0:
                store.transact(lambda tx: tx.increment("t"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(totals) == list(range(1, 801))
    assert store["t"] == 200
    assert len(store.backend.backend._pool.sessions) <= 8
    store.check()
    store.close()


def test_a_busy_database_is_a_lock_timeout_and_reads_go_on(path) -> None:
    """Another's open write transaction delays writers as long as the URL says, and readers not at all."""
    with sharedstate.open(f"sqlite:{path}?timeout=0.05") as store:
        store["k"] = 1
        script = (
            f"import sqlite3, sys\nc = sqlite3.connect({path!r}, isolation_level=None)\n"
            "c.execute('BEGIN IMMEDIATE')\nprint('held', flush=True)\nsys.stdin.read()"
        )
        holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        holder.stdout.readline()

        for attempt in (lambda: store.set("k", 2), lambda: store._backend.commit({"k": Put(2)}), store.clear):
            with pytest.raises(sharedstate.LockTimeoutError):
                attempt()

        assert store["k"] == 1
        holder.communicate()
        store["k"] = 3


def test_the_change_token_sees_every_writer(path) -> None:
    """Own writes, another thread's and another handle's; without a write it stays."""
    with sharedstate.open(f"sqlite:{path}") as store, sharedstate.open(f"sqlite:{path}") as other:
        token = store._backend.change_token
        thread = threading.Thread(target=lambda: store.set("c", 1))
        seen = [token()]
        assert token() == seen[0]
        for write in (lambda: store.set("a", 1), lambda: other.set("b", 1), thread.run, lambda: store.touch("a", 9)):
            write()
            seen.append(token())
            assert token() == seen[-1]

        assert len(set(seen)) == len(seen)


def test_close_ends_every_verb_also_for_calls_under_way(path) -> None:
    """A thread that writes all the time gets `ClosedError`, and no connection stays open."""
    backend = sharedstate.open(f"sqlite:{path}")._backend
    started, errors = threading.Event(), []

    def work() -> None:
        while True:
            try:
                backend.increment("n")
            except sharedstate.ClosedError as error:
                errors.append(error)
                return
            started.set()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.wait(10)
    backend.close()
    for thread in threads:
        thread.join(10)

    assert len(errors) == 3
    assert not [fd for fd in os.listdir("/proc/self/fd") if _target(fd) in {path, f"{path}-wal"}]


def test_an_interrupted_statement_keeps_no_lock(path) -> None:
    """An exception from a signal handler between a write and its result leaves the database free."""
    store = sharedstate.open(f"sqlite:{path}")

    def interrupted(cursor):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.backend.backend._pool.run("UPDATE floor SET generation = generation RETURNING 1", (), interrupted)

    with sharedstate.open(f"sqlite:{path}?timeout=0") as other:
        other["k"] = 1
    store.close()


def test_a_write_is_done_although_the_sweep_it_came_to_could_not_be(path, monkeypatch) -> None:
    """Reported as refused, since another writer did not make way, it would be done again."""
    with sharedstate.open(f"sqlite:{path}?timeout=0") as store, sharedstate.open(f"sqlite:{path}") as other:
        run = store.backend.backend._run

        def run_beside_another_writer(statement, *arguments):
            if statement is not statements.SWEEP_SLICE:
                return run(statement, *arguments)
            session = other.backend.backend._pool.take()
            session.execute("BEGIN IMMEDIATE")
            try:
                return run(statement, *arguments)
            finally:
                session.execute("ROLLBACK")

        backend = store.backend.backend
        monkeypatch.setattr(backend, "_run", run_beside_another_writer)
        store.set("expired", 1, ttl_s=1e-6)
        backend._until_sweep = 0
        backend._swept_to = ""

        assert store.increment("k", ttl_s=60) == 1
        assert store["k"] == 1


_TRANSACTIONS = {
    "commit": lambda backend: backend.commit({"a": Put(1), "b": Put(2)}),
    "set_many": lambda backend: backend.set_many({"a": 1, "b": 2}),
    "slow increment": lambda backend: backend.increment("float", 0.5, 0.0),
    "clear": lambda backend: backend.clear("a"),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a signal may come in a __del__
@pytest.mark.parametrize("verb", _TRANSACTIONS)
def test_a_transaction_that_is_interrupted_anywhere_keeps_no_lock(path, verb) -> None:
    """Also while the exception, and so every frame with what it holds, is kept: error reporters do that."""
    kept: list[BaseException] = []
    with sharedstate.open(f"sqlite:{path}?timeout=0.5") as store:

        def transact() -> None:
            try:
                _TRANSACTIONS[verb](store._backend)
            except BaseException as interruption:
                kept.append(interruption)
                raise

        interrupt(transact, times=300)

        with sharedstate.open(f"sqlite:{path}?timeout=0") as other:
            other["k"] = 1
        assert len(kept) > 100
        store.check()
    kept.clear()
    gc.collect()  # here, where warnings of what was left unclosed are expected


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""
