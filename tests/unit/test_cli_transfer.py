"""`dump`, `load`, `diff` and `copy`: what comes out of one store goes into another; nothing is replaced unasked."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from datetime import UTC, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import sharedstate
from sharedstate import Entry, registry
from sharedstate.backend.urls import parse_url
from sharedstate.cli import main
from sharedstate.cli.notation import entry_line, read_line, read_value, write_value
from sharedstate.cli.progress import draw_progress
from sharedstate.cli.stores import STORE_COMMANDS
from sharedstate.cli.transfer import TRANSFER_COMMANDS
from sharedstate.testing.same import is_same

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCHEMES = ("memory", "file", "sqlite", "shm")


def temporary(scheme: str, directory: Path) -> Iterator[str]:
    parsed = parse_url(f"{scheme}:any")
    plugin = registry.find_plugin(parsed)
    url = plugin.temporary_url(str(directory))
    yield url
    if plugin.exists(parse_url(url)):
        with sharedstate.open(url) as store:
            store.check()
        sharedstate.remove(url)


@pytest.fixture(params=SCHEMES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A store of each backend that does not exist yet."""
    yield from temporary(request.param, tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[str]:
    """Another one."""
    yield from temporary("sqlite", tmp_path)


def run(*arguments: str, stdin: str | bytes | None = None, status: int = 0) -> Result:
    result = CliRunner().invoke(main, arguments, input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == status, result.output
    return result


def fill(url: str, **values: Any) -> None:
    with sharedstate.open(url) as store:
        store.update(values)


# --- Lines --------------------------------------------------------------------------

_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(["$bytes", "\u2028", "\x85\r\n", "$"])
    | st.binary(max_size=8)
    | st.datetimes(timezones=st.just(UTC) | st.just(timezone(timedelta(hours=-3, minutes=-30))))
)
_dict_keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.integers(-(2**63), 2**64 - 1)
values = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(_dict_keys | st.sampled_from(["$bytes", "$dict"]), inner, max_size=4)
    ),
    max_leaves=12,
)
keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def same_but_for_nans(left: Any, right: Any) -> bool:
    """As `is_same`, with all NaNs one: JSON's notation for them has no payload."""
    return is_same(_one_nan(left), _one_nan(right))


def _one_nan(value: Any) -> Any:
    if type(value) is float and math.isnan(value):
        return math.nan
    if type(value) in {list, tuple}:
        return type(value)(map(_one_nan, value))
    if type(value) is dict:
        return {key: _one_nan(item) for key, item in value.items()}
    return value


@given(value=values)
def test_a_value_survives_the_notation(value: Any) -> None:
    """Every value of the model is read back as it was, from one line."""
    text = write_value(value)

    assert same_but_for_nans(read_value(text), value)
    assert "\n" not in text
    assert "\r" not in text


@given(key=keys, value=values, left_s=st.none() | st.floats(1e-3, 1e9))
def test_an_entry_survives_its_line(key: str, value: Any, left_s: float | None) -> None:
    """Key, value and the time left are read back; the line is one line for who splits at line feeds."""
    line = entry_line(key, Entry(value, 7, None if left_s is None else 1000.0 + left_s), 1000.0)

    found_key, found_value, found_s = read_line(line)

    assert found_key == key
    assert same_but_for_nans(found_value, value)
    assert found_s is None if left_s is None else found_s == pytest.approx(left_s, abs=1e-3)
    assert "\n" not in line
    assert json.loads(line)["generation"] == 7


@given(entries=st.dictionaries(keys, values, max_size=6))
def test_dump_and_load_are_each_others_inverse(entries: dict[str, Any]) -> None:
    """What was dumped and loaded is what was there, through bytes as a file or pipe has them."""
    try:
        fill_exactly("memory:dumped", entries)

        lines = run("dump", "memory:dumped").stdout_bytes
        run("load", "memory:loaded", stdin=lines)

        with sharedstate.open("memory:loaded") as store:
            assert {*store} == {*entries}
            assert all(same_but_for_nans(store[key], value) for key, value in entries.items())
        again = run("load", "memory:loaded", "--json", stdin=lines)
        assert json.loads(again.stdout)["written"] == 0
    finally:
        for url in ("memory:dumped", "memory:loaded"):
            sharedstate.remove(url)


def fill_exactly(url: str, entries: dict[str, Any]) -> None:
    sharedstate.open(url).close()
    with sharedstate.open(url) as store:
        store.update(entries)


