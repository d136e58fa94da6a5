"""The report as one self-contained HTML page, made from the JSON of a run and from nothing else.

    reasons      why each figure is as it is: sentences
    fragments    pieces of HTML; what enters them is escaped there
    charts       Vega-Lite charts as inline SVG
    contestants  who is ours, and in which colour
    answer       which one should I use, and what does it cost
    operations   the single operations
    records      the records of a part
    parts        what is measured beside them: a renderer for each part, and one for those that have none
    rendering    the page

A module imports those above it only.  `python -m benchmarks.page RESULTS PAGE`
makes the page anew.
"""

from benchmarks.page.rendering import render_page

__all__ = ["render_page"]
