"""The commands that carry entries out of a store, into one, and from one to another.

sharedstate dump URL > FILE       each entry as a line of JSON
sharedstate load URL < FILE       the same lines back
sharedstate diff URL URL          what two stores differ in
sharedstate copy FROM TO          from one store to another
sharedstate move FROM TO          the store itself, while it is used
sharedstate import-diskcache DIRECTORY URL
                                  from a cache of diskcache's

None of them replaces or removes anything unless told to; run again, each goes on
where it was interrupted, and `move` begins anew.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from sharedstate import opening, registry
from sharedstate.backend.urls import parse_url
from sharedstate.backend.waiting import check_ttl
from sharedstate.cli.helping import examples
from sharedstate.cli.notation import entry_line, read_line
from sharedstate.cli.progress import draw_progress
from sharedstate.cli.stores import open_existing, warn_if_fleeting
from sharedstate.errors import StateError, redact
from sharedstate.migration import compare_capabilities, copy_entries, find_differences, move_store, put_entry
from sharedstate.migration.cache_directory import CacheDirectory
from sharedstate.migration.comparing import Lasting
from sharedstate.migration.copying import Outcome
from sharedstate.migration.diskcache import import_cache
from sharedstate.migration.moving import require_movable
from sharedstate.values import check, check_key

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence
    from typing import TextIO

    from sharedstate.migration import CopyReport, ImportReport, MoveReport, SemanticChange
    from sharedstate.store import Store

__all__ = ["TRANSFER_COMMANDS"]

_SHOWN_KEYS: Final = 20
_LOCKED_S: Final = 10.0
_TROUBLE: Final = 2  # of diff(1) and cmp(1): 1 means that there are differences


# --- Lines of JSON ---------------------------------------------------------------


@click.command(
    "dump", epilog=examples("sharedstate dump shm://jobs > jobs.jsonl", "sharedstate dump shm://jobs user: | jq .key")
)
@click.argument("url")
@click.argument("prefix", default="")
def dump(url: str, prefix: str) -> None:
    """Print each entry as a line of JSON: key, value, ttl_s, generation.

    ttl_s is the seconds that are left until the entry expires, or null. Each
    line is consistent in itself; the store may change between two lines.
    """
    with open_existing(url) as store:
        for key in sorted(store.keys(prefix)):
            entry = store.read(key)
            if entry is not None:
                click.echo(entry_line(key, entry, store.now()))


class _Line(NamedTuple):
    """An entry that is to be loaded."""

    key: str
    lasting: Lasting

    def read(self) -> Lasting:
        """Return what is to be stored, as `put_entry` asks for it."""
        return self.lasting


@click.command(
    "load",
    epilog=examples(
        "sharedstate load sqlite:state.db jobs.jsonl",
        "sharedstate dump shm://jobs | sharedstate load shm://copy",
        status="Exit status: 0 if all that was in FILE is in the store; 1 if not; 2 if a line is malformed: then "
        "nothing was stored.",
    ),
)
@click.argument("url")
@click.argument("file", type=click.File(encoding="utf-8"), default="-")
@click.option("--overwrite", is_flag=True, help="Replace what differs in the store.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def load(url: str, file: TextIO, overwrite: bool, as_json: bool) -> None:
    """Store the entries that `dump` printed, from FILE or stdin.  Makes the store if there is none.

    All lines are read and checked before the first entry is stored. An entry
    that is there already is not written; one that differs is kept, and named,
    unless --overwrite is given. Entries with a ttl_s expire that long after
    they are loaded.
    """
    if file.isatty():
        click.echo("sharedstate: reading entries from the terminal, a line each; Ctrl-D ends that", err=True)
    try:
        lines = list(_read_lines(file))
    except UnicodeDecodeError:
        raise click.BadParameter("it is no UTF-8 text, and so not what `dump` printed", param_hint="FILE") from None
    outcomes: dict[Outcome, list[str]] = {outcome: [] for outcome in Outcome}
    with opening.open_store(url) as store, draw_progress(f"loading {redact(url)}") as progress:
        for done, line in enumerate(lines):
            if progress is not None:
                progress(done, len(lines))
            outcomes[put_entry(store, line.key, line.read, overwrite=overwrite)].append(line.key)
        warn_if_fleeting(store)
    refused, too_large = outcomes[Outcome.REFUSED], outcomes[Outcome.TOO_LARGE]
    written, same = len(outcomes[Outcome.WRITTEN]), len(outcomes[Outcome.SAME])
    if as_json:
        _print_json(url=redact(url), written=written, same=same, refused=refused, too_large=too_large)
    else:
        click.echo(f"{redact(url)}: {written} entries written, {same} were there already")
        _tell_keys("differ, and were left as they are; --overwrite replaces them", refused)
        _tell_keys("are too large for this store", too_large)
    if refused or too_large:
        sys.exit(1)


def _read_lines(file: Iterable[str]) -> Generator[_Line]:
    for number, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            key, value, ttl_s = read_line(text)
            check_key(key)
            check(value)
            check_ttl(ttl_s)
        except (ValueError, StateError) as error:
            raise click.BadParameter(f"line {number}: {error}", param_hint="FILE") from None
        yield _Line(key, Lasting(value, ttl_s))


# --- From diskcache ---------------------------------------------------------------


@click.command(
    "import-diskcache",
    epilog=examples(
        "sharedstate import-diskcache /var/cache/app shm://app",
        "sharedstate import-diskcache /var/cache/app sqlite:/var/lib/app/state.db --overwrite",
        status="Exit status: 0 if all that was in DIRECTORY is in the store; 1 if not.",
    ),
)
@click.argument("directory")
@click.argument("url")
@click.option("--overwrite", is_flag=True, help="Replace what differs in the store.")
@click.option("--int-keys", is_flag=True, help="Bring over keys that are int, as text.")
@click.option(
    "--unsafe-pickle",
    is_flag=True,
    help="Execute pickles that name something. Who could write to DIRECTORY can then do all that you can.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def import_diskcache(  # noqa: PLR0917  click names them
    directory: str, url: str, overwrite: bool, int_keys: bool, unsafe_pickle: bool, as_json: bool
) -> None:
    """Bring what is in a diskcache DIRECTORY into a store, which is made if there is none.

    DIRECTORY is that of a Cache or a FanoutCache. It may be in use, and nothing
    in it is changed. Deadlines come over as the time that is left; tags stay
    behind. No pickle is executed: one of plain values comes over, one that
    names a class or function is left behind, and named with what it names. So
    is each key that is no str, and each value that a store cannot have.

    What is in the store already is not written again; what differs there is
    kept, and named, unless --overwrite is given.
    """
    with (
        CacheDirectory(directory, _LOCKED_S) as cache,
        opening.open_store(url) as store,
        draw_progress(f"importing {directory}") as progress,
    ):
        report = import_cache(
            cache, store, overwrite=overwrite, int_keys=int_keys, allow_pickle=unsafe_pickle, progress=progress
        )
        warn_if_fleeting(store)
    if as_json:
        found = {**report._asdict(), "left_behind": [each._asdict() for each in report.left_behind]}
        _print_json(directory=directory, url=redact(url), **found)
    else:
        _tell_import(redact(url), report)
    if not report.is_complete():
        sys.exit(1)


def _tell_import(url: str, report: ImportReport) -> None:
    expired = f", {report.expired} had expired" if report.expired else ""
    click.echo(f"{url}: {report.written} entries written, {report.same} were there already{expired}")
    if report.tags:
        click.echo(f"  {report.tags} had a tag, which stays behind")
    _tell_keys("differ, and were left as they are; --overwrite replaces them", report.refused)
    _tell_keys("are too large for this store", report.too_large)
    if report.left_behind:
        click.echo(f"  {len(report.left_behind)} were left behind:")
    for key, reason in report.left_behind[:_SHOWN_KEYS]:
        click.echo(f"    {_shown(key)}: {reason}")
    if len(report.left_behind) > _SHOWN_KEYS:
        click.echo(f"    and {len(report.left_behind) - _SHOWN_KEYS} more (see --json)")


# --- Two stores -------------------------------------------------------------------


@click.command(
    "diff",
    epilog=examples(
        "sharedstate diff shm://jobs sqlite:state.db",
        status="Exit status: 0 if they hold the same; 1 if not; 2 in case of trouble.",
    ),
)
@click.argument("first", metavar="URL")
@click.argument("second", metavar="URL")
@click.option("--prefix", default="", help="Only keys that start with it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff(first: str, second: str, prefix: str, as_json: bool) -> None:
    """Print the keys that two stores differ in.

    Each after a mark: < only the first has it, > only the second, ! both, with
    another value, or deadlines more than a second apart.
    """
    try:
        with open_existing(first) as left, open_existing(second) as right, draw_progress("comparing") as progress:
            found = find_differences(left, right, prefix, progress)
    except StateError as error:
        click.echo(f"sharedstate: {' '.join(str(error).split())}", err=True)
        sys.exit(_TROUBLE)
    if as_json:
        _print_json(**found._asdict())
    else:
        marked = [("<", key) for key in found.only_left]
        marked += [(">", key) for key in found.only_right]
        marked += [("!", key) for key in found.differing]
        for mark, key in sorted(marked, key=lambda line: line[1]):
            click.echo(f"{mark} {_shown(key)}")
    if not found.is_empty():
        sys.exit(1)


@click.command(
    "copy",
    epilog=examples(
        "sharedstate copy shm://jobs sqlite:/var/lib/app/state.db",
        "sharedstate copy shm://jobs sqlite:/var/lib/app/state.db --overwrite --delete",
        status="Exit status: 0 if all that FROM has was in TO at the end; 1 if not.",
    ),
)
@click.argument("source_url", metavar="FROM")
@click.argument("target_url", metavar="TO")
@click.option("--prefix", default="", help="Only keys that start with it.")
@click.option("--overwrite", is_flag=True, help="Replace what differs in TO.")
@click.option("--delete", is_flag=True, help="Remove from TO what FROM does not have.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def copy(  # noqa: PLR0917  click names them
    source_url: str, target_url: str, prefix: str, overwrite: bool, delete: bool, as_json: bool
) -> None:
    """Copy the entries of FROM to TO, which is made if there is none.

    Says first what the two stores do not promise alike. Values come over as
    they are, deadlines as the time that is left; generations, locks and sharers
    stay behind. What is in TO already is not written again; what differs there
    is kept, and named, unless --overwrite is given. At the end both are read
    and compared, and what somebody changed meanwhile is named.

    To move a service: copy while it runs; stop it; copy again with --overwrite
    and --delete; start it with the new URL.
    """
    with open_existing(source_url) as source, opening.open_store(target_url) as target:
        if source.url == target.url:
            raise click.UsageError(f"FROM and TO are the same store: {redact(source.url)}.")
        changes = compare_capabilities(source.capabilities, target.capabilities)
        if not as_json:
            _tell_changes(changes)
        with draw_progress(f"copying to {redact(target_url)}") as progress:
            report = copy_entries(source, target, prefix=prefix, overwrite=overwrite, delete=delete, progress=progress)
    urls = {"from": redact(source_url), "to": redact(target_url)}
    if as_json:
        _print_json(**urls, semantics=[change._asdict() for change in changes], **report._asdict())
    else:
        _tell_report(redact(target_url), report)
    if not report.is_complete():
        sys.exit(1)


@click.command(
    "move",
    epilog=examples(
        "sharedstate move sqlite:/var/lib/app/state.db redis://cache.example/app",
        status="Exit status: 0 if the store is at TO; 1 if not: then it is at FROM as before.",
    ),
)
@click.argument("source_url", metavar="FROM")
@click.argument("target_url", metavar="TO")
@click.option("--overwrite", is_flag=True, help="Remove first what TO has, such as a move that was interrupted left.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.0),
    default=30.0,
    show_default=True,
    help="Seconds to wait for a moment at which nobody holds anything.",
)
@click.option(
    "--linger",
    "linger_s",
    type=click.FloatRange(min=0.0),
    default=30.0,
    show_default=True,
    help="Seconds to stay, for programs that make no call; Ctrl-C ends that.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def move(  # noqa: PLR0917  click names them
    source_url: str, target_url: str, overwrite: bool, timeout_s: float, linger_s: float, as_json: bool
) -> None:
    """Move the store FROM to TO while programs use it; not one write is lost.

    From sqlite: to redis:. Everything is brought over while all go on; then
    writers are held for some milliseconds, and go on at TO, without a restart.
    Nothing moves while somebody holds a lock or a permit, runs a task or leads.

    TO is what all who have the store open will use, so name it as they see it.
    It is kept in FROM, with its password. Restart them with the new URL when
    it suits you, and remove FROM after that. Each goes along with its next call;
    until then it would be taken for gone by who looks for it at TO, so this
    command stays a while and stands in for it. See docs/moving.md.
    """
    with open_existing(source_url) as source, _open_target(source, target_url) as target:
        changes = compare_capabilities(source.capabilities, target.capabilities)
        if not as_json:
            _tell_changes(changes)
        with draw_progress(f"moving to {redact(target_url)}") as progress:
            reports: list[MoveReport] = []

            def tell(report: MoveReport) -> None:
                reports.append(report)
                if report.waiting and linger_s:
                    who = _counted(report.waiting, "handle that has", "handles that have")
                    click.echo(f"It has moved. Waiting for {who} made no call since; Ctrl-C ends that.", err=True)

            try:
                report = move_store(
                    source,
                    target,
                    overwrite=overwrite,
                    timeout_s=timeout_s,
                    linger_s=linger_s,
                    progress=progress,
                    when_moved=tell,
                )
            except KeyboardInterrupt:
                if not reports:
                    raise
                (report,) = reports
    urls = {"from": redact(source_url), "to": redact(target_url)}
    if as_json:
        _print_json(**urls, semantics=[change._asdict() for change in changes], **report._asdict())
    else:
        click.echo(f"{urls['to']}: the store is here now, {report.entries} entries; all who use it go along")
        if report.waiting:
            one = "handle has made no call since, and counts as absent until it does"
            more = "handles have made no call since, and count as absent until they do"
            click.echo(f"  {_counted(report.waiting, one, more)}")
        click.echo(f"  {urls['from']} says so to who opens it: remove it once all are started with the new URL")


def _counted(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


def _open_target(source: Store, url: str) -> Store:
    """Open the store that `source` is to move to; one that was made for it, and cannot take it, goes again."""
    parsed = parse_url(url)
    exists = getattr(registry.find_plugin(parsed), "exists", None)
    was_there = exists is None or exists(parsed)
    target = opening.open_store(url)
    try:
        require_movable(source, target)
    except StateError:
        target.close()
        if not was_there:
            opening.remove(url)
        raise
    return target


def _tell_changes(changes: Sequence[SemanticChange]) -> None:
    """Say on stderr, before it begins, what a program will notice."""
    for change in changes:
        weight = "weaker" if change.is_weaker else "stronger"
        click.echo(
            f"{change.what}: {change.before} -> {change.after} ({weight}): {change.meaning}",
            err=True,
        )


def _tell_report(url: str, report: CopyReport) -> None:
    deleted = f", {report.deleted} deleted" if report.deleted else ""
    click.echo(f"{url}: {report.written} entries written, {report.same} were there already{deleted}")
    click.echo(f"  {report.verified} entries verified: the same in both stores at the end")
    _tell_keys("differ, and were left as they are; --overwrite replaces them", report.refused)
    _tell_keys("are too large for the target", report.too_large)
    _tell_keys("were changed by somebody meanwhile; copy again", report.changed)


# --- Showing ------------------------------------------------------------------------


def _tell_keys(what: str, keys: Sequence[str]) -> None:
    if keys:
        more = len(keys) - _SHOWN_KEYS
        rest = f" and {more} more (see --json)" if more > 0 else ""
        click.echo(f"  {len(keys)} {what}: {', '.join(map(_shown, keys[:_SHOWN_KEYS]))}{rest}")


def _shown(key: str) -> str:
    """Return the key on one line: as it is if that can be read, else as JSON."""
    return key if key.isprintable() else json.dumps(key)


def _print_json(**facts: Any) -> None:
    click.echo(json.dumps(facts, ensure_ascii=False))


TRANSFER_COMMANDS: Final = (dump, load, import_diskcache, diff, copy, move)
