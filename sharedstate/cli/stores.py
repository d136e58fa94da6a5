"""The commands that look into one store, or change it.

A command that only reads never makes a store that is not there: it asks the
plug-in first.  One that makes it says so if it ends with the command.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from sharedstate import opening, registry
from sharedstate.backend.urls import parse_url
from sharedstate.cli.helping import examples
from sharedstate.cli.notation import entry_line, read_value, write_value
from sharedstate.errors import (
    CorruptError,
    LockTimeoutError,
    StateError,
    StoreAccessError,
    UnavailableError,
    redact,
)
from sharedstate.model import Scope

if TYPE_CHECKING:
    from sharedstate.backend import Lock
    from sharedstate.backend.plugin import Plugin
    from sharedstate.store import Store

__all__ = ["STORE_COMMANDS", "name_trouble", "open_existing", "remove_asking", "warn_if_fleeting"]


def open_existing(url: str) -> Store:
    """Open the store, which must be there."""
    parsed = parse_url(url)
    plugin = registry.find_plugin(parsed)
    # A plug-in without exists() is of a server, whose stores are always there.
    exists = getattr(plugin, "exists", None)
    if exists is not None and not exists(parsed):
        raise UnavailableError(url=url, reason="there is no such store", advice=_advise_on_name(url, plugin))
    return opening.open_store(url)


def name_trouble(url: str, error: StateError) -> str:
    """Return in a line why a store could not be looked at, for a list of stores, where its URL stands already.

    What to do about one that is somebody else's is told to who asks for that store.
    """
    told = error.reason if isinstance(error, StoreAccessError) else str(error).removeprefix(f"{url}: ")
    return " ".join(told.split())


def _advise_on_name(url: str, plugin: Plugin) -> str:
    if plugin.CAPABILITIES.scope is Scope.INTERPRETER:
        return "It is seen by the program that has it, and by no command: take another scheme."
    from difflib import get_close_matches

    found = {_name_in(each): each for each in plugin.discover()}
    alike = get_close_matches(_name_in(url), found, 1, cutoff=0.75)
    meant = f" Did you mean {found[alike[0]]}?" if alike else ""
    listed = f" (`sharedstate {parse_url(url).scheme} list`)" if found else ""
    return f"Check the name{listed}; a store is made by the program that uses it, or by `sharedstate set`.{meant}"


def _name_in(url: str) -> str:
    return url.partition(":")[2].lstrip("/").partition("?")[0]


def warn_if_fleeting(store: Store) -> None:
    """Say so if nobody will see what was written."""
    if store.capabilities.scope is Scope.INTERPRETER:
        click.echo(f"sharedstate: {redact(store.url)} ends with this command: take another scheme to keep it", err=True)


def _fail(reason: str) -> None:
    click.echo(f"sharedstate: {reason}", err=True)
    sys.exit(1)


# --- Values --------------------------------------------------------------------

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

_ttl_s = click.FloatRange(min=0.0, min_open=True, max=1e9)


class _TakesNegatives(click.Command):
    """A command that takes -5 for a value, and no option: none of them has a digit."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leave unknown options to the arguments if one of them is a negative number."""
        ctx.ignore_unknown_options = any(arg[:1] == "-" and arg[1:2].isdigit() for arg in args)
        return super().parse_args(ctx, args)


@click.command(
    "get",
    epilog=examples(
        "sharedstate get shm://jobs config | jq .retries", status="Exit status: 0; 1 if there is no such key."
    ),
)
@click.argument("url")
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="Print the entry: key, value, ttl_s, generation.")
def get_value(url: str, key: str, as_json: bool) -> None:
    """Print the value of KEY as JSON."""
    with open_existing(url) as store:
        entry = store.read(key)
        now = store.now()
    if entry is None:
        _fail(f"{redact(url)}: no key {key!r}")
    else:
        click.echo(entry_line(key, entry, now) if as_json else write_value(entry.value))


@click.command(
    "set",
    cls=_TakesNegatives,
    epilog=examples(
        "sharedstate set shm://jobs config '{\"retries\": 3}'",
        'sharedstate set shm://jobs motto "no pickle" --text --ttl 60',
        'sharedstate set shm://jobs raw \'{"$bytes": "AAE="}\'',
    ),
)
@click.argument("url")
@click.argument("key")
@click.argument("value")
@click.option("--ttl", "ttl_s", type=_ttl_s, metavar="SECONDS", help="Let it expire after that time.")
@click.option("--text", is_flag=True, help="Take VALUE as a str as it stands, not as JSON.")
@_as_json
def set_value(  # noqa: PLR0917  click names them
    url: str, key: str, value: str, ttl_s: float | None, text: bool, as_json: bool
) -> None:
    """Store VALUE, which is JSON, under KEY.  Makes the store if there is none."""
    try:
        parsed = value if text else read_value(value)
    except ValueError as error:
        raise click.BadParameter(
            f"{value} is no JSON value ({error}); for plain text add --text", param_hint="VALUE"
        ) from None
    with opening.open_store(url) as store:
        store.set(key, parsed, ttl_s)
        warn_if_fleeting(store)
    if as_json:
        click.echo(json.dumps({"key": key, "stored": True}, ensure_ascii=False))


