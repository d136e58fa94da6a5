"""What happens seldom and matters, told to a program that has imported `logging`.

    V1  One logger, `sharedstate`; a record's `event` is a name of `EVENTS`, and
        each fact that stands there an attribute of the record.  Neither changes
        from one release to the next without a word in the changelog.
    V2  A program that has not imported `logging` hears nothing, and pays nothing:
        this module never imports it.
    V3  An event is told when what it tells of is done, and neither a mutex of ours
        nor a section of a backend is held; so a handler may be slow, raise, or use
        the store.  `once.began` alone is told under a named lock: its body's.
    V4  What is told while a handler is at it, or in the hooks of a fork, is
        dropped: there logging's own locks may be those of a thread that is not here.
    V5  No secret of a URL is told, and no message has a second line.

Thread safety: any thread; `_silent` is added to and taken from by atomic operations.
"""

from __future__ import annotations

import os
import sys
from _thread import get_ident

from sharedstate._light import NamedTuple
from sharedstate.errors import redact

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Final

__all__ = ["EVENTS", "Event", "Silence", "tell"]

_LOGGER: Final = "sharedstate"

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

_silent: set[tuple[int, int]] = set()  # pid and thread of which nothing is told (V4)


def tell(event: str, /, **facts: Any) -> None:
    """Tell the program's handlers of an event of `EVENTS`, with just its facts; whatever they do, return.

    An exception that is no `Exception`, as of Ctrl-C, comes out.
    """
    logging = sys.modules.get("logging")
    if logging is None or _me() in _silent:
        return
    with Silence():
        try:  # noqa: SIM105  contextlib would cost each fresh interpreter its import
            _log(logging.getLogger(_LOGGER), event, facts)
        except Exception:  # noqa: BLE001, S110  a handler's failure is none of the store's
            pass


def _log(logger: Any, event: str, facts: dict[str, Any]) -> None:
    kind = EVENTS[event]
    if not logger.isEnabledFor(kind.level):
        return
    told = {name: _one_line(fact) if isinstance(fact, str) else fact for name, fact in facts.items()}
    logger.log(kind.level, kind.message, told, extra={"event": event, **told}, stacklevel=3)


def _one_line(text: str) -> str:
    return " ".join(redact(text).splitlines())


class Silence:
    """A block in whose thread nothing is told; one inside another is the same block."""

    __slots__ = ("_is_ours",)

    def __enter__(self) -> None:
        self._is_ours = _me() not in _silent
        _silent.add(_me())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_ours:
            _silent.discard(_me())


def _me() -> tuple[int, int]:
    return os.getpid(), get_ident()  # a forked child has none of its parent's other threads
