"""`sharedstate probe --url`: probe a live server, show what was found, and exit 0 only if all of it shares."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from sharedstate.cli.outputs import write_text
from sharedstate.probe.live.client import parse_mount
from sharedstate.probe.live.protocol import BACKENDS, TOKEN_NAME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sharedstate.probe.live.findings import LiveReport

__all__ = ["probe_live"]


def probe_live(
    urls: Sequence[str],
    token_file: str | None,
    *,
    backend: str,
    concurrency: int,
    json_path: str | None,
    html_path: str | None,
    is_quick: bool,
) -> None:
    """Probe, show, and exit: 0 if everything that answered shares, else 1.

    Raises:
        click.UsageError: there is no token, or no such backend.
        LiveProbeError: a URL is none, no probe answers there, or the token is wrong.
    """
    from rich.console import Console

    from sharedstate.probe.live.driving import Pace
    from sharedstate.probe.live.report import render
    from sharedstate.probe.live.running import run_live_probe

    if backend and backend not in BACKENDS:
        raise click.UsageError(f"With --url, --backend is one of {', '.join(BACKENDS)}.")
    token = _read_token(token_file)
    console = Console(stderr=True)
    for mount in map(parse_mount, urls):
        if not mount.is_private:
            click.echo(
                f"sharedstate: the token travels to {mount.host} unencrypted; prefer https or a tunnel", err=True
            )
    # Told to end, we still remove the store that we had the server make.
    signal.signal(signal.SIGTERM, _end)
    pace = Pace(most=concurrency, hold_s=0.15, laps=1) if is_quick else Pace(most=concurrency)
    with console.status("starting") as status:

        def show(step: str) -> None:
            if console.is_terminal:
                status.update(f"{step:100.100}")
            else:
                click.echo(step, err=True)

        report = run_live_probe(urls, token, backend=backend, pace=pace, on_step=show)
    # With JSON on stdout, nothing else may be there.
    Console(stderr=json_path == "-").print(render(report))
    _write(report, json_path, html_path)
    if not report.is_shared:
        sys.exit(1)


def _read_token(path: str | None) -> str:
    if path is None:
        token = os.environ.get(TOKEN_NAME, "")
        source = f"the environment variable {TOKEN_NAME}"
        if not token:
            raise click.UsageError(f"Give the server's token: in {source}, or in a file by --token-file.")
    else:
        source = path
        try:
            with click.open_file(path, encoding="latin-1") as file:
                token = file.read(10_000).strip()
        except OSError as error:
            raise click.UsageError(f"--token-file {path}: {error.strerror}") from None
    if not token or not token.isascii() or not token.isprintable():
        raise click.UsageError(f"There is no token in {source}: one line of printable ASCII.")
    return token


def _write(report: LiveReport, json_path: str | None, html_path: str | None) -> None:
    from sharedstate.probe.live.page import render_page

    if json_path is not None:
        write_text(json_path, json.dumps(report.as_dict(), indent=2) + "\n")
    if html_path is not None:
        write_text(html_path, render_page(report))


def _end(signum: int, _frame: Any) -> None:
    sys.exit(128 + signum)
