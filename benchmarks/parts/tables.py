"""The parts as tables for people; times in microseconds throughout, so that columns compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from benchmarks.measure import Interval
    from benchmarks.parts.contention import Contended
    from benchmarks.results import Results

__all__ = ["print_parts"]

Column = tuple[str, "Callable[[Any], str]"]


def print_parts(results: Results, console: Console) -> None:
    """Print every part that was measured: a table, and the failures below it."""
    for name, rows in results.parts.items():
        title, columns = _TABLES[name]
        console.print(f"\n[bold]{name}[/]: {title}", highlight=False)
        if not rows:
            console.print("left out: time is up, or no backend of those chosen takes part")
        shown = [row for row in rows if not row.failure]
        if name == "contention":
            for heading in dict.fromkeys((row.quarrel, row.kind) for row in shown):
                _print_contention([row for row in shown if (row.quarrel, row.kind) == heading], console)
        elif shown:
            table = Table(columns[0][0])
            for heading, _ in columns[1:]:
                table.add_column(heading, justify="right")
            for row in shown:
                table.add_row(*(cell(row) for _, cell in columns))
            console.print(table)
        for row in rows:
            if row.failure:
                console.print(f"[yellow]{escape(' '.join(map(str, row[:4])))}[/]: {escape(row.failure)}")


def _print_contention(rows: list[Contended], console: Console) -> None:
    numbers = sorted({row.workers for row in rows})
    table = Table(f"{rows[0].quarrel}, {rows[0].kind}")
    for number in numbers:
        table.add_column(f"{number}, per second", justify="right")
    for heading in ("p50 µs", "p99 µs", "longest µs", "least share", "lost", "torn"):
        table.add_column(heading, justify="right")
    for name in dict.fromkeys(row.contestant for row in rows):
        own = {row.workers: row for row in rows if row.contestant == name}
        most = own[max(own)]
        table.add_row(
            name,
            *(f"{own[number].per_second:,.0f}" if number in own else "-" for number in numbers),
            _us(most.p50_ns),
            _us(most.p99_ns),
            _us(most.longest_ns),
            f"{most.least_share:.2f}",
            _defects(sum(row.lost for row in own.values())),
            _defects(sum(row.torn for row in own.values())),
        )
    console.print(table)


def _us(nanoseconds: float) -> str:
    return f"{nanoseconds / 1e3:,.2f}" if nanoseconds < 1e5 else f"{nanoseconds / 1e3:,.0f}"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:,.2f}" if milliseconds else "-"


def _ratio(ratio: Interval | None) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f} - {ratio.high:.2f})" if ratio else "-"


def _defects(count: int) -> str:
    return f"[red]{count}[/]" if count else "0"


_WAITED: Final[list[Column]] = [
    ("contestant", lambda row: f"{row.contestant}, {row.kind}"),
    ("rounds", lambda row: str(row.rounds)),
    ("p50 µs", lambda row: _us(row.p50_ns)),
    ("p99 µs", lambda row: _us(row.p99_ns)),
    ("longest µs", lambda row: _us(row.longest_ns)),
]

_OPENED: Final[list[Column]] = [
    ("backend", lambda row: row.backend),
    ("entries", lambda row: f"{row.entries:,}"),
    ("writes before", lambda row: f"{row.writes:,}"),
    ("open, ms", lambda row: _ms(row.first_ms)),
    ("open and get, ms", lambda row: _ms(row.first_get_ms)),
    ("CPU, ms", lambda row: _ms(row.cpu_ms)),
    ("open again, ms", lambda row: _ms(row.again_ms)),
    ("x half the entries", lambda row: _ratio(row.ratio_to_half)),
]

_TABLES: Final[dict[str, tuple[str, list[Column]]]] = {
    "contention": ("columns beside the throughput: of the most workers; lost and torn: of all numbers of workers", []),
    "hand-over": ("from the release of a lock in one process until another has it", _WAITED),
    "watch": ("from the start of a write until wait_for_change in another process has returned", _WAITED),
    "open-again": ("an existing store, beyond imports, in a fresh process", _OPENED),
    "open-large": ("a store of many entries after many writes, in a fresh process", _OPENED),
    "crash": (
        "a writer is killed; the next one opens",
        [
            ("backend", lambda row: row.backend),
            ("kills", lambda row: str(row.kills)),
            ("acknowledged", lambda row: f"{row.acknowledged:,}"),
            ("lost", lambda row: _defects(row.lost)),
            ("open and get, ms", lambda row: _ms(row.open_ms)),
            ("longest, ms", lambda row: _ms(row.longest_open_ms)),
            ("closed in peace, ms", lambda row: _ms(row.whole_open_ms)),
        ],
    ),
    "group-commit": (
        "every write is on disk before it returns",
        [
            ("contestant", lambda row: row.contestant),
            ("writers", lambda row: str(row.writers)),
            ("per second", lambda row: f"{row.per_second:,.0f}"),
            ("x one fdatasync per write", lambda row: _ratio(row.ratio)),
            ("p99 µs", lambda row: _us(row.p99_ns)),
            ("lost", lambda row: _defects(row.lost)),
        ],
    ),
    "stall": (
        "eight processes increment in one piece: all one key, or each its own",
        [
            ("backend", lambda row: f"{row.backend}, {row.quarrel}, {row.seconds:g} s"),
            ("per second", lambda row: f"{row.per_second:,.0f}"),
            ("p50 µs", lambda row: _us(row.p50_ns)),
            ("p99 µs", lambda row: _us(row.p99_ns)),
            ("p99 / p50", lambda row: f"{row.p99_to_median:.1f}"),
            ("longest µs", lambda row: _us(row.longest_ns)),
            ("least share", lambda row: f"{row.least_share:.2f}"),
            ("lost", lambda row: _defects(row.lost)),
        ],
    ),
    "growth": (
        "keys at random; x: in terms of 10,000 keys in the same turns; bytes: per entry, beyond key and value",
        [
            ("contestant", lambda row: row.contestant),
            ("keys", lambda row: f"{row.keys:,}"),
            ("get µs", lambda row: _us(row.get_ns)),
            ("x", lambda row: f"{row.get_ratio.median:.2f}" if row.get_ratio else "-"),
            ("set µs", lambda row: _us(row.set_ns)),
            ("x", lambda row: f"{row.set_ratio.median:.2f}" if row.set_ratio else "-"),
            ("open and get, ms", lambda row: _ms(row.open_ms)),
            ("memory bytes", lambda row: f"{row.memory_overhead:.0f}"),
            ("disk or shm bytes", lambda row: f"{row.disk_overhead:.0f}"),
        ],
    ),
}
"""Per part its title and its columns; contention has tables of its own."""
