"""What docs/asyncio.md shows works when pasted."""

import doctest
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_examples_give_what_they_show() -> None:
    """Every `>>>` line of docs/asyncio.md, run in order, prints what stands below it."""
    failed, tried = doctest.testfile(str(ROOT / "docs" / "asyncio.md"), module_relative=False)

    assert tried > 5
    assert failed == 0
