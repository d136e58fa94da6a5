"""`sharedstate bench`: what the backends cost on this machine.

sharedstate bench                 a few seconds: get and set of each backend, beside a dict behind a lock
sharedstate bench --calibrate     keep that, for `sharedstate.open()` to choose by
sharedstate bench --peers -- ...  in a checkout: `python -m benchmarks`, with everybody else's stores
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import click

import sharedstate
from sharedstate import calibrating, calibration, registry
from sharedstate.backend.urls import parse_url
from sharedstate.cli.sharers import OUTLIVES, SHARED_BY
from sharedstate.errors import StoreAccessError
from sharedstate.model import Durability, Scope

if TYPE_CHECKING:
    from rich.table import Table

    from sharedstate.calibrating import Measurement

__all__ = ["bench"]

_WIDE: Final = 72  # columns, which the whole table takes


@click.command("bench")
@click.option("--calibrate", is_flag=True, help="Keep the result, for sharedstate.open() to choose by.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--peers", is_flag=True, help="Run the benchmarks of a checkout, with the ARGUMENTS of python -m benchmarks."
)
@click.argument("arguments", nargs=-1)
def bench(calibrate: bool, as_json: bool, peers: bool, arguments: tuple[str, ...]) -> None:
    """Measure what a get and a set cost on each backend here, in a few seconds.

    An int among 10,000 keys, beside a dict behind a threading.Lock, in turns.

    With --calibrate the result is kept in /var/lib/sharedstate/calibration, or
    in the file that SHAREDSTATE_CALIBRATION names, and sharedstate.open()
    without a URL goes by it in place of the costs that the backends ship. It
    counts for whoever runs it, and for everyone if root did.

    With --peers, in a checkout, the whole comparison runs, with the stores that
    one might take instead: sharedstate bench --peers -- --quick --html page.html
    """
    if peers:
        if calibrate or as_json:
            raise click.UsageError("--peers has options of its own; they go after --.")
        sys.exit(_run_peers(arguments))
    if arguments:
        raise click.UsageError("Arguments go with --peers only.")
    directory = _place_to_calibrate() if calibrate else None
    found = calibrating.measure(directory)
    path = calibration.write_calibration(found.calibration()) if calibrate else ""
    if as_json:
        click.echo(json.dumps(_as_plain(found, path), indent=2))
        return
    _show(found, path)


def _run_peers(arguments: tuple[str, ...]) -> int:
    root = os.path.dirname(os.path.dirname(os.path.abspath(sharedstate.__file__)))
    # Not whatever else is called `benchmarks` on sys.path: only what lies in the same checkout.
    if not all(os.path.isfile(os.path.join(root, *part)) for part in (("pyproject.toml",), ("benchmarks", "cli.py"))):
        raise click.UsageError(
            "The comparison with other stores is part of the source tree, not of the installed package: "
            "get a checkout of sharedstate, and run `make bench` there."
        )
    sys.path.insert(0, root)
    status: int = import_module("benchmarks.cli").main(list(arguments))
    return status


def _place_to_calibrate() -> str:
    """Return the directory where the calibration will lie: lasting stores of this machine lie beside it."""
    path = calibration.calibration_path()
    nearest = os.path.dirname(os.path.abspath(path))
    while not os.path.isdir(nearest):
        nearest = os.path.dirname(nearest)
    is_roots = path == calibration.PLACE and os.geteuid() != 0
    if is_roots or not os.access(nearest, os.W_OK | os.X_OK):
        raise StoreAccessError(
            url=path,
            reason="only root may calibrate for everyone"
            if is_roots
            else f"uid {os.geteuid()} may not write to {nearest}",
            advice="Calibrate as root; or let SHAREDSTATE_CALIBRATION name a file of yours, here and wherever your "
            "application runs.",
        )
    return nearest


def _as_plain(found: Measurement, path: str) -> dict[str, Any]:
    return {
        "date": found.date,
        "python": found.python,
        "costs": {name: costs._asdict() for name, costs in found.costs.items()},
        "failures": found.failures,
        "calibration": path or None,
    }


def _show(found: Measurement, path: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    console.print(_table(found, is_wide=console.width >= _WIDE))
    for scheme, failure in found.failures.items():
        console.print(Text(f"{scheme} was left out: {failure}", style="yellow"))
    console.print(
        f"an int among 10,000 keys, {found.python}, {found.date}; medians; x: times {calibrating.REFERENCE}. "
        "Beside LMDB, diskcache and others: `make bench` in a checkout.",
        style="dim",
        highlight=False,
    )
    if path:
        click.echo(
            f"kept in {path}: sharedstate.open() without a URL goes by it from now on; "
            "restart servers that run: who chose before may have chosen another store"
        )


def _table(found: Measurement, *, is_wide: bool) -> Table:
    from rich.table import Table

    table = Table("backend", *(("shared by", "outlives") if is_wide else ()), padding=(0, 1 if is_wide else 0))
    for heading in ("get", "x", "set", "x"):
        table.add_column(heading, justify="right", no_wrap=True)
    reference = found.costs[calibrating.REFERENCE]
    for name, costs in found.costs.items():
        table.add_row(
            name,
            *(_reach(name) if is_wide else ()),
            _duration(costs.get_ns),
            f"{costs.get_ns / reference.get_ns:.2f}",
            _duration(costs.set_ns),
            f"{costs.set_ns / reference.set_ns:.2f}",
        )
    return table


def _reach(name: str) -> tuple[str, str]:
    if name == calibrating.REFERENCE:
        return SHARED_BY[Scope.INTERPRETER], OUTLIVES[Durability.PROCESS]
    given = registry.find_plugin(parse_url(f"{name}:any")).CAPABILITIES
    return SHARED_BY[given.scope], OUTLIVES[given.durability]


def _duration(nanoseconds: float) -> str:
    return f"{nanoseconds:.0f} ns" if nanoseconds < 1000 else f"{nanoseconds / 1000:.3g} µs"
