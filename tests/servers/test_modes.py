"""Each mode is what it says it is: what is measured under load is the mode's truth.

Tests of detection and of the doctor compare with that truth, so it is measured
here by means that share nothing with the library: what the kit's application
sees of itself, and /proc.
"""

from __future__ import annotations

import os
import pwd
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness import MODES, Interpreter, Mode, Server, copies, reach_all, start, topology, wait_for

REPORT = Path(__file__).parent / "applications" / "report"


@pytest.mark.parametrize("mode", MODES.values(), ids=str)
def test_mode_is_what_it_says(mode: Mode) -> None:
    """50 clients get all their answers, from as many processes, interpreters and threads as the truth has."""
    truth = mode.truth
    with start(mode, REPORT) as server:
        if truth.preloaded:
            assert wait_for(lambda: len(server.executions()) in truth.module_runs, 10), server.executions()
        else:
            assert server.executions() == []
        answers = reach_all(server, requests=400 if len(mode.mounts) > 1 else 120)
        executions = server.executions()
        parent = server.master if truth.supervised else os.getpid()

        found = topology(answers)
        assert found.mounts == set(mode.mounts)
        if not truth.recycled:
            assert len(found.processes) in truth.processes
            assert {answer["parent"] for answer in answers} == {parent}
        _check_interpreters(mode, answers)
        _check_threads(mode, answers)
        _check_flags(server, answers)
        _check_runs(mode, answers, executions)


def _check_interpreters(mode: Mode, answers: list[Any]) -> None:
    truth = mode.truth
    pairs = topology(answers).interpreters
    per_process = Counter(pid for pid, _ in pairs)
    assert max(per_process.values()) == truth.interpreters
    if truth.exact and not truth.recycled:
        assert set(per_process.values()) == {truth.interpreters}
    numbers = {number for _, number in pairs}
    assert (0 in numbers) == (Interpreter.MAIN in truth.kinds)
    assert bool(numbers - {0}) == bool(truth.kinds - {Interpreter.MAIN})
    for answer in answers:  # Python 3.13 can tell; on 3.11 there is nothing but shared ones
        if answer["interpreter"]:
            own = answer["gil"] == "own"
            assert own == (Interpreter.ISOLATED in truth.kinds)


def _check_threads(mode: Mode, answers: list[Any]) -> None:
    threads: dict[int, set[int]] = {}
    for answer in answers:
        threads.setdefault(answer["pid"], set()).add(answer["thread"])
    most = max(map(len, threads.values()))
    if mode.truth.threads is not None:
        assert most <= mode.truth.threads
        assert (most > 1) == (mode.truth.threads > 1)


def _check_flags(server: Server, answers: list[Any]) -> None:
    truth = server.mode.truth
    for flag in ("multithread", "multiprocess"):
        expected = getattr(truth, flag)
        if expected is not None:
            assert {answer["flags"][flag] for answer in answers} == {expected}
    if server.mode.server == "mod_wsgi":
        groups = {group.format(port=server.port) for group in truth.application_groups}
        assert {answer["mod_wsgi"]["mod_wsgi.application_group"] for answer in answers} == groups
        assert {answer["mod_wsgi"]["mod_wsgi.process_group"] for answer in answers} == set(truth.process_groups)
        if os.geteuid() == 0:
            assert {answer["uid"] for answer in answers} == {pwd.getpwnam("www-data").pw_uid}
    else:
        assert not truth.application_groups


def _check_runs(mode: Mode, answers: list[Any], executions: list[tuple[int, int, str]]) -> None:
    """The module ran where and as often as the truth says, and its counters are copies that know not of each other."""
    truth = mode.truth
    pairs = topology(answers).interpreters
    assert len(executions) in truth.module_runs
    runs = Counter((pid, interpreter) for pid, interpreter, _ in executions)
    if truth.in_master:
        assert not {pid for pid, _ in pairs} & {pid for pid, _ in runs}
    else:
        assert {pair: runs[pair] for pair in pairs} == dict.fromkeys(pairs, truth.executions)

    assert len(copies(answers)) == len(pairs)
    assert sum(copies(answers).values()) == len(answers)
    scripts = [answers]
    if truth.scripts > 1:  # one per mount
        scripts = [[answer for answer in answers if answer["mount"] == mount] for mount in mode.mounts]
    assert sum(sum(copies(script, "calls").values()) for script in scripts) == len(answers)
