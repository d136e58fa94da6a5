"""Which one should I use, and what does it cost?  The first thing on the page."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from benchmarks.offers import DURABILITIES, SCOPES
from benchmarks.page.contestants import BASELINE
from benchmarks.page.fragments import Html, section, strong, text
from benchmarks.page.reasons import take_it_where
from benchmarks.wording import duration, factor

__all__ = ["Cost", "cost_of", "headline", "render_answer"]

_WORKLOADS: Final = (("get-int", "get an int"), ("set-int", "set an int"), ("increment-int", "increment"))
_DICTS: Final = (("get-dict", "get a dict of 1 KiB"), ("set-dict", "set such a dict"))


class Cost(NamedTuple):
    """What a contestant takes for one operation, and how many times the baseline's time that is, if measured."""

    median_ns: float
    ratio: float | None


class _Line(NamedTuple):
    """One row of the table."""

    contestant: str
    name: str
    take: str
    shared: str
    outlives: str


def cost_of(report: dict[str, Any], workload: str, contestant: str) -> Cost | None:
    """Return a figure of the report, None if it was not measured."""
    for item in report.get("workloads", []):
        if item.get("workload") == workload:
            for row in item.get("rows", []):
                if row.get("contestant") == contestant and row.get("median_ns"):
                    ratio = row.get("ratio") if item.get("baseline") == BASELINE else None
                    return Cost(row["median_ns"], ratio["median"] if ratio else None)
    return None


def headline(report: dict[str, Any]) -> str:
    """Return the answer in a sentence, or "" if what it needs was not measured."""
    reference = cost_of(report, "get-int", BASELINE)
    shared = [
        (found, str(backend["name"]))
        for backend in report.get("backends", [])
        if backend.get("scope") in {"HOST", "CLUSTER"}
        and (found := cost_of(report, "get-int", str(backend.get("name")))) is not None
    ]
    if not reference or not shared:
        return ""
    found, name = min(shared)
    relation = "less" if found.median_ns < reference.median_ns else "more"
    return (
        f"Sharing an int between all processes and interpreters of a host costs {relation} than a threading.Lock "
        f"around a dict in one of them: {duration(found.median_ns)} to read it through {name}, "
        f"{duration(reference.median_ns)} behind the lock."
    )


def render_answer(report: dict[str, Any]) -> Html:
    """Return the table of our backends: what they share, what they outlive, what that costs."""
    backends = sorted(report.get("backends", []), key=lambda backend: _reach(report, backend))
    if not backends:
        return Html("")
    measured = [
        (workload, label)
        for workload, label in (*_WORKLOADS, *_DICTS)
        if any(cost_of(report, workload, str(backend.get("name"))) for backend in backends)
    ]
    lines = [
        _Line(
            str(backend["name"]),
            f"{backend['name']}:",
            take_it_where(str(backend["name"])),
            SCOPES.get(str(backend.get("scope")), str(backend.get("scope"))),
            DURABILITIES.get(str(backend.get("durability")), str(backend.get("durability"))),
        )
        for backend in backends
    ]
    if any(cost_of(report, workload, BASELINE) for workload, _ in measured):
        told = "nothing has to be shared beyond one interpreter, nor to be copied, expire or be waited for"
        reach = SCOPES["INTERPRETER"], DURABILITIES["PROCESS"]
        lines.append(_Line(BASELINE, "dict + threading.Lock", told, *reach))
    rows = [_row(report, line, measured) for line in lines]
    heads = ["", "take it where", "shared between", "outlives", *(label for _, label in measured)]
    head = "".join(f'<th scope="col">{text(label)}</th>' for label in heads)
    return section(
        "Which one should I use, and what does it cost?",
        Html(
            "<p>Take the first line that reaches as far, and lasts as long, as you need: "
            "<code>sharedstate.open()</code> without a URL does just that. "
            f"{'Below each time: how many times that of the dict behind a lock.' if measured else ''}</p>"
            f'<div class="scroll"><table class="answer"><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div>"
        ),
    )


def _reach(report: dict[str, Any], backend: dict[str, Any]) -> tuple[int, int, float]:
    found = cost_of(report, "get-int", str(backend.get("name")))
    return (
        _place(SCOPES, backend.get("scope")),
        _place(DURABILITIES, backend.get("durability")),
        found.median_ns if found else float("inf"),
    )


def _place(order: dict[str, str], name: object) -> int:
    names = list(order)
    return names.index(str(name)) if name in order else len(names)


def _row(report: dict[str, Any], line: _Line, measured: list[tuple[str, str]]) -> Html:
    contestant = line.contestant
    facts = (("take it where", line.take), ("shared between", line.shared), ("outlives", line.outlives))
    cells = "".join(f'<td data-label="{text(label)}">{text(fact)}</td>' for label, fact in facts)
    for workload, label in measured:
        found = cost_of(report, workload, contestant)
        figure = Html("-")
        if found:
            beside = "" if found.ratio is None or contestant == BASELINE else f"{factor(found.ratio)} x"
            css_class = "better" if beside and found.ratio is not None and found.ratio <= 1 else "soft"
            figure = Html(f'{strong(duration(found.median_ns))}<small class="{css_class}">{text(beside)}</small>')
        cells += f'<td class="figure" data-label="{text(label)}">{figure}</td>'
    css_class = ' class="reference"' if contestant == BASELINE else ""
    return Html(f'<tr{css_class}><th scope="row">{text(line.name)}</th>{cells}</tr>')
