"""What runs us: the facts, each with what it was seen by and how sure that is.

A fact that cannot be known here is None and UNKNOWN, never a guess: selection
then assumes the wider scope.
"""

from __future__ import annotations

from enum import Enum

from sharedstate._light import NamedTuple

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["MANY", "Certainty", "Deployment", "Fact", "Incarnation", "known", "likely", "unknown"]

MANY: Final = "many"
"""More than one, or as many as come: a number that nothing here tells."""


class Certainty(Enum):
    """How sure a fact is."""

    KNOWN = "known"  # the server says so of itself
    LIKELY = "likely"  # it follows from what was seen, unless somebody went out of his way
    UNKNOWN = "unknown"  # nothing that was seen tells; the value is None


class Fact(NamedTuple):
    """One thing about the deployment.

    Attributes:
        value: None if unknown.
        certainty: how sure it is.
        evidence: what was seen, in words for people.
    """

    value: Any
    certainty: Certainty
    evidence: str


def known(value: Any, evidence: str) -> Fact:
    """Return a fact that the server says of itself."""
    return Fact(value, Certainty.KNOWN, evidence)


def likely(value: Any, evidence: str) -> Fact:
    """Return a fact that follows from what was seen."""
    return Fact(value, Certainty.LIKELY, evidence)


def unknown(evidence: str) -> Fact:
    """Return the fact that nothing tells."""
    return Fact(None, Certainty.UNKNOWN, evidence)


class Deployment(NamedTuple):
    """What runs the calling interpreter.

    Attributes:
        server: "mod_wsgi", "gunicorn", "uwsgi", "uvicorn", "hypercorn", "granian",
            "waitress", "werkzeug", "multiprocessing", "python" ...
        version: of the server, as it writes it.
        mode: how the server runs the application: "embedded prefork", "daemon",
            "gthread", "prefork, lazy-apps" ...
        processes: that serve this application: a number, or `MANY`.
        interpreters: of this application within one process: a number, or `MANY`.
        gil: this interpreter's: "own", "shared" (with other interpreters), "only" (one
            interpreter, one GIL) or "absent".
        threads: that serve requests within one interpreter: a number, or `MANY`.
        recycled: whether processes end and are replaced while the server goes on.
        preloaded: whether this interpreter's modules were imported before the
            workers were forked.
        application: what tells this application from others: its script's path,
            or its name as the server was given it.
    """

    server: Fact
    version: Fact
    mode: Fact
    processes: Fact
    interpreters: Fact
    gil: Fact
    threads: Fact
    recycled: Fact
    preloaded: Fact
    application: Fact


class Incarnation(NamedTuple):
    """Which start of the server this is; workers recycled within it share it.

    What one worker cannot see, because its supervisor is dead or says too little,
    its siblings may know: `coordination.incarnations.agree` asks them.

    Attributes:
        boot: the kernel's id of this boot.
        supervisor: pid of the process that keeps the server running.
        started: when that process started, in clock ticks since boot; 0 if it was
            dead before anybody here asked.
        restart: the server's own restart counter, "" where it has none, hides it, or
            was never restarted.
        evidence: what was seen, in words for people.
        age: the number of this worker among all that its supervisor ever started,
            where `restart` is but a guess from it; else 0.
    """

    boot: str
    supervisor: int
    started: int
    restart: str
    evidence: str
    age: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether the token is certain; if not, the siblings may know better."""
        return self.started != 0 and self.age == 0

    @property
    def token(self) -> str:
        """The same text in every worker of this start of the server, and in no other."""
        return f"{self.boot}.{self.supervisor}.{self.started}.{self.restart}"
