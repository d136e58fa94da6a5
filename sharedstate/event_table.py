"""Every event that `events` may tell, its level, its text and its facts."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["EVENTS", "Event"]

# Logging's own numbers.
_INFO: Final = 20
_WARNING: Final = 30
_ERROR: Final = 40


class Event(NamedTuple):
    """What is told of one kind of event.

    Attributes:
        level: of logging.
        message: of which `logging` makes the text, with the facts.
        facts: the record's attributes; `store` is the store's URL.
    """

    level: int
    message: str
    facts: tuple[str, ...]


EVENTS: Final[dict[str, Event]] = {
    "deployment.sharers_missing": Event(
        _WARNING,
        "%(store)s: %(server)s announces %(announced)d workers, and %(present)d share this store",
        ("store", "server", "announced", "present"),
    ),
    "deployment.shortfall": Event(
        _INFO, "%(store)s is opened although it falls short: %(shortfall)s", ("store", "shortfall")
    ),
    "leader.began": Event(_INFO, "%(store)s: this interpreter leads %(leader)r", ("store", "leader", "term")),
    "leader.resigned": Event(_INFO, "%(store)s: this interpreter leads %(leader)r no more", ("store", "leader")),
    "leader.unreachable": Event(
        _WARNING, "The leadership of %(leader)r cannot be had now: %(error)s", ("store", "leader", "error")
    ),
    "lock.lost": Event(_WARNING, "%(store)s: lock %(lock)r is lost: %(reason)s", ("store", "lock", "reason")),
    "once.began": Event(
        _INFO, "%(store)s: once %(once)r begins, attempt %(attempt)d", ("store", "once", "period", "attempt")
    ),
    "once.failed": Event(
        _WARNING,
        "%(store)s: once %(once)r failed in attempt %(attempt)d: %(error)s",
        ("store", "once", "period", "attempt", "error"),
    ),
    "store.compaction_failed": Event(
        _WARNING, "%(store)s could not be compacted, and grows: %(error)s", ("store", "error")
    ),
    "store.moved": Event(_INFO, "%(store)s has moved to %(to)s, and this handle with it", ("store", "to")),
    "store.reconnected": Event(
        _INFO, "%(store)s is reached again, by another connection: %(error)s", ("store", "error")
    ),
    "store.repaired": Event(
        _WARNING,
        "%(store)s was repaired: %(kept)d entries kept, %(dropped)d dropped, the damaged one is %(copy)s",
        ("store", "copy", "kept", "dropped"),
    ),
    "task.exhausted": Event(
        _ERROR,
        "%(store)s: task %(task)r of %(journal)r failed %(failures)d times and is left alone: %(error)s",
        ("store", "journal", "task", "failures", "error"),
    ),
    "task.taken_over": Event(
        _WARNING,
        "%(store)s: task %(task)r of %(journal)r, which %(who)s left, is begun again, attempt %(attempt)d",
        ("store", "journal", "task", "who", "attempt"),
    ),
}
"""By name.  docs/observability.md says when each is told."""
