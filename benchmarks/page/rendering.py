"""The page: the answer first, then the figures, then how they came about."""

from __future__ import annotations

from importlib.resources import files
from string import Template
from typing import Any, Final

from benchmarks.page.answer import headline, render_answer
from benchmarks.page.charts import is_available
from benchmarks.page.fragments import Html, anchor, chip, paragraph, row, section, strong, table, text
from benchmarks.page.operations import render_operations, render_outliers
from benchmarks.page.parts import list_losses, render_parts
from benchmarks.wording import bounds

__all__ = ["render_page"]

_MACHINE: Final = {
    "date": "Date",
    "python": "Python",
    "build": "Built",
    "cpu": "Processor",
    "cores": "Cores",
    "memory": "Memory",
    "system": "System",
    "filesystem": "Stores on",
    "clock": "Clock",
}
_STATES: Final = {"met": "ok", "not met": "bad", "not measured": "none"}
_SIZES: Final = {
    "quick": "A quick run: short turns, few rounds. Make a full one before you act on a figure.",
    "smoke": "A smoke run: it shows that everything works, and its figures mean nothing.",
}


def render_page(report: dict[str, Any]) -> str:
    """Return the page of a run, from what `--json` wrote: of all of it, or of what there is."""
    sections = [
        ("Single operations", render_operations(report)),
        *render_parts(report),
        ("Targets", _render_targets(report)),
        ("Who took part", _render_contestants(report)),
        ("How it was measured", _render_method(report)),
    ]
    shown = [(title, body) for title, body in sections if body]
    frame = Template(files("benchmarks.page").joinpath("page.html").read_text(encoding="utf-8"))
    return frame.substitute(
        title="What sharing costs",
        about=text(_in_a_line(report)),
        banner=_render_banner(report),
        noise=_render_noise(report),
        answer=render_answer(report),
        findings=_render_findings(report),
        contents="".join(f'<li><a href="#{anchor(title)}">{text(title)}</a></li>' for title, _ in shown),
        sections="\n".join(body for _, body in shown),
    )


def _in_a_line(report: dict[str, Any]) -> str:
    machine = report.get("machine", {})
    cpu = f"{machine['cores']} cores of {machine.get('cpu', 'an unknown processor')}" if "cores" in machine else ""
    size = f"{report.get('settings', {}).get('size', 'unknown')} run"
    facts = (machine.get("python"), cpu, machine.get("system"), machine.get("date"), size)
    return " · ".join(str(fact) for fact in facts if fact)


def _render_banner(report: dict[str, Any]) -> Html:
    told = headline(report)
    return Html(f'<p class="banner ok">{text(told)}</p>') if told else Html("")


def _render_noise(report: dict[str, Any]) -> Html:
    warnings = [*report.get("noise", [])]
    size = _SIZES.get(str(report.get("settings", {}).get("size")))
    if warnings:
        warnings.insert(0, "The machine was busy with other work. Compare within a chart, and not to the last digit.")
    if size:
        warnings.insert(0, size)
    if not is_available():
        warnings.append(
            "Without vl-convert-python there are no charts: pip install '.[bench]', and make the page anew."
        )
    lines = "".join(f"<li>{text(line)}</li>" for line in warnings)
    return Html(f'<ul class="warn block">{lines}</ul>') if lines else Html("")


def _render_findings(report: dict[str, Any]) -> Html:
    losses = list_losses(report)
    lost = (
        Html(
            "<h3>Who loses updates</h3><ul>"
            + "".join(f'<li class="lost">{text(line)}: a store that loses is fast for nothing.</li>' for line in losses)
            + "</ul>"
        )
        if losses
        else Html("")
    )
    return section("What stands out", lost, render_outliers(report))


def _render_targets(report: dict[str, Any]) -> Html:
    targets = report.get("targets", [])
    if not targets:
        return Html("")
    rows = []
    for target in targets:
        measured = target.get("measured")
        interval = measured if isinstance(measured, dict) else None
        value = interval["median"] if interval else measured
        doubt = "" if target.get("certain", True) else " within the noise"
        state = str(target.get("state"))
        rows.append(
            row(
                (
                    text(target.get("target")),
                    text(f"{'at least' if target.get('at_least') else 'at most'} {target.get('bound'):g}"),
                    strong("-" if value is None else f"{value:.2f}"),
                    text(bounds(interval["low"], interval["high"]) if interval else ""),
                    Html(f'{chip(state, _STATES.get(state, "none"))}<span class="soft">{doubt}</span>'),
                )
            )
        )
    counts = {state: sum(target.get("state") == state for target in targets) for state in _STATES}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return section(
        "Targets",
        paragraph(f"What this project has set itself: {told}. The median decides; the interval says how sure that is."),
        table(("", "bound", "measured", "95 %", ""), rows),
    )


def _render_contestants(report: dict[str, Any]) -> Html:
    rows = [
        row(
            (
                strong(item.get("name")),
                chip("left out", "warn") if item.get("missing") else text(item.get("version")),
                text(item.get("missing") or item.get("note") or ""),
            )
        )
        for item in report.get("contestants", [])
    ]
    return (
        section("Who took part", table(("", "version", "how it is used"), rows, "figures words")) if rows else Html("")
    )


def _render_method(report: dict[str, Any]) -> Html:
    machine, settings = report.get("machine", {}), report.get("settings", {})
    facts = {label: str(machine[name]) for name, label in _MACHINE.items() if machine.get(name)}
    if "load_average" in machine:
        facts["Load average"] = (
            f"{machine['load_average']:.2f} before, {machine.get('load_average_after', 0):.2f} after; "
            f"others took {machine.get('other_work_cores', 0):.2f} cores"
        )
    if machine.get("gil") is False:
        facts["GIL"] = "free-threaded"
    if "rounds" in settings:
        facts["Rounds"] = f"{settings['rounds']} of {settings.get('sample_ms', 0):g} ms, {settings.get('keys')} keys"
    about = "".join(f"<dt>{text(label)}</dt><dd>{text(fact)}</dd>" for label, fact in facts.items())
    loops = [
        f"{item['loop_ns']:.0f} ns" for item in report.get("workloads", []) if isinstance(item.get("loop_ns"), float)
    ]
    loop = f"The loop's own time, up to {max(loops, key=len)}, is measured likewise and subtracted. " if loops else ""
    return section(
        "How it was measured",
        paragraph(
            "In turns: in each round every contestant has one turn of some milliseconds, in an order drawn anew, after "
            "a rest and a warm-up; a turn during which the kernel gave our core away is repeated. A ratio is formed "
            "within each round, so a machine that slows down for a second slows both sides. Figures are medians over "
            "the rounds, and the interval holds 95 % of the medians of 500 bootstrap resamples of them."
        ),
        paragraph(
            f"All run the same generated loop around their call. {loop}Percentiles come from other operations, timed "
            "one by one by time.perf_counter_ns, less what two readings of that clock cost. The garbage collector is "
            "off meanwhile. Figures of one run compare its contestants with one another: they say little of another "
            "machine, and nothing of another run. docs/benchmarks.md has the rest."
        ),
        Html(f'<dl class="about">{about}</dl>'),
    )
