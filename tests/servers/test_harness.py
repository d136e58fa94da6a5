"""Each mode is what it says it is: the measured topology is the mode's truth."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import MODES, Mode, copies, load, start, topology

REPORT = Path(__file__).parent / "applications" / "report"


@pytest.mark.parametrize("mode", MODES.values(), ids=str)
def test_mode_is_what_it_says(mode: Mode) -> None:
    """Under load all requests succeed, and processes, interpreters and flags are those of the mode's truth."""
    truth = mode.truth
    with start(mode, REPORT) as server:
        answers = load(server, requests=400 if len(mode.mounts) > 1 else 120)

    measured = topology(answers)
    assert measured.mounts == set(mode.mounts)
    assert sum(copies(answers).values()) == len(answers)
    if not truth.recycled:
        assert len(measured.processes) in truth.processes
