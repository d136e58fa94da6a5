"""Charts as inline SVG, drawn by Vega-Lite when the page is made: nothing runs in the reader's browser.

The SVG's colours are the page's CSS variables, so one picture serves light and
dark; its texts are the reader's fonts.  Every mark's description, which screen
readers read out, is also its tooltip.

Widths are fixed so that a chart fits a phone unscaled: names on the left, the
figures themselves in a column on the right.
"""

from __future__ import annotations

import json
import math
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from benchmarks.page.fragments import Html

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["UNITS", "Dot", "Series", "decades", "draw_dots", "draw_lines", "is_available"]

_LEFT: Final = 126
_RIGHT: Final = 56
_PLOT: Final = 168
_ROW: Final = 19
_HEIGHT: Final = 230  # of a chart of lines

UNITS: Final = {
    "ns": "datum.value >= 1e9 ? datum.value / 1e9 + ' s' : datum.value >= 1e6 ? datum.value / 1e6 + ' ms' : "
    "datum.value >= 1e3 ? datum.value / 1e3 + ' µs' : datum.value + ' ns'",
    "per second": "format(datum.value, '~s')",
    "bytes": "format(datum.value, '~s')",
    "": "format(datum.value, '~g')",
}
"""How an axis writes its ticks, in Vega's expressions, by unit."""


class Dot(NamedTuple):
    """One row of a chart of dots.

    Attributes:
        name: at the left.
        value: where the dot stands.
        high: how far its whisker reaches; None: it has none.
        colour: a CSS variable's name.
        figure: at the right.
        about: all of it in words.
    """

    name: str
    value: float
    high: float | None
    colour: str
    figure: str
    about: str


class Series(NamedTuple):
    """One line, with its name at its end."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False
    about: str = ""


def is_available() -> bool:
    """Return whether charts can be drawn here."""
    try:
        import_module("vl_convert")
    except ImportError:
        return False
    return True


def decades(values: Iterable[float]) -> tuple[float, float]:
    """Return the powers of ten that enclose the positive ones of `values`."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    return 10.0**low, 10.0 ** max(high, low + 1)


def draw_dots(
    dots: Sequence[Dot], domain: tuple[float, float], *, unit: str = "ns", rule: float | None = None, log: bool = True
) -> Html:
    """Return a chart with a row for each of `dots`, in their order; "" where charts cannot be drawn.

    Args:
        dots: their values lie in the domain, or are cut off at its ends.
        domain: of the axis.
        unit: of `UNITS`.
        rule: where a line stands that all are compared with.
        log: whether the axis is logarithmic.
    """
    if not dots:
        return Html("")
    low, high = domain
    values = [
        {
            **dot._asdict(),
            "row": str(index),
            "value": min(max(dot.value, low), high),
            "high": min(max(dot.high if dot.high is not None else dot.value, low), high),
            "colour": f"var(--{dot.colour})",
            "bold": "bold" if dot.colour.startswith("ours") else "normal",
        }
        for index, dot in enumerate(dots)
    ]
    rows = {"field": "row", "type": "ordinal", "sort": None}
    across = {"type": "quantitative", "scale": {"type": "log" if log else "linear", "domain": [low, high]}}
    axis = {"title": None, "labelExpr": UNITS[unit], "values": _ticks(low, high) if log else None}
    about = {"field": "about"}
    plain = {"field": "colour", "scale": None, "legend": None}
    layers: list[dict[str, Any]] = [
        {
            "mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.55, "aria": False},
            "encoding": {
                "x": {"field": "value", **across, "axis": _without_none(axis)},
                "x2": {"field": "high"},
                "y": {**rows, "axis": None},
                "color": plain,
            },
        },
        {
            "mark": {"type": "tick", "thickness": 2, "size": 9, "opacity": 0.55, "aria": False},
            "encoding": {"x": {"field": "high", **across}, "y": {**rows, "axis": None}, "color": plain},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 75, "opacity": 1},
            "encoding": {
                "x": {"field": "value", **across},
                "y": {**rows, "axis": None},
                "color": plain,
                "description": about,
            },
        },
        _beside("name", -8, rows),
        _beside("figure", _PLOT + _RIGHT - 4, rows),
    ]
    if rule is not None:
        layers.insert(
            0,
            {
                "data": {"values": [{"at": rule}]},
                "mark": {"type": "rule", "stroke": "var(--soft)", "strokeDash": [4, 3], "aria": False},
                "encoding": {"x": {"field": "at", **across}},
            },
        )
    return _draw(
        {
            "data": {"values": values},
            "width": _PLOT,
            "height": _ROW * len(dots),
            "padding": {"left": _LEFT, "right": _RIGHT, "top": 4, "bottom": 24},
            "layer": layers,
        }
    )


def _beside(field: str, right_end: int, rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "mark": {
            "type": "text",
            "align": "right",
            "baseline": "middle",
            "fill": "var(--ink)",
            "limit": _LEFT - 12,
            "fontWeight": {"expr": "datum.bold"},
            "aria": False,
        },
        "encoding": {"text": {"field": field}, "x": {"value": right_end}, "y": {**rows, "axis": None}},
    }


