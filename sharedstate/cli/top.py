"""`sharedstate top`: what is done with a store just now, and by whom.

The numbers are `measuring`'s; what stands here draws them.
"""

from __future__ import annotations

import io
import json
import os
import select
import signal
import sys
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from sharedstate.cli.helping import examples
from sharedstate.cli.measuring import HotKeys, Look, Measured, Rates, measure
from sharedstate.cli.stores import open_existing
from sharedstate.errors import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from rich.console import RenderableType
    from rich.live import Live

    from sharedstate.cli.measuring import HotKey
    from sharedstate.store import Store

__all__ = ["top"]

_LOOK_S: Final = 0.1  # at samples: a page keeps the newest 63
_PATIENCE: Final = 4  # a look at the figures of a large store may take long: so many times that is left to others
_KEYS_TOLD: Final = 10
_HISTORY: Final = 40
_BARS: Final = "▁▂▃▄▅▆▇█"
_LINES_AROUND: Final = 16  # of the screen, that are no rows of a table


@click.command(
    "top",
    epilog=examples(
        "sharedstate top shm://jobs",
        "sharedstate top sqlite:state.db --once",
        "sharedstate top shm://jobs --json --interval 10 >>top.jsonl",
    ),
)
@click.argument("url")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.1, 3600.0),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How long is measured before it is shown.",
)
@click.option("--once", is_flag=True, help="Measure for one interval, print, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each interval.")
def top(url: str, interval_s: float, once: bool, as_json: bool) -> None:
    """Show what is done with the store just now, and by whom.

    Operations a second, the part of the reads that hit, the hottest keys, who
    does how much, who holds which lock, memory and evictions; on a terminal
    until q or Ctrl-C. Handles count all the time; to look costs them nothing.
    Keys are an estimate, from about one call in 16. Of redis: the rates are the
    whole server's, and keys and sharers have none.
    """
    with open_existing(url) as store:
        try:
            if as_json:
                for measured, keys in _measure(store, interval_s, _sleep):
                    click.echo(json.dumps(_as_plain(store, measured, keys.hottest(_KEYS_TOLD)), ensure_ascii=False))
                    if once:
                        return
            elif once or not _is_screen():
                _print_once(store, interval_s)
            else:
                _show(store, interval_s)
        except KeyboardInterrupt:
            pass


def _measure(store: Store, interval_s: float, wait: Callable[[float], bool]) -> Iterator[tuple[Measured, HotKeys]]:
    """Yield what happens in each interval, until `wait` says that nobody wants to know."""
    keys = HotKeys()
    before = Look.at(store)
    while True:
        keys.look(before.pages, before.at_s)
        took_s = time.monotonic() - before.at_s
        end_s = time.monotonic() + max(interval_s, _PATIENCE * took_s)
        while (left_s := end_s - time.monotonic()) > 0:
            if not wait(min(left_s, _LOOK_S)):
                return
            keys.look(store.backend.activity(), time.monotonic())
        after = Look.at(store)
        yield measure(before, after), keys
        before = after


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return True


# --- As text -----------------------------------------------------------------------


def _is_screen() -> bool:
    """Return whether standard output is a terminal that can be drawn on."""
    from rich.console import Console

    console = Console()
    return console.is_terminal and not console.is_dumb_terminal


def _print_once(store: Store, interval_s: float) -> None:
    from rich.console import Console

    out: Any = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="replace")  # where it has no bars, or not what a key holds
    for measured, keys in _measure(store, interval_s, _sleep):
        Console().print(_draw(store, measured, keys, [], _KEYS_TOLD))
        return


