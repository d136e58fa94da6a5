"""What happens seldom and matters, told to a program that has imported `logging`.

    V1  One logger, `sharedstate`; a record's `event` is a name of `event_table`, and
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

from sharedstate.errors import redact

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Final

__all__ = ["Silence", "tell"]

_LOGGER: Final = "sharedstate"

_silent: set[tuple[int, int]] = set()  # pid and thread of which nothing is told (V4)


def tell(event: str, /, **facts: Any) -> None:
    """Tell the program's handlers of an event of `event_table.EVENTS`, with just its facts; whatever they do, return.

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
    from sharedstate.event_table import EVENTS  # not by who only opens a store

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
