"""The records of a part: those that failed, those of one kind, and what their fields mean by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.page.fragments import Html, chip, paragraph, row, strong, table, text
from benchmarks.wording import bounds, bytes_of, duration, factor, rate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "Record",
    "cards_of",
    "count_of_losses",
    "group_by",
    "in_its_unit",
    "name_of",
    "render_any",
    "split",
    "title_of",
]

Record = dict[str, Any]


def split(records: Iterable[Record]) -> tuple[list[Record], Html]:
    """Return the records with figures, and what is to be said of the others."""
    good, failed = [], []
    for record in records:
        (failed if record.get("failure") else good).append(record)
    reasons: dict[tuple[str, str], list[str]] = {}
    for record in failed:
        name = str(record.get("contestant") or record.get("backend") or "this part")
        reasons.setdefault((name, str(record["failure"])), []).append(_where(record))
    lines = "".join(
        paragraph(f"{name}{_in_brackets(places)}: {why}", "warn") for (name, why), places in reasons.items()
    )
    return good, Html(lines)


def _in_brackets(places: list[str]) -> str:
    told = "; ".join(filter(None, dict.fromkeys(places)))
    return f" ({told})" if told else ""


def _where(record: Record) -> str:
    words = [str(record[field]) for field in ("workload", "crew") if record.get(field)]
    return ", ".join(words + [f"{record[field]:,} {field}" for field in ("workers", "keys") if record.get(field)])


def group_by(records: Iterable[Record], *fields: str) -> dict[tuple[str, ...], list[Record]]:
    """Return the records by what they have in those fields, in the order in which they came."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(str(record.get(field, "")) for field in fields), []).append(record)
    return groups


def count_of_losses(number: object) -> Html:
    """Return a count of losses: 0, or red."""
    return chip(f"{int(number):,}", "bad") if isinstance(number, int | float) and number else text(0)


def cards_of(cards: Iterable[tuple[str, Html]]) -> Html:
    """Return titled boxes side by side."""
    inner = "".join(f'<article class="card"><h4>{text(title)}</h4>{body}</article>' for title, body in cards)
    return Html(f'<div class="cards">{inner}</div>')


def name_of(record: Record, ours: list[str]) -> Html:
    """Return who a record is about, ours emphasized."""
    name = str(record.get("contestant") or record.get("backend") or "")
    return strong(name) if name in ours else text(name)


def render_any(records: Sequence[Record], ours: list[str]) -> list[Html]:
    """Return a table of the fields that have plain values or intervals, and the failures."""
    good, failures = split(records)
    fields = [
        field
        for field in dict.fromkeys(field for record in good for field in record if field not in {"part", "failure"})
        if any(_is_shown(record.get(field)) for record in good)
    ]
    rows = (row(_cell(field, record.get(field), record, ours) for field in fields) for record in good)
    return [table([title_of(field) for field in fields], rows) if good else Html(""), failures]


def _is_shown(value: object) -> bool:
    return (isinstance(value, str) and bool(value)) or isinstance(value, int | float) or _is_interval(value)


def _is_interval(value: object) -> bool:
    return isinstance(value, dict) and {"median", "low", "high"} <= value.keys()


def _cell(field: str, value: Any, record: Record, ours: list[str]) -> Html:
    if field in {"contestant", "backend"}:
        return name_of(record, ours)
    if field in {"lost", "torn"}:
        return count_of_losses(value)
    return text(in_its_unit(field, value))


def in_its_unit(field: str, value: Any) -> str:
    """Return a figure in its unit, which is the end of its field's name."""
    if _is_interval(value):
        return f"{factor(value['median'])} ({bounds(value['low'], value['high'])})"
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "-" if value is None else str(value)
    if not value:
        return "-" if field.endswith(("_ns", "_ms", "_us")) else "0"
    for end, size in (("_ns", 1.0), ("_us", 1e3), ("_ms", 1e6), ("_s", 1e9)):
        if field.endswith(end):
            return duration(value * size)
    if field.endswith("_share"):
        return f"{value:.0%}"
    if field.endswith("per_second"):
        return rate(value)
    if "bytes" in field or field.endswith("overhead"):
        return bytes_of(value)
    return f"{value:,.3g}" if isinstance(value, float) else f"{value:,}"


def title_of(field: str) -> str:
    """Return a field's name in words, without its unit."""
    for end in ("_ns", "_us", "_ms", "_s"):
        field = field.removesuffix(end)
    return field.replace("_", " ").replace("-", " ")
