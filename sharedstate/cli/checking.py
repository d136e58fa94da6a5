"""`sharedstate check`: is everything that is stored as it should be, and can it be mended?

sharedstate check URL                          names what is wrong, and where
sharedstate check URL --repair                 mends it as far as no guess is needed; keeps a copy first
sharedstate check URL --repair --copy-to PATH  keeps the copy there

Exit status: 0 whole, or repaired; 1 wrong, or not to be had; 2 a mistake in the command's use.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from sharedstate import opening
from sharedstate.cli.progress import draw_progress
from sharedstate.cli.stores import open_existing
from sharedstate.errors import CorruptError, redact

if TYPE_CHECKING:
    from sharedstate.backend.repairs import Repair

__all__ = ["check"]

_SHOWN_KEYS = 20


@click.command("check")
@click.argument("url")
@click.option("--repair", "is_repairing", is_flag=True, help="Mend what can be without a guess; keep a copy first.")
@click.option("--copy-to", metavar="PATH", help="Where --repair keeps the copy; by default beside the store.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(url: str, is_repairing: bool, copy_to: str | None, as_json: bool) -> None:
    """Verify every invariant of what is stored, while its users go on.

    Names what is wrong, and where. With --repair a damaged store is copied
    first; then everything that is certain of it goes on, and what was dropped
    is said. file: users wait meanwhile and then see what was kept; sqlite: they
    are refused, and open the store again; shm: nobody else may have it open.

    Exit status: 0 if the store is whole, or was repaired; 1 if not.
    """
    if copy_to is not None and not is_repairing:
        raise click.UsageError("--copy-to goes with --repair.")
    wrong, entries = _look(url)
    report = opening.repair(url, copy_to) if wrong is not None and is_repairing else None
    if report is not None:
        still_wrong, entries = _look(url)
        if still_wrong is not None:
            raise still_wrong
    url = redact(url)
    if as_json:
        click.echo(json.dumps(_as_plain(url, wrong, entries, report)))
    elif report is not None:
        _tell(url, report)
    elif wrong is not None:
        raise wrong
    else:
        click.echo(f"{url}: whole, {entries} entries")
    if wrong is not None and report is None:
        sys.exit(1)


def _look(url: str) -> tuple[CorruptError | None, int]:
    """Return what is wrong, if anything is, and the number of entries."""
    try:
        with open_existing(url) as store, draw_progress(f"checking {redact(url)}") as progress:
            store.check(progress)
            return None, len(store)
    except CorruptError as error:
        return error, 0


def _as_plain(url: str, wrong: CorruptError | None, entries: int, report: Repair | None) -> dict[str, Any]:
    return {
        "url": url,
        "whole": wrong is None or report is not None,
        "entries": entries,
        "wrong": None if wrong is None else wrong.reason,
        "repair": None if report is None else report._asdict(),
    }


def _tell(url: str, report: Repair) -> None:
    if not report.copy:
        click.echo(f"{url}: nothing is damaged, {report.kept} entries")
    else:
        click.echo(f"{url}: repaired, {report.kept} entries kept, {report.dropped} entries or changes dropped")
        click.echo(f"  a copy of what was there: {report.copy}")
    for note in report.notes:
        click.echo(f"  {' '.join(note.split())}")
    if report.keys:
        more = len(report.keys) - _SHOWN_KEYS
        shown = ", ".join(map(repr, report.keys[:_SHOWN_KEYS])) + (f" and {more} more (see --json)" if more > 0 else "")
        click.echo(f"  keys of what was dropped: {shown}")
