"""A forecast of an Apache server on a terminal: a table for each application, then what will go wrong or surprise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from sharedstate.choice import Needs
from sharedstate.deployment.apache import Weight
from sharedstate.errors import StateError
from sharedstate.selection import choose

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

    from sharedstate.deployment.apache import Advice, Application, Forecast, Range
    from sharedstate.deployment.apache.copies import Copies
    from sharedstate.deployment.apache.directives import Source

__all__ = ["render"]

_STYLES: Final = {Weight.ERROR: "bold red", Weight.WARNING: "bold yellow", Weight.NOTE: "bold cyan"}
_GILS: Final = {
    "only": "the process's only GIL",
    "shared": "shared GIL",
    "own": "its own GIL",
    "absent": "no GIL",
}


def render(found: Forecast, advice: Sequence[Advice]) -> RenderableType:
    """Return the forecast as something that rich can print."""
    parts: list[RenderableType] = [_headline(found), Text()]
    for each in found.applications:
        parts += [_house(each), Padding(_table(each), (0, 0, 0, 2)), Text()]
    parts += [_advice(each, len(found.applications)) for each in advice]
    return Group(*parts)


def _headline(found: Forecast) -> Text:
    python = f" on Python {found.mod_wsgi.python}" if found.mod_wsgi.python else ""
    return Text(
        f"{found.apache.config}\n"
        f"{found.apache.version}, {found.mpm.name}, mod_wsgi {found.mod_wsgi.version or 'of unknown version'}{python}"
    )


def _house(each: Application) -> Tree:
    """Processes, the interpreters in them, and what is mounted in each of those."""
    house = Tree(Text(each.script, style="bold"))
    for pool in each.pools:
        processes = _number(pool.processes, "process", "processes")
        threads = _number(pool.threads, "thread", "threads")
        line = Text(f"{pool.label}: {processes} of {threads}, as {pool.account.user}")
        group = house.add(line.append(f"  {_places([pool.source, pool.account.source])}", style="dim"))
        for copies in each.copies:
            if copies.pool == pool:
                _add_interpreter(group, copies)
    return house


def _add_interpreter(group: Tree, copies: Copies) -> None:
    line = Text(f"interpreter {copies.interpreter_label}, {_GILS[copies.gil]}")
    if copies.interpreters.high is None:
        line.append(", and others that requests name")
    interpreter = group.add(line)
    if copies.preloaded is not None:
        preloaded = Text("runs when the process starts")
        interpreter.add(preloaded.append(f"  {copies.preloaded.place}", style="dim"))
    for mount in copies.mounts:
        interpreter.add(Text(mount.label).append(f"  {_places(mount.sources)}", style="dim"))


def _table(each: Application) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    started = "" if each.at_start == each.processes else f"{each.at_start} at the start, then "
    table.add_row("processes", f"{started}{each.processes}; in each of them {_interpreters(each.interpreters)}")
    table.add_row("module globals", f"{_number(each.number, 'copy', 'copies')}, {_sharing(each)}")
    table.add_row("module-level code", _runs(each))
    table.add_row("request threads", str(each.threads))
    table.add_row("environ says", f"multithread {_flag(each.multithread)}, multiprocess {_flag(each.multiprocess)}")
    table.add_row("replaced", _recycling(each))
    table.add_row("its state needs", _needs(each))
    return table


def _interpreters(number: Range) -> str:
    return f"{_number(number, 'interpreter', 'interpreters')} of it"


def _sharing(each: Application) -> str:
    shared = sorted({other for copies in each.copies for other in copies.neighbours})
    others = f"; imported modules are shared with {', '.join(shared)}" if shared else ""
    alone = each.number.is_exact and each.number.low == 1
    return ("seen by all its requests" if alone else "each seen only by requests that it happens to answer") + others


def _runs(each: Application) -> str:
    runs = each.runs
    start = "not at the start" if runs.at_start.high == 0 else f"{_number(runs.at_start, 'time', 'times')} at the start"
    return (
        f"runs {start}, {_number(runs.after_load, 'time', 'times')} once every copy was asked;\n"
        f"+{runs.touch} after a touch of the script, +{runs.kill} after the death of one process,\n"
        f"+{runs.restart} after graceful, restart, or stop and start"
    )


def _number(number: Range, one: str, many: str) -> str:
    return f"{number} {one if number.high == 1 and number.low == 1 else many}"


def _flag(flag: bool | None) -> str:
    return "differs" if flag is None else str(flag)


def _recycling(each: Application) -> Text:
    text = Text("all of them by graceful and restart")
    if any(not pool.is_embedded for pool in each.pools):
        text.append("; those of a daemon also by a touch of the script")
    for pool in each.pools:
        for reason in pool.recycling:
            text.append(f"\n{pool.label}: {reason.what}")
            text.append(f"  {reason.source.place}", style="dim")
    return text


def _needs(each: Application) -> str:
    needs = Needs(each.scope, each.durability, (each.because, "its processes are replaced while the server goes on"))
    said = f"scope {each.scope.name} ({each.because}) and durability {each.durability.name} (processes are replaced)"
    try:
        options = choose(needs=needs, name="any").options
    except StateError:
        return said
    able = {option.scheme: not needs.falls_short(option.capabilities) for option in options if option.capabilities}
    enough = [f"{scheme}:" for scheme, suffices in able.items() if suffices]
    rest = [f"{scheme}:" for scheme, suffices in able.items() if not suffices]
    return f"{said}\n{', '.join(enough)} will do" + (f"; {', '.join(rest)} will not" if rest else "")


def _advice(each: Advice, applications: int) -> RenderableType:
    text = Text(f"{each.weight.name.lower()} {each.code}", style=_STYLES[each.weight])
    about = "" if not each.scripts or len(each.scripts) == applications else f" ({', '.join(each.scripts)})"
    text.append(about, style="not bold dim")
    body = Text(each.finding)
    body.append(f"\n{each.remedy}", style="italic")
    if each.sources:
        body.append(f"\n{_places(each.sources)}", style="dim")
    return Group(text, Padding(body, (0, 0, 0, 2)))


def _places(sources: Iterable[Source]) -> str:
    """Return `file:1,7, other:3`."""
    lines: dict[str, list[int]] = {}
    others: list[str] = []
    for source in dict.fromkeys(sources):
        if source.file:
            lines.setdefault(source.file, []).append(source.line)
        else:
            others.append(source.text)
    grouped = [f"{file}:{','.join(map(str, sorted(set(numbers))))}" for file, numbers in lines.items()]
    return ", ".join([*grouped, *others])
