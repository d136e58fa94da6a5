"""The commands that look into one store, or change it.

A command that only reads never makes a store that is not there: it asks the
plug-in first.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from sharedstate import opening, registry
from sharedstate.backend.urls import parse_url
from sharedstate.cli.notation import read_value, write_value
from sharedstate.errors import CorruptError, LockTimeoutError, UnavailableError, redact

if TYPE_CHECKING:
    from sharedstate.backend import Lock
    from sharedstate.store import Store

__all__ = ["STORE_COMMANDS", "open_existing", "scheme_group"]

_ABSENT: Final = object()


def open_existing(url: str) -> Store:
    """Open the store, which must be there."""
    parsed = parse_url(url)
    plugin = registry.find_plugin(parsed)
    # A plug-in without exists() is of a server, whose stores are always there.
    exists = getattr(plugin, "exists", None)
    if exists is not None and not exists(parsed):
        advice = "Check the name; a store is made by the program that uses it, or by `sharedstate set`."
        raise UnavailableError(url=url, reason="there is no such store", advice=advice)
    return opening.open_store(url)


def _fail(reason: str) -> None:
    click.echo(f"sharedstate: {reason}", err=True)
    sys.exit(1)


# --- Values --------------------------------------------------------------------


@click.command("get")
@click.argument("url")
@click.argument("key")
def get_value(url: str, key: str) -> None:
    """Print the value of KEY as JSON."""
    with open_existing(url) as store:
        value = store.get(key, _ABSENT)
    if value is _ABSENT:
        _fail(f"{url}: no key {key!r}")
    click.echo(write_value(value))


@click.command("set")
@click.argument("url")
@click.argument("key")
@click.argument("value")
@click.option("--ttl", "ttl_s", type=float, metavar="SECONDS", help="Let it expire after that time.")
@click.option("--text", is_flag=True, help="Take VALUE as a str as it stands, not as JSON.")
def set_value(url: str, key: str, value: str, ttl_s: float | None, text: bool) -> None:
    """Store VALUE, which is JSON, under KEY.  Makes the store if there is none."""
    try:
        parsed = value if text else read_value(value)
    except ValueError as error:
        raise click.BadParameter(
            f"{value} is no JSON value ({error}); for plain text add --text", param_hint="VALUE"
        ) from None
    with opening.open_store(url) as store:
        store.set(key, parsed, ttl_s)


@click.command("delete")
@click.argument("url")
@click.argument("key")
def delete_value(url: str, key: str) -> None:
    """Remove KEY."""
    with open_existing(url) as store:
        was_there = store.delete(key)
    if not was_there:
        _fail(f"{url}: no key {key!r}")


@click.command("keys")
@click.argument("url")
@click.argument("prefix", default="")
def list_keys(url: str, prefix: str) -> None:
    """Print the keys, one a line, that start with PREFIX."""
    with open_existing(url) as store:
        for key in sorted(store.keys(prefix)):
            click.echo(key)


@click.command("dump")
@click.argument("url")
@click.argument("prefix", default="")
def dump(url: str, prefix: str) -> None:
    """Print each entry as a line of JSON: key, value, generation, expires_at.

    Each line is consistent in itself; the store may change between two lines.
    """
    with open_existing(url) as store:
        for key in sorted(store.keys(prefix)):
            entry = store.read(key)
            if entry is not None:
                click.echo(_entry_line(key, entry.value, entry.generation, entry.expires_at))


@click.command("watch")
@click.argument("url")
@click.argument("prefix", default="")
@click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="End after that time without a change.")
def watch(url: str, prefix: str, timeout_s: float | None) -> None:
    """Print each change of a key that starts with PREFIX, as a line of JSON, from now on."""
    with open_existing(url) as store:
        try:
            for change in store.watch(prefix, timeout_s):
                if change.entry is None:
                    line = json.dumps({"key": change.key, "gone": True}, ensure_ascii=False)
                else:
                    line = _entry_line(change.key, change.entry.value, change.entry.generation, change.entry.expires_at)
                click.echo(line)
                sys.stdout.flush()
        except KeyboardInterrupt:
            pass


def _entry_line(key: str, value: Any, generation: int, expires_at: float | None) -> str:
    rest = json.dumps({"generation": generation, "expires_at": expires_at})
    return f'{{"key": {json.dumps(key, ensure_ascii=False)}, "value": {write_value(value)}, {rest[1:]}'


# --- The store -----------------------------------------------------------------


@click.command("stats")
@click.argument("url")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show_stats(url: str, as_json: bool) -> None:
    """Print figures: entries, bytes, capacity and the backend's own."""
    with open_existing(url) as store:
        figures = store.stats()
        claim = store.capabilities
    facts = {"url": redact(store.url), "scope": claim.scope.name, "durability": claim.durability.name, **figures}
    if as_json:
        click.echo(json.dumps(facts))
    else:
        width = max(map(len, facts))
        for name, figure in facts.items():
            click.echo(f"{name:{width}}  {figure}")


