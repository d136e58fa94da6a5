"""Forks and sub-interpreters: SQLite's locks belong to a process, its beliefs about them do not."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading

import pytest

import sharedstate

_ROOTS = [root for root in sys.path if os.path.isdir(os.path.join(root, "sharedstate"))]


@pytest.fixture
def store(tmp_path):
    with sharedstate.open(f"sqlite:{tmp_path}/state.db?timeout=60") as store:
        yield store
        store.check()


def _answer_of_child(body, fork=os.fork) -> str:
    read, write = os.pipe()
    pid = fork()
    if not pid:
        try:
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


def _kernel_locks(path: str) -> int:
    """Return how many POSIX locks the kernel knows of this process on the database."""
    inode, pid = str(os.stat(path).st_ino), str(os.getpid())
    with open("/proc/locks", encoding="ascii") as file:
        rows = [line.split() for line in file]
    return sum(row[4] == pid and row[5].rpartition(":")[2] == inode for row in rows if row[1] == "POSIX")


def test_parent_and_child_go_on_using_one_handle(store) -> None:
    """Both count on the same key, and none of their increments is lost."""
    store["n"] = 0

    def count() -> str:
        for _ in range(50):
            store.increment("n")
        return "done"

    answer = _answer_of_child(count)
    count()

    assert answer == "done"
    assert store["n"] == 100


def test_a_child_holds_sqlites_locks_in_the_kernel(store) -> None:
    """Had a connection been open at the fork, SQLite would believe that it has them, and take none."""
    store["k"] = 1
    path = store.backend.backend._pool.path

    held = _answer_of_child(lambda: (store.set("k", 2), _kernel_locks(path))[1])

    assert int(held) >= 1
    assert store["k"] == 2
    assert _kernel_locks(path) >= 1


def test_a_fork_waits_for_calls_of_other_threads(store) -> None:
    """Threads write and poll while the main thread forks ten children, each of which writes too."""
    stop = threading.Event()
    counts = [0, 0]

    def work(index: int) -> None:
        while not stop.is_set():
            store.increment("n")
            store._backend.change_token()
            counts[index] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    answers = [_answer_of_child(lambda: store.increment("n") > 0) for _ in range(10)]
    stop.set()
    for thread in threads:
        thread.join()

    assert answers == ["True"] * 10
    assert store["n"] == sum(counts) + 10


def test_a_fork_without_hooks_is_refused_in_the_child_only(store) -> None:
    """As uWSGI forks: the child may not use what the parent had open, not even through a new handle."""
    store["k"] = 1
    fork = ctypes.PyDLL(None).fork

    inherited = _answer_of_child(lambda: store["k"], fork)
    renewed = _answer_of_child(lambda: sharedstate.open(store.url), fork)

    for answer in (inherited, renewed):
        assert answer.startswith("UnavailableError")
        assert "lazy-apps" in answer
    assert store["k"] == 1


def test_a_store_opened_but_not_used_before_a_fork_without_hooks_works(tmp_path) -> None:
    """`open` leaves no connection behind, so a module-level handle is fine under uWSGI."""
    with sharedstate.open(f"sqlite:{tmp_path}/state.db") as store:
        assert _answer_of_child(lambda: store.increment("n"), ctypes.PyDLL(None).fork) == "1"
        assert store.increment("n") == 2


_IN_INTERPRETER = """
import sys
sys.path[:0] = {roots!r}
import sharedstate
with sharedstate.open({url!r}) as store:
    for _ in range(20):
        store.increment("n")
    store["from-{number}"] = {{"a": (1, 2.5, b"x")}}
    store.transact(lambda tx: tx.increment("t"))
    store.check()
heavy = {{"datetime", "sqlite3", "threading", "typing", "sqlite_utils", "msgpack", "re", "logging"}} & set(sys.modules)
assert not heavy - {before}, heavy
"""

_MAIN = """
import sys
try:
    import _interpreters as interpreters
    create = lambda: interpreters.create({kind!r})
except ImportError:
    import _xxsubinterpreters as interpreters
    create = lambda: interpreters.create(isolated={kind!r} == "isolated")
for script in {scripts!r}:
    identity = create()
    failure = interpreters.run_string(identity, script)
    interpreters.destroy(identity)
    assert failure is None, failure
print("done")
"""


@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_sub_interpreters_use_a_store_and_load_nothing_heavy(store, kind) -> None:
    """Three in a row, beside this process: nothing lost, and no datetime, which crashes some of them."""
    scripts = [
        _IN_INTERPRETER.format(roots=_ROOTS, url=store.url, number=number, before=_loaded_by_site())
        for number in range(3)
    ]

    run = subprocess.run(
        [sys.executable, "-c", _MAIN.format(kind=kind, scripts=scripts)], capture_output=True, text=True, check=False
    )

    assert run.stdout == "done\n", run.stderr
    assert run.returncode == 0
    assert store["n"] == 60
    assert store["t"] == 3
    assert store["from-2"] == {"a": (1, 2.5, b"x")}


def _loaded_by_site() -> set[str]:
    """Return what a bare interpreter of this environment has loaded, by its .pth files for instance."""
    listing = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(listing.stdout.split())
