"""One task in the hands of its owner: checkpoints, effects, and how it ends.

    T1  A write of an owner whose task passed on is refused (`ClaimLostError`),
        and nothing of it is there: checkpoints, effects, the end.
    T2  A checkpoint and its effects, or the end and its effects, are one
        transaction: both there or neither, also after kill -9.
    T3  A body that ends without an exception has finished its task; one that
        raised has failed it; one that was interrupted (Ctrl-C, SystemExit)
        leaves it to others, and that counts as no failure.
    T4  A forked child cannot write for its parent's task, and its way out of
        the `with` block ends nothing.

Thread safety: any thread of the owning interpreter may act for the task.
"""

from __future__ import annotations

from sharedstate.coordination.claims import Fenced, in_words, require_ours, transact
from sharedstate.coordination.journal import FAILED, WAITING, let_go
from sharedstate.errors import ClaimLostError, StateError
from sharedstate.events import tell
from sharedstate.model import MISSING

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Self

    from sharedstate.coordination.claims import Claim
    from sharedstate.coordination.journal import Journal
    from sharedstate.transactions import Transaction

__all__ = ["Task"]


class Task:
    """A task that is this caller's, made by `Tasks.run` and `Tasks.claim`: use it as `with ... as task:`.

    Attributes:
        id: within its journal.
        payload: as it was added.
        attempt: 1 for the first time that it is begun; more says that an earlier owner did not finish.
        outcome: "finished", "failed" or "released" once it is; "" before that, and for a task that was lost.
        token: the fencing token of this claim: greater than those of all earlier
            ones.  Send it with writes to other systems, which refuse a smaller
            one than the greatest they saw.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        task_id: str,
        entry: dict[str, Any],
        claim: Claim,
        token: int,
        is_stopping: Callable[[], bool],
    ) -> None:
        self.id = task_id
        self.payload: Any = entry["payload"]
        self.attempt: int = entry["attempt"]
        self.token = token
        self._journal = journal
        self._key = journal.key(task_id)
        self._claim = claim
        self._is_stopping = is_stopping
        self.outcome = ""

    # --- Asking -------------------------------------------------------------

    @property
    def state(self) -> Any:
        """The latest checkpoint, of this owner or of an earlier one; None before the first.

        Raises:
            ClaimLostError: the task is not the caller's any more.
        """
        return self._verified(self._journal.store.get(self._key, MISSING))["state"]

    def should_stop(self) -> bool:
        """Return whether this process has been told to stop: checkpoint, then `release`, or end soon."""
        return self._is_stopping()

    def is_ours(self) -> bool:
        """Return whether the task is still this caller's; it may pass on only by the owner's own doing, or its end."""
        try:
            self._verified(self._journal.store.get(self._key, MISSING))
        except ClaimLostError:
            return False
        return True

    # --- Writing ------------------------------------------------------------

    def checkpoint(self, state: Any, effects: Callable[[Transaction], Any] | None = None) -> None:
        """Record `state`, from which the next owner goes on if this one dies.

        Args:
            state: any value; it replaces the one before.
            effects: called with a transaction of the same store; what it writes
                there appears together with the checkpoint, or not at all.  It may
                be called several times, so it must have no other effect.

        Raises:
            ClaimLostError: the task is not the caller's any more; nothing was written.
            ValueTypeError: `state` is no value; nothing was written.
        """
        self._transact(effects, lambda transaction, entry: transaction.set(self._key, {**entry, "state": state}))

    def transaction(self) -> Fenced:
        """Return a transaction of the same store that commits only while the task is the caller's.

        Raises:
            ClaimLostError: on entering or leaving the block; nothing was written.
            ConflictError: on leaving it: a key that was read has changed;
                nothing was written.  `transact` retries.
        """
        return self._fenced()

    def transact(self, body: Callable[[Transaction], Any], timeout_s: float | None = None) -> Any:
        """Run `body(tx)` in such a transaction and return its result, again while others come between."""
        return transact(self.transaction, body, timeout_s)

    # --- Ending -------------------------------------------------------------

    def finish(self, effects: Callable[[Transaction], Any] | None = None) -> None:
        """Take the task out of the journal, together with `effects`: they and its end are there, or neither.

        Leaving the `with` block without an exception does so too, without effects.

        Raises:
            ClaimLostError: the task is not the caller's any more; nothing was written.
        """
        self._transact(effects, lambda transaction, _: transaction.delete(self._key))
        self._end("finished")

    def release(self) -> None:
        """Leave the task to others, from its latest checkpoint on; that counts as no failure.

        Raises:
            ClaimLostError: the task is not the caller's any more; nothing was written.
        """
        self._let_go(WAITING, "")

    def fail(self, error: str) -> None:
        """Record a failure in words, as an exception out of the `with` block does.

        Raises:
            ClaimLostError: the task is not the caller's any more; nothing was written.
        """
        self._let_go(FAILED, error)

    def _let_go(self, status: str, error: str) -> None:
        failures = 0

        def let_it_go(transaction: Transaction, entry: dict[str, Any]) -> None:
            nonlocal failures
            failures = entry["failures"] + (status == FAILED)
            transaction.set(self._key, let_go(entry, status, failures, in_words(error) or entry["error"]))

        self._transact(None, let_it_go)
        self._end("failed" if status == FAILED else "released")
        if status == FAILED and failures >= self._journal.attempts:
            tell(
                "task.exhausted",
                store=self._journal.store.url,
                journal=self._journal.name,
                task=self.id,
                failures=failures,
                error=in_words(error),
            )

    def _end(self, outcome: str) -> None:
        self.outcome = outcome
        self._claim.end()

    def _transact(
        self,
        effects: Callable[[Transaction], Any] | None,
        conclude: Callable[[Transaction, dict[str, Any]], object],
    ) -> None:
        transact(lambda: self._fenced(conclude), effects or _nothing)

    def _fenced(self, conclude: Callable[[Transaction, dict[str, Any]], object] | None = None) -> Fenced:
        return Fenced(self._journal.store, self._key, self._verified, conclude)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.outcome:
            return
        try:
            if error is None:
                self.finish()
            elif isinstance(error, Exception):
                self.fail(in_words(error))
            else:
                self.release()
        except StateError as failure:
            if error is None:
                raise
            if not isinstance(failure, ClaimLostError):
                error.add_note(f"This could not be recorded: {failure}")
        finally:
            self._claim.end()

    def __repr__(self) -> str:
        return f"<Task {self.id!r} of {self._journal.name!r}, attempt {self.attempt}>"

    def _verified(self, value: Any) -> dict[str, Any]:
        what = self._journal.what(self.id)
        if value is MISSING:
            reason = f"it was {self.outcome} here" if self.outcome else "it is not in the journal any more"
            raise ClaimLostError(what=what, reason=reason)
        entry = self._journal.parse(self.id, value)
        require_ours(self._claim, entry["owner"], entry["claim"], what)
        return entry


def _nothing(_: Transaction) -> None:
    """Have no effects."""