def test_load_keeps_the_time_left(url: str, other: str, tmp_path: Path) -> None:
    """From each backend into another one through a file: deadlines are the seconds that were left."""
    fill(url, stays=(1, b"x"))
    with sharedstate.open(url) as store:
        store.set("expires", 2**63, ttl_s=600)
    path = tmp_path / "dumped.jsonl"
    path.write_bytes(run("dump", url).stdout_bytes)

    told = run("load", other, str(path)).stdout

    assert "2 entries written, 0 were there already" in told
    with sharedstate.open(other) as store:
        assert dict(store) == {"stays": (1, b"x"), "expires": 2**63}
        assert store.ttl("stays") is None
        assert store.ttl("expires") == pytest.approx(600, abs=5)


def test_load_replaces_only_if_told_to(url: str) -> None:
    """An entry that differs is kept and named, with status 1; --overwrite replaces it."""
    fill(url, a=1, b=2)
    lines = '{"key": "a", "value": 1}\n\n{"key": "b", "value": 3, "ttl_s": null, "generation": 9}\n'

    kept = run("load", url, stdin=lines, status=1)

    assert "0 entries written, 1 were there already" in kept.stdout
    assert "1 differ, and were left as they are; --overwrite replaces them: b" in kept.stdout
    assert json.loads(run("load", url, "--json", stdin=lines, status=1).stdout)["refused"] == ["b"]
    run("load", url, "--overwrite", stdin=lines)
    assert run("get", url, "b").stdout == "3\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("nonsense", "Expecting value"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "an entry is"),
        ('{"key": "k"}', "an entry is"),
        ('{"key": "k", "value": 1, "ttl": 5}', "an entry is"),
        ('{"key": 5, "value": 1}', "a key is a str"),
        ('{"key": "", "value": 1}', "a key is a str"),
        ('{"key": "k", "value": 99999999999999999999}', "an int of 67 bits"),
        ('{"key": "k", "value": {"$tuple": 5}}', "malformed $tuple"),
        ('{"key": "k", "value": {"$bytes": "ü"}}', "malformed $bytes"),
        ('{"key": "k", "value": NaN}', '{"$float": "nan"}'),
        ('{"key": "k", "value": 1, "ttl_s": 0}', "ttl_s is 0"),
        ('{"key": "k", "value": 1, "ttl_s": "5"}', "ttl_s is '5'"),
    ],
    ids=range(13),
)
def test_a_malformed_line_stores_nothing(line: str, reason: str) -> None:
    """Its number and what is wrong with it are told, without a traceback; no line before it was stored."""
    result = run("load", "memory:malformed", stdin=f'{{"key": "first", "value": 1}}\n{line}\n', status=2)

    assert "line 2: " in result.stderr
    assert reason in " ".join(result.stderr.split())
    assert run("keys", "memory:malformed", status=1).stdout == ""


# --- Two stores -----------------------------------------------------------------------


def test_diff_marks_the_keys(url: str, other: str) -> None:
    """Keys of one side, of the other, and of both; 0 if there are none, 1 if there are, 2 in case of trouble."""
    fill(url, a=1, b=2, same=0)
    fill(other, b=3, z=1, same=0)

    assert run("diff", url, other, status=1).stdout == "< a\n! b\n> z\n"
    found = json.loads(run("diff", url, other, "--json", status=1).stdout)
    assert found == {"only_left": ["a"], "only_right": ["z"], "differing": ["b"], "same": 1}
    assert run("diff", url, other, "--prefix", "same").stdout == ""
    assert run("diff", url, url).stdout == ""
    trouble = run("diff", url, f"{other}-missing", status=2)
    assert "there is no such store" in trouble.stderr
    assert trouble.stderr.count("\n") == 1


def test_diff_prints_a_key_on_one_line(url: str, other: str) -> None:
    """A key with a line break or an escape sequence is shown as JSON."""
    fill(url, **{"a\nb\x1b[31m": 1})
    fill(other)

    assert run("diff", url, other, status=1).stdout == '< "a\\nb\\u001b[31m"\n'


def test_copy_says_what_changes_and_verifies(url: str, other: str) -> None:
    """Copy says what the stores do not promise alike, on stderr, then how much was written, was there, is verified."""
    fill(url, a=(1, b"x"), b=2)

    first = run("copy", url, other)
    second = json.loads(run("copy", url, other, "--json").stdout)

    with sharedstate.open(url) as source, sharedstate.open(other) as target:
        changes = sharedstate.compare_capabilities(source.capabilities, target.capabilities)
        assert dict(target) == {"a": (1, b"x"), "b": 2}
    assert [line.partition(":")[0] for line in first.stderr.splitlines()] == [change.what for change in changes]
    assert "2 entries written, 0 were there already" in first.stdout
    assert "2 entries verified" in first.stdout
    assert (second["written"], second["same"], second["verified"]) == (0, 2, 2)
    assert [change["what"] for change in second["semantics"]] == [change.what for change in changes]


