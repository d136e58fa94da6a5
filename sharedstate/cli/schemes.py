"""`sharedstate SCHEME`: the stores of one plug-in's scheme that this machine knows of.

sharedstate shm list            each store: its size, entries, owner, and how many processes have it open
sharedstate shm remove NAME     removes one
sharedstate shm prune           removes those that nobody has open, after asking
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

import click

from sharedstate import registry
from sharedstate.backend.urls import parse_url
from sharedstate.cli.stores import name_trouble, open_existing, remove_asking
from sharedstate.errors import StateError
from sharedstate.model import Scope

__all__ = ["scheme_group"]


class _Found(NamedTuple):
    """One store; what could not be learned is None.

    Attributes:
        url: of the store.
        bytes: what it takes, of memory or disk.
        entries: how many it holds.
        owner: the user whose it is.
        processes: how many other processes have it open.
        trouble: why it could not be opened, or "".
    """

    url: str
    bytes: int | None
    entries: int | None
    owner: str | None
    processes: int | None
    trouble: str

    def is_orphan(self) -> bool:
        """Return whether nobody has it open."""
        return self.processes == 0


def scheme_group(scheme: str) -> click.Group:
    """Return the group of commands for the stores of one scheme."""
    group = click.Group(scheme, help=f"List and remove the {scheme}: stores that this machine knows of.")

    @group.command("list")
    @click.option("--json", "as_json", is_flag=True, help="Print lines of JSON.")
    def list_stores(as_json: bool) -> None:
        """Print the stores that can be found on this machine.

        For each: its URL, how many bytes it takes, how many entries it holds,
        whose it is, and how many processes have it open. A - stands for what
        this user may not know.
        """
        found = _find(scheme)
        for store in found if as_json else ():
            click.echo(json.dumps(store._asdict(), ensure_ascii=False))
        if found and not as_json:
            _print_table(found)
        if not found:
            click.echo(f"sharedstate: no {scheme}: store is known here; {_what_is_not_listed(scheme)}", err=True)

    @group.command("remove")
    @click.argument("name")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    def remove_store(name: str, yes: bool) -> None:
        """Remove the store NAME with its locks, unless one of them is held.

        NAME may also be the URL that `list` shows.
        """
        remove_asking(name if name.startswith(f"{scheme}:") else f"{scheme}:{name}", yes)

    @group.command("prune")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    def prune_stores(yes: bool) -> None:
        """Remove the stores that nobody has open just now, after asking for each.

        A store outlives its processes on purpose, so look first: it may be that
        of a service that is just being restarted.
        """
        for store in _find(scheme):
            if not store.is_orphan():
                continue
            if yes or click.confirm(f"Nobody has {store.url} open. Remove it with its {store.entries} entries?"):
                _remove_orphan(scheme, store.url)

    return group


def _what_is_not_listed(scheme: str) -> str:
    scope = registry.find_plugin(parse_url(f"{scheme}:any")).CAPABILITIES.scope
    if scope is Scope.INTERPRETER:
        return "it is seen by the program that has it, and by no command"
    return f"those {'of a server' if scope is Scope.CLUSTER else 'named by a path'} are not listed"


def _find(scheme: str) -> list[_Found]:
    return [_look(scheme, url) for url in sorted(registry.find_plugin(parse_url(f"{scheme}:any")).discover())]


def _look(scheme: str, url: str) -> _Found:
    size, owner = _look_at_file(scheme, url)
    try:
        with open_existing(url) as store:
            others = {sharer.owner[:3] for sharer in store.sharers() if sharer.owner.pid != os.getpid()}
            return _Found(url, size, len(store), owner, len(others), "")
    except StateError as error:
        return _Found(url, size, None, owner, None, name_trouble(url, error))


def _look_at_file(scheme: str, url: str) -> tuple[int | None, str | None]:
    parsed = parse_url(url)
    # A plug-in without path() keeps its stores in no file.
    path_of = getattr(registry.find_plugin(parse_url(f"{scheme}:any")), "path", None)
    if path_of is None:
        return None, None
    try:
        status = os.lstat(path_of(parsed))
    except OSError:
        return None, None
    return status.st_blocks * 512, _user_name(status.st_uid)


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _remove_orphan(scheme: str, url: str) -> None:
    """Remove the store if still nobody has it open; say what came of it."""
    if not _look(scheme, url).is_orphan():
        click.echo(f"{url}: left alone, somebody has opened it")
        return
    try:
        remove_asking(url, yes=True)
    except StateError as error:
        click.echo(f"sharedstate: {' '.join(str(error).split())}", err=True)
    else:
        click.echo(f"{url}: removed")


def _print_table(found: list[_Found]) -> None:
    """Print columns without borders, never cut to a terminal's width: they are also for grep and awk."""

    def text(fact: Any) -> str:
        return "-" if fact is None else str(fact)

    rows = [["URL", "BYTES", "ENTRIES", "OWNER", "PROCESSES"]]
    rows += [[text(fact) for fact in store[:-1]] for store in found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, trouble in zip(rows, ["", *(store.trouble for store in found)], strict=True):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(f"{line}  {trouble}".rstrip())
