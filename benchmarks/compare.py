"""Two revisions of ours, side by side: `python -m benchmarks.compare REF_A REF_B`.

    C1  Both are measured by the benchmarks of this tree, whatever their own are.
    C2  Each runs in processes of its own, in pairs A B, B A, A B...: what else
        the machine does falls on both, and a ratio is formed within a pair.
    C3  The repository and the tree stay as they are, however this ends.

Each revision is built in a git worktree of its own; `WORK` is a copy of the tree
as it is, with what is not committed and without what git ignores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.cli import make_filter
from benchmarks.measure import Interval, bootstrap_ratio, median
from benchmarks.peers import BACKENDS
from benchmarks.progress import Steps
from benchmarks.wording import bounds, duration
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Comparison", "RevisionError", "compare", "main"]

WORK: Final = "WORK"
"""The name of the tree as it is."""

_HERE: Final = os.path.dirname(os.path.abspath(__file__))
_ROUNDS: Final = 5
_PATIENCE_S: Final = 900


class RevisionError(Exception):
    """A revision that there is not, cannot be built, or does not run; the message says which and why."""


class Comparison(NamedTuple):
    """One backend in one workload.

    Attributes:
        a_ns: of one operation, median of the pairs.
        b_ns: likewise.
        ratio: of B to A, within the pairs; None if one of them has no figures.
        failure: why not, or "".
    """

    workload: str
    contestant: str
    a_ns: float | None
    b_ns: float | None
    ratio: Interval | None
    failure: str

    def is_different(self) -> bool:
        """Return whether the interval leaves 1 out."""
        return self.ratio is not None and not self.ratio.low <= 1 <= self.ratio.high


def compare(
    refs: tuple[str, str],
    workloads: Sequence[str],
    backends: Sequence[str],
    *,
    pairs: int,
    tell: Callable[[str], None],
    repository: str = os.path.dirname(_HERE),
    size: str = "quick",
) -> list[Comparison]:
    """Measure both revisions.

    Args:
        refs: whatever git understands as a commit, or `WORK`.
        workloads: names of `WORKLOADS`.
        backends: names of `BACKENDS`.
        pairs: how many processes of each.
        tell: gets a line of progress now and then.
        repository: whose revisions they are.
        size: of the turns, of `cli.SIZES`.

    Raises:
        RevisionError: a revision is unknown, cannot be built, or does not run.
    """
    commits = [_resolve(repository, ref) for ref in refs]  # both, before anything is built
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="sharedstate-compare-"))
        harness = os.path.join(scratch, "harness")
        os.mkdir(harness)
        os.symlink(_HERE, os.path.join(harness, "benchmarks"))
        trees: list[str] = []
        for letter, ref, commit in zip("ab", refs, commits, strict=True):
            tell(f"{letter.upper()}: building {ref}")
            tree = os.path.join(scratch, letter)
            _check_out(stack, repository, commit, tree)
            _build(ref, tree)
            trees.append(tree)
        found: tuple[list[Any], list[Any]] = ([], [])
        for number in range(pairs):
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                tell(f"pair {number + 1} of {pairs}: {'AB'[which]}, {refs[which]}")
                arguments = [trees[which], ",".join(workloads), ",".join(backends), str(_ROUNDS), size]
                found[which].append(_measure(refs[which], harness, trees[which], arguments))
    return _sum_up(refs, found)


def _resolve(repository: str, ref: str) -> str:
    """Return the commit that `ref` names, or "" for the tree as it is."""
    if ref == WORK:
        return ""
    # "--end-of-options": a ref may begin with a dash.
    run = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if run.returncode:
        raise RevisionError(f"{ref}: no such revision here; name a commit, branch or tag, or {WORK} for the tree")
    return run.stdout.strip()


def _check_out(stack: ExitStack, repository: str, commit: str, tree: str) -> None:
    if not commit:
        _copy_work(repository, tree)
        return
    run = _git(repository, "worktree", "add", "--quiet", "--detach", tree, commit)
    if run.returncode:
        raise RevisionError(f"{commit}: {run.stderr.strip()}")
    stack.callback(_git, repository, "worktree", "remove", "--force", tree)


def _copy_work(repository: str, tree: str) -> None:
    listed = _git(repository, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed.returncode:
        raise RevisionError(f"{WORK}: {listed.stderr.strip()}")
    for name in filter(None, listed.stdout.split("\0")):
        source, target = os.path.join(repository, name), os.path.join(tree, name)
        if os.path.isfile(source):  # not what was deleted, and not a submodule
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy2(source, target)


def _build(ref: str, tree: str) -> None:
    # Not this venv's Python: the script would let the venv find that tree from then on.
    python = getattr(sys, "_base_executable", sys.executable)
    script = os.path.join(tree, "scripts", "native.sh")
    if not os.path.exists(script):
        raise RevisionError(f"{ref}: it has no scripts/native.sh, so it cannot be built")
    run = subprocess.run(["sh", script, python], cwd=tree, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RevisionError(f"{ref}: it cannot be built:\n{_last_lines(run.stderr or run.stdout)}")


def _measure(ref: str, harness: str, tree: str, arguments: list[str]) -> Any:
    # The tree before anything that a venv adds to the path, and this tree's benchmarks before the revision's own.
    path = os.pathsep.join((harness, tree, os.path.join(tree, "backends")))
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.revision", *arguments],
        cwd=harness,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE_S,
    )
    if run.returncode:
        raise RevisionError(f"{ref}: it does not run:\n{_last_lines(run.stderr)}")
    return json.loads(run.stdout)


def _last_lines(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-8:])


def _git(repository: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", repository, *arguments], capture_output=True, text=True, check=False)


def _sum_up(refs: tuple[str, str], found: tuple[list[Any], list[Any]]) -> list[Comparison]:
    times: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    failures: dict[tuple[str, str], str] = {}
    for which, runs in enumerate(found):
        for report in runs:
            for name, reason in report["missing"].items():
                failures["", name] = f"{refs[which]}: {reason}"
            for row in report["rows"]:
                key = row["workload"], row["contestant"]
                if row["median_ns"] is None:
                    failures[key] = f"{refs[which]}: {row['failure'] or 'no figures'}"
                else:
                    times.setdefault(key, ([], []))[which].append(row["median_ns"])
    rows: list[Comparison] = []
    for (workload, contestant), (a_ns, b_ns) in times.items():
        both = len(a_ns) == len(b_ns) and (workload, contestant) not in failures
        rows.append(
            Comparison(
                workload,
                contestant,
                median(a_ns) if a_ns else None,
                median(b_ns) if b_ns else None,
                bootstrap_ratio(b_ns, a_ns) if both else None,
                failures.pop((workload, contestant), "" if both else "one of them has no figures"),
            )
        )
    return rows + [Comparison(*key, None, None, None, reason) for key, reason in failures.items()]


# --- The command -----------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as the options say; return the exit status."""
    names = [workload.name for workload in WORKLOADS if workload.family == "store"]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description="Measure two revisions of ours side by side."
    )
    parser.add_argument("a", metavar="REF_A", help=f"a commit, branch or tag; {WORK} is the tree as it is")
    parser.add_argument("b", metavar="REF_B", help="likewise")
    parser.add_argument(
        "--only", action="append", default=[], metavar="PATTERN", help=f"of the workloads: {', '.join(names)}"
    )
    parser.add_argument("--backend", action="append", choices=list(BACKENDS), help="only this one; may be repeated")
    parser.add_argument("--pairs", type=int, default=10, help="of processes; default: 10")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    options = parser.parse_args(arguments)
    chosen = list(filter(make_filter(options.only), names))
    if not chosen:
        parser.error(f"--only {' '.join(options.only)} names nothing of: {', '.join(names)}")
    if options.pairs < 1:
        parser.error("--pairs: at least one")
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        turns = [
            f"pair {number} of {options.pairs}: {letter}" for number in range(1, options.pairs + 1) for letter in "AB"
        ]
        with Steps(turns) as steps:
            rows = compare(
                (options.a, options.b),
                chosen,
                options.backend or list(BACKENDS),
                pairs=options.pairs,
                tell=steps.tell,
            )
    except RevisionError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    _show(options.a, options.b, rows)
    if options.json:
        plain = [{**row._asdict(), "ratio": row.ratio and row.ratio._asdict()} for row in rows]
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"a": options.a, "b": options.b, "rows": plain}, file, indent=1)
    return 0


def _show(a: str, b: str, rows: list[Comparison]) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=120)
    table = Table("workload", "backend")
    for heading in (f"A: {a}", f"B: {b}", "B / A", "95 %", ""):
        table.add_column(escape(heading), justify="right", no_wrap=True)
    for row in rows:
        if row.ratio:
            colour = ("green" if row.ratio.high < 1 else "red") if row.is_different() else "dim"
            table.add_row(
                row.workload,
                escape(row.contestant),
                duration(row.a_ns or 0),
                duration(row.b_ns or 0),
                f"[{colour}]{row.ratio.median:.3f}[/]",
                bounds(row.ratio.low, row.ratio.high),
                "*" if row.is_different() else "",
            )
    console.print(table)
    for row in rows:
        if not row.ratio:
            where = " ".join(filter(None, (row.workload, row.contestant)))
            console.print(f"[yellow]{escape(where)}[/]: {escape(row.failure)}", highlight=False)
    console.print("below 1: B is faster; *: 95 % of the bootstrap resamples of the pairs lie on one side", style="dim")


if __name__ == "__main__":
    sys.exit(main())