@click.command("locks")
@click.argument("url")
@click.option("--json", "as_json", is_flag=True, help="Print lines of JSON.")
def show_locks(url: str, as_json: bool) -> None:
    """Print the named locks: whether held, by whom (or by whom last), the fencing token, since when."""
    with open_existing(url) as store:
        records = sorted(store.locks(), key=lambda record: record.name)
    if as_json:
        for record in records:
            owner = {**record.owner._asdict(), "alive": record.owner.is_alive()}
            click.echo(json.dumps({**record._asdict(), "owner": owner}))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("name", "held", "owner", "token", "since")
    for record in records:
        since = datetime.fromtimestamp(record.acquired_at, UTC).astimezone().isoformat(" ", "seconds")
        holder = f"{record.owner}{'' if record.owner.is_alive() else ' (gone)'}"
        # Text, not str: a lock's name is anybody's, and no markup.
        table.add_row(Text(record.name), "held" if record.held else "free", Text(holder), str(record.token), since)
    Console().print(table if records else f"{url}: no lock was ever taken")


@click.command("remove")
@click.argument("url")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(url: str, yes: bool) -> None:
    """Remove the store with its locks, unless one of them is held."""
    _remove(url, yes)


def _remove(url: str, yes: bool) -> None:
    try:
        store = open_existing(url)
    except CorruptError as error:
        click.echo(f"sharedstate: {error}", err=True)
        _confirm(f"Remove what is there, though it is damaged and cannot say who holds its locks: {url}?", yes)
        opening.remove(url)
        return
    with store, ExitStack() as held:
        _confirm(f"Remove {redact(store.url)} with its {len(store)} entries?", yes)
        for record in store.locks():
            _hold(store.lock(record.name), held)
        opening.remove(url)


def _confirm(question: str, yes: bool) -> None:
    if not yes:
        click.confirm(question, abort=True)


def _hold(lock: Lock, held: ExitStack) -> None:
    """Take the lock for as long as `held` lasts, or raise LockTimeoutError."""
    path = getattr(lock, "path", None)
    if path is None:
        lock.acquire(0)
        return
    # Through portalocker where the lock is a file: the record of its last owner stays as it is.
    import portalocker

    file = held.enter_context(open(path, "rb"))  # noqa: SIM115  the stack closes it
    try:
        portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
    except portalocker.LockException:
        raise LockTimeoutError(url=lock.url, what=f"lock {lock.name!r}", timeout_s=0.0) from None


# --- A plug-in's stores ----------------------------------------------------------


def scheme_group(scheme: str) -> click.Group:
    """Return the group of commands for the stores of one scheme."""
    group = click.Group(scheme, help=f"The stores of the scheme {scheme}: that this machine knows of.")

    @group.command("list")
    def list_stores() -> None:
        """Print the URLs of the stores that can be found on this machine."""
        found = registry.find_plugin(parse_url(f"{scheme}:any")).discover()
        for url in sorted(found):
            click.echo(url)
        if not found:
            click.echo(f"sharedstate: no {scheme}: store is known here; one named by its path is not listed", err=True)

    @group.command("remove")
    @click.argument("name")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    def remove_store(name: str, yes: bool) -> None:
        """Remove the store NAME with its locks, unless one of them is held."""
        _remove(f"{scheme}:{name}", yes)

    return group


STORE_COMMANDS: Final = (
    get_value,
    set_value,
    delete_value,
    list_keys,
    dump,
    watch,
    show_stats,
    show_locks,
    remove,
)
