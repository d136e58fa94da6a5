"""The figures in README.md and docs/benchmarks.md are those of the committed report."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from benchmarks import headline

with open(headline.REPORT, encoding="utf-8") as file:
    COMMITTED = json.load(file)


@pytest.mark.parametrize("name", headline.REGIONS)
def test_the_figures_in_the_documents_are_those_of_the_committed_report(name: str) -> None:
    """The region between the two comments is what `make bench-report` would write there."""
    with open(os.path.join(headline.ROOT, name), encoding="utf-8") as file:
        text = file.read()

    assert headline.replace_region(text, headline.REGIONS[name](COMMITTED)) == text


def test_a_document_without_its_comments_is_not_guessed_at() -> None:
    """A file that lacks one of the two comments is refused."""
    with pytest.raises(ValueError, match="end of benchmark figures"):
        headline.replace_region("<!-- benchmark figures: made by `make bench-report` -->", "")


def test_the_command_checks_without_writing() -> None:
    """`python -m benchmarks.headline --check` has exit status 0 while the documents are as they should be."""
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.headline", "--check"],
        cwd=headline.ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((headline.ROOT, os.path.join(headline.ROOT, "backends")))},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
