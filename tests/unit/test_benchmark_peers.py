"""Each peer of the benchmarks does what its verbs say, and leaves nothing behind."""

import contextlib
import glob
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers import PEERS
from benchmarks.peers.process import serving

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
NOT_INSTALLED = 77  # what benchmark_peer.py says by its exit status


def running_below(directory: str) -> list[str]:
    """The processes whose working directory is there."""
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{process}/cwd").startswith(directory):
                found.append(process)
    return found


def was_promised(reason):
    """Whether the module that an ImportError misses is among what scripts/venv.sh has installed here."""
    name = re.search(r"No module named '(\w+)", reason)
    lists = glob.glob(os.path.join(sys.prefix, "installed-*.txt"))
    promised = {re.match(r"[\w-]*", line)[0].lower() for path in lists for line in Path(path).read_text().splitlines()}
    return name is not None and name[1].replace("_", "-").lower() in promised


def test_a_peer_that_was_promised_must_be_there(tmp_path, monkeypatch):
    """What the set-up's list has is no reason to skip; a server's program, which no list has, is one."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / "installed-test-bench.txt").write_text("lmdb>=1.4\nredis[hiredis]>=5\nshared-memory-dict>=0.7\n")

    assert was_promised("No module named 'lmdb'")
    assert was_promised("No module named 'redis.asyncio'")
    assert was_promised("No module named 'shared_memory_dict'")
    assert not was_promised("No module named 'UltraDict'")
    assert not was_promised("there is no program memcached")


@pytest.mark.parametrize("name", [peer.name for peer in PEERS if peer.family == "store"])
def test_a_peer_does_what_its_verbs_say_and_leaves_nothing_behind(name, tmp_path):
    """With each kind of value its verbs do what benchmark_peer.py says; then no server and no shared memory is left."""
    token = f"{os.getpid()}-peer"
    roots = [ROOT, os.path.join(ROOT, "backends")]

    child = subprocess.run(
        [sys.executable, os.path.join(HERE, "benchmark_peer.py"), name, token, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(roots)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert child.returncode in {0, NOT_INSTALLED}, child.stdout + child.stderr
    assert running_below(str(tmp_path)) == []
    assert [found for found in os.listdir("/dev/shm") if token in found] == []
    assert "leaked" not in child.stderr
    if child.returncode == NOT_INSTALLED:
        reason = child.stderr.strip().splitlines()[-1]
        assert not was_promised(reason), reason
        pytest.skip(reason)


def test_a_server_that_does_not_start_is_a_reason(tmp_path):
    """A program that ends before it listens raises with its status and its last words, and leaves no process."""
    command = [sys.executable, "-c", "import sys; sys.exit('there is no room')"]

    with (
        pytest.raises(RuntimeError, match="ended with status 1: there is no room"),
        serving(command, str(tmp_path), str(tmp_path / "socket")),
    ):
        pass

    assert running_below(str(tmp_path)) == []


def test_naming_the_peers_loads_none_of_them():
    """The table of peers can be read without multiprocessing, Django or any other of what it would open."""
    names = "{'multiprocessing', 'django', 'redis', 'pymemcache', 'UltraDict', 'cachelib', 'diskcache', 'lmdb'}"
    program = f"import sys, benchmarks.peers; print(sorted({names}.intersection(sys.modules)))"

    child = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([ROOT, os.path.join(ROOT, "backends")])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert child.stdout.strip() == "[]"
