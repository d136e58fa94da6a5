"""Nothing that one contestant does ends the run: what it raises, or a call that does not return, becomes a line."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Final

import sharedstate

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ToldError", "attempt", "in_a_line"]

_PATIENCE_S: Final = 60


class ToldError(RuntimeError):
    """What went wrong elsewhere, and was put into a line there."""


def attempt(step: Callable[..., Any], *arguments: Any) -> str:
    """Call `step`; return "" or, as one line, what went wrong, which may be that it took too long."""

    def interrupt(_number: int, _frame: object) -> None:
        raise TimeoutError(f"did not return within {_PATIENCE_S} s")

    former = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(_PATIENCE_S)
    try:
        step(*arguments)
    except Exception as error:  # noqa: BLE001  whatever a contestant does wrong, the others go on
        return in_a_line(error)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
    return ""


def in_a_line(error: Exception) -> str:
    """Return what went wrong, for a table's cell."""
    if isinstance(error, ToldError):
        return str(error)
    if isinstance(error, ImportError) and not isinstance(error, sharedstate.StateError):
        return f"not installed: {error}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
