"""The report on a live server as one self-contained HTML page that draws the house; `house.html` is its frame.

Everything that came from outside - names of hosts, evidence, URLs - is escaped
where it enters a fragment, and only there.
"""

from __future__ import annotations

from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Final, NamedTuple

from sharedstate.probe.findings import Verdict
from sharedstate.probe.live import wording

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sharedstate.probe.findings import Finding
    from sharedstate.probe.live.findings import LiveReport
    from sharedstate.probe.live.judging import Groups
    from sharedstate.probe.live.topology import Host, Interpreter, Process

__all__ = ["render_page"]

_NEW: Final = ' <span class="new">new</span>'
_REASONS: Final = {"unseen": "<small>not seen again</small>", "failed": "<small>no store here</small>"}
_MANY: Final = 10  # interpreters: their rooms are drawn smaller
_CROWD: Final = 64  # interpreters: two such houses do not fit side by side
_MOST_DOTS: Final = 30
_SHARED_HUE: Final = 145
_HUES: Final = (265, 28, 205, 325, 75, 0, 175, 235, 48, 295, 105, 345)
"""Neighbours far apart, and none is the green of what is shared by all."""

_ABOUT: Final = {
    "machine": "Driven from",
    "python": "Python there",
    "sharedstate": "sharedstate",
    "date": "Date",
}
_FIELDS: Final = (
    "server",
    "version",
    "mode",
    "processes",
    "interpreters",
    "gil",
    "threads",
    "recycled",
    "preloaded",
    "application",
)


def render_page(report: LiveReport) -> str:
    """Return the page."""
    frame = Template(files("sharedstate.probe.live").joinpath("house.html").read_text(encoding="utf-8"))
    verdict = Verdict.SUPPORTED if report.is_shared else Verdict.UNSUPPORTED
    mounts = wording.explain_mounts(report)
    return frame.substitute(
        title=escape(f"The house at {' and '.join(report.urls)}"),
        headline=escape(wording.headline(report)),
        lede=escape(f"{mounts} {wording.advise(report.house)}".strip()),
        banner=f"{verdict.symbol} {escape(wording.summarise(report))}",
        banner_class=_css_class(verdict),
        warnings=_warnings(report),
        size=_size(len(report.house.interpreters)),
        hint="Point at a room to see who sees what it writes.",
        counting=escape(wording.explain_counting(report)),
        variables_caption=_emphasise(wording.variables_caption(report)),
        variables_house=_house(report, _View(report.variables, report.copies, {})),
        store_name=f"<code>{escape(wording.name_store(report))}</code>",
        store_caption=_emphasise(wording.store_caption(report)),
        store_house=_house(report, _View(report.store, report.totals, report.problems)),
        findings="".join(map(_finding_row, report.findings)),
        detected=_detected(report),
        interpreters="".join(
            _details(report, host, process, interpreter) for host, process, interpreter in report.house.walk()
        ),
        about=_about(report),
    )


def _warnings(report: LiveReport) -> str:
    lines = "".join(f"<li>{escape(warning)}</li>" for warning in wording.warnings(report))
    return f'<ul class="warnings">{lines}</ul>' if lines else ""


def _emphasise(caption: str) -> str:
    """Return the caption with its first sentence in bold."""
    first, point, rest = caption.partition(". ")
    return f"<strong>{escape(first + point.strip())}</strong> {escape(rest)}".strip()


def _size(interpreters: int) -> str:
    return "" if interpreters <= _MANY else "many" if interpreters <= _CROWD else "many crowded"


# --- The house --------------------------------------------------------------------


class _View(NamedTuple):
    """What one of the two pictures shows."""

    groups: Groups
    counts: Mapping[str, int]
    problems: Mapping[str, str]


def _house(report: LiveReport, view: _View) -> str:
    return "".join(
        f'<div class="host"><div class="gable">{escape(host.name)}</div><div class="walls">'
        + "".join(
            f'<div class="process" data-pid="{process.pid}"><header>process {process.pid}'
            f"{_NEW if process.is_new else ''}</header>"
            f'<div class="rooms">{_rooms(report, view, process)}</div></div>'
            for process in host.processes
        )
        + "</div></div>"
        for host in report.house.hosts
    )


def _rooms(report: LiveReport, view: _View, process: Process) -> str:
    return "".join(_room(report, view, process, interpreter) for interpreter in process.interpreters)


