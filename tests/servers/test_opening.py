"""`sharedstate.open()` without a URL, in every configuration: one store for the whole application, and the cheapest.

The application increments once per request in the store that it opened at
module level.  What it must share with whom, the mode's truth says.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import sharedstate
from harness import MODES, Mode, reach_all, start, wait_for

OPENING = Path(__file__).parent / "applications" / "opening"
REQUESTS = 400


@pytest.mark.parametrize("mode", MODES.values(), ids=str)
def test_one_application_has_one_store(mode: Mode) -> None:
    """400 concurrent requests count exactly 400, in one store, whatever interpreters and processes answer.

    It is memory where one interpreter of one process serves as long as the
    server lives, and shared memory everywhere else: nothing cheaper suffices.
    There `memory:` by its URL is refused, with the URL to use instead.
    Every process x interpreter that answered is seen among its sharers from
    outside, and nobody is once the server has ended.
    """
    with start(mode, OPENING) as server:
        answers = reach_all(server, path="/count", requests=REQUESTS)
        urls = {answer["url"] for answer in answers}
        seen = _look_from_outside(urls)
        running = server.pids()  # afterwards: who runs still ran when we looked, and Apache ends idle ones at any time

    assert len(urls) == 1, "all mounts, processes and interpreters have one store"
    assert {answer["scheme"] for answer in answers} == {_expected_scheme(mode)}, answers[0]["choice"]
    assert sorted(answer["total"] for answer in answers) == list(range(1, len(answers) + 1))
    assert len(answers) >= REQUESTS
    refused = {"shm://narrow" in answer["refusal"] for answer in answers}
    assert refused == {_expected_scheme(mode) == "shm"}, answers[0]["refusal"]
    if _expected_scheme(mode) == "shm":
        if not mode.truth.recycled:  # else some are about to end, and have closed it already
            assert {(answer["pid"], answer["interpreter"]) for answer in answers if answer["pid"] in running} <= seen
        assert wait_for(lambda: not _look_from_outside(urls), 10), "they outlive their server"
        sharedstate.remove(urls.pop())


def _expected_scheme(mode: Mode) -> str:
    truth = mode.truth
    is_alone = truth.exact and truth.processes[0] == 1 and truth.interpreters == 1
    # Nobody replaces a process that has no supervisor; werkzeug's reloader only does so for a developer.
    return "memory" if is_alone and (not truth.supervised or mode.server == "werkzeug") else "shm"


def _look_from_outside(urls: set[str]) -> set[tuple[int, int]]:
    """The processes and interpreters that have the store open, but for this one."""
    (url,) = urls
    if url.startswith("memory:"):
        return set()
    with sharedstate.open(url) as store:
        owners = [sharer.owner for sharer in store.sharers()]
    return {(owner.pid, owner.interpreter) for owner in owners if owner.pid != os.getpid()}
