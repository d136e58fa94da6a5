"""`sharedstate probe`: run the experiments, show what they found, and exit 0 only if every claim is supported.

With --url it is a live server that is probed: `live_probing`.
"""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import click

from sharedstate import registry
from sharedstate.backend.urls import parse_url
from sharedstate.cli.live_probing import probe_live
from sharedstate.cli.outputs import require_writable, write_text
from sharedstate.errors import BackendMissingError
from sharedstate.probe.boundaries import Boundary
from sharedstate.probe.experiments import FULL, QUICK
from sharedstate.probe.running import Step, run_probe

if TYPE_CHECKING:
    from rich.console import Console

    from sharedstate.probe.findings import Cell, Report

__all__ = ["probe"]


@click.command("probe")
@click.option("--backend", "backends", multiple=True, metavar="SCHEME", help="Only this one; may be repeated.")
@click.option(
    "--boundary",
    "boundaries",
    multiple=True,
    type=click.Choice([boundary.value for boundary in Boundary]),
    help="Only this one; may be repeated.",
)
@click.option("--json", "json_path", metavar="FILE", help="Write the complete evidence there; - is stdout.")
@click.option("--html", "html_path", metavar="FILE", help="Write a page for people there.")
@click.option("--quick", is_flag=True, help="Short loops: less time, less evidence.")
@click.option("--url", "urls", multiple=True, help="Where the probe is mounted in a live server; once for each mount.")
@click.option("--token-file", metavar="FILE", help="With --url: the server's token; else $SHAREDSTATE_PROBE_TOKEN.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 256),
    default=64,
    show_default=True,
    help="With --url: requests at once, at the most.",
)
def probe(  # noqa: PLR0917  click names them
    backends: tuple[str, ...],
    boundaries: tuple[str, ...],
    json_path: str | None,
    html_path: str | None,
    quick: bool,
    urls: tuple[str, ...],
    token_file: str | None,
    concurrency: int,
) -> None:
    """Prove on this machine which backend shares across which boundary.

    Every backend is tried across every boundary with real threads,
    interpreters and processes, which are also killed.  Exit status: 0 if every
    claim that was tried is supported, else 1; also 1 if a backend or boundary
    that was asked for by name could not be tried.

    With --url, a live server in which sharedstate.probe.wsgi:application (or
    .asgi:application) is mounted shows its hosts, processes, interpreters and
    threads, and which of them share; see docs/live-probe.md.  Exit status: 0 if
    all that answered share through the store, else 1.
    """
    require_writable("--json", json_path)
    require_writable("--html", html_path)
    backends = tuple(each.removesuffix(":") for each in backends)
    for each in backends:
        if ":" in each:
            raise click.BadParameter(
                f"{each} is the URL of a store, and a scheme is asked for: {each.partition(':')[0]}",
                param_hint="--backend",
            )
    if urls:
        if boundaries or len(backends) > 1:
            raise click.UsageError("With --url there is no --boundary, and at most one --backend.")
        probe_live(
            urls,
            token_file,
            backend="".join(backends),
            concurrency=concurrency,
            json_path=json_path,
            html_path=html_path,
            is_quick=quick,
        )
        return
    from rich.console import Console

    for backend in backends:
        with suppress(BackendMissingError):  # which the table shows, with its reason
            registry.find_plugin(parse_url(f"{backend}:any"))
    # Told to end, we still remove the stores that we made.
    signal.signal(signal.SIGTERM, _end)
    chosen = [Boundary(name) for name in boundaries] or list(Boundary)
    with _Progress(Console(stderr=True)) as progress:
        report = run_probe(
            list(backends) or None,
            chosen,
            pace=QUICK if quick else FULL,
            on_step=progress.show_step,
            on_cell=progress.show_cell,
        )
    _write(report, json_path, html_path)
    if report.failures() or (report.untried() and (backends or boundaries)):
        sys.exit(1)


def _end(signum: int, _frame: object) -> None:
    sys.exit(128 + signum)


def _write(report: Report, json_path: str | None, html_path: str | None) -> None:
    from rich.console import Console

    from sharedstate.probe.page import render_page
    from sharedstate.probe.report import render

    # With JSON on stdout, nothing else may be there.
    Console(stderr=json_path == "-").print(render(report))
    if json_path is not None:
        write_text(json_path, json.dumps(report.as_dict(), indent=2) + "\n")
    if html_path is not None:
        write_text(html_path, render_page(report))


class _Progress:
    """On a terminal one line that changes, else a line per cell."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=None)
        self._cells = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show_step(self, step: Step) -> None:
        """Say what is about to be tried."""
        self._cells = step.cells
        description = f"{step.backend}, {step.boundary.title}: {step.question}"
        self._bar.update(self._task, description=f"{description:66.66}", completed=step.cells_done, total=step.cells)

    def show_cell(self, cell: Cell) -> None:
        """Say what came of a cell."""
        if not self._console.is_terminal:
            duration_s = sum(finding.duration_s for finding in cell.findings)
            click.echo(f"{cell.backend}, {cell.boundary.title}: {cell.verdict.value} ({duration_s:.1f} s)", err=True)