def _show(store: Store, interval_s: float) -> None:
    """Draw on the whole terminal until somebody presses q."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    history: deque[float] = deque(maxlen=_HISTORY)
    waiting = Text(f"{redact(store.url)}: measuring for {interval_s:g} s ...")
    live = Live(waiting, console=console, screen=True, auto_refresh=False)
    with _terminal(live) as wait:
        for measured, keys in _measure(store, interval_s, wait):
            if measured.rates is not None:
                history.append(measured.rates.operations)
            rows = max((console.height - _LINES_AROUND) // 3, 3)
            live.update(_draw(store, measured, keys, list(history), rows, "q ends"), refresh=True)


@contextmanager
def _terminal(live: Live) -> Generator[Callable[[float], bool]]:
    """Draw on the terminal while the block runs; yield a wait that ends early, and with False, when q is pressed.

    It is left as it was found, also by SIGTERM, and while we are stopped by Ctrl-Z.
    """
    import termios
    import tty

    fd = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else -1
    kept = termios.tcgetattr(fd) if fd >= 0 else []

    def enter() -> None:
        if fd >= 0:
            tty.setcbreak(fd)
        live.start(refresh=True)

    def leave() -> None:
        live.stop()
        if fd >= 0:
            termios.tcsetattr(fd, termios.TCSADRAIN, kept)

    def stop(_number: int, _frame: object) -> None:
        leave()
        signal.raise_signal(signal.SIGSTOP)  # until somebody says SIGCONT
        enter()

    def end(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    def wait(seconds: float) -> bool:
        if fd < 0:
            return _sleep(seconds)
        ready, _, _ = select.select([fd], [], [], seconds)
        typed = os.read(fd, 64) if ready else b"-"
        return bool(typed) and b"q" not in typed.lower()

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGTSTP)}
    try:
        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGTSTP, stop)
        enter()
        yield wait
    finally:
        leave()
        for number, handler in before.items():
            signal.signal(number, handler)


def _draw(  # noqa: PLR0917  one screen
    store: Store, measured: Measured, keys: HotKeys, history: list[float], rows: int, hint: str = ""
) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    claim = store.capabilities
    title = Text.assemble(
        (_plain(redact(store.url)), "bold"),
        f"  scope {claim.scope.name}, durability {claim.durability.name}",
        (f"   {time.strftime('%H:%M:%S')}, {measured.seconds:.1f} s   {hint}", "dim"),
    )
    parts: list[RenderableType] = [title, Text(), *_draw_figures(measured, history)]
    hottest = keys.hottest(rows)
    if hottest:
        parts += [Text(), _draw_keys(hottest)]
    return Group(*parts, Text(), _draw_sharers(measured, rows), Text(), _draw_locks(measured, rows))


def _draw_figures(measured: Measured, history: list[float]) -> list[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    figures, rates = measured.latest.figures, measured.rates
    grid = Table.grid(padding=(0, 3))
    if rates is not None:
        whose = " of the whole server" if measured.of_server else ""
        hit_rate = "no reads" if rates.hit_rate is None else f"{100 * rates.hit_rate:.1f} % hits"
        grid.add_row(
            "operations/s", Text(f"{_rounded(rates.operations)}{whose}", "bold"), Text(_spark(history), "cyan")
        )
        grid.add_row("reads/s", _rounded(rates.reads), hit_rate)
        grid.add_row("commands/s beside" if measured.of_server else "writes/s", _rounded(rates.writes))
    else:
        grid.add_row("operations/s", "not counted by this backend")
    grid.add_row("entries", f"{figures['entries']:,}")
    capacity = int(figures["capacity_bytes"])
    used = int(figures["bytes"])
    part = f"of {_size(capacity)}" if capacity else ""
    grid.add_row("bytes", _size(used), Text(f"{part}  {_bar(used / capacity)}" if capacity else part))
    if measured.evictions is not None:
        total = figures.get("evictions", figures.get("evicted"))
        grid.add_row("evictions/s", _rounded(measured.evictions), f"{total:,} so far")
    return [grid]


def _draw_keys(hottest: list[HotKey]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table("hottest keys", box=None, pad_edge=False)
    for name in ("about reads/s", "writes/s", "share"):
        table.add_column(name, justify="right")
    table.add_column("")
    for each in hottest:
        key = Text(_plain(each.key) + ("…" if each.is_cut else ""), overflow="ellipsis", no_wrap=True)
        share = f"{100 * each.share:.{0 if each.share >= 0.1 else 1}f} %"
        table.add_row(key, _rounded(each.reads), _rounded(each.writes), share, Text(_bar(each.share), "cyan"))
    return table


def _draw_sharers(measured: Measured, rows: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    if not measured.sharers:
        return Text("nobody else has it open", "dim")
    table = Table("sharers", "process", "interpreter", "program", box=None, pad_edge=False)
    for name in ("reads/s", "writes/s"):
        table.add_column(name, justify="right")
    for sharer, rates in measured.sharers[:rows]:
        facts, owner = sharer.facts, sharer.owner
        table.add_row(
            Text(_plain(str(facts.get("server") or "?"))),
            str(owner.pid),
            str(owner.interpreter) if owner.interpreter else "main",
            Text(_plain(str(facts.get("program") or "")), overflow="ellipsis", no_wrap=True),
            *(("-", "-") if rates is None else (_rounded(rates.reads), _rounded(rates.writes))),
        )
    more = len(measured.sharers) - rows
    if more > 0:
        table.add_row(f"and {more} more")
    return table


def _draw_locks(measured: Measured, rows: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    locks = measured.latest.locks
    if not locks:
        return Text("no lock is held", "dim")
    table = Table("locks held", "by", "for", box=None, pad_edge=False)
    now_s = time.time()
    for record in locks[:rows]:
        table.add_row(Text(_plain(record.name)), Text(str(record.owner)), f"{max(now_s - record.acquired_at, 0):.1f} s")
    if len(locks) > rows:
        table.add_row(f"and {len(locks) - rows} more")
    return table


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 or number == 0 else f"{number:.1f}"


def _size(number: int) -> str:
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def _bar(part: float, width: int = 20) -> str:
    full = round(min(max(part, 0.0), 1.0) * width)
    return "█" * full + "░" * (width - full)


def _spark(history: list[float]) -> str:
    most = max(history, default=0.0) or 1.0
    return "".join(_BARS[min(int(each / most * len(_BARS)), len(_BARS) - 1)] for each in history)


def _plain(text: str) -> str:
    """Return `text` without what would steer the terminal: keys and names are anybody's."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


# --- As JSON ----------------------------------------------------------------------------


def _as_plain(store: Store, measured: Measured, hottest: list[HotKey]) -> dict[str, Any]:
    figures = measured.latest.figures
    return {
        "url": redact(store.url),
        "at": time.time(),
        "seconds": measured.seconds,
        **_plain_rates(measured.rates),
        "of_server": measured.of_server,
        "evictions_per_s": measured.evictions,
        **{name: figures[name] for name in ("entries", "bytes", "capacity_bytes")},
        "hottest": [each._asdict() for each in hottest],
        "sharers": [
            {**sharer._asdict(), "owner": sharer.owner._asdict(), **_plain_rates(rates)}
            for sharer, rates in measured.sharers
        ],
        "locks": [{**record._asdict(), "owner": record.owner._asdict()} for record in measured.latest.locks],
    }


def _plain_rates(rates: Rates | None) -> dict[str, float | None]:
    if rates is None:
        return dict.fromkeys(("operations_per_s", "reads_per_s", "writes_per_s", "hit_rate"))
    return {
        "operations_per_s": rates.operations,
        "reads_per_s": rates.reads,
        "writes_per_s": rates.writes,
        "hit_rate": rates.hit_rate,
    }
