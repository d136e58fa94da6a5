"""The results as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from benchmarks.measure import Interval
from benchmarks.parts.tables import print_parts
from benchmarks.wording import bounds, duration, factor
from benchmarks.workloads import KINDS, WORKLOADS, Workload

if TYPE_CHECKING:
    from rich.console import Console

    from benchmarks.results import Results, Row
    from benchmarks.targets import Judgement

__all__ = ["print_report"]

_STATES = {"met": "green", "not met": "red", "not measured": "dim"}


def print_report(results: Results, judgements: list[Judgement], console: Console) -> None:
    """Print everything, the targets last."""
    _print_header(results, console)
    for workload in WORKLOADS:
        if workload.name in results.baselines:
            _print_workload(results, workload, console)
    if results.scaling:
        _print_scaling(results, console)
    if results.light_open:
        _print_light_open(results, console)
    if results.codec_isolated or results.codec_failure:
        _print_codec(results, console)
    print_parts(results, console)
    if judgements:
        _print_targets(judgements, console)
    for line in results.noise:
        console.print(f"[yellow]noisy:[/] {escape(line)}")
    if not results.noise and results.baselines:
        console.print("quiet: the baselines kept still, and others took little of the machine")


def _print_header(results: Results, console: Console) -> None:
    machine, settings = results.machine, results.settings
    console.print(
        f"[bold]sharedstate benchmarks[/], {machine['date']}, {settings['size']} run\n"
        f"{machine['python']} ({machine['build']}{'' if machine['gil'] else ', free-threaded'})\n"
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory']}, {machine['system']}, "
        f"stores on {machine['filesystem']}\n"
        f"load average {machine['load_average']:.2f} before, {machine.get('load_average_after', 0):.2f} after; "
        f"others took {machine.get('other_work_cores', 0):.2f} cores\n"
        f"{settings['keys']} keys in random order; medians of {settings['rounds']} interleaved rounds of "
        f"{settings['sample_ms']:g} ms; p99 and max of operations timed one by one",
        highlight=False,
    )
    if not results.contestants:
        return
    table = Table("contestant", "version", "note")
    for contestant in results.contestants.values():
        if contestant.missing:
            table.add_row(contestant.name, "[yellow]left out[/]", escape(contestant.missing))
        else:
            table.add_row(contestant.name, contestant.version, escape(contestant.note))
    console.print(table)


def _print_workload(results: Results, workload: Workload, console: Console) -> None:
    table = Table("contestant")
    for heading in ("median", "p99", "max", f"x {workload.baseline}", "95 %"):
        table.add_column(heading, justify="right", no_wrap=True)
    failures: dict[str, str] = {}
    for row in results.rows:
        if row.workload == workload.name:
            table.add_row(*_cells(results, workload, row))
            failures[row.contestant] = row.failure
    _print_heading(console, workload.name, f"{workload.forms[0].label}, {KINDS[workload.kind].label}")
    console.print(table)
    _print_failures(console, failures)
    loop_ns, clock_ns = results.loop_ns[workload.name], results.clock_ns[workload.name]
    console.print(f"subtracted: the loop's {loop_ns:.1f} ns; from p99 the clock's {clock_ns:.0f} ns", style="dim")


def _print_heading(console: Console, name: str, what: str) -> None:
    # Not the table's own title, which is wrapped to the table's width.
    console.print(f"\n[bold]{name}[/]: {escape(what)}", highlight=False)


def _print_failures(console: Console, failures: dict[str, str]) -> None:
    for name, failure in failures.items():
        if failure:
            console.print(f"[yellow]{escape(name)}[/]: {escape(failure)}", highlight=False)


def _cells(results: Results, workload: Workload, row: Row) -> tuple[str, ...]:
    name = row.contestant if row.form == workload.forms[0].label else f"{row.contestant.split(' [')[0]}: {row.form}"
    name = escape(name)
    median_ns, p99_ns = row.median_ns(), row.p99_ns()
    if median_ns is None:
        return name, "failed", "-", "-", "-", "-"
    ratio = results.ratio(workload.name, row.contestant, workload.baseline)
    return (
        name,
        duration(median_ns),
        "-" if p99_ns is None else duration(p99_ns),
        duration(max(row.singles_ns)) if row.singles_ns else "-",
        factor(ratio.median) if ratio else "-",
        _bounds(ratio) if ratio else "-",
    )


def _print_scaling(results: Results, console: Console) -> None:
    _print_heading(console, "scaling", "store.increment(k), each worker on keys of its own, 2 workers / 1")
    table = Table("backend", "workers", "keys each")
    failures: dict[str, str] = {}
    for heading in ("1, per second", "2, per second", "ratio of kept", "95 %", "of all", "kept", "lost updates"):
        table.add_column(heading, justify="right")
    for item in results.scaling:
        if item.failure:
            failures[f"{item.backend}, {item.crew}, {item.keys} keys each"] = item.failure
            continue
        table.add_row(
            item.backend,
            item.crew,
            str(item.keys),
            f"{item.one:,.0f}",
            f"{item.two:,.0f}",
            f"{item.ratio.median:.2f}" if item.ratio else "-",
            _bounds(item.ratio) if item.ratio else "-",
            f"{item.ratio_of_all.median:.2f}" if item.ratio_of_all else "-",
            f"{item.kept} of {item.triples}",
            f"[red]{item.lost}[/]" if item.lost else "0",
        )
    console.print(table)
    _print_failures(console, failures)
    console.print("kept: triples whose workers all had 90 % of a core; one that waits for another has not", style="dim")


def _print_light_open(results: Results, console: Console) -> None:
    _print_heading(console, "light-open", "the first statement in a fresh isolated interpreter; the store exists")
    table = Table("statement")
    failures: dict[str, str] = {}
    for heading in ("median", "x reference", "95 %", "modules"):
        table.add_column(heading, justify="right")
    table.add_column("forbidden ones", overflow="fold")
    for item in results.light_open:
        statement = escape(
            f"import sharedstate; sharedstate.open({item.backend}:...)" if item.backend else item.statement
        )
        if item.failure:
            failures[item.backend] = item.failure
            continue
        table.add_row(
            statement,
            f"{item.median_ms:.2f} ms",
            f"{item.ratio.median:.2f}" if item.ratio else "1",
            _bounds(item.ratio) if item.ratio else "",
            str(item.modules),
            ("[red]" + ", ".join(item.forbidden) + "[/]" if item.forbidden else "none") if item.backend else "",
        )
    console.print(table)
    _print_failures(console, failures)


def _print_codec(results: Results, console: Console) -> None:
    figures = ", ".join(
        f"{verb} {ratio.median:.2f} x ({_bounds(ratio)})" for verb, ratio in results.codec_isolated.items()
    )
    _print_heading(console, "codec-isolated", f"isolated interpreter / main: {figures or results.codec_failure}")


def _print_targets(judgements: list[Judgement], console: Console) -> None:
    _print_heading(console, "targets", "what this project has set itself")
    table = Table("target")
    for heading in ("bound", "measured", "95 %"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for judgement in judgements:
        target, measured, state = judgement.target, judgement.measured, judgement.state()
        bound = f"{'>=' if target.at_least else '<='} {target.bound:g}"
        doubt = "" if judgement.is_certain() else ", within the noise"
        interval = measured if isinstance(measured, Interval) else None
        value = interval.median if interval else measured
        table.add_row(
            target.text,
            bound,
            "-" if value is None else f"{value:.2f}",
            _bounds(interval) if interval else "",
            f"[{_STATES[state]}]{state}[/]{doubt}",
        )
    console.print(table)


def _bounds(interval: Interval) -> str:
    return bounds(interval.low, interval.high)
