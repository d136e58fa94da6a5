"""`python -m benchmarks.page RESULTS PAGE`: make the page of a run from its JSON."""

from __future__ import annotations

import argparse
import json
import sys

from benchmarks.page import render_page


def main() -> int:
    """Render; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description="Make the page from a run's JSON.")
    parser.add_argument("results", help="what --json wrote")
    parser.add_argument("page", help="the file to write")
    options = parser.parse_args()
    try:
        with open(options.results, encoding="utf-8") as file:
            report = json.load(file)
    except (OSError, ValueError) as error:
        parser.error(f"{options.results}: {error}")
    if not isinstance(report, dict) or report.get("format") != 1:
        parser.error(f"{options.results}: not a report of format 1")
    with open(options.page, "w", encoding="utf-8") as file:
        file.write(render_page(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
