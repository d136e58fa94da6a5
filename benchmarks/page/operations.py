"""The single operations: a chart for each workload, its figures, and why they are so."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.page.charts import Dot, decades, draw_dots
from benchmarks.page.contestants import colour_of, mark_losing, ours_of, plain_name
from benchmarks.page.fragments import Html, details, paragraph, row, section, strong, table, text
from benchmarks.page.reasons import what_it_is, why, why_slow_at_times
from benchmarks.wording import bounds, duration, factor

__all__ = ["render_operations", "render_outliers"]

_HEADINGS: Final = ("", "median", "p99", "max", "x reference", "95 %", "rounds between")
_SPIKE: Final = 20  # p99 of so many medians is worth a word
_MOST: Final = 8

_KINDS: Final = {
    "int": "An int",
    "str": "A str of 100 bytes",
    "dict": "A dict of 1 KiB",
    "64KiB": "64 KiB of bytes",
    "1MiB": "1 MiB of bytes",
    "codec": "The codec alone",
}


def render_operations(report: dict[str, Any]) -> Html:
    """Return the section; empty if no workload was measured."""
    ours = ours_of(report)
    groups: dict[str, list[dict[str, Any]]] = {}
    for workload in report.get("workloads", []):
        name = str(workload.get("workload", ""))
        kind = "codec" if name.startswith(("encode", "decode")) else name.partition("-")[2]
        groups.setdefault(kind, []).append(workload)
    order = [*_KINDS, *groups]  # those without a title last
    body = [
        _render_group(kind, groups[kind], ours, is_first=not index)
        for index, kind in enumerate(sorted(groups, key=order.index))
    ]
    if not body:
        return Html("")
    return section(
        "Single operations",
        paragraph(
            "One caller, nobody else at work. The dot is the median, the line reaches to the 99th percentile, on a "
            "logarithmic axis that all charts of one kind of value share. Ours are in colour; the dashed line is the "
            "reference; ✗ marks who reads and writes in two steps, which others may come between. Open the figures "
            "below a chart for the rest, and for why each is as it is."
        ),
        *body,
    )


def _render_group(kind: str, workloads: list[dict[str, Any]], ours: list[str], *, is_first: bool) -> Html:
    times = [
        time
        for workload in workloads
        for item in workload.get("rows", [])
        for time in (item.get("median_ns"), item.get("p99_ns"))
        if time
    ]
    domain = decades(times)
    cards = "".join(_render_workload(workload, domain, ours) for workload in workloads)
    title = f"{_KINDS.get(kind, kind)}: {len(workloads)} chart{'s'[: len(workloads) > 1]}"
    # The first kind answers most questions; all of them at once would be a hundred charts.
    opened = " open" if is_first else ""
    return Html(
        f'<details class="kind"{opened}><summary>{text(title)}</summary><div class="cards">{cards}</div></details>'
    )


def _render_workload(workload: dict[str, Any], domain: tuple[float, float], ours: list[str]) -> Html:
    name, baseline = str(workload.get("workload", "")), str(workload.get("baseline", ""))
    rows = sorted(workload.get("rows", []), key=lambda item: item.get("median_ns") or float("inf"))
    form = next((str(item.get("form")) for item in workload.get("rows", []) if item.get("form")), "")
    drawn = _choose_drawn(workload.get("rows", []), ours)
    dots = [_dot(item, ours) for item in rows if item.get("median_ns") and item.get("contestant") in drawn]
    reference = next((item["median_ns"] for item in rows if item.get("contestant") == baseline), None)
    failures = "".join(
        paragraph(f"{item.get('contestant')}: {item.get('failure')}", "warn") for item in rows if item.get("failure")
    )
    reasons, figures = _reasons(name, rows), table(_HEADINGS, (_figures(item, ours) for item in rows))
    return Html(
        f'<article class="card"><h4>{text(name)}</h4><p class="call"><code>{text(form)}</code></p>'
        f"{draw_dots(dots, domain, rule=reference)}"
        f"{paragraph(what_it_is(name), 'soft')}{failures}"
        f"{details('why, and all figures', Html(reasons + figures))}</article>"
    )


def _choose_drawn(rows: list[dict[str, Any]], ours: list[str]) -> set[str]:
    """Return whom a chart shows: of the others only the first form of their call, of ours each."""
    first: dict[str, str] = {}
    for item in rows:
        name = str(item.get("contestant"))
        first.setdefault(name if plain_name(name) in ours else plain_name(name), name)
    return set(first.values())


def _reasons(workload: str, rows: list[dict[str, Any]]) -> Html:
    """Return why each takes as long as it does; those of one sentence together."""
    names: dict[str, list[str]] = {}
    for item in rows:
        name = str(item.get("contestant"))
        told = why(workload, name)
        if told:
            names.setdefault(told, []).append(name)
    lines = "".join(f"<li>{strong(', '.join(who))}: {text(told)}</li>" for told, who in names.items())
    return Html(f'<ul class="why">{lines}</ul>') if lines else Html("")


def _dot(item: dict[str, Any], ours: list[str]) -> Dot:
    name, median_ns, p99_ns = str(item.get("contestant")), float(item["median_ns"]), item.get("p99_ns")
    about = f"{name}: median {duration(median_ns)}"
    about += f", p99 {duration(p99_ns)}" if p99_ns else ""
    about += f", longest {duration(item['max_ns'])}" if item.get("max_ns") else ""
    high = max(float(p99_ns), median_ns) if p99_ns else None
    return Dot(mark_losing(name), median_ns, high, colour_of(name, ours), duration(median_ns), about)


def _figures(item: dict[str, Any], ours: list[str]) -> Html:
    name, ratio = str(item.get("contestant")), item.get("ratio")
    turns = item.get("rounds_ns") or []
    times = [duration(item[field]) if item.get(field) else "-" for field in ("median_ns", "p99_ns", "max_ns")]
    head = strong(name) if plain_name(name) in ours else text(name)
    return row(
        (
            head,
            *map(text, times),
            text(factor(ratio["median"]) if ratio else "-"),
            text(bounds(ratio["low"], ratio["high"]) if ratio else "-"),
            text(f"{duration(min(turns))} - {duration(max(turns))}" if turns else "-"),
        )
    )


def render_outliers(report: dict[str, Any]) -> Html:
    """Return what was slow at times, worst first, and what explains it."""
    found: dict[str, tuple[float, str, dict[str, Any]]] = {}
    for workload in report.get("workloads", []):
        for item in workload.get("rows", []):
            median_ns, p99_ns = item.get("median_ns"), item.get("p99_ns")
            name = plain_name(str(item.get("contestant")))
            if median_ns and p99_ns and p99_ns > _SPIKE * median_ns:
                spike = p99_ns / median_ns, str(workload.get("workload")), item
                if name not in found or spike[0] > found[name][0]:
                    found[name] = spike
    lines = [
        f"<li>{strong(name)} in {text(workload)}: one in a hundred takes {text(duration(item['p99_ns']))}, "
        f"{text(factor(times))} times the median of {text(duration(item['median_ns']))}. "
        f"{text(_sentence(why_slow_at_times(name)))}</li>"
        for name, (times, workload, item) in sorted(found.items(), key=lambda entry: -entry[1][0])[:_MOST]
    ]
    if not lines:
        return Html("")
    return Html(f"<h3>What is slow at times, and why</h3><ul>{''.join(lines)}</ul>")


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}." if words else ""
