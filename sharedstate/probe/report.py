"""The probe's report on a terminal: a matrix in colour, then what does not hold and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from sharedstate.probe.findings import Verdict

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sharedstate.probe.findings import Cell, Report

__all__ = ["count_others", "format_delay", "render", "summarise"]

_STYLES: Final = {
    Verdict.NOT_APPLICABLE: "dim",
    Verdict.SUPPORTED: "bold green",
    Verdict.NOT_SHARED: "cyan",
    Verdict.NOT_AVAILABLE: "yellow",
    Verdict.BROKEN_CPYTHON: "bold magenta",
    Verdict.BEYOND: "bold red",
    Verdict.UNSUPPORTED: "bold red",
}


def render(report: Report) -> RenderableType:
    """Return the report as something that rich can print."""
    parts: list[RenderableType] = [_matrix(report), _legend(report), Text()]
    parts.extend(_failure_line(cell) for cell in report.failures())
    parts.extend(_untried_lines(report))
    parts.append(Text(summarise(report), style="bold red" if report.failures() else "bold"))
    return Group(*parts)


def summarise(report: Report) -> str:
    """Return the result in a sentence."""
    failures, untried = len(report.failures()), len(report.untried())
    tried = len(report.cells) - untried
    rest = f"; {untried} could not be tried here" if untried else ""
    if failures:
        return f"{failures} of {tried} cells contradict a claim{rest}."
    if not tried:
        return "Nothing could be tried here."
    return f"Every claim is supported in the {tried} cells tried{rest}."


def _matrix(report: Report) -> Table:
    # Boundaries downwards: there are always seven, and a terminal is not wide.
    about = report.about
    lines = (
        f"What is shared on {about['machine']}",
        f"{about['python']}, sharedstate {about['sharedstate']}",
        about["date"],
    )
    table = Table(title="\n".join(lines), show_lines=True)
    table.add_column("between")
    for backend in report.backends():
        claim = report.claim_of(backend).replace(", ", "\n")
        table.add_column(Text.assemble((backend, "bold"), "\n", (claim, "dim not bold")), justify="center")
    found = {(cell.backend, cell.boundary): cell for cell in report.cells}
    for boundary in report.boundaries():
        cells = (found.get((backend, boundary)) for backend in report.backends())
        table.add_row(boundary.title, *(_cell_text(cell) if cell else "" for cell in cells))
    return table


def _cell_text(cell: Cell) -> Text:
    text = Text(f"{cell.verdict.symbol} {cell.verdict.value}", style=_STYLES[cell.verdict])
    if cell.delay_ms is not None:
        text.append(f"\nseen in {format_delay(cell.delay_ms)}", style="dim not bold")
    return text


def format_delay(delay_ms: float) -> str:
    """Return a delay as people write it."""
    return f"{delay_ms * 1000:.0f} µs" if delay_ms < 1 else f"{delay_ms:.1f} ms"


def _legend(report: Report) -> Text:
    legend = Text()
    used = {cell.verdict for cell in report.cells}
    for verdict in Verdict:
        if verdict in used:
            legend.append(f"{verdict.symbol} {verdict.value}", style=_STYLES[verdict])
            legend.append(f"  {verdict.meaning}\n")
    return legend


def _failure_line(cell: Cell) -> Text:
    line = Text(f"{cell.verdict.symbol} {cell.backend}, {cell.boundary.title}: ", style=_STYLES[cell.verdict])
    line.append(cell.evidence.splitlines()[0], style="not bold default")
    return line.append(f" {count_others(cell)}", style="dim not bold")


def count_others(cell: Cell) -> str:
    """Return how many findings speak against the cell besides the one that stands for it."""
    others = len(cell.failures()) - 1
    return f"(and {others} more)" if others > 0 else ""


def _untried_lines(report: Report) -> list[Text]:
    reasons: dict[tuple[str, str], list[str]] = {}
    for cell in report.untried():
        where = (cell.backend, cell.evidence.partition("? ")[2])
        reasons.setdefault(where, []).append(cell.boundary.title)
    return [
        Text(f"? {backend}, {', '.join(titles)}: not tried, {reason}", style="yellow")
        for (backend, reason), titles in reasons.items()
    ]