def test_copy_leaves_what_differs(url: str, other: str) -> None:
    """What differs in the target is named, with status 1, until --overwrite; what only it has goes with --delete."""
    fill(url, a=1, b=2)
    fill(other, a=5, z=26)

    told = run("copy", url, other, status=1).stdout

    assert "1 differ, and were left as they are; --overwrite replaces them: a" in told
    assert "1 deleted" in run("copy", url, other, "--overwrite", "--delete").stdout
    assert run("diff", url, other).stdout == ""


def test_copy_makes_no_source(url: str, other: str) -> None:
    """A source that is not there is refused, and neither store is made."""
    assert "there is no such store" in run("copy", url, other, status=1).stderr
    assert not registry.find_plugin(parse_url(other)).exists(parse_url(other))
    assert not registry.find_plugin(parse_url(url)).exists(parse_url(url))


# --- Numbers, JSON everywhere -----------------------------------------------------------


def test_incr_adds_and_prints_the_sum(url: str) -> None:
    """Ints and floats, negative ones too; an absent key starts from --initial; no number is a mistake in use."""
    assert run("incr", url, "n").stdout == "1\n"
    assert run("incr", url, "n", "--by", "-2.5").stdout == "-1.5\n"
    assert run("incr", url, "m", "--initial", "10", "--by", "5", "--ttl", "600", "--json").stdout == (
        '{"key": "m", "value": 15}\n'
    )
    assert 0 < json.loads(run("get", url, "m", "--json").stdout)["ttl_s"] <= 600
    assert "is no number" in run("incr", url, "n", "--by", "many", status=2).stderr
    assert "is no number" in run("incr", url, "n", "--by", "true", status=2).stderr
    fill(url, text="text")
    assert "adds int and float only" in run("incr", url, "text", status=1).stderr


def test_every_answer_is_to_be_had_as_json(url: str) -> None:
    """`--json` of set, get, keys and delete prints one value a line, whatever is in the key."""
    key = 'a\n"b"'

    assert json.loads(run("set", url, key, "[1]", "--json").stdout) == {"key": key, "stored": True}
    assert json.loads(run("get", url, key, "--json").stdout)["value"] == [1]
    assert [json.loads(line) for line in run("keys", url, "--json").stdout.splitlines()] == [key]
    assert json.loads(run("delete", url, key, "--json").stdout) == {"key": key, "deleted": True}
    assert json.loads(run("delete", url, key, "--json", status=1).stdout) == {"key": key, "deleted": False}


def test_help_ends_with_examples() -> None:
    """The help of each command that looks into stores, or carries entries, has an example of that command."""
    for command in (*STORE_COMMANDS, *TRANSFER_COMMANDS):
        assert f"Examples:\n    sharedstate {command.name} " in run(str(command.name), "--help").stdout


# --- A shell's ----------------------------------------------------------------------------


def shell(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sharedstate", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )


def test_the_shell_completes_commands_and_schemes() -> None:
    """Click's completion knows the commands, and the groups of the installed schemes."""
    program = "import sys; sys.argv[0] = 'sharedstate'; from sharedstate.cli import main; main(prog_name='sharedstate')"
    found = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "_SHAREDSTATE_COMPLETE": "bash_complete",
            "COMP_WORDS": "sharedstate s",
            "COMP_CWORD": "1",
        },
    )

    assert {"plain,set", "plain,stats", "plain,shm", "plain,sqlite"} <= set(found.stdout.split())


def test_a_pipe_gets_no_colours(tmp_path: Path) -> None:
    """What is not printed on a terminal has no escape sequence, tables and refusals included."""
    url = f"file:{tmp_path}/state"
    with sharedstate.open(url) as store, store.lock("door"):
        seen = [shell("locks", url), shell("get", url, "absent"), shell("stats", url)]

    assert [each.returncode for each in seen] == [0, 1, 0]
    assert "\x1b" not in "".join(each.stdout + each.stderr for each in seen)
    assert "door" in seen[0].stdout


def test_progress_is_drawn_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing on a pipe; on a terminal a bar, whose name is shown as it is though it looks like markup."""
    with draw_progress("[/red] copying") as progress:
        assert progress is None
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    with draw_progress("[/red] copying") as progress:
        assert progress is not None
        progress(1, 2)

    assert "[/red] copying" in capsys.readouterr().err
