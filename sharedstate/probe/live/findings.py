"""What the probe of a live server found, and as plain data.

The JSON form is stable: a change of meaning changes `FORMAT`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sharedstate.probe.findings import Finding, Verdict

if TYPE_CHECKING:
    from sharedstate.probe.live.judging import Disagreement, Groups
    from sharedstate.probe.live.records import Fact, Opened
    from sharedstate.probe.live.topology import House

__all__ = ["FORMAT", "STORE_EXPERIMENTS", "LiveReport"]

FORMAT: Final = 1
STORE_EXPERIMENTS: Final = frozenset({"open", "visible", "count", "exclude"})
"""The names of the experiments that speak for a store, or against it."""


class LiveReport(NamedTuple):
    """Everything that one probe of a live server found.

    Attributes:
        about: where and with what it was driven: machine, versions, date.
        at_once: by URL of a mount, how many requests were seen in work at once.
        backend: the scheme that was asked for; "" is what the deployment would choose.
        house: what answered, and stayed for the experiments if they were come to.
        not_drawn: processes that answered and are not in the house.
        silent: places that did not answer every experiment.
        opened: by place, its handle on the store.
        problems: by place, why it had none, or what failed.
        store: who sees whom through the store.
        variables: who sees whom through module-level variables.
        totals: by place, how far the store's counter came; and so for `copies`.
        copies: by place, how far its copy of a module-level counter came.
        findings: one for each experiment.
        facts: by place, what `detect()` said there.
        disagreements: what of that was seen to be otherwise.
        requests: how many were sent.
        failures: how many of them failed, by reason.
        stopped: why it ended before it was done, "" if it did not.
        duration_s: of the whole.
    """

    about: dict[str, str]
    at_once: dict[str, int]
    backend: str
    house: House
    not_drawn: int
    silent: frozenset[str]
    opened: dict[str, Opened]
    problems: dict[str, str]
    store: Groups
    variables: Groups
    totals: dict[str, int]
    copies: dict[str, int]
    findings: tuple[Finding, ...]
    facts: dict[str, dict[str, Fact]]
    disagreements: tuple[Disagreement, ...]
    requests: int
    failures: dict[str, int]
    stopped: str
    duration_s: float

    @property
    def urls(self) -> list[str]:
        """The mounts."""
        return list(self.at_once)

    @property
    def schemes(self) -> list[str]:
        """The backends that the places opened."""
        return sorted({handle.url.partition(":")[0] for handle in self.opened.values()})

    @property
    def is_shared(self) -> bool:
        """Whether everything that was tried spoke for the store, and nothing was left untried."""
        return not self.stopped and all(
            finding.verdict is Verdict.SUPPORTED
            if finding.experiment in STORE_EXPERIMENTS
            else not finding.verdict.is_failure  # that variables do not reach far is no fault, but why there are stores
            for finding in self.findings
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data, for JSON."""
        return {
            "format": FORMAT,
            "about": self.about,
            "mounts": [{"url": url, "at_once": number} for url, number in self.at_once.items()],
            "backend": self.backend or "the deployment's choice",
            "shared_by_all": self.is_shared,
            "stopped": self.stopped,
            "requests": self.requests,
            "failures": self.failures,
            "duration_s": round(self.duration_s, 3),
            "processes_not_drawn": self.not_drawn,
            "scope_needed": self.house.scope.name,
            "verdicts": {verdict.value: verdict.meaning for verdict in Verdict},
            "findings": [finding.as_dict() for finding in self.findings],
            "hosts": [
                {
                    "name": host.name,
                    "boot": host.boot,
                    "processes": [
                        {
                            **process._asdict(),
                            "interpreters": [self._describe(place) for place in process.interpreters],
                        }
                        for process in host.processes
                    ],
                }
                for host in self.house.hosts
            ],
        }

    def _describe(self, interpreter: Any) -> dict[str, Any]:
        place = interpreter.place
        opened = self.opened.get(place)
        return {
            **interpreter._asdict(),
            "answered_to_the_end": place not in self.silent,
            "store": {
                "url": opened.url if opened else None,
                "problem": self.problems.get(place),
                "group": self.store.of.get(place),
                "count": self.totals.get(place),
            },
            "module_variables": {"copy": self.variables.of.get(place), "count": self.copies.get(place)},
            "detected": {name: fact._asdict() for name, fact in self.facts.get(place, {}).items()},
        }
