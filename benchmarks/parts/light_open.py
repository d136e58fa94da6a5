"""What the first `import sharedstate` and `open` cost a fresh isolated interpreter.

Every interpreter of an application server pays it again, so it is held against
three modules of the standard library that an application has anyway, in turns,
each time in an interpreter that has loaded nothing yet.  The store exists: the
second worker's case, and that of all after it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any, Final, NamedTuple

from benchmarks.measure import Interval, bootstrap_ratio, median
from benchmarks.parts import isolated
from benchmarks.parts.room import ROOT

__all__ = ["FORBIDDEN", "LightOpen", "measure_light_open", "run_isolated"]

REFERENCE: Final = "import json, struct, threading"

FORBIDDEN: Final = frozenset(
    {
        "click",
        "contextlib",
        "dataclasses",
        "datetime",
        "importlib.metadata",
        "logging",
        "multiprocessing",
        "portalocker",
        "re",
        "rich",
        "sqlite_utils",
        "threading",
        "urllib",
        "urllib.parse",
    }
)
"""Too dear for each interpreter, or known to crash isolated ones of some CPythons."""

_TIMEOUT_S: Final = 120


class LightOpen(NamedTuple):
    """What one statement cost.

    Attributes:
        backend: "" for the reference.
        median_ms: over the rounds.
        ratio: to the reference, None for itself.
        modules: how many it loaded.
        forbidden: those of them that it should not have.
        failure: why there is nothing else, or "".
    """

    backend: str
    statement: str
    median_ms: float = 0.0
    ratio: Interval | None = None
    modules: int = 0
    forbidden: tuple[str, ...] = ()
    failure: str = ""


def run_isolated(task: str, **job: Any) -> Any:
    """Run a task of `benchmarks.parts.isolated` in a child process and return its result.

    Raises:
        RuntimeError: it failed, or crashed.
    """
    if not isolated.is_supported():
        raise RuntimeError(isolated.why_unsupported())
    command = [sys.executable, "-m", "benchmarks.parts.isolated", task, json.dumps(job)]
    # Bytecode of its own, for the standard library as well: an installed package
    # has it, and a developer's environment may forbid it or hold an older one.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    try:
        with tempfile.TemporaryDirectory(prefix="sharedstate-bench-") as bytecode:
            environment["PYTHONPYCACHEPREFIX"] = bytecode
            child = subprocess.run(
                command, capture_output=True, timeout=_TIMEOUT_S, cwd=ROOT, env=environment, check=False
            )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"no answer within {_TIMEOUT_S} s") from None
    if child.returncode:
        errors = child.stderr.decode(errors="replace").strip().splitlines()
        raise RuntimeError(f"exit status {child.returncode}: {errors[-1] if errors else 'it said nothing'}")
    return json.loads(child.stdout)


def measure_light_open(urls: dict[str, str], rounds: int) -> list[LightOpen]:
    """Open each of `urls` (by backend; the stores exist) in `rounds` fresh interpreters."""
    results = [_compare(backend, url, rounds) for backend, url in urls.items()]
    reference = next((reference for reference, _ in results if not reference.failure), None)
    return ([reference] if reference else []) + [opened for _, opened in results]


def _compare(backend: str, url: str, rounds: int) -> tuple[LightOpen, LightOpen]:
    # A process for each backend, so that a crash costs one row.
    statements = {"": REFERENCE, backend: f"import sharedstate; store = sharedstate.open({url!r})"}
    try:
        results = run_isolated("fresh", statements=statements, rounds=rounds)
    except RuntimeError as error:
        failed = LightOpen("", REFERENCE, failure=str(error))
        return failed, failed._replace(backend=backend, statement=statements[backend])
    reference: list[float] = results[""]["ns"]
    return (
        _sum_up("", REFERENCE, results[""], reference),
        _sum_up(backend, statements[backend], results[backend], reference),
    )


def _sum_up(backend: str, statement: str, result: dict[str, Any], reference: list[float]) -> LightOpen:
    times: list[float] = result["ns"]
    if result["error"] or not times:
        return LightOpen(backend, statement, failure=result["error"])
    loaded: list[str] = result["modules"]
    return LightOpen(
        backend,
        statement,
        median_ms=median(times) / 1e6,
        ratio=bootstrap_ratio(times, reference) if backend else None,
        modules=len(loaded),
        forbidden=tuple(sorted(FORBIDDEN.intersection(loaded))) if backend else (),
    )
