"""What the probe found: verdict by verdict, cell by cell, and as plain data.

The JSON form is stable: a change of meaning changes `FORMAT`.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, NamedTuple

from sharedstate.model import Capabilities, Scope
from sharedstate.probe.boundaries import Boundary

__all__ = ["FORMAT", "Cell", "Finding", "Outcome", "Report", "Verdict"]

FORMAT: Final = 1


class Verdict(Enum):
    """What an experiment says of a claim; in order of weight, the last outweighs all."""

    NOT_APPLICABLE = "nothing to try"
    SUPPORTED = "supported"
    NOT_SHARED = "seen not to share"
    NOT_AVAILABLE = "not available here"
    BROKEN_CPYTHON = "broken in this CPython"
    BEYOND = "shares beyond its claim"
    UNSUPPORTED = "not supported"

    @property
    def meaning(self) -> str:
        """What it means, in a sentence for people."""
        return _MEANINGS[self]

    @property
    def symbol(self) -> str:
        """One character that stands for it, besides its words and colour."""
        return _SYMBOLS[self]

    @property
    def weight(self) -> int:
        """Its place in the order."""
        return list(Verdict).index(self)

    @property
    def is_failure(self) -> bool:
        """Whether a claim was tried and did not hold."""
        return self in {Verdict.UNSUPPORTED, Verdict.BEYOND, Verdict.BROKEN_CPYTHON}


_MEANINGS: Final = {
    Verdict.NOT_APPLICABLE: "The question makes no sense across this boundary.",
    Verdict.SUPPORTED: "Every experiment bore the claim out.",
    Verdict.NOT_SHARED: "The backend does not claim to share this far, and was seen not to.",
    Verdict.NOT_AVAILABLE: "Could not be tried on this machine or Python: neither proved nor disproved.",
    Verdict.BROKEN_CPYTHON: "CPython crashed, and crashed in the same way without any code of ours.",
    Verdict.BEYOND: "It shares or lasts further than it claims: the claim is wrong.",
    Verdict.UNSUPPORTED: "An experiment contradicts the claim.",
}

_SYMBOLS: Final = {
    Verdict.NOT_APPLICABLE: "·",
    Verdict.SUPPORTED: "✔",
    Verdict.NOT_SHARED: "∅",
    Verdict.NOT_AVAILABLE: "?",
    Verdict.BROKEN_CPYTHON: "☠",
    Verdict.BEYOND: "≠",
    Verdict.UNSUPPORTED: "✘",
}


class Outcome(NamedTuple):
    """What a judge says of one experiment's records."""

    verdict: Verdict
    evidence: str
    figures: dict[str, int | float | str] = {}  # noqa: RUF012  a NamedTuple's default; nobody changes it


class Finding(NamedTuple):
    """One experiment in one cell.

    Attributes:
        experiment: its name, for programs.
        question: what was asked.
        did: what the actors did.
        verdict: the answer.
        evidence: the answer's reason, with numbers, in a line.
        figures: the numbers alone.
        duration_s: how long it took.
    """

    experiment: str
    question: str
    did: str
    verdict: Verdict
    evidence: str
    figures: dict[str, int | float | str]
    duration_s: float

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**self._asdict(), "verdict": self.verdict.value, "duration_s": round(self.duration_s, 4)}


class Cell(NamedTuple):
    """One backend across one boundary.  `capabilities` None: it could not be opened."""

    backend: str
    url: str
    boundary: Boundary
    capabilities: Capabilities | None
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """The weightiest of its findings'."""
        return max((finding.verdict for finding in self.findings), key=lambda verdict: verdict.weight)

    @property
    def evidence(self) -> str:
        """The first line of evidence for the verdict."""
        finding = next(finding for finding in self.findings if finding.verdict is self.verdict)
        return f"{finding.question} {finding.evidence}"

    @property
    def delay_ms(self) -> float | None:
        """The median time until a waiting reader saw a write, if it was measured."""
        delays = [finding.figures["median_ms"] for finding in self.findings if "median_ms" in finding.figures]
        return float(delays[0]) if delays else None

    def failures(self) -> list[Finding]:
        """Return the findings against a claim."""
        return [finding for finding in self.findings if finding.verdict.is_failure]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        claim = self.capabilities
        return {
            "backend": self.backend,
            "url": self.url,
            "boundary": self.boundary.value,
            "needs_scope": self.boundary.scope.name,
            "claim": None if claim is None else {"scope": claim.scope.name, "durability": claim.durability.name},
            "verdict": self.verdict.value,
            "evidence": self.evidence,
            "findings": [finding.as_dict() for finding in self.findings],
        }


class Report(NamedTuple):
    """Everything one run of the probe found.

    Attributes:
        about: where and with what it ran: machine, Python, versions, date.
        is_quick: whether the loops were short.
        duration_s: of the whole run.
        cells: backend by backend, in the order of `Boundary`.
    """

    about: dict[str, str]
    is_quick: bool
    duration_s: float
    cells: tuple[Cell, ...]

    def failures(self) -> list[Cell]:
        """Return the cells in which a claim was tried and did not hold."""
        return [cell for cell in self.cells if cell.verdict.is_failure]

    def untried(self) -> list[Cell]:
        """Return the cells that could not be tried here."""
        return [cell for cell in self.cells if cell.verdict is Verdict.NOT_AVAILABLE]

    def backends(self) -> list[str]:
        """Return the backends, in the order in which they were probed."""
        return list(dict.fromkeys(cell.backend for cell in self.cells))

    def boundaries(self) -> list[Boundary]:
        """Return the boundaries that were probed, the narrowest first."""
        found = {cell.boundary for cell in self.cells}
        return [boundary for boundary in Boundary if boundary in found]

    def claim_of(self, backend: str) -> str:
        """Return what the backend claims, in words."""
        for cell in self.cells:
            if cell.backend == backend and cell.capabilities is not None:
                scope, durability = cell.capabilities.scope, cell.capabilities.durability
                return f"shares within one {scope.name.lower()}, lasts {_LASTS[durability.name]}"
        return "could not be opened here"

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data, for JSON."""
        return {
            "format": FORMAT,
            "about": self.about,
            "quick": self.is_quick,
            "duration_s": round(self.duration_s, 3),
            "all_claims_supported": not self.failures(),
            "verdicts": {verdict.value: verdict.meaning for verdict in Verdict},
            "cells": [cell.as_dict() for cell in self.cells],
        }


_LASTS: Final = {"PROCESS": "as long as the process", "BOOT": "until reboot", "DISK": "on disk"}

assert {boundary.scope for boundary in Boundary} == set(Scope) - {Scope.CLUSTER}
