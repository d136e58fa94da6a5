"""What is measured beside single operations: one renderer for each part of the JSON.

A part is a list of records under its own name in the report's `parts`.  One
without a renderer here is shown as a table of its fields, with their units read
off their names; to give it a better one, write a renderer and a row of
`_RENDERERS`, and its words in `reasons.PARTS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.page.charts import Dot, Series, decades, draw_dots, draw_lines
from benchmarks.page.contestants import colour_of, ours_of
from benchmarks.page.fragments import Html, details, paragraph, row, section, strong, table, text
from benchmarks.page.reasons import PARTS, QUARRELS
from benchmarks.page.records import (
    Record,
    cards_of,
    count_of_losses,
    group_by,
    in_its_unit,
    name_of,
    render_any,
    split,
    title_of,
)
from benchmarks.wording import bounds, duration, factor, rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["list_losses", "parts_of", "render_parts"]

_SHORT: Final = {"interpreters": "interp.", "processes": "proc.", "threads": "thr."}
_SAME: Final = {"quarrel": "workload", "kind": "crew", "longest_ns": "max_ns"}
"""What some parts call what others call otherwise."""


def parts_of(report: Record) -> dict[str, list[Record]]:
    """Return the records of each part that was measured, in the order in which they are shown."""
    found: dict[str, list[Record]] = {}
    for name in ("scaling", "light_open"):
        if report.get(name):
            found[name] = list(report[name])
    codec = report.get("codec_isolated") or {}
    if codec.get("ratio_to_main") or codec.get("failure"):
        found["codec_isolated"] = [
            {"verb": verb, "ratio": ratio} for verb, ratio in codec.get("ratio_to_main", {}).items()
        ] or [{"failure": codec["failure"]}]
    for name, records in report.get("parts", {}).items():
        if records:
            found[name] = list(map(_in_our_words, records))
    order = list(PARTS)
    return dict(sorted(found.items(), key=lambda entry: order.index(entry[0]) if entry[0] in order else len(order)))


def _in_our_words(record: Record) -> Record:
    renamed = {_SAME.get(field, field): value for field, value in record.items()}
    if renamed.get("workload") in QUARRELS:
        renamed["workload"] = QUARRELS[renamed["workload"]]
    return renamed


def render_parts(report: Record) -> list[tuple[str, Html]]:
    """Return a title and a section for each part that was measured."""
    ours = ours_of(report)
    sections: list[tuple[str, Html]] = []
    for name, records in parts_of(report).items():
        title, told = PARTS.get(name) or (title_of(name).capitalize(), "")
        render = _RENDERERS.get(name, render_any)
        sections.append((title, section(title, paragraph(told), *render(records, ours))))
    return sections


def list_losses(report: Record) -> list[str]:
    """Return in a line each who lost updates, or handed out torn ones, in any part."""
    lost: dict[str, dict[str, int]] = {}
    for records in parts_of(report).values():
        for record in records:
            for what in ("lost", "torn"):
                if record.get(what):
                    name = str(record.get("contestant") or record.get("backend"))
                    counts = lost.setdefault(name, {"lost": 0, "torn": 0})
                    counts[what] += abs(int(record[what]))
    return [
        f"{name} "
        + " and ".join(
            f"{told} {counts[what]:,} {thing}"
            for what, told, thing in (("lost", "lost", "updates"), ("torn", "handed out", "torn values"))
            if counts[what]
        )
        for name, counts in lost.items()
    ]


# --- Scaling, one worker and two -------------------------------------------------


def _render_scaling(records: Sequence[Record], ours: list[str]) -> list[Html]:
    good, failures = split(records)
    dots: list[Dot] = []
    for record in good:
        ratio = record.get("ratio") or record.get("ratio_of_all")
        if ratio:
            name = f"{record.get('backend')} {_SHORT.get(str(record.get('crew')), '')} {record.get('keys')}"
            about = f"{name}: {ratio['median']:.2f} times one worker ({bounds(ratio['low'], ratio['high'])})"
            figure = f"{ratio['median']:.2f} x"
            dots.append(
                Dot(name, ratio["median"], ratio["high"], colour_of(str(record.get("backend")), ours), figure, about)
            )
    rows = (
        row(
            (
                strong(record.get("backend")),
                text(record.get("crew")),
                text(record.get("keys")),
                text(rate(record.get("one") or 0)),
                text(rate(record.get("two") or 0)),
                *(
                    text(f"{ratio['median']:.2f} ({bounds(ratio['low'], ratio['high'])})" if ratio else "-")
                    for ratio in (record.get("ratio"), record.get("ratio_of_all"))
                ),
                text(f"{record.get('kept')} of {record.get('triples')}"),
                count_of_losses(record.get("lost")),
            )
        )
        for record in good
    )
    heads = ("", "workers", "keys each", "one", "two", "two / one, undisturbed", "of all", "undisturbed", "lost")
    chart = draw_dots(dots, (0.0, max(2.2, *(dot.value for dot in dots), 0)), unit="", rule=2.0, log=False)
    return [
        cards_of([("two workers / one (backend, workers, keys each)", chart)]) if chart else Html(""),
        table(heads, rows) if good else Html(""),
        failures,
    ]


# --- Contention --------------------------------------------------------------------


def _render_contention(records: Sequence[Record], ours: list[str]) -> list[Html]:
    good, failures = split(records)
    losing = {str(record.get("contestant")) for record in good if record.get("lost") or record.get("torn")}
    cards = []
    for (workload, crew), group in group_by(good, "workload", "crew").items():
        series = []
        for (name,), points in group_by(group, "contestant").items():
            is_losing = any(point.get("lost") or point.get("torn") for point in points)
            pairs = [(float(point.get("workers") or 0), float(point.get("per_second") or 0)) for point in points]
            label = f"✗ {name}" if is_losing else name
            about = f"{name}: " + ", ".join(f"{workers:g} workers {rate(speed)}" for workers, speed in sorted(pairs))
            colour = colour_of(name, ours, is_losing=is_losing)
            series.append(Series(label, pairs, colour, dashed=is_losing, about=about))
        chart = draw_lines(series, x_title=crew or "workers", unit="per second", base=2)
        cards.append((f"{workload}, {crew}", Html(f"{chart}{_contention_details(group, ours)}")))
    warning = (
        Html(
            f'<p class="bad block">{text(", ".join(sorted(losing)))}: fast for nothing. Updates were lost, or values '
            "torn, while several wrote; drawn in red and dashed.</p>"
        )
        if losing
        else paragraph("Nobody lost an update, and nobody was handed a torn value.")
        if good
        else Html("")
    )
    return [
        warning,
        cards_of(cards),
        failures,
    ]


def _contention_details(group: Sequence[Record], ours: list[str]) -> Html:
    most = max(int(record.get("workers") or 0) for record in group)
    chart = _draw_waits([record for record in group if int(record.get("workers") or 0) == most], ours)
    title = paragraph(f"one operation with {most} at work: median, and p99", "soft") if chart else Html("")
    heads = ("", "workers", "per second", "p50", "p99", "longest", "slowest worker's share", "lost", "torn")
    ordered = sorted(
        group, key=lambda record: (-int(record.get("workers") or 0), -float(record.get("per_second") or 0))
    )
    rows = (
        row(
            (
                name_of(record, ours),
                text(record.get("workers")),
                text(rate(float(record.get("per_second") or 0))),
                *(text(in_its_unit(field, record.get(field))) for field in ("p50_ns", "p99_ns", "max_ns")),
                text(in_its_unit("least_share", record.get("least_share"))),
                count_of_losses(record.get("lost")),
                count_of_losses(record.get("torn")),
            )
        )
        for record in ordered
    )
    return details("waiting times, and figures", Html(f"{title}{chart}{table(heads, rows)}"))


# --- Growth ------------------------------------------------------------------------


def _render_growth(records: Sequence[Record], ours: list[str]) -> list[Html]:
    good, failures = split(records)
    figures = (
        ("get_ns", "get, by the number of keys", "ns"),
        ("set_ns", "set, by the number of keys", "ns"),
        ("open_ms", "opening, by the number of keys", "ns"),
        ("bytes_per_entry", "bytes per entry, by the number of keys", "bytes"),
        ("memory_overhead", "bytes of memory per entry beyond key and value", "bytes"),
        ("disk_overhead", "bytes on disk or in shared memory per entry beyond key and value", "bytes"),
    )
    cards = []
    for field, title, unit in figures:
        series = []
        for (name,), group in group_by(good, "contestant").items():
            pairs = sorted((float(item.get("keys") or 0), float(item.get(field) or 0)) for item in group)
            about = f"{name}: " + ", ".join(f"{keys:,.0f} keys {in_its_unit(field, value)}" for keys, value in pairs)
            size = 1e6 if field.endswith("_ms") else 1.0
            series.append(Series(name, [(x, y * size) for x, y in pairs], colour_of(name, ours), about=about))
        chart = draw_lines(series, x_title="keys", unit=unit)
        if chart:
            cards.append((title, chart))
    figures = tuple(entry for entry in figures if any(item.get(entry[0]) for item in good))
    heads = ("", "keys", *(entry[1].partition(",")[0] for entry in figures))
    rows = (
        row(
            (
                name_of(item, ours),
                text(in_its_unit("keys", item.get("keys"))),
                *(text(in_its_unit(field, item.get(field))) for field, _, _ in figures),
            )
        )
        for item in good
    )
    return [
        cards_of(cards),
        details("figures", table(heads, rows)) if good else Html(""),
        failures,
    ]


# --- Waiting -----------------------------------------------------------------------


def _render_waits(records: Sequence[Record], ours: list[str]) -> list[Html]:
    good, failures = split(records)
    chart = _draw_waits(good, ours)
    return [cards_of([("median, and p99", chart)]) if chart else Html(""), *render_any(good, ours), failures]


def _draw_waits(records: Iterable[Record], ours: list[str]) -> Html:
    dots: list[Dot] = []
    for record in sorted(records, key=lambda record: float(record.get("p50_ns") or 0)):
        if record.get("p50_ns"):
            name = str(record.get("contestant") or record.get("backend"))
            p50_ns, p99_ns = float(record["p50_ns"]), float(record.get("p99_ns") or record["p50_ns"])
            longest = in_its_unit("max_ns", record.get("max_ns"))
            about = f"{name}: median {duration(p50_ns)}, p99 {duration(p99_ns)}, longest {longest}"
            colour = colour_of(name, ours, is_losing=bool(record.get("lost") or record.get("torn")))
            dots.append(Dot(name, p50_ns, max(p99_ns, p50_ns), colour, duration(p50_ns), about))
    return draw_dots(dots, decades(time for dot in dots for time in (dot.value, dot.high or 0)))


# --- Opening, and the codec ----------------------------------------------------------


def _render_light_open(records: Sequence[Record], ours: list[str]) -> list[Html]:
    good, failures = split(records)
    dots = []
    for record in good:
        name = str(record.get("backend") or "three modules")
        milliseconds = float(record.get("median_ms") or 0)
        figure = duration(milliseconds * 1e6)
        about = f"{name}: {figure}, {record.get('modules')} modules"
        colour = colour_of(name, ours) if record.get("backend") else "reference"
        dots.append(Dot(name, milliseconds * 1e6, None, colour, figure, about))
    rows = (
        row(
            (
                strong(record.get("backend") or record.get("statement")),
                text(duration(float(record.get("median_ms") or 0) * 1e6)),
                text(factor(record["ratio"]["median"]) if record.get("ratio") else "1"),
                text(record.get("modules")),
                text(", ".join(record.get("forbidden") or []) or "none"),
            )
        )
        for record in good
    )
    chart = draw_dots(dots, decades(dot.value for dot in dots))
    return [
        cards_of([("first open", chart)]) if chart else Html(""),
        table(("", "median", "x reference", "modules", "forbidden ones"), rows) if good else Html(""),
        failures,
    ]


def _render_codec(records: Sequence[Record], _ours: list[str]) -> list[Html]:
    good, failures = split(records)
    lines = "".join(
        f"<li>{text(record.get('verb'))}: {strong(factor(record['ratio']['median']))} times the main interpreter's "
        f"time ({text(bounds(record['ratio']['low'], record['ratio']['high']))})</li>"
        for record in good
        if record.get("ratio")
    )
    return [
        Html(f"<ul>{lines}</ul>"),
        failures,
    ]


_RENDERERS: Final[dict[str, Callable[[Sequence[Record], list[str]], list[Html]]]] = {
    "contention": _render_contention,
    "scaling": _render_scaling,
    "growth": _render_growth,
    "watch": _render_waits,
    "hand-over": _render_waits,
    "light_open": _render_light_open,
    "codec_isolated": _render_codec,
}
"""Parts that have a renderer of their own; the others are shown as tables."""
