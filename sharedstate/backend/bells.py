"""Waiting for another process, with a wake-up: a few bytes of a file that both have mapped.

Thread safety: any thread, interpreter and process that has the bytes mapped.

Invariants:
    A1  a waiter announces itself before it looks whether it must wait, and who
        rings has made it so before looking for waiters: one sees the other
    A2  nothing rests on a ring.  A waiter looks again every 5 ms, for a ringer
        that died, or whose Python has no C module
Fork: nothing to do; the bytes are the file's.
Crash: a waiter that dies costs the next ring one idle wake-up.
"""

from __future__ import annotations

from sharedstate.backend.waiting import Backoff

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from sharedstate.backend.waiting import Deadline

__all__ = ["BELL_BYTES", "Bell"]

BELL_BYTES: Final = 8

_LOOK_S: Final = 5e-3

try:
    from sharedstate._native import bell_announce as _announce
    from sharedstate._native import bell_ring as _ring
    from sharedstate._native import bell_sleep as _sleep
except ImportError:
    from time import sleep as _doze

    def _announce(_bell: memoryview, /) -> int:
        return 0

    def _sleep(_bell: memoryview, _rung: int, timeout_s: float, /) -> None:
        _doze(min(timeout_s, 5e-4))

    def _ring(_bell: memoryview, /) -> None:
        pass


class Bell:
    """One bell: `BELL_BYTES` of a shared mapping, 8-byte aligned, zero when the file was made."""

    __slots__ = ("_place",)

    def __init__(self, place: memoryview) -> None:
        self._place = place

    def ring(self) -> None:
        """Wake everybody who waits; one look at the bytes if nobody does."""
        _ring(self._place)

    def wait_until(self, is_over: Callable[[], bool], deadline: Deadline) -> bool:
        """Return True once `is_over()` does, which is asked at least every 5 ms; False if the deadline passes."""
        while True:
            rung = _announce(self._place)
            if is_over():
                return True
            if deadline.has_passed():
                return False
            try:
                _sleep(self._place, rung, deadline.remaining_s(_LOOK_S))
            except OSError:  # a kernel, or a sandbox, that lends no futex: A2
                Backoff().sleep(deadline)