def draw_lines(series: Sequence[Series], *, x_title: str, unit: str, base: int = 10) -> Html:
    """Return a chart of lines, both axes logarithmic, each line named at its right end; "" where that cannot be.

    Args:
        series: those without positive points are left out.
        x_title: what the x axis counts.
        unit: of the y axis, of `UNITS`.
        base: 2 where x doubles, 10 where it grows tenfold: its ticks.
    """
    drawn = [
        item._replace(points=sorted(point for point in item.points if min(point) > 0))
        for item in series
        if any(min(point) > 0 for point in item.points)
    ]
    if not drawn:
        return Html("")
    low, high = decades(y for item in drawn for _, y in item.points)
    ticks = sorted({x for item in drawn for x, _ in item.points})
    ends = _spread_labels([_height_of(item.points[-1][1], low, high) for item in drawn])
    values = [
        {"name": item.name, "x": x, "y": y, "colour": f"var(--{item.colour})", "about": item.about, "order": index}
        for index, item in enumerate(drawn)
        for x, y in item.points
    ]
    labels = [
        {"name": item.name, "colour": f"var(--{item.colour})", "at": at} for item, at in zip(drawn, ends, strict=True)
    ]
    left, right = 46, 104
    across = {
        "field": "x",
        "type": "quantitative",
        "scale": {"type": "log", "base": base, "domain": [ticks[0], max(ticks[-1], ticks[0] * base)]},
        "axis": {"title": x_title, "values": ticks, "labelExpr": "format(datum.value, '~s')", "grid": False},
    }
    upward = {
        "field": "y",
        "type": "quantitative",
        "scale": {"type": "log", "domain": [low, high]},
        "axis": {"title": None, "values": _ticks(low, high), "labelExpr": UNITS[unit]},
    }
    colour = {"field": "colour", "scale": None, "legend": None}
    of_series = {"x": across, "y": upward, "color": colour, "detail": {"field": "order"}}
    dashes = [{"name": item.name} for item in drawn if item.dashed]
    is_dashed = {"test": {"field": "name", "oneOf": [entry["name"] for entry in dashes]}, "value": [4, 3]}
    return _draw(
        {
            "width": _LEFT + _PLOT + _RIGHT - left - right,
            "height": _HEIGHT,
            "padding": {"left": left, "right": right, "top": 8, "bottom": 40},
            "layer": [
                {
                    "data": {"values": values},
                    "mark": {"type": "line", "strokeWidth": 2, "aria": False},
                    "encoding": {**of_series, "strokeDash": {"condition": is_dashed, "value": []}},
                },
                {
                    "data": {"values": values},
                    "mark": {"type": "point", "filled": True, "size": 36, "opacity": 1},
                    "encoding": {**of_series, "description": {"field": "about"}},
                },
                {
                    "data": {"values": labels},
                    "mark": {
                        "type": "text",
                        "align": "left",
                        "dx": 7,
                        "baseline": "middle",
                        "limit": right - 8,
                        "aria": False,
                    },
                    "encoding": {
                        "text": {"field": "name"},
                        "x": {"value": _LEFT + _PLOT + _RIGHT - left - right},
                        "y": {"field": "at", "type": "quantitative", "scale": None},
                        "color": colour,
                    },
                },
            ],
        }
    )


def _height_of(value: float, low: float, high: float) -> float:
    return _HEIGHT * (1 - math.log(value / low) / math.log(high / low))


def _spread_labels(wanted: Sequence[float]) -> list[float]:
    """Return the heights of labels, as near to the wanted ones as they can be without lying on one another."""
    gap = min(12.0, _HEIGHT / max(len(wanted), 1))
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = [0.0] * len(wanted)
    at = -math.inf
    for index in order:
        at = placed[index] = max(wanted[index], at + gap)
    overshoot = at - _HEIGHT
    if overshoot > 0:  # push the lowest ones up again
        at = math.inf
        for index in reversed(order):
            at = placed[index] = min(placed[index], at - gap, _HEIGHT)
    return placed


def _ticks(low: float, high: float) -> list[float]:
    first, last = round(math.log10(low)), round(math.log10(high))
    step = max(1, math.ceil((last - first) / 3))  # more would write over one another
    return [10.0**power for power in range(first, last + 1, step)]


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name == "title" or value is not None}


_LOOK: Final = {
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--soft)",
        "titleColor": "var(--soft)",
        "titleFontWeight": "normal",
        "gridColor": "var(--line)",
        "tickColor": "var(--line)",
        "domainColor": "var(--line)",
        "labelFontSize": 11,
        "titleFontSize": 11,
    },
    "text": {"fontSize": 11.5},
}


def _draw(spec: dict[str, Any]) -> Html:
    if not is_available():
        return Html("")
    whole = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "background": None,
        "autosize": {"type": "none"},
        "config": _LOOK,
        **spec,
    }
    converter: Any = import_module("vl_convert")
    # Nothing may be fetched: the data stand in the chart.
    svg: str = converter.vegalite_to_svg(json.dumps(whole), allowed_base_urls=[])
    # A mark's description, which Vega has escaped, is its tooltip as well.
    svg = re.sub(r'<(path|text) aria-label="([^"]*)"([^>]*)/>', r'<\1 aria-label="\2"\3><title>\2</title></\1>', svg)
    return Html(f'<div class="chart">{svg}</div>')
