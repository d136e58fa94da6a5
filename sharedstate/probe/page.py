"""The probe's report as one self-contained HTML page; `page.html` beside this module is its frame.

Everything that came from outside - backends' names, evidence, the machine - is
escaped where it enters a fragment, and only there.
"""

from __future__ import annotations

import math
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Final

from sharedstate.probe.findings import Verdict
from sharedstate.probe.report import count_others, format_delay, summarise

if TYPE_CHECKING:
    from sharedstate.probe.findings import Cell, Finding, Report

__all__ = ["render_page"]

_ABOUT: Final = {
    "machine": "Machine",
    "processor": "Processor",
    "python": "Python",
    "executable": "Executable",
    "sharedstate": "sharedstate",
    "date": "Date",
}


def render_page(report: Report) -> str:
    """Return the page."""
    frame = Template(files("sharedstate.probe").joinpath("page.html").read_text(encoding="utf-8"))
    failed = bool(report.failures())
    banner = Verdict.UNSUPPORTED if failed else Verdict.SUPPORTED
    return frame.substitute(
        title="What is really shared here",
        about=_about(report),
        banner_class=_css_class(banner),
        banner=f"{banner.symbol} {escape(summarise(report))}",
        failures=_failures(report),
        group_heads=_group_heads(report),
        column_heads="".join(
            f'<th scope="col" title="{escape(boundary.meaning)}">{escape(boundary.title)}'
            f'<small class="soft">{escape(boundary.example)}</small></th>'
            for boundary in report.boundaries()
        ),
        rows="\n".join(_row(report, backend) for backend in report.backends()),
        legend="".join(
            f"<li>{_chip(verdict)} {escape(verdict.meaning)}</li>"
            for verdict in Verdict
            if any(verdict is finding.verdict for cell in report.cells for finding in cell.findings)
        ),
        delays=_delays(report),
        details="\n".join(_backend_details(report, backend) for backend in report.backends()),
    )


# --- The head ------------------------------------------------------------------


def _about(report: Report) -> str:
    facts = {label: report.about[name] for name, label in _ABOUT.items() if name in report.about}
    facts["Run"] = (
        f"{len(report.cells)} cells in {report.duration_s:.0f} s{', short loops (--quick)' if report.is_quick else ''}"
    )
    return "".join(f"<dt>{escape(label)}</dt><dd>{escape(fact)}</dd>" for label, fact in facts.items())


def _failures(report: Report) -> str:
    lines = [
        f'<li>{_chip(cell.verdict)} <a href="#{_anchor(cell)}">{_name(cell)}</a>: '
        f'<span class="evidence">{escape(cell.evidence)}</span> '
        f'<span class="soft">{escape(count_others(cell))}</span></li>'
        for cell in report.failures()
    ]
    return f'<h2>What does not hold</h2><ul class="legend">{"".join(lines)}</ul>' if lines else ""


# --- The matrix ----------------------------------------------------------------


def _group_heads(report: Report) -> str:
    within = sum(boundary.is_within_process for boundary in report.boundaries())
    groups = (("within one process", within), ("between processes", len(report.boundaries()) - within))
    return "".join(
        f'<th scope="colgroup" colspan="{width}" class="group">{name}</th>' for name, width in groups if width
    )


def _row(report: Report, backend: str) -> str:
    cells = {cell.boundary: cell for cell in report.cells if cell.backend == backend}
    head = f'<th scope="row">{escape(backend)}<small class="soft">{escape(report.claim_of(backend))}</small></th>'
    boxes = (_box(cells[boundary]) if boundary in cells else "<td></td>" for boundary in report.boundaries())
    return f"<tr>{head}{''.join(boxes)}</tr>"


def _box(cell: Cell) -> str:
    verdict = cell.verdict
    delay = "" if cell.delay_ms is None else f"<small>seen in {format_delay(cell.delay_ms)}</small>"
    return (
        f'<td class="{_css_class(verdict)}"><a href="#{_anchor(cell)}" title="{escape(_reason(cell))}">'
        f'<span class="symbol" aria-hidden="true">{verdict.symbol}</span>{escape(verdict.value)}{delay}</a></td>'
    )


def _reason(cell: Cell) -> str:
    if cell.verdict is Verdict.SUPPORTED:
        held = sum(finding.verdict is Verdict.SUPPORTED for finding in cell.findings)
        return f"{held} experiments, all in favour"
    return cell.evidence


# --- Delays --------------------------------------------------------------------


def _delays(report: Report) -> str:
    measured = [(cell, finding) for cell in report.cells for finding in cell.findings if "median_ms" in finding.figures]
    if not measured:
        return ""
    longest = max(float(finding.figures["max_ms"]) for _, finding in measured)
    rows = "".join(
        f"<tr><th>{_name(cell)}</th>"
        f"<td>{format_delay(float(finding.figures['median_ms']))}</td>"
        f"<td>{format_delay(float(finding.figures['max_ms']))}</td>"
        f'<td class="track">{_bar(float(finding.figures["median_ms"]), longest)}</td></tr>'
        for cell, finding in measured
    )
    return (
        "<h2>How soon is a write seen?</h2><p>One side waits for a key to change, the other writes it now and then: "
        "the time from the write to the moment when the waiting side has noticed it. "
        "The bars show the median on a logarithmic scale.</p>"
        '<table class="delays"><thead><tr><th></th><th>median</th><th>longest</th><th></th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


_SHORTEST_MS: Final = 0.01


def _bar(delay_ms: float, longest_ms: float) -> str:
    span = math.log10(max(longest_ms, _SHORTEST_MS * 10) / _SHORTEST_MS)
    share = math.log10(max(delay_ms, _SHORTEST_MS) / _SHORTEST_MS) / span
    return f'<span class="bar" style="width:{max(share * 100, 1):.1f}%"></span>'


# --- The details ---------------------------------------------------------------


def _backend_details(report: Report, backend: str) -> str:
    head = f'<h3>{escape(backend)} <span class="soft">{escape(report.claim_of(backend))}</span></h3>'
    return "\n".join((head, *(_cell_details(cell) for cell in report.cells if cell.backend == backend)))


def _cell_details(cell: Cell) -> str:
    rows = "".join(map(_finding_row, cell.findings))
    return (
        f'<details id="{_anchor(cell)}"><summary>{_chip(cell.verdict)}<strong>{_name(cell)}</strong></summary>'
        f'<p class="soft">{escape(cell.boundary.meaning)}</p><table class="findings">{rows}</table></details>'
    )


def _finding_row(finding: Finding) -> str:
    took = f"{finding.duration_s * 1000:.0f} ms" if finding.duration_s else ""
    return (
        f"<tr><td>{_chip(finding.verdict)}</td><td><strong>{escape(finding.question)}</strong> "
        f'<span class="evidence">{escape(finding.evidence)}</span><br>'
        f'<span class="did">{escape(finding.did)}</span></td>'
        f'<td class="took">{took}</td></tr>'
    )


def _chip(verdict: Verdict) -> str:
    return f'<span class="chip {_css_class(verdict)}">{verdict.symbol} {escape(verdict.value)}</span>'


def _name(cell: Cell) -> str:
    return f"{escape(cell.backend)}, {escape(cell.boundary.title)}"


def _css_class(verdict: Verdict) -> str:
    return verdict.name.lower()


def _anchor(cell: Cell) -> str:
    return f"{escape(cell.backend)}-{cell.boundary.value}"
