"""One run of the probe: every backend across every boundary, each cell with a store of its own.

Stores are made under names of the run's own and removed at its end, also when
that is an error or Ctrl-C.  A run that is killed with SIGKILL leaves stores
whose names hold "probe".
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC
from typing import TYPE_CHECKING, Final, NamedTuple

from sharedstate import registry
from sharedstate.backend.urls import parse_url
from sharedstate.errors import StateError
from sharedstate.probe import reproduction
from sharedstate.probe.actors import (
    ActorError,
    ActorGoneError,
    ActorTimeoutError,
    Boundary,
    Kind,
    Stage,
    available_kinds,
)
from sharedstate.probe.experiments import FULL, Bench, Experiment, Pace, find_applicable
from sharedstate.probe.findings import Cell, Finding, Outcome, Report, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sharedstate.model import Capabilities

__all__ = ["Step", "describe_machine", "run_probe"]

_PATIENCE_S: Final = 20.0

_NEEDS: Final = {Boundary.LEGACY: Kind.LEGACY, Boundary.ISOLATED: Kind.ISOLATED}


class Step(NamedTuple):
    """What the probe is about to do, for a display of its progress."""

    backend: str
    boundary: Boundary
    question: str
    cells_done: int
    cells: int


def run_probe(
    backends: Sequence[str] | None = None,
    boundaries: Sequence[Boundary] = tuple(Boundary),
    *,
    pace: Pace = FULL,
    python: str = sys.executable,
    on_step: Callable[[Step], None] = lambda _step: None,
    on_cell: Callable[[Cell], None] = lambda _cell: None,
) -> Report:
    """Try every claim of `backends` across `boundaries`.

    Args:
        backends: URL schemes; None: all that are installed.
        boundaries: to try.
        pace: how long to try.
        python: for the actors; `sys.executable` lies under some servers.
        on_step: told before each experiment.
        on_cell: told after each cell.
    """
    began = time.monotonic()
    about = describe_machine()
    schemes = registry.known_schemes() if backends is None else list(dict.fromkeys(backends))
    ordered = [boundary for boundary in Boundary if boundary in boundaries]
    cells = list[Cell]()
    # One directory for all: Ctrl-C at any moment leaves nothing behind.
    with tempfile.TemporaryDirectory(prefix="sharedstate-probe-") as directory:
        for scheme in schemes:
            probing = _Probing(scheme, pace, python, directory)
            for boundary in ordered:

                def announce(question: str, scheme: str = scheme, boundary: Boundary = boundary) -> None:
                    on_step(Step(scheme, boundary, question, len(cells), len(schemes) * len(ordered)))

                cell = probing.probe(boundary, announce)
                cells.append(cell)
                on_cell(cell)
    return Report(about, pace is not FULL, time.monotonic() - began, tuple(cells))


class _Probing:
    """The cells of one backend."""

    def __init__(self, scheme: str, pace: Pace, python: str, directory: str) -> None:
        self._scheme = scheme
        self._pace = pace
        self._python = python
        self._directory = directory
        self._reason_unavailable: str | None = None

    def probe(self, boundary: Boundary, announce: Callable[[str], None]) -> Cell:
        """Return the cell of `boundary`, with a store made for it and removed after it."""
        missing = available_kinds()[_NEEDS[boundary]] if boundary in _NEEDS else ""
        if missing:
            return self._unavailable(boundary, missing)
        place = os.path.join(self._directory, f"{self._scheme}-{boundary.value}")
        os.mkdir(place)
        try:
            url = registry.find_plugin(parse_url(f"{self._scheme}:any")).temporary_url(place)
        except (StateError, AttributeError) as error:
            reason = str(error) if isinstance(error, StateError) else "its plug-in has no temporary_url()"
            return self._unavailable(boundary, reason)
        try:
            return self._probe_store(boundary, url, announce)
        finally:
            _remove(url)

    def _probe_store(self, boundary: Boundary, url: str, announce: Callable[[str], None]) -> Cell:
        announce("Can it be opened?")
        if self._reason_unavailable is None:
            self._reason_unavailable = self._try_to_open(url)
        if self._reason_unavailable:
            return self._unavailable(boundary, self._reason_unavailable)
        bench = Bench(self._stage, boundary, url, self._pace)
        try:
            return self._run(bench, announce)
        finally:
            bench.close()

    def _run(self, bench: Bench, announce: Callable[[str], None]) -> Cell:
        boundary, url = bench.boundary, bench.url
        findings = list[Finding]()
        claim: list[Capabilities] = []

        def open_both(bench: Bench) -> Outcome:
            claim.append(bench.capabilities)
            return Outcome(Verdict.SUPPORTED, "both sides opened it")

        opening = Experiment(
            "open", "Can both sides open it?", "Each side opens its own handle by the store's URL.", open_both
        )
        findings.append(_try(opening, bench))
        if not claim:
            return Cell(self._scheme, url, boundary, None, tuple(findings))
        for experiment in find_applicable(boundary, claim[0]):
            announce(experiment.question)
            stopped = [finding for finding in findings if finding.figures.get("stopped")]
            reason = experiment.reason_inapplicable(boundary, claim[0])
            if stopped:
                why = f'not tried: the actors were gone after "{stopped[0].question}"'
                findings.append(_finding(experiment, Outcome(Verdict.NOT_AVAILABLE, why)))
            elif reason:
                findings.append(_finding(experiment, Outcome(Verdict.NOT_APPLICABLE, reason)))
            else:
                findings.append(_try(experiment, bench))
        return Cell(self._scheme, url, boundary, claim[0], tuple(findings))

    def _stage(self) -> Stage:
        return Stage(python=self._python, patience_s=_PATIENCE_S, directory=self._directory)

    def _try_to_open(self, url: str) -> str:
        """Return why the store cannot be opened even in a plain process, "" if it can."""
        with self._stage() as stage:
            try:
                stage.actor(Kind.THREAD, url)
            except (StateError, ActorError) as error:
                return str(error)
        return ""

    def _unavailable(self, boundary: Boundary, reason: str) -> Cell:
        finding = Finding("open", "Can it be tried?", "Nothing.", Verdict.NOT_AVAILABLE, reason, {}, 0.0)
        return Cell(self._scheme, f"{self._scheme}:", boundary, None, (finding,))


def _finding(experiment: Experiment, outcome: Outcome, duration_s: float = 0.0) -> Finding:
    return Finding(experiment.name, experiment.question, experiment.did, *outcome, duration_s)


def _try(experiment: Experiment, bench: Bench) -> Finding:
    """Run the experiment; whatever goes wrong in it is evidence."""
    began = time.monotonic()
    try:
        outcome = experiment.run(bench)
    except ActorGoneError as error:
        outcome = _judge_end(bench, error, reproduction.describe_crash(error.status))
        bench.reset()
    except ActorTimeoutError as error:
        outcome = _judge_end(bench, error, reproduction.HANG)
        bench.reset()
    except (StateError, ActorError, KeyError, TypeError, ValueError) as error:
        outcome = Outcome(Verdict.UNSUPPORTED, f"{type(error).__name__}: {error}")
        bench.reset()
    return _finding(experiment, outcome, time.monotonic() - began)


def _judge_end(bench: Bench, error: ActorError, symptom: str) -> Outcome:
    """Judge a crash or a hang: CPython's own only if it does the same without us."""
    figures: dict[str, int | float | str] = {"stopped": symptom or "ended"}
    if bench.boundary in _NEEDS and symptom:
        modules = reproduction.find_standard_modules(bench.url)
        evidence = reproduction.reproduce(_NEEDS[bench.boundary].value, modules, symptom)
        if evidence:
            return Outcome(Verdict.BROKEN_CPYTHON, evidence, figures)
    return Outcome(Verdict.UNSUPPORTED, str(error), figures)


def _remove(url: str) -> None:
    parsed = parse_url(url)
    # Nothing may be there: it was never made in this process, as one that lives within an interpreter.
    with suppress(StateError):
        registry.find_plugin(parsed).remove(parsed)


def describe_machine() -> dict[str, str]:
    """Return where and with what we run, in words for people."""
    from datetime import datetime

    gil = "with GIL" if getattr(sys, "_is_gil_enabled", lambda: True)() else "without GIL"
    libc = " ".join(platform.libc_ver())
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    return {
        "date": datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
        "machine": f"{platform.node()}: {system}, {os.cpu_count()} CPUs",
        "processor": _processor(),
        "python": f"{platform.python_implementation()} {platform.python_version()} {gil}, {libc}",
        "executable": sys.executable,
        "sharedstate": _version(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else "unknown"


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    from sharedstate.values import ACCELERATED

    try:
        number = version("sharedstate")
    except PackageNotFoundError:
        number = "from a source tree"
    return f"{number}, {'C codec' if ACCELERATED else 'msgpack codec'}"
