"""The command line on the backends that come with the library."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import portalocker
import pytest
from click.testing import CliRunner, Result

import sharedstate
from sharedstate import registry
from sharedstate.backend.urls import parse_url
from sharedstate.cli import main
from sharedstate.cli.notation import read_value, write_value

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["memory", "file", "sqlite", "shm"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A store that does not exist yet."""
    parsed = parse_url(f"{request.param}:any")
    url = registry.find_plugin(parsed).temporary_url(str(tmp_path))
    yield url
    if exists(url):
        sharedstate.remove(url)


def exists(url: str) -> bool:
    parsed = parse_url(url)
    return bool(registry.find_plugin(parsed).exists(parsed))


def run(*arguments: str, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(main, arguments, input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def succeed(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_values_go_in_and_come_out(url: str) -> None:
    """What `set` stored, `get`, `keys` and `dump` show, and `delete` removes."""
    succeed("set", url, "a", '{"n": [1, 2.5, null, "ü"]}')
    succeed("set", url, "b", "plain text", "--text")
    succeed("set", url, "c", '{"$tuple": [1, {"$bytes": "AAE="}]}', "--ttl", "60")

    assert succeed("get", url, "a") == '{"n": [1, 2.5, null, "ü"]}\n'
    assert succeed("get", url, "b") == '"plain text"\n'
    assert succeed("keys", url).split() == ["a", "b", "c"]
    assert succeed("keys", url, "b").split() == ["b"]
    lines = [json.loads(line) for line in succeed("dump", url).splitlines()]
    assert [line["key"] for line in lines] == ["a", "b", "c"]
    assert lines[2]["value"] == {"$tuple": [1, {"$bytes": "AAE="}]}
    assert lines[0]["generation"] > 0
    assert lines[0]["ttl_s"] is None
    assert 0 < lines[2]["ttl_s"] <= 60
    with sharedstate.open(url) as store:
        assert store["c"] == (1, b"\0\1")
    succeed("delete", url, "a")
    assert run("get", url, "a").exit_code == 1
    assert "no key 'a'" in run("delete", url, "a").stderr
    assert succeed("check", url).endswith("whole, 2 entries\n")
    assert json.loads(succeed("stats", url, "--json"))["entries"] == 2
    assert "entries" in succeed("stats", url)


@pytest.mark.parametrize(
    "command",
    [
        ["get", "k"],
        ["delete", "k"],
        ["keys"],
        ["dump"],
        ["stats"],
        ["check"],
        ["locks"],
        ["watch"],
        ["remove", "--yes"],
    ],
    ids=lambda command: command[0],
)
def test_reading_makes_no_store(url: str, command: list[str]) -> None:
    """A command that only reads or removes refuses a store that is not there, in one line, and makes none."""
    result = run(command[0], url, *command[1:])

    assert result.exit_code == 1
    assert result.stderr.startswith("sharedstate: ")
    assert "there is no such store" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not exists(url)


def test_locks_are_shown_with_their_owners(url: str) -> None:
    """A lock that is held is shown with owner and token, then as free; a name like markup is shown as it is."""
    with sharedstate.open(url) as store:
        with store.lock("[bold]door") as lock:
            held = succeed("locks", url)
            (record,) = [json.loads(line) for line in succeed("locks", url, "--json").splitlines()]
            token = lock.token
        free = succeed("locks", url)

        assert "[bold]door" in held
        assert "held" in held.splitlines()[3]
        assert "free" in free.splitlines()[3]
        assert record["token"] == token
        assert record["held"] is True
        assert record["owner"]["pid"] == os.getpid()
        assert record["owner"]["alive"] is True


def test_remove_refuses_while_a_lock_is_held(url: str) -> None:
    """`remove` leaves a store alone whose lock somebody holds, asks before it removes a free one, and then does."""
    with sharedstate.open(url) as store:
        store["k"] = 1
        lock = store.lock("door")
        lock.acquire()

        refused = run("remove", url, "--yes")
        lock.release()

    assert refused.exit_code == 1
    assert "'door'" in refused.stderr
    assert exists(url)
    assert run("remove", url, stdin="n\n").exit_code == 1
    assert exists(url)
    assert run("remove", url, stdin="y\n").exit_code == 0
    assert not exists(url)


def test_portalocker_and_our_locks_exclude_each_other(tmp_path: Path) -> None:
    """A lock file held by portalocker, as by any tool that flocks, holds `remove` off too."""
    url = f"file:{tmp_path}/state"
    with sharedstate.open(url) as store:
        lock: Any = store.lock("door")
        lock.acquire()
        lock.release()
        with open(lock.path, "rb") as file:
            portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE)

            assert run("remove", url, "--yes").exit_code == 1
            assert not store.lock("door").try_acquire()


def test_watch_prints_changes(url: str) -> None:
    """`watch` prints what changes from its start on, and ends when nothing has changed for the time given."""
    with sharedstate.open(url) as store:
        store["k"] = 1

        assert succeed("watch", url, "--timeout", "0.01") == ""


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["get", "nonsense", "k"], 1, "sharedstate: nonsense: a store's URL starts with a scheme"),
        (["get", "shmm:jobs", "k"], 1, "Did you mean shm:?"),
        (["get", "memory:a?typo=1", "k"], 1, "sharedstate: "),
        (["set", "memory:a", "k", "{n: 1}"], 2, "for plain text add --text"),
        (["set", "memory:a", "k", '{"$byte": ""}'], 2, "$byte is none of $bytes, $tuple"),
        (["set", "memory:a", "k", "NaN"], 2, '{"$float": "nan"}'),
        (["set", "memory:a", "k", "99999999999999999999"], 1, "an int of 67 bits"),
        (["set", "memory:a", "", "1"], 1, "a key is a str"),
        (["frobnicate"], 2, "No such command"),
        (["get", "memory:a"], 2, "Missing argument"),
    ],
)
def test_errors_are_one_line_without_a_traceback(arguments: list[str], status: int, message: str) -> None:
    """An error of the library is one line and exit status 1, a mistake in use is 2; neither shows a traceback."""
    result = run(*arguments)

    assert result.exit_code == status
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    if status == 1:
        assert result.stderr.count("\n") == 1


def test_schemes_are_groups() -> None:
    """Each installed plug-in's scheme lists and removes its stores; the core names none of them."""
    url = registry.find_plugin(parse_url("shm:any")).temporary_url("")
    name = url.removeprefix("shm://").partition("?")[0]
    sharedstate.open(url).close()

    assert f"shm://{name}" in succeed("shm", "list").split()
    succeed("shm", "remove", name, "--yes")
    assert f"shm://{name}" not in succeed("shm", "list").split()
    assert "there is no such store" in run("shm", "remove", name, "--yes").stderr
    assert "not listed" in run("file", "list").stderr
    help_text = succeed("--help")
    for scheme in registry.known_schemes():
        assert scheme in help_text


@pytest.mark.parametrize(
    "value",
    [
        None,
        [True, 1, -1.5, "text"],
        (1, (), [b"\0"]),
        {1: "x", "y": (2,)},
        {"$bytes": "not bytes"},
        {"$a": 1, "b": {"$tuple": ()}},
        float("inf"),
        {},
    ],
    ids=repr,
)
def test_notation_is_exact(value: Any) -> None:
    """Every value is read back as it was written, in one line."""
    text = write_value(value)

    assert repr(read_value(text)) == repr(value)
    assert "\n" not in text


def test_notation_knows_moments() -> None:
    """An aware datetime is written with its offset and read back."""
    text = '{"$datetime": "2024-05-01T12:00:00+02:00"}'

    assert write_value(read_value(text)) == text
