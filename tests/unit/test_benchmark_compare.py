"""Two revisions are measured by the same benchmarks, and the repository stays as it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING

import pytest

from benchmarks.compare import Comparison, RevisionError, compare, main
from benchmarks.measure import Interval
from benchmarks.progress import Steps

if TYPE_CHECKING:
    from pathlib import Path

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

SLOW = '''

class _Slow:
    """A store that takes a millisecond for an increment."""

    def __init__(self, store):
        self._store = store

    def __getattr__(self, name):
        return getattr(self._store, name)

    def increment(self, key):
        import time

        time.sleep(0.001)
        return self._store.increment(key)


_fast_open = open


def open(url, **options):
    return _Slow(_fast_open(url, **options))
'''


class Repository:
    """One with the library's Python files, its memory backend, and nothing to compile."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        without_c = shutil.ignore_patterns("*.so", "*.c", "*.h", "__pycache__")
        shutil.copytree(os.path.join(ROOT, "sharedstate"), path / "sharedstate", ignore=without_c)
        shutil.copytree(
            os.path.join(ROOT, "backends", "sharedstate_memory"),
            path / "backends" / "sharedstate_memory",
            ignore=without_c,
        )
        (path / "scripts").mkdir()
        self.write("scripts/native.sh", "exit 0\n")
        self.write(".gitignore", "__pycache__/\n")
        self.git("init", "--quiet")
        self.commit("first")

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", self.path, *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def write(self, name: str, text: str, mode: str = "w") -> None:
        with open(os.path.join(self.path, name), mode, encoding="utf-8") as file:
            file.write(text)

    def commit(self, tag: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", tag)
        self.git("tag", tag)

    def compare(self, a: str, b: str, pairs: int = 2) -> list[Comparison]:
        return compare(
            (a, b),
            ["increment-int"],
            ["memory"],
            pairs=pairs,
            tell=lambda _line: None,
            repository=self.path,
            size="smoke",
        )


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A repository with one commit, "first"; the comparison's directory is in sight."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return Repository(tmp_path / "tree")


def assert_untouched(repository: Repository, status: str = "") -> None:
    assert repository.git("worktree", "list").count("\n") == 1
    assert repository.git("status", "--porcelain") == status
    assert os.listdir(os.environ["TMPDIR"]) == []


def test_a_slower_commit_is_seen_to_be_slower(repository: Repository) -> None:
    """With a millisecond planted in the second commit, B is many times A, with certainty; nothing is left behind."""
    repository.write("sharedstate/__init__.py", SLOW, "a")
    repository.commit("second")

    (row,) = repository.compare("first", "second")

    assert (row.workload, row.contestant, row.failure) == ("increment-int", "memory", "")
    assert row.b_ns is not None
    assert row.b_ns > 1e6
    assert row.ratio is not None
    assert row.ratio.low > 2
    assert row.is_different()
    assert_untouched(repository)


def test_work_is_the_tree_with_what_is_not_committed(repository: Repository) -> None:
    """A change in the tree, and a new file, take part under the name WORK, and stay where they are."""
    repository.write(
        "sharedstate/planted.py",
        SLOW.replace("_fast_open = open", "from sharedstate.opening import open_store as _fast_open"),
    )
    repository.write("sharedstate/__init__.py", "\nfrom sharedstate.planted import open\n", "a")

    (row,) = repository.compare("WORK", "HEAD")

    assert row.ratio is not None
    assert row.ratio.high < 0.5
    assert_untouched(repository, " M sharedstate/__init__.py\n?? sharedstate/planted.py\n")


@pytest.mark.parametrize("ref", ["no-such-branch", "--help", "first:sharedstate", ""])
def test_an_unknown_revision_is_named(repository: Repository, ref: str) -> None:
    """What is no commit is refused before anything is built."""
    with pytest.raises(RevisionError, match="no such revision here"):
        repository.compare("first", ref)

    assert_untouched(repository)


def test_a_revision_that_does_not_build_says_why(repository: Repository) -> None:
    """The last lines of the compiler are in the error."""
    repository.write("scripts/native.sh", "echo 'no compiler at all' >&2; exit 1\n")
    repository.commit("unbuildable")
    repository.git("rm", "--quiet", "scripts/native.sh")
    repository.commit("without")

    with pytest.raises(RevisionError, match=r"(?s)unbuildable: it cannot be built.*no compiler at all"):
        repository.compare("first", "unbuildable")
    with pytest.raises(RevisionError, match=r"without: it has no scripts/native\.sh"):
        repository.compare("without", "first")

    assert_untouched(repository)


def test_a_revision_that_does_not_run_says_why(repository: Repository) -> None:
    """An exception while it is imported, or a backend that does not open, is told of with its revision."""
    repository.write("sharedstate/__init__.py", "\nraise RuntimeError('planted')\n", "a")
    repository.commit("broken")
    repository.git("reset", "--quiet", "--hard", "first")
    repository.git("rm", "-r", "--quiet", "backends")
    repository.commit("bare")

    with pytest.raises(RevisionError, match=r"(?s)broken: it does not run.*planted"):
        repository.compare("first", "broken", pairs=1)
    rows = repository.compare("first", "bare", pairs=1)

    assert any(row.contestant == "memory" and row.ratio is None and "bare: " in row.failure for row in rows)
    assert_untouched(repository)


def test_the_command_tells_of_an_unknown_revision_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 1, one line on stderr, no traceback; a pattern that names nothing is a mistake."""
    assert main(["no-such-revision", "WORK"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("python -m benchmarks.compare: no-such-revision: ")

    with pytest.raises(SystemExit) as caught:
        main(["HEAD", "WORK", "--only", "no-such-workload"])
    assert caught.value.code == 2


def test_a_ratio_is_different_only_if_its_interval_leaves_one_out() -> None:
    """1 within the interval means that nothing was shown."""
    row = Comparison("get-int", "shm", 1.0, 1.0, Interval(1.1, 0.9, 1.3), "")

    assert not row.is_different()
    assert row._replace(ratio=Interval(1.1, 1.01, 1.3)).is_different()
    assert not row._replace(ratio=None).is_different()


def test_progress_counts_what_a_run_tells_of(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal each step is a line; a step that begins with a name is counted once."""
    with Steps(["get-int", "scaling"]) as steps:
        for line in ("memory: filling", "get-int: 20 rounds", "get-int: again", "scaling shm, processes"):
            steps.tell(line)

        assert steps.done() == 2
    assert [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "memory: filling",
        "get-int: 20 rounds",
        "get-int: again",
        "scaling shm, processes",
    ]