@click.command(
    "incr", epilog=examples("sharedstate incr shm://jobs hits", "sharedstate incr shm://jobs balance --by -2.5")
)
@click.argument("url")
@click.argument("key")
@click.option("--by", default="1", metavar="NUMBER", help="What to add; 1 by default, and may be negative.")
@click.option("--initial", default="0", metavar="NUMBER", help="What an absent key starts from; 0 by default.")
@click.option("--ttl", "ttl_s", type=_ttl_s, metavar="SECONDS", help="Let it expire, if this call creates it.")
@_as_json
def increment_value(  # noqa: PLR0917  click names them
    url: str, key: str, by: str, initial: str, ttl_s: float | None, as_json: bool
) -> None:
    """Add to the number at KEY, and print the sum.  Makes the store if there is none."""
    numbers = _number(by, "--by"), _number(initial, "--initial")
    with opening.open_store(url) as store:
        total = store.increment(key, *numbers, ttl_s)
        warn_if_fleeting(store)
    click.echo(write_value({"key": key, "value": total} if as_json else total))


def _number(text: str, option: str) -> int | float:
    try:
        number = read_value(text)
    except ValueError:
        number = None
    if type(number) is int or type(number) is float:
        return number
    raise click.BadParameter(f"{text} is no number", param_hint=option)


@click.command(
    "delete",
    epilog=examples("sharedstate delete shm://jobs config", status="Exit status: 0; 1 if there was no such key."),
)
@click.argument("url")
@click.argument("key")
@_as_json
def delete_value(url: str, key: str, as_json: bool) -> None:
    """Remove KEY."""
    with open_existing(url) as store:
        was_there = store.delete(key)
    if as_json:
        click.echo(json.dumps({"key": key, "deleted": was_there}, ensure_ascii=False))
        sys.exit(not was_there)
    if not was_there:
        _fail(f"{redact(url)}: no key {key!r}")


@click.command("keys", epilog=examples("sharedstate keys shm://jobs user:"))
@click.argument("url")
@click.argument("prefix", default="")
@click.option("--json", "as_json", is_flag=True, help="Print each as a JSON string: a key may hold a line break.")
def list_keys(url: str, prefix: str, as_json: bool) -> None:
    """Print the keys, one a line, that start with PREFIX."""
    with open_existing(url) as store:
        for key in sorted(store.keys(prefix)):
            click.echo(json.dumps(key, ensure_ascii=False) if as_json else key)


@click.command(
    "watch", epilog=examples("sharedstate watch shm://jobs config", "sharedstate watch shm://jobs --timeout 60")
)
@click.argument("url")
@click.argument("prefix", default="")
@click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="End after that time without a change.")
def watch(url: str, prefix: str, timeout_s: float | None) -> None:
    """Print each change of a key that starts with PREFIX, as a line of JSON, from now on.

    A key that is gone is told as {"key": ..., "gone": true}; ends with Ctrl-C.
    """
    with open_existing(url) as store:
        try:
            if sys.stdout.isatty():
                click.echo("sharedstate: waiting for changes; Ctrl-C ends that", err=True)
            for change in store.watch(prefix, timeout_s):
                if change.entry is None:
                    line = json.dumps({"key": change.key, "gone": True}, ensure_ascii=False)
                else:
                    line = entry_line(change.key, change.entry, store.now())
                click.echo(line)
                sys.stdout.flush()
        except KeyboardInterrupt:
            pass


# --- The store -----------------------------------------------------------------


@click.command("stats", epilog=examples("sharedstate stats shm://jobs --json | jq .entries"))
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


@click.command("locks", epilog=examples("sharedstate locks shm://jobs"))
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
    table.columns[0].overflow = "fold"  # to be copied: broken, but never cut
    for record in records:
        since = datetime.fromtimestamp(record.acquired_at, UTC).astimezone().isoformat(" ", "seconds")
        holder = f"{record.owner}{'' if record.owner.is_alive() else ' (gone)'}"
        # Text, not str: a lock's name is anybody's, and no markup.
        table.add_row(Text(record.name), "held" if record.held else "free", Text(holder), str(record.token), since)
    Console().print(table if records else f"{redact(url)}: no lock was ever taken")


@click.command("remove", epilog=examples("sharedstate remove shm://jobs --yes"))
@click.argument("url")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(url: str, yes: bool) -> None:
    """Remove the store with its locks, unless one of them is held."""
    remove_asking(url, yes)


def remove_asking(url: str, yes: bool) -> None:
    """Remove the store unless one of its locks is held, after asking, unless `yes`."""
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


STORE_COMMANDS: Final = (
    get_value,
    set_value,
    delete_value,
    increment_value,
    list_keys,
    watch,
    show_stats,
    show_locks,
    remove,
)
