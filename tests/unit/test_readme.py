"""The first example that a newcomer sees works when pasted."""

import doctest
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_readmes_examples_give_what_they_show() -> None:
    """Every `>>>` line of README.md, run in order, prints what stands below it."""
    failed, tried = doctest.testfile(str(ROOT / "README.md"), module_relative=False)

    assert tried > 10
    assert failed == 0


def test_the_first_example_fits_on_one_screen() -> None:
    """The first code block has at most 40 lines."""
    block = (ROOT / "README.md").read_text().split("```")[1]

    assert len(block.splitlines()) <= 40
