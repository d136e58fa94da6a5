"""What docs/coordination.md shows works when pasted, and its links to tests are true."""

import doctest
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_examples_give_what_they_show() -> None:
    """Every `>>>` line of docs/coordination.md, run in order, prints what stands below it."""
    failed, tried = doctest.testfile(str(ROOT / "docs" / "coordination.md"), module_relative=False)

    assert tried > 40
    assert failed == 0
