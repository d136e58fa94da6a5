"""The C sources under what C has tools for: killed at each instruction, fed hostile bytes, analysed.

As a user would run them, by `make -C tests/native`, with a build directory per
Python, which one run at a time has to itself.

Invariants:
    N1  whatever instruction of an operation, of a creation, of a removal or of a
        repair is the last one, the next process finds the state before or the
        state after it, every invariant kept, every stripe lockable, no leak
        after a sweep
    N2  hostile bytes end in a status or in CorruptError: no crash, no hang of
        5 s, no byte read or written outside what was given
    N3  no C file of the project draws a warning from the compiler or from its
        analyser, and nothing uses memory that it does not own
Each is shown to be able to fail: by mutants (`make mutants` for N1) and by
planted faults.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from campaign import SEED, record, scale

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Make = Callable[..., subprocess.CompletedProcess[str]]

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "torture" / f"native-{sys.implementation.cache_tag}"
EVIDENCE = ROOT / "build" / "torture" / "evidence"


@pytest.fixture
def make() -> Iterator[Make]:
    """Run `make -C tests/native` with these arguments; `is_planted` if it is to fail."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def run(*arguments: str, is_planted: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
            command = ["make", "-k", "-C", str(ROOT / "tests" / "native"), f"BUILD={BUILD}", f"EVIDENCE={EVIDENCE}"]
            command += [f"PYTHON={sys.executable}", *arguments]
            clean = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL"}}
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False, env=clean | environment
            )
            print(done.stdout, done.stderr)  # noqa: T201  pytest shows it with a failure
            assert (done.returncode != 0) == is_planted, done.stdout[-3000:] + done.stderr[-3000:]
            return done

        yield run


def test_a_kill_at_every_instruction_leaves_before_or_after(make: Make) -> None:
    """N1; in the short form of creations and removals, which `make test-native` steps through in strides only."""
    suites = scale("openings", "steps openings")

    done = make("check", f"SUITES={suites}", STRIDE="1")

    failed = sum(int(n) for n in re.findall(r"\d+ passed, (\d+) failed", done.stdout))
    figures = re.findall(r"(\w+): (\d+) instructions judged, (\d+) real kills", done.stdout)
    assert [suite for suite, _, _ in figures] == suites.split()
    judged = sum(int(n) for _, n, _ in figures)
    record("kill at every instruction", "shm", bad=failed, kills=judged, real_kills=sum(int(n) for *_, n in figures))
    assert failed == 0
    assert judged >= scale(5_000, 40_000)


def test_hostile_bytes_end_in_a_status(make: Make) -> None:
    """N2, for the region, the table, the codec and the log's frames, with the address sanitizer and guard pages."""
    slow, fast = scale((8_000, 80_000), (10_000_000, 10_000_000))

    done = make("-j2", "fuzz", f"SLOW_RUNS={slow}", f"FAST_RUNS={fast}", f"SEED={SEED % 2**31 or 1}")

    figures = re.findall(r"fuzz (\w+): (\d+) executions, \d+ inputs in the corpus, (\d+) bad", done.stdout)
    for target, executions, bad in figures:
        record("hostile bytes, fuzzed", target, bad=int(bad), executions=int(executions))
    assert {target for target, _, _ in figures} == {"region", "table", "codec", "frames"}
    assert all(int(executions) >= min(slow, fast) for _, executions, _ in figures)


def test_each_fuzz_target_finds_a_check_that_was_taken_out(make: Make) -> None:
    """N2 can fail: a mutant of each target's sources ends in an input that crashes it."""
    done = make("fuzz-mutants", "SLOW_RUNS=20000", "FAST_RUNS=200000")

    assert "fuzz mutants: 4 passed, 0 failed" in done.stdout


def test_no_c_file_draws_a_warning(make: Make) -> None:
    """N3, with -Wall -Wextra -Wconversion -Wshadow and -fanalyzer; the short form looks at the smaller modules."""
    some = "../../backends/sharedstate_file/c/replay.c ../../sharedstate/c/native.c"

    done = make("-j2", "analyze", *scale([f"ANALYZED={some}"], []))

    (files,) = re.findall(r"analyze: (\d+) files, no warning", done.stdout)
    record("analysed by gcc -fanalyzer", "C files", bad=0, files=int(files))


def test_valgrind_sees_no_foreign_memory_used(make: Make) -> None:
    """N3; the short form is one suite of the table, the full one also goes through every C module in Python."""
    done = make(*scale(["memcheck-suites", "MEMCHECK_SUITES=table"], ["memcheck"]), QUICK="1")

    passed = [int(n) for n in re.findall(r"(\d+) passed, 0 failed", done.stdout)]
    record("valgrind memcheck", "C core and modules", bad=0, suites=len(passed))
    assert passed
    assert "modules passed" in scale("modules passed", done.stdout)


@pytest.mark.parametrize(
    ("arguments", "finding"),
    [
        (["analyze", "ANALYZED=../../tests/native/test_planted.c"], "Werror=analyzer"),
        (["asan", "ASAN_SUITES=planted"], "heap-buffer-overflow"),
        (["tsan", "TSAN_SUITES=planted"], "data race"),
        (["memcheck-suites", "MEMCHECK_SUITES=planted"], "Invalid read"),
    ],
    ids=["analyze", "asan", "tsan", "memcheck"],
)
def test_each_tool_finds_a_fault_that_was_planted(make: Make, arguments: list[str], finding: str) -> None:
    """N3 can fail: tests/native/test_planted.c reads behind an allocation, and races."""
    done = make(*arguments, is_planted=True)

    assert finding in done.stdout + done.stderr
