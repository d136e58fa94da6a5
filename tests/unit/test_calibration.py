"""Costs measured on this machine: who may provide them, and what `choose` makes of them."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sharedstate import StateError, calibrating, calibration
from sharedstate.calibration import VERSION, Calibration, calibration_path, read_calibration, write_calibration
from sharedstate.choice import Needs
from sharedstate.cli import main
from sharedstate.deployment.detection import detect
from sharedstate.model import Costs, Durability, Scope
from sharedstate.selection import choose

ROOT = Path(__file__).parents[2]
MEASURED = Calibration({"file": Costs(900.0, 90_000.0), "sqlite": Costs(10.0, 20.0)}, "2026-01-31", "CPython 3.13.0")
LASTING = Needs(Scope.HOST, Durability.DISK)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's calibration lies; there is none yet."""
    place = tmp_path / "state" / "calibration"
    monkeypatch.setenv("SHAREDSTATE_CALIBRATION", str(place))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    return place


def choose_lasting() -> Any:
    return choose(detect(), LASTING, name="any", schemes=("file", "sqlite"))


# --- What choose makes of it ---------------------------------------------------


def test_choose_goes_by_what_was_measured_here(path: Path) -> None:
    """Where SQLite was measured as the cheaper one it is chosen, and the reason names the day of the measurement."""
    assert choose_lasting().options[0].scheme == "file"

    write_calibration(MEASURED)
    choice = choose_lasting()

    assert choice.options[0].scheme == "sqlite"
    assert choice.options[0].costs == MEASURED.costs["sqlite"]
    assert "a get takes about 10 ns, a set 20 ns (measured here on 2026-01-31)" in choice.explain()
    assert choice.notes == ()


def test_without_a_calibration_nothing_is_said(path: Path) -> None:
    """The shipped costs hold, without a note."""
    choice = choose_lasting()

    assert choice.notes == ()
    assert "measured here" not in choice.explain()


def test_a_backend_that_was_not_measured_keeps_its_shipped_costs(path: Path) -> None:
    """A calibration of one backend says nothing of another."""
    write_calibration(MEASURED._replace(costs={"sqlite": MEASURED.costs["sqlite"]}))

    choice = choose_lasting()

    told = {option.scheme: " ".join(option.reasons_for) for option in choice.options}
    assert "measured here" in told["sqlite"]
    assert "measured here" not in told["file"]


# --- What is not trusted ---------------------------------------------------------


def make_writable(path: Path) -> None:
    path.chmod(0o666)


