"""Clocks, deadlines, and how to wait for something that nobody signals.

One way for the whole library: locks, busy databases, lost races and pollers
all wait through `Backoff`, so none spins and none sleeps long.
"""

from __future__ import annotations

import os
import time
from _thread import TIMEOUT_MAX

from sharedstate.errors import LockTimeoutError, ValueTypeError
from sharedstate.model import ABSENT, KEEP, Clock

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

    from typing_extensions import TypeIs

    from sharedstate.model import Keep

__all__ = ["MAX_TTL_S", "Backoff", "Deadline", "check_ttl", "clock_s", "keeps_deadline"]

MAX_TTL_S: Final = 1e9
"""About 31 years; keeps every deadline exact to the microsecond in a float and far from overflow in ns."""

_FIRST_SLEEP_S: Final = 50e-6
_LONGEST_SLEEP_S: Final = 5e-3


def clock_s(clock: Clock) -> float:
    """Return the time in seconds on `clock`."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if clock is Clock.BOOT else time.time()


def check_ttl(ttl_s: float | None) -> None:
    """Refuse a time to live that is no positive number of seconds up to `MAX_TTL_S`.

    Raises:
        ValueTypeError: and nothing was written.
    """
    if ttl_s is None:
        return
    if type(ttl_s) not in {int, float} or not 0 < ttl_s <= MAX_TTL_S:
        raise ValueTypeError(
            path="ttl_s", found=repr(ttl_s), advice=f"Give seconds above 0 and up to {MAX_TTL_S:g}, or None for ever."
        )


def keeps_deadline(ttl_s: float | Keep | None, expected: int) -> TypeIs[Keep]:
    """Return whether a write is to keep the deadline of the entry that it expects at a generation.

    Raises:
        ValueTypeError: it is, but expects none; nothing was written.
    """
    if ttl_s is not KEEP:
        return False
    if expected == ABSENT:
        raise ValueTypeError(
            path="ttl_s", found="KEEP", advice="Expect the generation of the entry, or give seconds, or None for ever."
        )
    return True


class Deadline:
    """A point on the monotonic clock, or never.

    Raises:
        ValueTypeError: `timeout_s` is neither a number of seconds nor None.
    """

    __slots__ = ("_at", "timeout_s")

    def __init__(self, timeout_s: float | None) -> None:
        if timeout_s is not None:
            if type(timeout_s) not in {int, float} or timeout_s != timeout_s:  # noqa: PLR0124  nan, without math
                raise ValueTypeError(
                    path="timeout_s", found=repr(timeout_s), advice="Give seconds (0 tries once), or None for ever."
                )
            timeout_s = min(max(timeout_s, 0), TIMEOUT_MAX)  # three centuries; no float overflows
        self.timeout_s = timeout_s
        self._at = None if timeout_s is None else time.monotonic() + timeout_s

    def has_passed(self) -> bool:
        """Return whether the time is up."""
        return self._at is not None and time.monotonic() >= self._at

    def remaining_s(self, at_most: float) -> float:
        """Return the seconds left, from 0 to `at_most`."""
        return at_most if self._at is None else min(max(self._at - time.monotonic(), 0.0), at_most)

    def timed_out(self, url: str, what: str, holder: str = "") -> LockTimeoutError:
        """Return the error that says that `what` was not free in time."""
        return LockTimeoutError(url=url, what=what, timeout_s=self.timeout_s or 0.0, holder=holder)


class Backoff:
    """Sleeps that start short, double up to 5 ms, and differ between waiters."""

    __slots__ = ("_longest_s", "_sleep_s")

    def __init__(self, longest_s: float = _LONGEST_SLEEP_S) -> None:
        self._sleep_s = _FIRST_SLEEP_S
        self._longest_s = longest_s

    def sleep(self, deadline: Deadline | None = None) -> None:
        """Sleep a while, not beyond `deadline`, and longer the next time."""
        time.sleep(self.next_s() if deadline is None else deadline.remaining_s(self.next_s()))

    def next_s(self) -> float:
        """Return how long to sleep now, for who does so in another way; longer the next time."""
        # Half fixed, half random: two waiters that collided do not collide again.
        sleep_s = self._sleep_s * (0.5 + os.urandom(1)[0] / 512)
        self._sleep_s = min(self._sleep_s * 2, self._longest_s)
        return sleep_s
