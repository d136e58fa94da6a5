"""What every test with a real server gets: the proof that it left no process behind."""

from collections.abc import Iterator

import pytest

from harness import leftovers


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    assert not leftovers()