def give_away(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can plant another user's file")
    os.chown(path, 12345, 12345)


def replace(old: str, new: str) -> Any:
    def edit(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return edit


def turn_into_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def turn_into_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("uid", [0, 12345])
def test_in_the_common_place_only_roots_calibration_counts(
    path: Path, monkeypatch: pytest.MonkeyPatch, uid: int
) -> None:
    """One's own would be believed by one's own processes and by no others, which then choose another store."""
    if os.geteuid() != 0:
        pytest.skip("only root can make root's files, and another user's")
    write_calibration(MEASURED)
    os.chown(path, uid, uid)
    monkeypatch.delenv("SHAREDSTATE_CALIBRATION")
    monkeypatch.setattr(calibration, "PLACE", str(path))

    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    found, doubt = read_calibration()

    assert (found is not None) == (uid == 0), doubt
    assert ("belongs to uid 12345 and not to root" in doubt) == (uid != 0)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (make_writable, "others may write to it (mode 0666)"),
        (give_away, "it belongs to uid 12345"),
        (replace("host ", "host not-"), "another host (not-"),
        (replace(f"version {VERSION}", "version 0.0.1"), "measured with version 0.0.1"),
        (replace("calibration 1", "calibration 2"), "another form"),
        (replace("cost sqlite 10 20", "cost sqlite 10"), "line 7 is damaged"),
        (replace("cost sqlite 10 20", "cost sqlite 0 -1"), "line 7 is damaged"),
        (replace("cost sqlite 10 20", f"cost sqlite 10 {'9' * 5000}"), "line 7 is damaged"),
        (replace("sharedstate calibration 1", "\x00\x01"), "another form"),
        (turn_into_link, "Too many levels of symbolic links"),
        (turn_into_fifo, "it is no regular file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_calibration_that_is_not_to_be_trusted_is_ignored_and_said_so(path: Path, spoil: Any, reason: str) -> None:
    """The shipped costs hold, and one line of `explain()` names the file and what is wrong with it."""
    write_calibration(MEASURED)
    spoil(path)

    choice = choose_lasting()

    assert choice.options[0].scheme == "file"
    (note,) = choice.notes
    assert str(path) in note
    assert reason in note
    assert f"  note: {note}" in choice.explain().splitlines()


def test_a_calibration_below_what_is_no_directory_is_none(path: Path) -> None:
    """Where its place cannot exist there is no calibration, and nothing to say of it."""
    path.parent.write_text("a file")

    assert read_calibration() == (None, "")


# --- The file --------------------------------------------------------------------


def test_a_calibration_comes_back_as_it_was_written(path: Path) -> None:
    """What is read equals what was written; all may read it, its owner alone may write; nothing else is left."""
    written = write_calibration(MEASURED)

    assert (written, calibration_path()) == (str(path), str(path))
    assert read_calibration() == (MEASURED, "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(path.parent) == ["calibration"]


def test_a_calibration_of_roots_stays_roots(path: Path) -> None:
    """Also in another user's directory: given to him, the other users would not believe it."""
    if os.geteuid() != 0:
        pytest.skip("only root can make another user's directory")
    path.parent.mkdir()
    os.chown(path.parent, 12345, 12345)

    write_calibration(MEASURED)

    assert path.stat().st_uid == 0


def test_what_lies_beside_a_calibration_stays_as_it_is(path: Path) -> None:
    """Another container's process of our number may be writing there just now."""
    path.parent.mkdir()
    beside = path.with_name(f"calibration.{os.getpid()}")
    beside.write_text("another's")

    write_calibration(MEASURED)

    assert beside.read_text() == "another's"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_calibration_that_is_interrupted_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Neither Ctrl-C nor a full disk leaves a part of it; the disk's error is one of ours."""

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(StateError if error is OSError else error):
            write_calibration(MEASURED)

    assert os.listdir(path.parent) == []


def test_a_calibration_may_lie_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name without a directory is one there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHAREDSTATE_CALIBRATION", "calibration.txt")

    write_calibration(MEASURED)

    assert read_calibration() == (MEASURED, "")


def test_a_machine_has_its_processors_whatever_python_is_told(path: Path) -> None:
    """PYTHON_CPU_COUNT, which changes os.cpu_count() from 3.13 on, makes it no other host."""
    write_calibration(MEASURED)
    program = "from sharedstate.calibration import read_calibration\nprint(read_calibration()[1])"
    env = {**os.environ, "PYTHON_CPU_COUNT": "77"}

    run = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)

    assert run.stdout == "\n"


def test_the_versions_are_one() -> None:
    """The version in the stamp is the project's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["version"] == VERSION


def test_looking_for_a_calibration_costs_one_system_call(path: Path) -> None:
    """Without one, choosing makes one attempt to open it and no other call with its name."""
    calls: list[str] = []
    program = (
        "import os, sys\n"
        "from sharedstate.calibration import calibration_path, read_calibration\n"
        "sys.addaudithook(lambda event, args: print(event, args[0]) if event.startswith(('open', 'os.')) else None)\n"
        "read_calibration()\n"
    )

    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    calls = run.stdout.splitlines()

    assert calls == [f"open {path}"]


# --- The command -----------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of an instant, for the command's sake."""
    measure = calibrating.measure
    monkeypatch.setattr(calibrating, "measure", lambda directory=None: measure(directory, keys=20, rounds=1))
    monkeypatch.setattr(calibrating, "_TURN_NS", 1e4)


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(main, ["bench", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_bench_shows_every_backend_beside_the_dict_behind_a_lock(path: Path, short: None) -> None:
    """Each backend has its costs, or the reason why it has none; nothing is kept, and no store is left."""
    found = json.loads(run("--json").stdout)

    assert {"memory", "file", "sqlite", "shm"} <= found["costs"].keys() | found["failures"].keys()
    assert all(min(costs.values()) > 0 for costs in found["costs"].values())
    assert calibrating.REFERENCE in found["costs"]
    assert found["calibration"] is None
    assert not path.exists()
    assert "dict + Lock" in run().stdout


def test_bench_goes_on_without_a_backend_that_makes_no_temporary_store(
    short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That function is for experiments, and a plug-in need not have it: its row says so."""
    monkeypatch.setitem(sys.modules, "sharedstate_unmeasured", types.ModuleType("sharedstate_unmeasured"))

    found = json.loads(run("--json").stdout)

    assert "has no temporary_url()" in found["failures"]["unmeasured"]
    assert found["costs"].keys() >= {"memory", "file", "sqlite", "shm"}


def test_bench_calibrate_is_what_choose_goes_by(path: Path, short: None) -> None:
    """After `bench --calibrate` each measured backend's costs are those that were printed."""
    found = json.loads(run("--calibrate", "--json").stdout)

    calibration, doubt = read_calibration()
    assert doubt == ""
    assert calibration is not None
    assert calibration.costs.keys() == found["costs"].keys() - {calibrating.REFERENCE}
    assert "(measured here on " in choose_lasting().explain()
    assert os.listdir(path.parent) == ["calibration"]


def test_calibrating_where_we_may_not_write_says_how(path: Path, short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured; the error names both ways out."""
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setattr(calibrating, "measure", None)

    result = run("--calibrate")

    assert result.exit_code == 1
    assert "Calibrate as root" in result.stderr
    assert "SHAREDSTATE_CALIBRATION" in result.stderr


def test_the_comparison_with_peers_needs_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From an installed package `--peers` says where the comparison is; in a checkout it runs with its options."""
    assert run("--peers", "--", "--help").exit_code == 0

    monkeypatch.setattr("sharedstate.__file__", str(tmp_path / "site-packages" / "sharedstate" / "__init__.py"))
    result = run("--peers")

    assert result.exit_code == 2
    assert "make bench" in result.stderr


def test_options_of_the_comparison_go_with_it_only() -> None:
    """Arguments without `--peers`, and `--calibrate` with it, are mistakes."""
    assert run("--", "--quick").exit_code == 2
    assert run("--peers", "--calibrate").exit_code == 2


def test_choosing_by_a_calibration_loads_nothing_heavy(path: Path) -> None:
    """`open()` without a URL that goes by a calibration imports none of the modules that cost an interpreter."""
    write_calibration(MEASURED)
    program = (
        f"import sys\nsys.path[:] = {sys.path!r}\nbefore = set(sys.modules)\n"
        "import sharedstate\n"
        "with sharedstate.open(name='light') as store:\n"
        "    assert any('measured here' in ' '.join(option.reasons_for) for option in store.choice.options)\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )

    run = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr
    assert {"json", "re", "threading", "typing", "tempfile", "random"}.isdisjoint(run.stdout.split())
    assert "sharedstate.calibration" in run.stdout.split()
    assert "sharedstate.calibrating" not in run.stdout.split()
