"""The options of `python -m benchmarks`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Final

from rich.console import Console

from benchmarks.measure import Plan
from benchmarks.offers import describe_backends
from benchmarks.page import render_page
from benchmarks.peers import BACKENDS
from benchmarks.progress import Steps
from benchmarks.report import print_report
from benchmarks.run import PARTS, Choice, Size, run
from benchmarks.targets import judge
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["SIZES", "main", "make_filter"]

_FULL: Final = Size("full", Plan(20, 8.0, 250, 10_000), 15, 0.2, 20, 20)
_QUICK: Final = Size("quick", Plan(10, 2.0, 60, 2_000, 0.3, 3, 2**22), 5, 0.1, 8, 10)
_SMOKE: Final = Size("smoke", Plan(2, 0.1, 5, 40, 0.1, 1, 2**20), 1, 0.01, 1, 1)

SIZES: Final = {size.name: size for size in (_FULL, _QUICK, _SMOKE)}

_INTERRUPTED: Final = 130  # as a shell says it of SIGINT

_WIDTH: Final = 120  # where there is no terminal to ask


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as the options say; return the exit status."""
    parser = _make_parser()
    options = parser.parse_args(arguments)
    size = SIZES["smoke" if options.smoke else "quick" if options.quick else "full"]
    if options.rounds is not None:
        size = size._replace(plan=size.plan._replace(rounds=options.rounds))
    is_chosen = make_filter(options.only)
    if not any(map(is_chosen, _names())):
        parser.error(f"--only {' '.join(options.only)} names nothing of: {', '.join(_names())}")
    with Steps(list(filter(is_chosen, _names()))) as steps:
        results = run(size, Choice(is_chosen, options.backend or list(BACKENDS), options.directory), steps.tell)
    judgements = [] if options.smoke else judge(results)
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    print_report(results, judgements, console)
    report = results.to_json()
    report["backends"] = describe_backends()
    report["targets"] = [judgement.to_json() for judgement in judgements]
    if options.json:
        _write(options.json, json.dumps(report, indent=1))
    if options.html:
        _write(options.html, render_page(report))
        console.print(f"\nthe page: {os.path.abspath(options.html)}", highlight=False, markup=False)
    if not results.is_complete:
        return _INTERRUPTED
    # Whoever chose a part did not ask for the rest.
    bad = {"not met"} if options.only or options.backend else {"not met", "not measured"}
    return 1 if options.strict and any(judgement.state() in bad for judgement in judgements) else 0


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text + "\n")


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure every backend beside its peers.")
    parser.add_argument("--quick", action="store_true", help="a coarser run, of less than five minutes")
    parser.add_argument(
        "--smoke", action="store_true", help="everything for an instant, to see that it works; no figures"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="workloads and parts whose name matches, as 'get-*' or 'dict'; may be repeated. "
        f"There are: {', '.join(_names())}",
    )
    parser.add_argument(
        "--backend", action="append", choices=list(BACKENDS), help="leave out our other ones; may be repeated"
    )
    parser.add_argument("--rounds", type=_at_least_one, help="turns of each contestant")
    parser.add_argument("--json", metavar="FILE", help="write all figures there as well")
    parser.add_argument("--html", metavar="FILE", help="write a page with charts there as well")
    parser.add_argument(
        "--directory", default="", help="where the stores are made and removed; default: that of tempfile"
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit status 1 if a target is not met, or was not measured"
    )
    return parser


def _names() -> list[str]:
    return [*(workload.name for workload in WORKLOADS), *PARTS]


def make_filter(patterns: list[str]) -> Callable[[str], bool]:
    """Return a filter of names: a pattern without a wildcard may match anywhere."""
    globs = [pattern if any(char in pattern for char in "*?[") else f"*{pattern}*" for pattern in patterns]
    return lambda name: not globs or any(fnmatch(name, glob) for glob in globs)


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least one round")
    return number
