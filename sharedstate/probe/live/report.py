"""The report on a live server for a terminal: a table of the house, what was found, and what it means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from sharedstate.probe.findings import Verdict
from sharedstate.probe.live import wording

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sharedstate.probe.live.findings import LiveReport
    from sharedstate.probe.live.topology import Interpreter, Process

__all__ = ["render"]

_COLOURS: Final = ("green", "cyan", "magenta", "yellow", "blue", "bright_red")
_STYLES: Final = {
    Verdict.SUPPORTED: "bold green",
    Verdict.NOT_SHARED: "cyan",
    Verdict.NOT_AVAILABLE: "yellow",
    Verdict.NOT_APPLICABLE: "dim",
    Verdict.UNSUPPORTED: "bold red",
    Verdict.BEYOND: "bold red",
    Verdict.BROKEN_CPYTHON: "bold magenta",
}


def render(report: LiveReport) -> RenderableType:
    """Return the report as something that rich can print."""
    parts: list[RenderableType] = [_house(report), Text()]
    for finding in report.findings:
        line = Text(f"{finding.verdict.symbol} {finding.question} ", style=_STYLES[finding.verdict])
        parts.append(line.append(finding.evidence, style="not bold default"))
    parts.append(Text())
    parts += [Text(f"! {warning}", style="yellow") for warning in wording.warnings(report)]
    parts += [Text(sentence) for sentence in (wording.headline(report), wording.explain_mounts(report)) if sentence]
    parts.append(Text(wording.summarise(report), style="bold green" if report.is_shared else "bold red"))
    parts.append(Text(wording.advise(report.house)))
    return Group(*parts)


def _house(report: LiveReport) -> Table:
    table = Table(title=f"Who answers at {' and '.join(report.urls)}")
    many_hosts = len(report.house.hosts) > 1
    for title in (["host"] if many_hosts else []) + ["process", "interpreter", "answers", "threads"]:
        table.add_column(title)
    table.add_column("a module-level\ncounter", justify="right")
    table.add_column(f"the same through\n{wording.name_store(report)}", justify="right")
    for host in report.house.hosts:
        for process in host.processes:
            for interpreter in process.interpreters:
                is_first = interpreter is process.interpreters[0]
                cells = _cells(report, process, interpreter, is_first=is_first)
                table.add_row(*([Text(host.name)] if many_hosts else []), *cells)
            table.add_section()
    return table


def _cells(report: LiveReport, process: Process, interpreter: Interpreter, *, is_first: bool) -> list[Text]:
    place = interpreter.place
    pid = f"pid {process.pid}{' (new)' if process.is_new else ''}" if is_first else ""
    mounts = ", ".join(wording.mount_name(url, report.urls) for url in interpreter.urls)
    variables = _group(report.variables.of.get(place), report.copies.get(place))
    if place in report.problems and place not in report.store.of:
        store = Text("✘ not opened", style="bold red")
    else:
        store = _group(report.store.of.get(place), report.totals.get(place))
    threads = wording.thread_count(report, interpreter).removesuffix(" threads").removesuffix(" thread")
    return [Text(pid), Text(str(interpreter.number)), Text(mounts), Text(threads), variables, store]


def _group(number: int | None, total: int | None) -> Text:
    if number is None:
        return Text("? not seen", style="yellow")
    text = Text(f"{'?' if total is None else total} ")
    return text.append(f" {wording.letter(number)} ", style=f"reverse {_COLOURS[number % len(_COLOURS)]}")
