"""The figures of a campaign as a table: on the terminal, and in docs/guarantees.md.

    python -m campaign.report FIGURES               print the table
    python -m campaign.report FIGURES --keep        and put it into the documents

FIGURES has a JSON object per line, as `campaign.record` writes them.  Kept are
a summary, `docs/torture-report.json`, and from it the table in
`docs/guarantees.md`; a test holds the two together.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["DOCUMENT", "REPORT", "make_table", "replace_table", "sum_up"]

_ROOT: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
REPORT: Final = os.path.join(_ROOT, "docs", "torture-report.json")
DOCUMENT: Final = os.path.join(_ROOT, "docs", "guarantees.md")

_BEGIN: Final = "<!-- torture figures: made by `make torture` -->"
_END: Final = "<!-- end of torture figures -->"


def sum_up(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each experiment and subject, figures added up, in the order of their first appearance."""
    sums: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        total = sums.setdefault(
            (row["experiment"], row["subject"]),
            {"experiment": row["experiment"], "subject": row["subject"], "bad": 0, "figures": {}},
        )
        total["bad"] += row["bad"]
        for name, number in row["figures"].items():
            total["figures"][name] = total["figures"].get(name, 0) + number
    return list(sums.values())


def make_table(report: dict[str, Any]) -> str:
    """Return the rows as Markdown, and under them where and how long they were made."""
    lines = ["| experiment | on | counted | broken promises |", "|---|---|---|---|"]
    lines += [
        f"| {row['experiment']} | {row['subject']} | {_words(row['figures'])} | {row['bad']} |"
        for row in report["rows"]
    ]
    what = f"Of revision {report['revision']}: " if report["revision"] else ""
    return "\n".join([*lines, "", f"{what}{report['minutes']} minutes on {report['machine']}, {report['date']}."])


def _words(figures: dict[str, float]) -> str:
    return ", ".join(f"{number:,.0f} {name.replace('_', ' ')}" for name, number in figures.items())


def replace_table(text: str, table: str) -> str:
    """Return `text` with `table` between its two comments.

    Raises:
        ValueError: one of the comments is missing.
    """
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"there is no {_BEGIN} followed by {_END} in the document")
    return f"{before}{begin}\n{table}\n{end}{after}"


def _revision() -> str:
    """Return what git calls this tree, "" if it is none of git's."""
    asked = ["git", "-C", _ROOT, "describe", "--always", "--dirty"]
    try:
        return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("experiment", "on", "counted", "broken promises", title="torture", title_justify="left")
    for row in rows:
        style = "red" if row["bad"] else "green"
        table.add_row(row["experiment"], row["subject"], _words(row["figures"]), f"[{style}]{row['bad']}[/]")
    Console().print(table)


def main() -> int:
    """Sum up, print, and keep if asked to; the exit status is 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m campaign.report")
    parser.add_argument("figures")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--begun", type=float, default=None, help="when the campaign began, in seconds since 1970")
    options = parser.parse_args()
    with open(options.figures, encoding="utf-8") as file:
        rows = sum_up(map(json.loads, file))
    _print_table(rows)
    if options.keep:
        begun = os.stat(options.figures).st_ctime if options.begun is None else options.begun
        report = {
            "rows": rows,
            "minutes": round((time.time() - begun) / 60),
            "machine": f"{os.cpu_count()} cores, Linux {platform.release()}, CPython {platform.python_version()}",
            "date": time.strftime("%Y-%m-%d"),
            "revision": _revision(),
        }
        with open(DOCUMENT, encoding="utf-8") as file:
            text = replace_table(file.read(), make_table(report))
        with open(REPORT, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
            file.write("\n")
        with open(DOCUMENT, "w", encoding="utf-8") as file:
            file.write(text)
    return 1 if any(row["bad"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
