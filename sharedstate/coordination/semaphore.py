"""Permits, of which at most so many are out at a time, and which die with their holders.

    H1  At most `limit` permits are held at a time by those who live, whatever
        interpreters and processes they are in; each thread's permits count singly.
    H2  A permit whose holder died is free at once to the next who looks, and to
        who waits within a tenth of a second: a death changes no key that would wake him.
    H3  A permit is given back once, by its own object, in the process that took it.

How it fails:

    holder killed        its permits are free
    holder hung, stopped they stay taken; nothing times out
    graceful restart, shutdown hang: a permit is taken until its block ends or its process dies
    clock steps          nothing: times in the record are for people
    interpreter destroyed while a thread of it holds one: free once its handle is
                         gone, which is with the interpreter's objects or the process
    object dropped without `release`: its own interpreter finds it free, others
                         once the handle is closed: use `with`
"""

from __future__ import annotations

from _thread import _local as thread_local  # pyright: ignore[reportPrivateUsage]  threading is not imported here

from sharedstate.backend.waiting import Backoff, Deadline
from sharedstate.coordination.claims import Claim, Living, corrupt, is_shaped, key_of, now_s, require_lasting
from sharedstate.errors import ClaimLostError, ConflictError, LockTimeoutError, ValueTypeError
from sharedstate.model import ABSENT, MISSING, Missing

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Final, Self

    from sharedstate.store import Store

__all__ = ["Permit", "Semaphore"]

_FORMAT: Final = 1
_STEP_S: Final = 0.1
_SHAPE: Final[dict[str, tuple[type, ...]]] = {"owner": (str,), "claim": (str,), "who": (str,), "since": (float,)}


class Permit:
    """One permit, held until `release`, or the end of its process; use it as `with semaphore.acquire():`."""

    def __init__(self, semaphore: Semaphore, claim: Claim) -> None:
        self._semaphore = semaphore
        self.claim = claim

    def release(self) -> None:
        """Give the permit back.

        Raises:
            ClaimLostError: it was given back before, belongs to the parent of
                this forked process, or was lost with its handle.
        """
        self._semaphore.give_back(self.claim)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Semaphore:
    """At most `limit` permits of one name.

    Args:
        store: shared by all who need them.
        name: of what is limited.
        limit: as this caller understands it; all should agree.
        timeout_s: how long `with semaphore:` and `acquire()` wait; None: for ever.
    """

    def __init__(self, store: Store, name: str, limit: int, *, timeout_s: float | None = None) -> None:
        require_lasting(store, "a semaphore")
        if type(limit) is not int or limit < 1:
            raise ValueTypeError(path="limit", found=repr(limit), advice="Give an int from 1 on.")
        self._store = store
        self._name = name
        self._key = key_of("semaphore", name)
        self._limit = limit
        self._timeout_s = timeout_s
        self._threads = thread_local()

    def acquire(self, timeout_s: float | Missing | None = MISSING) -> Permit:
        """Wait for a permit and return it.

        Args:
            timeout_s: 0 tries once; None waits for ever; by default the semaphore's own.

        Raises:
            LockTimeoutError: none was free all the time.
        """
        deadline, backoff = Deadline(self._timeout_s if timeout_s is MISSING else timeout_s), Backoff()
        while True:
            held, generation = self._look()
            if len(held) < self._limit:
                claim = Claim(self._store)
                try:
                    self._write(
                        [*held, {"owner": claim.owner, "claim": claim.id, "who": claim.who, "since": now_s()}],
                        generation,
                    )
                except ConflictError:
                    backoff.sleep()
                    continue
                return Permit(self, claim)
            if deadline.has_passed():
                raise self._timed_out(held, deadline)
            self._store.wait_for_change(self._key, generation, deadline.remaining_s(_STEP_S))

    def try_acquire(self) -> Permit | None:
        """Return a permit if one is free, else None."""
        try:
            return self.acquire(0)
        except LockTimeoutError:
            return None

    def held(self) -> int:
        """Return how many permits are out now, in the hands of those who live."""
        return len(self._look()[0])

    def give_back(self, claim: Claim) -> None:
        """Take one permit out of the record: `Permit.release` in its own words."""
        backoff = Backoff()
        while claim.is_ours():
            held, generation = self._look()
            left = [permit for permit in held if permit["claim"] != claim.id]
            if len(left) == len(held):
                break
            try:
                self._write(left, generation)
            except ConflictError:
                backoff.sleep()
                continue
            claim.end()
            return
        raise ClaimLostError(
            what=f"a permit of {self._name!r}",
            reason="it was given back, belongs to the parent of this forked process, or was lost with its handle",
        )

    # --- with semaphore: -------------------------------------------------------

    def __enter__(self) -> Self:
        permits = self._permits()
        permits += [self.acquire()]  # and not append(): after a call of C a signal handler's exception may come
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._permits().pop().release()

    def _permits(self) -> list[Permit]:
        try:
            permits: list[Permit] = self._threads.permits
        except AttributeError:
            permits = self._threads.permits = list[Permit]()
        return permits

    # --- The record -----------------------------------------------------------

    def _look(self) -> tuple[list[dict[str, Any]], int]:
        """Return the permits of those who live, and the record's generation."""
        entry = self._store.read(self._key)
        if entry is None:
            return [], ABSENT
        value = entry.value
        if not is_shaped(value, {"format": (int,), "permits": (list,)}) or value["format"] != _FORMAT:
            raise corrupt(self._store, self._key, "a semaphore")
        permits: list[dict[str, Any]] = value["permits"]
        if not all(is_shaped(permit, _SHAPE) for permit in permits):
            raise corrupt(self._store, self._key, "a semaphore")
        living = Living(self._store)
        return [permit for permit in permits if living.holds(permit["owner"], permit["claim"])], entry.generation

    def _write(self, held: list[dict[str, Any]], generation: int) -> None:
        self._store.compare_and_set(self._key, {"format": _FORMAT, "permits": held}, generation)

    def _timed_out(self, held: list[dict[str, Any]], deadline: Deadline) -> LockTimeoutError:
        return LockTimeoutError(
            url=self._store.url,
            what=f"a permit of {self._name!r}",
            timeout_s=deadline.timeout_s or 0.0,
            holder=" and ".join(permit["who"] for permit in held),
        )
