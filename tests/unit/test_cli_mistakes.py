"""What a newcomer does wrong at the command line: he is told what it was, and what to do next, without a traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

import sharedstate
from sharedstate import opening, registry
from sharedstate.backend.urls import parse_url
from sharedstate.cli import main
from sharedstate.cli.outputs import write_text
from sharedstate.cli.stores import name_trouble
from sharedstate.errors import CorruptError, StoreAccessError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def url() -> Iterator[str]:
    """A store in shared memory, with one entry."""
    url = registry.find_plugin(parse_url("shm:any")).temporary_url("").partition("?")[0]
    with sharedstate.open(f"{url}?size=1MiB") as store:
        store["k"] = 1
    yield url
    if registry.find_plugin(parse_url(url)).exists(parse_url(url)):
        sharedstate.remove(url)


def run(*arguments: str, status: int, stdin: bytes | None = None, **environment: str) -> Result:
    result = CliRunner(env=environment).invoke(main, arguments, input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == status, result.output
    return result


# --- What was meant -----------------------------------------------------------------


def test_help_lists_each_command_with_its_whole_sentence() -> None:
    """No description is cut, on a terminal of 80 columns or of 40; the schemes stand apart from the commands."""
    for columns in ("80", "40"):
        listed = run("--help", status=0, COLUMNS=columns).stdout.partition("Commands:")[2]

        assert "..." not in listed.partition("Exit status")[0]
        assert listed.index("who ") < listed.index("The stores of one scheme:") < listed.index("shm ")


@pytest.mark.parametrize("number", ["-5", "-2.5e3"])
def test_a_negative_number_is_a_value(url: str, number: str) -> None:
    """It is no option, with and without options beside it; what is one and unknown is refused as ever."""
    run("set", url, "n", number, "--ttl", "60", status=0)

    assert float(run("get", url, "n", status=0).stdout) == float(number)
    assert "No such option" in run("set", url, "n", "--tll", "5", status=2).stderr


def test_a_misspelt_store_is_answered_with_the_one_that_was_meant(url: str) -> None:
    """Of a scheme whose stores can be found the nearest name is told; one that is like none is not guessed at."""
    assert f"Did you mean {url}?" in run("get", f"{url}x", "k", status=1).stderr
    assert "Did you mean" not in run("get", "shm://zzzzzzzz-nothing-like-it", "k", status=1).stderr


def test_a_store_of_the_command_alone_is_told_of(tmp_path: Path) -> None:
    """What is written to memory: is gone with the command: it says so, and so does looking for it afterwards."""
    assert "ends with this command" in run("set", "memory:mine", "k", "1", status=0).stderr
    assert "ends with this command" not in run("set", f"file:{tmp_path}/state", "k", "1", status=0).stderr
    assert "by no command" in run("get", "memory:elsewhere", "k", status=1).stderr


def test_a_store_is_not_copied_onto_itself(url: str) -> None:
    """However its URL is written: a mistake in the command's use."""
    assert "the same store" in run("copy", url, url.replace("//", ""), status=2).stderr


def test_remove_takes_what_list_shows(url: str) -> None:
    """`shm remove` takes the URL as well as the name."""
    run("shm", "remove", url, "--yes", status=0)

    assert "no such store" in run("get", url, "k", status=1).stderr


@pytest.mark.parametrize("columns", ["40", "80"])
def test_the_doctor_cuts_no_url(url: str, columns: str) -> None:
    """A URL that is to be copied stands there whole, broken where the terminal is narrow."""
    shown = run("doctor", status=0, COLUMNS=columns).stdout

    assert url in "".join(re.findall(r"^│ (\S+) ", shown, re.MULTILINE))


def test_a_list_says_why_and_leaves_the_advice_to_who_asks_for_the_store() -> None:
    """Beside its URL somebody else's store takes a few words, and not how to get at it; damage keeps its advice."""
    url = "shm://theirs"

    theirs = name_trouble(url, StoreAccessError(url=url, reason="Permission denied", advice="As root: chown it."))
    damaged = name_trouble(url, CorruptError(url=url, reason="no\nregion", advice="Keep a copy."))

    assert (theirs, damaged) == ("Permission denied", "no region. Keep a copy.")


# --- Files ----------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08\0\0", b"\xff\xfe{}"], ids=["gzip", "UTF-16"])
def test_load_refuses_what_is_no_text(url: str, content: bytes) -> None:
    """A compressed or foreign file is a malformed one: exit status 2, nothing stored."""
    assert "no UTF-8 text" in run("load", url, stdin=content, status=2).stderr
    assert run("keys", url, status=0).stdout == "k\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--json", "absent/report.json"], "there is no directory absent"),
        (["--html", "."], "it is a directory"),
        (["--backend", "shm://jobs"], "a scheme is asked for: shm"),
    ],
)
def test_probe_refuses_before_its_minutes_of_work(arguments: list[str], reason: str) -> None:
    """A file that it could not write at the end, and a URL for a scheme, are refused before anything is tried."""
    result = run("probe", *arguments, status=2)

    assert reason in result.stderr
    assert not result.stdout


def test_a_file_on_a_full_disk_is_named() -> None:
    """The system does not say which file it was that met a full disk when it was closed; `write_text` does."""
    with pytest.raises(OSError, match="/dev/full") as met:
        write_text("/dev/full", "x")

    assert met.value.filename == "/dev/full"


@pytest.mark.parametrize(
    ("command", "status"), [("get {url} k", 1), ("dump {url}", 1), ("doctor", 1), ("diff {url} {other}", 2)]
)
def test_an_answer_that_cannot_be_written_is_one_line(url: str, tmp_path: Path, command: str, status: int) -> None:
    """On a full disk each command ends with what is wrong, and with the exit status of trouble."""
    other = f"file:{tmp_path}/state"
    sharedstate.open(other).close()
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sharedstate", *command.format(url=url, other=other).split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    assert done.stderr == "sharedstate: the output: No space left on device\n"
    assert done.returncode == status


# --- Half-way -----------------------------------------------------------------------


def test_a_load_that_met_a_full_store_says_that_it_goes_on(url: str) -> None:
    """What it had stored is there, the refusal says so, and the same command after `delete` goes on."""
    lines = b"".join(b'{"key": "n%d", "value": "%s"}\n' % (number, b"x" * 8192) for number in range(200))

    refusal = run("load", url, stdin=lines, status=1).stderr

    assert "is full" in refusal
    assert refusal.endswith("the same command goes on from them.\n")
    assert len(run("keys", url, "n", status=0).stdout.split()) > 10


@pytest.mark.parametrize(("command", "goes_on"), [("load", True), ("set", False)])
def test_ctrl_c_is_told_and_has_a_status_of_its_own(
    command: str, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """130, as a shell has it, and not 1, which is an answer; commands that go on where they were say so."""

    def interrupt(_url: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(opening, "open_store", interrupt)
    arguments = {"load": ["memory:a"], "set": ["memory:a", "k", "1"]}[command]

    said = run(command, *arguments, stdin=b"", status=130).stderr

    assert said.startswith("sharedstate: interrupted")
    assert ("goes on" in said) is goes_on