def _room(report: LiveReport, view: _View, process: Process, interpreter: Interpreter) -> str:
    place, groups = interpreter.place, view.groups
    group, count = groups.of.get(place), view.counts.get(place)
    name = f"Process {process.pid}, interpreter {interpreter.number}"
    if group is not None:
        kin = sum(number == group for number in groups.of.values())
        letter, css, hue, key = wording.letter(group), "", _hue(group, groups), str(group)
        note = f"{name}: what it writes is seen by {'itself alone' if kin == 1 else f'{kin} of {len(groups.of)}'}."
    elif place in view.problems:
        letter, css, hue, key = "✘", "failed", 0, f"alone-{place}"
        note = f"{name}: {view.problems[place]}"
    else:
        letter, css, hue, key = "?", "unseen", 0, f"alone-{place}"
        note = f"{name} did not answer every experiment."
    mounts = ", ".join(wording.mount_name(url, report.urls) for url in interpreter.urls)
    shown = "" if count is None or group is None else f"{count:,}"
    return (
        f'<a class="room {css}" style="--hue:{hue}" href="#{_anchor(place)}" data-group="{escape(key)}" '
        f'data-place="{escape(place)}" data-note="{escape(note)}">'
        f'<span class="top"><span class="letter">{letter}</span><span class="count">{shown}</span></span>'
        f"<small>interpreter {interpreter.number}{_own_gil(report, place)}</small>"
        f"<small>answers <b>{escape(mounts)}</b></small>"
        f"<small>{escape(wording.thread_count(report, interpreter))}</small>{_dots(interpreter)}"
        f"{_REASONS.get(css, '')}</a>"
    )


def _own_gil(report: LiveReport, place: str) -> str:
    gil = report.facts.get(place, {}).get("gil")
    return ", own GIL" if gil is not None and gil.value == "own" else ""


def _hue(group: int, groups: Groups) -> int:
    return _SHARED_HUE if groups.copies == 1 else _HUES[group % len(_HUES)]


def _dots(interpreter: Interpreter) -> str:
    return f'<span class="dots">{"<i></i>" * min(len(interpreter.threads), _MOST_DOTS)}</span>'


# --- Below it -----------------------------------------------------------------------


def _finding_row(finding: Finding) -> str:
    return (
        f"<tr><td>{_chip(finding.verdict)}</td><td><strong>{escape(finding.question)}</strong> "
        f'<span class="evidence">{escape(finding.evidence)}</span><br>'
        f'<span class="did">{escape(finding.did)}</span></td></tr>'
    )


def _detected(report: LiveReport) -> str:
    """Return what was said, once for all places that said the same."""
    said = dict[tuple[tuple[str, str, str, str], ...], list[str]]()
    for place, fields in report.facts.items():
        if place in report.house.places:
            rows = tuple(
                (name, "unknown" if fact.value is None else str(fact.value), fact.certainty, fact.evidence)
                for name in _FIELDS
                if (fact := fields.get(name)) is not None
            )
            said.setdefault(tuple((*row[:3], "") for row in rows), []).append(place)
    parts = list[str]()
    for rows, places in said.items():
        evidence = report.facts[places[0]]
        body = "".join(
            f"<tr><th>{escape(name)}</th><td><strong>{escape(value)}</strong></td><td>{escape(certainty)}</td>"
            f'<td class="soft">{escape(evidence[name].evidence)}</td></tr>'
            for name, value, certainty, _ in rows
        )
        who = wording.count_of(len(places), "interpreter")
        parts.append(f'<p>{who}:</p><div class="scroll"><table class="facts">{body}</table></div>')
    return "".join(parts) or '<p class="soft">Nobody was asked.</p>'


def _details(report: LiveReport, host: Host, process: Process, interpreter: Interpreter) -> str:
    place = interpreter.place
    opened = report.opened.get(place)
    facts = {
        "Host": host.name,
        "Process": f"{process.pid}, child of {process.parent}",
        "Interpreter": f"{interpreter.number}, Python {interpreter.python}",
        "Answered at": " ".join(interpreter.urls),
        "Threads": wording.thread_count(report, interpreter),
        "Answers": str(interpreter.answers),
        "Store": opened.url if opened else report.problems.get(place, "not opened"),
        "Why this store": opened.choice if opened else "",
    }
    rows = "".join(
        f'<dt>{escape(label)}</dt><dd class="evidence">{escape(fact)}</dd>' for label, fact in facts.items() if fact
    )
    return (
        f'<details id="{_anchor(place)}"><summary>{escape(report.house.names()[place])}</summary>'
        f'<dl class="about">{rows}</dl></details>'
    )


def _about(report: LiveReport) -> str:
    facts = {
        "Mounts": ", ".join(
            f"{url} (up to {wording.count_of(number, 'request')} in work at once)"
            for url, number in report.at_once.items()
        ),
        **{label: report.about[name] for name, label in _ABOUT.items() if name in report.about},
        "Run": f"{report.requests} requests in {report.duration_s:.0f} s",
    }
    return "".join(f"<dt>{escape(label)}</dt><dd>{escape(fact)}</dd>" for label, fact in facts.items())


def _chip(verdict: Verdict) -> str:
    return f'<span class="chip {_css_class(verdict)}">{verdict.symbol} {escape(verdict.value)}</span>'


def _css_class(verdict: Verdict) -> str:
    return verdict.name.lower()


def _anchor(place: str) -> str:
    return f"place-{escape(place)}"
