"""`sharedstate who` and `sharedstate doctor`: who is there is shown, who is not is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from click.testing import CliRunner

import sharedstate
import sharedstate_file
from sharedstate.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARER = """
import sys, sharedstate
store = sharedstate.open(sys.argv[1])
narrow = sharedstate.open(sys.argv[2], scope=sharedstate.Scope.HOST, allow_narrow=True)
print(store.join(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def url() -> Iterator[str]:
    """A store in shared memory that exists."""
    url = f"shm://who-{uuid4().hex}?size=8MiB"
    sharedstate.open(url).close()
    yield url
    sharedstate.remove(url)


@pytest.fixture
def sharer(url: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the store open, and a narrow one beside it."""
    with subprocess.Popen(
        [sys.executable, "-c", SHARER, url, f"memory:{url[6:20]}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip()
        yield process
        process.kill()


def run(*arguments: str) -> str:
    """What the command prints; it must succeed."""
    result = CliRunner().invoke(main, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_who_shows_those_who_are_there(url: str, sharer: subprocess.Popen[str]) -> None:
    """The other process, once, with its pid; not the one that looks; nobody after its death."""
    assert str(sharer.pid) in run("who", url)
    lines = [json.loads(line) for line in run("who", url, "--json").splitlines()]
    assert [line["owner"]["pid"] for line in lines] == [sharer.pid]
    assert lines[0]["facts"]["supervisor"]

    sharer.kill()
    sharer.wait()

    assert "nobody" in run("who", url)
    assert run("who", url, "--json") == ""


def test_who_makes_no_store() -> None:
    """A look at a store that is not there is an error, and leaves none."""
    url = f"shm://nobody-{uuid4().hex}"

    result = CliRunner().invoke(main, ["who", url])

    assert result.exit_code == 1
    assert "no such store" in result.stderr
    assert url not in run("shm", "list")


def test_doctor_lists_stores_and_keeps_warning_of_narrow_ones(url: str, sharer: subprocess.Popen[str]) -> None:
    """As long as somebody has a narrow store open that is said, and no longer."""
    plain = url.partition("?")[0]
    narrow = f"memory:{url[6:20]}"

    said = json.loads(run("doctor", "--json"))

    (store,) = [store for store in said["stores"] if store["url"] == plain]
    assert [member["owner"]["pid"] for crew in store["crews"] for member in crew["members"]] == [sharer.pid]
    assert any(narrow in warning and "HOST" in warning for warning in said["warnings"])
    assert set(said["backends"]) >= {"file", "memory", "shm", "sqlite"}
    shown = run("doctor")
    assert plain in shown
    assert narrow in shown

    sharer.kill()
    sharer.wait()

    assert narrow not in run("doctor")


def test_doctor_bears_a_plug_in_that_names_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """`url_for` is what a plug-in may leave out: then no store of it is opened without a URL, and that is said."""
    monkeypatch.delattr(sharedstate_file, "url_for")

    said = json.loads(run("doctor", "--json"))

    assert "it says no place" in said["backends"]["file"]
