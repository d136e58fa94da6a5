"""`sharedstate shm`: the regions of this machine, who has them open, and the removal of those that nobody has."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result

import sharedstate
from sharedstate import registry
from sharedstate.backend.urls import parse_url
from sharedstate.cli import main, schemes

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARER = """
import sys, sharedstate
stores = [sharedstate.open(sys.argv[1]) for _ in range(2)]
print(stores[0].join(), flush=True)
sys.stdin.read()
"""


def exists(url: str) -> bool:
    parsed = parse_url(url)
    return bool(registry.find_plugin(parsed).exists(parsed))


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A region with two entries, which for these tests is the only one: no test may remove another one's."""
    url = f"shm://listed-{uuid4().hex}"
    with sharedstate.open(f"{url}?size=8MiB") as store:
        store.update(a=1, b=2)
    monkeypatch.setattr(registry.find_plugin(parse_url(url)), "discover", lambda: [url] if exists(url) else [])
    yield url
    if exists(url):
        sharedstate.remove(url)


@pytest.fixture
def sharer(url: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has it open, by two handles."""
    with subprocess.Popen(
        [sys.executable, "-c", SHARER, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip()
        yield process
        process.kill()


def run(*arguments: str, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(main, arguments, input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def listed() -> dict[str, Any]:
    (line,) = run("shm", "list", "--json").stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_list_tells_size_owner_and_who_is_there(url: str, sharer: subprocess.Popen[str]) -> None:
    """Bytes that the region takes, entries, owner, and processes, not handles; nobody once they are dead."""
    found = listed()

    assert found["url"] == url
    assert 0 < found["bytes"] <= 9 * 2**20
    assert (found["entries"], found["processes"], found["trouble"]) == (2, 1, "")
    assert found["owner"] == pwd.getpwuid(os.geteuid()).pw_name
    heading, line = run("shm", "list").stdout.splitlines()
    assert heading.split() == ["URL", "BYTES", "ENTRIES", "OWNER", "PROCESSES"]
    assert line.split() == [url, str(found["bytes"]), "2", found["owner"], "1"]

    sharer.kill()
    sharer.wait()

    assert listed()["processes"] == 0


def test_list_goes_on_past_what_cannot_be_opened(url: str) -> None:
    """A region that is no region has its file's size and owner, and says what is wrong; prune leaves it alone."""
    path = registry.find_plugin(parse_url(url)).path(parse_url(url))
    with open(path, "r+b") as file:
        file.write(b"\xff" * 64)

    found = listed()

    assert (found["entries"], found["processes"]) == (None, None)
    assert found["bytes"] > 0
    assert found["trouble"]
    assert " -  " in run("shm", "list").stdout.splitlines()[1]
    assert run("shm", "prune", "--yes").stdout == ""
    assert exists(url)


def test_prune_removes_what_nobody_has_open(url: str, sharer: subprocess.Popen[str]) -> None:
    """A region in use is not even asked about; one that is not is removed if the answer is yes."""
    assert run("shm", "prune", "--yes").stdout == ""
    assert exists(url)
    sharer.kill()
    sharer.wait()

    assert "Remove it with its 2 entries?" in run("shm", "prune", stdin="n\n").stdout
    assert exists(url)
    assert f"{url}: removed" in run("shm", "prune", stdin="y\n").stdout
    assert not exists(url)
    assert run("shm", "prune", "--yes").stdout == ""


def test_prune_looks_again_before_it_removes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A region that somebody opened while the question stood is left alone."""
    looks = iter([0, 1])
    look = schemes._look
    monkeypatch.setattr(schemes, "_look", lambda *names: look(*names)._replace(processes=next(looks)))

    told = run("shm", "prune", stdin="y\n").stdout

    assert f"{url}: left alone, somebody has opened it" in told
    assert exists(url)


def test_prune_leaves_alone_who_has_it_open_itself(url: str) -> None:
    """A region of which this very process holds a lock is refused: its own handles are no sharers to the look."""
    with sharedstate.open(url) as store, store.lock("door"):
        result = run("shm", "prune", "--yes")

    assert "'door'" in result.stderr
    assert exists(url)
