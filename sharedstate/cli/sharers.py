"""`sharedstate who`, and what `sharedstate doctor` says of this machine: which stores are here, and who shares them."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from sharedstate import registry
from sharedstate.backend.urls import parse_url
from sharedstate.cli.stores import name_trouble, open_existing
from sharedstate.errors import StateError, redact
from sharedstate.model import Durability, Scope
from sharedstate.rendezvous import gather_crews
from sharedstate.shortfalls import list_shortfalls

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from rich.table import Table

    from sharedstate.backend.plugin import Plugin
    from sharedstate.model import Sharer
    from sharedstate.rendezvous import Crew

__all__ = ["OUTLIVES", "SHARED_BY", "examine_machine", "show_machine", "who"]

SHARED_BY: Final = {
    Scope.INTERPRETER: "threads",
    Scope.PROCESS: "interpreters",
    Scope.HOST: "processes",
    Scope.CLUSTER: "hosts",
}
OUTLIVES: Final = {Durability.PROCESS: "nothing", Durability.BOOT: "processes", Durability.DISK: "reboots"}


@click.command("who")
@click.argument("url")
@click.option("--json", "as_json", is_flag=True, help="Print lines of JSON, one for each handle.")
def who(url: str, as_json: bool) -> None:
    """Print who has the store open just now: server, process, interpreter, since when.

    The kernel vouches for each line: who has died, or closed the store, is not
    there.  A server that announces more workers than share the store is marked.
    """
    sharers = _others_of(url)
    if as_json:
        for sharer in sharers:
            click.echo(json.dumps({**sharer._asdict(), "owner": sharer.owner._asdict()}, ensure_ascii=False))
        return
    from rich.console import Console

    crews = gather_crews(sharers)
    Console().print(_table(crews) if crews else f"{redact(url)}: nobody has it open just now")
    for crew in crews:
        if crew.missing:
            click.echo(f"sharedstate: {_complaint(url, crew)}", err=True)


def _others_of(url: str) -> list[Sharer]:
    """Return the sharers of a store but for this process, which has it open only to look."""
    with open_existing(url) as store:
        return [sharer for sharer in store.sharers() if sharer.owner.pid != os.getpid()]


def _table(crews: Sequence[Crew]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("server", "process", "interpreter", "threads", "supervisor", "since", "program")
    for crew in crews:
        for member in crew.members:
            facts, owner = member.facts, member.owner
            table.add_row(
                # Text, not str: what a sharer says of itself is anybody's, and no markup.
                Text(" ".join(filter(None, (crew.server or "?", crew.mode)))),
                str(owner.pid),
                str(owner.interpreter) if owner.interpreter else "main",
                _text(facts.get("threads")),
                Text(
                    f"pid {crew.supervisor} #{facts['restart']}" if facts.get("restart") else f"pid {crew.supervisor}"
                ),
                f"{datetime.fromtimestamp(member.since, UTC).astimezone():%b %d %H:%M:%S}",
                Text(str(facts.get("program") or "")),
            )
    return table


def _text(value: Any) -> Any:
    from rich.text import Text

    return Text("?" if value is None else str(value))


def _complaint(url: str, crew: Crew) -> str:
    return (
        f"{redact(url)}: {crew.server} announces {crew.announced} processes, but only {crew.processes} share this "
        "store. The others may have opened another name, run as another user, or see another directory."
    )


# --- The machine -----------------------------------------------------------------


class StoreReport(NamedTuple):
    """One store that was found, and who shares it.

    Attributes:
        url: of the store.
        crews: who has it open.
        trouble: why it could not be looked at, or "".
    """

    url: str
    crews: tuple[Crew, ...]
    trouble: str


class MachineReport(NamedTuple):
    """What `sharedstate doctor` found.

    Attributes:
        backends: for each scheme what it promises, or why it is unavailable.
        stores: those that can be found without being told where.
        shortfalls: openings of stores that fall short of what their deployment needs.
        warnings: what somebody should look at, in words for people.
    """

    backends: dict[str, str]
    stores: tuple[StoreReport, ...]
    shortfalls: tuple[Sharer, ...]
    warnings: tuple[str, ...]


def examine_machine() -> MachineReport:
    """Look at the backends and stores of this machine, as far as the calling user may."""
    backends: dict[str, str] = {}
    stores: list[StoreReport] = []
    for scheme in registry.known_schemes():
        try:
            plugin = registry.find_plugin(parse_url(f"{scheme}:any"))
            backends[scheme] = _describe_plugin(plugin)
            urls = plugin.discover()
        except StateError as error:
            backends[scheme] = f"unavailable: {error}"
            continue
        stores += [_examine(url) for url in sorted(urls) if not url.startswith("memory:")]
    shortfalls = tuple(list_shortfalls())
    warnings = [_complaint(store.url, crew) for store in stores for crew in store.crews if crew.missing]
    warnings += [_describe_shortfall(sharer) for sharer in shortfalls]
    return MachineReport(backends, tuple(stores), shortfalls, tuple(warnings))


def _describe_plugin(plugin: Plugin) -> str:
    given = plugin.CAPABILITIES
    said = (
        f"scope {given.scope.name}: shared by {SHARED_BY[given.scope]}; "
        f"durability {given.durability.name}: outlives {OUTLIVES[given.durability]}"
    )
    url_for = getattr(plugin, "url_for", None)
    try:
        if url_for is None:
            return f"{said}; not by open() without a URL: it says no place for one"
        url_for("any")
    except StateError as error:
        return f"{said}; not by open() without a URL: {getattr(error, 'reason', error)}"
    return said


def _examine(url: str) -> StoreReport:
    try:
        return StoreReport(url, tuple(gather_crews(_others_of(url))), "")
    except StateError as error:
        return StoreReport(url, (), name_trouble(url, error))


def _describe_shortfall(sharer: Sharer) -> str:
    facts = sharer.facts
    short = "; ".join(facts.get("shortfall", ()))
    url = redact(str(facts.get("url")))
    return f"{sharer.owner} of {facts.get('server') or 'a program'} has {url} open, though {short}."


def show_machine(as_json: bool) -> None:
    """Print what `examine_machine` finds."""
    report = examine_machine()
    if as_json:
        click.echo(json.dumps(_as_plain(report), indent=2, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table("backend", "what it promises", title="Backends", title_justify="left")
    for scheme, what in report.backends.items():
        table.add_row(f"{scheme}:", Text(what))
    console.print(table)
    table = Table(title="Stores that can be found", title_justify="left")
    table.add_column("store", overflow="fold")  # to be copied: broken, but never cut
    table.add_column("shared by", overflow="fold")
    for store in report.stores:
        table.add_row(Text(redact(store.url)), Text(store.trouble or _summarise(store.crews)))
    console.print(table if report.stores else "No store was found; those named by a path are not listed.")
    for warning in report.warnings:
        console.print(Text(f"! {warning}", style="yellow"))
    console.print("See also: sharedstate who URL, sharedstate doctor --apache [CONFIG], sharedstate probe.")


def _summarise(crews: Sequence[Crew]) -> str:
    if not crews:
        return "nobody just now"
    return "\n".join(
        f"{crew.server or 'a program'} {crew.mode}: {_count(crew.processes, 'process', 'processes')}"
        f"{f' of {crew.announced}' if crew.announced > 1 else ''}, {_count(len(crew.members), 'handle', 'handles')}"
        for crew in crews
    )


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


def _as_plain(report: MachineReport) -> dict[str, Any]:
    return {
        "backends": report.backends,
        "stores": [
            {
                "url": redact(store.url),
                "trouble": store.trouble,
                "crews": [
                    {
                        **crew._asdict(),
                        "processes": crew.processes,
                        "missing": crew.missing,
                        "members": [{**member._asdict(), "owner": member.owner._asdict()} for member in crew.members],
                    }
                    for crew in store.crews
                ],
            }
            for store in report.stores
        ],
        "shortfalls": [{**sharer._asdict(), "owner": sharer.owner._asdict()} for sharer in report.shortfalls],
        "warnings": report.warnings,
    }
