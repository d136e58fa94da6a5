"""Processes killed at work: what was acknowledged is there, what was not is whole or absent, nobody is blocked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

import sharedstate

_ROOTS = [root for root in sys.path if os.path.isdir(os.path.join(root, "sharedstate"))]
_OPEN = f"import sys; sys.path[:0] = {_ROOTS!r}\nimport sharedstate\nstore = sharedstate.open(sys.argv[1])\n"


@pytest.fixture
def url(tmp_path):
    return f"sqlite:{tmp_path}/state.db?timeout=60"


def _start(script: str, url: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", _OPEN + script, url], stdout=subprocess.PIPE, text=True)


def test_four_processes_lose_no_increment(url) -> None:
    """4 x 300 increments end at 1200, each total handed out once."""
    script = "print(*[store.increment('n') for _ in range(300)])"

    workers = [_start(script, url) for _ in range(4)]
    totals = [int(total) for worker in workers for total in worker.communicate()[0].split()]

    with sharedstate.open(url) as store:
        assert sorted(totals) == list(range(1, 1201))
        assert store["n"] == 1200
        store.check()


def test_a_writer_killed_within_a_transaction_leaves_nothing_and_blocks_no_one(url) -> None:
    """Its BEGIN IMMEDIATE and half its writes are done when it is killed."""
    script = (
        "def body(connection):\n"
        "    connection.execute(\"UPDATE entry SET value = value - 5 WHERE key = 'a'\")\n"
        "    print('half', flush=True)\n"
        "    __import__('signal').pause()\n"
        "store.backend.backend._pool.transact(body)\n"
    )
    with sharedstate.open(url) as store:
        store["a"], store["b"] = 10, 0
        worker = _start(script, url)
        assert worker.stdout.readline() == "half\n"

        worker.kill()
        worker.communicate()
        with store.transaction() as tx:
            tx["b"] += 1

        assert (store["a"], store["b"]) == (10, 1)
        store.check()


@pytest.mark.parametrize("at", range(8))
def test_killed_at_any_time_transfers_stay_whole_and_acknowledged_ones_stay(url, at) -> None:
    """The sum over both accounts never changes, and the log of acknowledged transfers is a prefix of what is stored."""
    script = (
        "n = 0\n"
        "while True:\n"
        "    with store.transaction() as tx:\n"
        "        tx['a'] -= 1; tx['b'] += 1; tx['n'] = n\n"
        "    print(n, flush=True)\n"
        "    n += 1\n"
    )
    with sharedstate.open(url) as store:
        store.set_many({"a": 1000, "b": 0, "n": -1})
    worker = _start(script, url)
    acknowledged = -1
    for _ in range(1 + 7 * at):
        acknowledged = int(worker.stdout.readline())

    worker.send_signal(signal.SIGKILL)
    tail = worker.communicate()[0].split("\n")
    acknowledged = max([acknowledged, *(int(line) for line in tail[:-1] if line)])

    with sharedstate.open(url) as store:
        store.check()
        assert store["a"] + store["b"] == 1000
        assert store["n"] in {acknowledged, acknowledged + 1}
        assert store["b"] == store["n"] + 1


def test_a_killed_parent_leaves_its_children_and_newcomers_one_database(url) -> None:
    """A forked worker lives on after its master's death; a third process opens meanwhile, and both count on."""
    script = (
        "import os\n"
        "store['n'] = 0\n"
        "go, ready = os.pipe(), os.pipe()\n"
        "if os.fork():\n"
        "    os.read(ready[0], 1); print('ready', flush=True); __import__('signal').pause()\n"
        "os.close(go[1])\n"
        "store.increment('n'); os.write(ready[1], b'x')\n"
        "os.read(go[0], 1)\n"  # end of file: the parent is dead
        "for _ in range(200): store.increment('n')\n"
    )
    worker = _start(script, url)
    assert worker.stdout.readline() == "ready\n"

    worker.kill()
    with sharedstate.open(url) as store:
        for _ in range(200):
            store.increment("n")
        worker.communicate()  # until the child has ended too

        assert store["n"] == 401
        store.check()


def test_log_of_a_removed_store_is_not_replayed_into_the_next(url, tmp_path) -> None:
    """A remover that dies, or a power cut, may leave the -wal of a database that has gone."""
    with sharedstate.open(url) as store:
        store["old"] = "x" * 10_000
        left = (tmp_path / "state.db-wal").read_bytes()
    sharedstate.remove(url)
    (tmp_path / "state.db-wal").write_bytes(left)

    with sharedstate.open(url) as store:
        store["new"] = 1

        assert dict(store.items()) == {"new": 1}
        store.check()
