"""How often something may happen, counted for each subject by itself, exactly, whoever asks.

    W1  Sliding window: no interval of `per_s` seconds, its end left out, holds
        more than `limit` admitted hits of a subject.
    W2  Token bucket: an interval of t seconds holds at most burst + t * limit / per_s.
    W3  A hit is judged and counted by one compare-and-set on what was read, and
        dated between the two, so the dates of one subject never go back.  What
        is refused is not counted, and, while the clock goes on, writes nothing.
    W4  A subject's entry vanishes once it cannot matter any more.

The clock is the store's (`Store.now`): the boot clock in `memory:` and `shm:`,
which does not step; the wall clock in `file:` and `sqlite:`; the server's in
`redis:`, for the clocks of hosts differ, at the price of a round trip.  If it is
set back, what is dated after now counts as of now: nobody is let in too early,
and nobody is kept out for longer than `per_s`.  If it is set forward, hits are
forgotten that much too early.  Nothing is owned here, so a death leaves nothing
behind: a hit was counted, or it was not.
"""

from __future__ import annotations

from sharedstate._light import NamedTuple
from sharedstate.backend.waiting import Backoff
from sharedstate.coordination.claims import corrupt, key_of
from sharedstate.errors import ConflictError, KeyFormatError, ValueTypeError
from sharedstate.model import ABSENT, MISSING

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any, Final

    from sharedstate.store import Store

__all__ = ["Decision", "RateLimit"]

_NS: Final = 1_000_000_000
_SLIDING: Final = "sliding-window"
_BUCKET: Final = "token-bucket"


class Decision(NamedTuple):
    """What became of one hit.  True if it was allowed.

    Attributes:
        allowed: whether it may happen; then it has been counted.
        remaining: how many more may happen right now.
        retry_after_s: how long until one may, if this one may not; else 0.
    """

    allowed: bool
    remaining: int
    retry_after_s: float

    def __bool__(self) -> bool:
        return self.allowed


class RateLimit:
    """At most `limit` hits per `per_s` seconds, for each subject by itself.

    Args:
        store: shared by all who must be counted together.
        name: of what is limited.
        limit: how many hits; a sliding window keeps the date of each, so beyond
            some thousands take a token bucket.
        per_s: within how many seconds.
        kind: "sliding-window", or "token-bucket" (as GCRA: one number for each
            subject), which lets hits in at an even pace after a burst.
        burst: how many hits a rested token bucket lets in at once; None: `limit`.

    Raises:
        ValueTypeError: one of them makes no sense.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        limit: int,
        per_s: float,
        *,
        kind: str = _SLIDING,
        burst: int | None = None,
    ) -> None:
        _require(type(limit) is int and limit >= 1, "limit", limit, "Give an int from 1 on.")
        _require(type(per_s) in {int, float} and 1e-6 <= per_s <= 1e9, "per_s", per_s, "Give seconds, at most 1e9.")
        _require(kind in {_SLIDING, _BUCKET}, "kind", kind, f"Give {_SLIDING!r} or {_BUCKET!r}.")
        is_burst = burst is None or (kind == _BUCKET and type(burst) is int and burst >= 1)
        _require(is_burst, "burst", burst, "Give an int from 1 on, and only to a token bucket.")
        self._store = store
        self._limit = limit
        self._period_ns = int(per_s * _NS)
        self._judge = self._judge_window if kind == _SLIDING else self._judge_bucket
        self._step_ns = -(-self._period_ns // limit)  # rounded up: never more than the limit
        self._burst_ns = self._step_ns * (burst or limit)
        _require(self._burst_ns <= 1e9 * _NS, "burst", burst, "It takes more than 1e9 s to fill up again.")
        self._prefix = key_of("rate", name, "x")[:-1]

    def hit(self, subject: str = "") -> Decision:
        """Count one hit of `subject`, if it may happen; return whether it may.

        Args:
            subject: who, or what, is counted by itself: an address, a user, a route.

        Raises:
            KeyFormatError: name and subject are too long for a key.
        """
        key, backoff = self._key(subject), Backoff()
        while True:
            entry = self._store.read(key)
            # Dated after the read, so never before what was read (W3).
            decision, kept, ttl_ns = self._judge(key, MISSING if entry is None else entry.value, self._now_ns())
            if kept is None:
                return decision
            try:
                self._store.compare_and_set(key, kept, ABSENT if entry is None else entry.generation, ttl_ns / _NS)
            except ConflictError:
                backoff.sleep()
            else:
                return decision

    def peek(self, subject: str = "") -> Decision:
        """Return what a hit would be told now, without counting it."""
        key = self._key(subject)
        decision, _, _ = self._judge(key, self._store.get(key, MISSING), self._now_ns())
        return decision._replace(remaining=decision.remaining + decision.allowed)

    def reset(self, subject: str = "") -> None:
        """Forget the hits of `subject`."""
        self._store.delete(self._key(subject))

    # --- Judging ----------------------------------------------------------------

    def _judge_window(self, key: str, value: Any, now_ns: int) -> tuple[Decision, Any, int]:
        kept: list[Any] = [] if value is MISSING else value
        if type(kept) is not list or not {int}.issuperset(map(type, kept)):
            raise corrupt(self._store, key, "a sliding window")
        # A date after now is one from before the clock was set back; it is now, from now on.
        dates = [min(date, now_ns) for date in kept if date > now_ns - self._period_ns]
        is_set_back = bool(kept) and kept[-1] > now_ns
        if len(dates) < self._limit:
            dates.append(now_ns)
            return Decision(True, self._limit - len(dates), 0.0), dates, self._period_ns
        free_ns = dates[len(dates) - self._limit] + self._period_ns
        return Decision(False, 0, (free_ns - now_ns) / _NS), dates if is_set_back else None, self._period_ns

    def _judge_bucket(self, key: str, value: Any, now_ns: int) -> tuple[Decision, Any, int]:
        if value is MISSING:
            value = 0
        elif type(value) is not int:
            raise corrupt(self._store, key, "a token bucket")
        # The time at which the bucket is full again; further off than it can be
        # if the clock was set back, or the limit made stricter: then it is empty now.
        full_ns = min(max(value, now_ns), now_ns + self._burst_ns)
        spare_ns = now_ns + self._burst_ns - full_ns - self._step_ns
        if spare_ns >= 0:
            full_ns += self._step_ns
            return Decision(True, spare_ns // self._step_ns, 0.0), full_ns, full_ns - now_ns
        is_further_off = value > full_ns
        return Decision(False, 0, -spare_ns / _NS), full_ns if is_further_off else None, full_ns - now_ns

    def _now_ns(self) -> int:
        return int(self._store.now() * _NS)

    def _key(self, subject: str) -> str:
        if type(subject) is not str:
            raise KeyFormatError(found=f"made from the subject {subject!r}")
        return self._prefix + subject


def _require(is_right: bool, path: str, found: Any, advice: str) -> None:
    if not is_right:
        raise ValueTypeError(path=path, found=repr(found), advice=advice)
