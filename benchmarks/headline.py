"""The README's headline figures, and those of docs/benchmarks.md, made from a report: `python -m benchmarks.headline`.

Each stands between two comments of its file, and is replaced as a whole.  A
test holds the files to the committed report, so neither can be changed alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from typing import TYPE_CHECKING, Any, Final

from benchmarks.page.answer import cost_of
from benchmarks.wording import bounds, duration

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["REGIONS", "REPORT", "ROOT", "replace_region"]

ROOT: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
REPORT: Final = os.path.join(ROOT, "docs", "benchmark-report", "results.json")
"""The last full report that was committed."""

_BEGIN: Final = "<!-- benchmark figures: made by `make bench-report` -->"
_END: Final = "<!-- end of benchmark figures -->"

_README_WORKLOADS: Final = (("get-int", "get an int"), ("set-int", "set an int"), ("increment-int", "increment"))
_README_CONTESTANTS: Final = ("shm", "dict+Lock", "memory", "file", "sqlite", "LMDB", "diskcache", "redis")
_DOCS_WORKLOADS: Final = (
    ("get-int", "get int"),
    ("set-int", "set int"),
    ("increment-int", "increment"),
    ("compare_and_set-int", "compare_and_set"),
    ("transaction-int", "transaction, 2 keys"),
    ("get-dict", "get 1 KiB dict"),
    ("set-dict", "set 1 KiB dict"),
)


def make_readme_figures(report: dict[str, Any]) -> str:
    """Return a table with a column per contestant that was measured, and where it was measured."""
    ours = _names_of_ours(report)
    shown = [name for name in _README_CONTESTANTS if any(cost_of(report, item, name) for item, _ in _README_WORKLOADS)]
    heads = [f"`{name}:`" if name in ours else name.replace("+", " + ") for name in shown]
    lines = [_row("", *heads), _rule(len(shown) + 1)]
    lines += [
        _row(label, *(_figure(report, workload, name) for name in shown)) for workload, label in _README_WORKLOADS
    ]
    return "\n".join([*lines, "", _where(report)])


def make_docs_figures(report: dict[str, Any]) -> str:
    """Return a table with a row per contestant, the targets, and where all was measured."""
    ours = _names_of_ours(report)
    heads = [label for workload, label in _DOCS_WORKLOADS if _is_measured(report, workload)]
    lines = [_where(report), "", _row("", *heads), _rule(len(heads) + 1)]
    for contestant in report["contestants"]:
        name = contestant["name"]
        cells = [_figure(report, workload, name) for workload, _ in _DOCS_WORKLOADS if _is_measured(report, workload)]
        if any(cell != "-" for cell in cells):
            lines.append(_row(f"**{name}**" if name in ours else name, *cells))
    lines += ["", _row("target", "bound", "measured", "95 %", ""), _rule(5)]
    for target in report["targets"]:
        measured = target["measured"]
        interval = measured if isinstance(measured, dict) else None
        value = interval["median"] if interval else measured
        lines.append(
            _row(
                target["target"],
                f"{'at least' if target['at_least'] else 'at most'} {target['bound']:g}",
                "-" if value is None else f"{value:.2f}",
                bounds(interval["low"], interval["high"]) if interval else "",
                target["state"] + ("" if target["certain"] else ", within the noise"),
            )
        )
    return "\n".join(lines)


REGIONS: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "README.md": make_readme_figures,
    os.path.join("docs", "benchmarks.md"): make_docs_figures,
}
"""By file, what makes its figures."""


def replace_region(text: str, figures: str) -> str:
    """Return a file's text with other figures between its two comments.

    Raises:
        ValueError: it does not have both comments, once each.
    """
    if text.count(_BEGIN) != 1 or text.count(_END) != 1:
        raise ValueError(f"there must be one {_BEGIN} and one {_END}")
    before, _, rest = text.partition(_BEGIN)
    return f"{before}{_BEGIN}\n{figures}\n{_END}{rest.partition(_END)[2]}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _rule(columns: int) -> str:
    return f"|{'---|' * columns}"


def _names_of_ours(report: dict[str, Any]) -> set[str]:
    return {backend["name"] for backend in report["backends"]}


def _is_measured(report: dict[str, Any], workload: str) -> bool:
    return any(item["workload"] == workload for item in report["workloads"])


def _figure(report: dict[str, Any], workload: str, contestant: str) -> str:
    found = cost_of(report, workload, contestant)
    return duration(found.median_ns) if found else "-"


def _where(report: dict[str, Any]) -> str:
    machine, settings = report["machine"], report["settings"]
    noise = "" if not report["noise"] else "; the machine was busy with other work"
    told = (
        f"{machine['python']} ({machine['build']}), {machine['cores']} cores of {machine['cpu']}, {machine['system']}, "
        f"{machine['filesystem']}, {machine['date'].partition(' ')[0]}: a {settings['size']} run, medians of "
        f"{settings['rounds']} rounds{noise}."
    )
    return textwrap.fill(told, 120)


def main() -> int:
    """Rewrite the regions from the committed report; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.headline", description=__doc__.partition(":")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if a file is out of date")
    options = parser.parse_args()
    with open(REPORT, encoding="utf-8") as file:
        report = json.load(file)
    outdated: list[str] = []
    for name, make in REGIONS.items():
        path = os.path.join(ROOT, name)
        with open(path, encoding="utf-8") as file:
            text = file.read()
        replaced = replace_region(text, make(report))
        if replaced != text:
            outdated.append(name)
            if not options.check:
                with open(path, "w", encoding="utf-8") as file:
                    file.write(replaced)
    for name in outdated:
        print(f"{name} {'is out of date: make bench-report' if options.check else 'has the figures of the report now'}")
    return 1 if outdated and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
