"""root and a server's user at one store: who comes second is let in, or told what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

import sharedstate

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534

CODE = """
import os, sys
import sharedstate

def use(url):
    with sharedstate.open(url) as store:
        total = store.increment("n")
        with store.lock("l"), store.transaction() as tx:
            tx["t"] = total
        return f"opened {{total}} {{len(store.sharers())}}"

# Load now what that user may not be able to read.
use(sys.argv[2])
sharedstate.remove(sys.argv[2])
os.setgid({nobody}), os.setuid({nobody})
try:
    print(use(sys.argv[1]))
except sharedstate.StoreAccessError as error:
    print(error)
"""


@pytest.fixture(params=["shm", "file", "sqlite"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A store that does not exist yet, in a place that anybody may reach."""
    if os.geteuid() != 0:
        pytest.fail("these tests change the user, so they run as root, as `make test` does in CI")
    place = tempfile.mkdtemp()
    os.chmod(place, 0o1777)
    name = f"root-first-{uuid4().hex}"
    url = f"shm://{name}?size=8MiB" if request.param == "shm" else f"{request.param}:{place}/{name}"
    yield url
    with suppress(sharedstate.UnavailableError):  # a test that failed early made none
        sharedstate.remove(url)
    shutil.rmtree(place)


def as_nobody(url: str) -> str:
    """What opening and using the store as another user says."""
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(nobody=NOBODY), url, url.replace("root-first", "warm-up")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_root_first_says_what_to_do(url: str) -> None:
    """A store that root made is refused to others, with the two commands that mend it."""
    with sharedstate.open(url) as store:
        store["k"] = 1
        with store.lock("l"):
            pass

    said = as_nobody(url)

    assert "root made it first" in said, said
    assert "sharedstate remove" in said
    assert f"chown -R {NOBODY}" in said


def test_root_second_locks_nobody_out(url: str) -> None:
    """What root makes inside another user's store, lock files and logs among it, belongs to that user."""
    assert as_nobody(url) == "opened 1 1"
    with sharedstate.open(url) as store:
        for turn in range(300):
            store[f"k{turn}"] = "x" * 2000  # enough for a compaction of a log
        with store.lock("root's"), store.lock("l"):
            pass

        assert as_nobody(url) == "opened 2 2"

    assert as_nobody(url) == "opened 3 1"
