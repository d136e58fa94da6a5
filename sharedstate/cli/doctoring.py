"""`sharedstate doctor`: what is shared with whom where an application is deployed.

sharedstate doctor                      the stores of this machine, and who shares them just now
sharedstate doctor --apache [CONFIG]    a server with mod_wsgi, read from outside
"""

from __future__ import annotations

import json
from typing import Any

import click

__all__ = ["doctor"]

_SYSTEM = "\0"  # --apache without a value: no path can hold this


@click.command("doctor")
@click.option(
    "--apache",
    "config",
    is_flag=False,
    flag_value=_SYSTEM,
    metavar="[CONFIG]",
    help="Read an Apache with mod_wsgi; without CONFIG the one that this machine starts.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all evidence.")
def doctor(config: str | None, as_json: bool) -> None:
    """Say what is shared with whom, what that needs, and what goes wrong.

    Without an option: the backends and stores of this machine, who has each
    store open, and what somebody should look at.

    With --apache a server's configuration is read, as Apache itself understands
    it; nothing is started.  Per application: processes, interpreters, threads,
    how often a module-level statement runs, when workers are replaced, and
    which scope and durability its state needs.
    """
    if config is None:
        _show_deployment(as_json)
    else:
        _show_apache(None if config == _SYSTEM else config, as_json)


def _show_deployment(as_json: bool) -> None:
    from sharedstate.cli.sharers import show_machine

    show_machine(as_json)


def _show_apache(config: str | None, as_json: bool) -> None:
    from sharedstate.deployment import apache

    server = apache.find_apache(config)
    found = apache.forecast(server)
    surroundings = apache.read_surroundings() if server.is_system else apache.Surroundings()
    advice = apache.advise(found, surroundings)
    if as_json:
        _print_json(apache.as_plain(found, advice))
        return
    from rich.console import Console

    from sharedstate.cli.apache import render

    Console().print(render(found, advice))


def _print_json(plain: dict[str, Any]) -> None:
    click.echo(json.dumps(plain, indent=2, ensure_ascii=False))
