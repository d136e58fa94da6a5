"""A journal of recoverable work: what was begun is finished, by one owner at a time, whatever dies.

    K1  Of all callers one gets a task; a task whose owner is present is never
        claimed, however slow it is.
    K2  A task whose owner died, or that was released, or that raised with
        attempts left, can be claimed at once: none is passed over because
        a claim of one who is gone was there first.
    K3  Nobody's late write counts: see T1.
    K4  A task is in the journal until it has finished, so it is begun at least
        once; with its effects in `finish` it has them exactly once.
    K5  A process that is stopping begins no task.

How it fails:

    runner killed        its tasks are free at once; the next claim goes on from the latest checkpoint
    runner hung, stopped its tasks stay its own until it goes on or dies; nothing times out
    master killed        the workers, and their tasks, go on
    graceful restart     old workers finish theirs and begin no others (K5); new ones begin the rest
    shutdown hang        a task of a child that cannot end is its own until the body ends, then is as it ended
    clock steps          nothing: times in the journal are for people
    interpreter destroyed while a thread of it runs a task: free once its handle is
                         gone, which is with the interpreter's objects or the process
    store closed, or its lock files removed, while a task runs: others may claim it;
                         what its owner still writes is refused
    body kills its process each time: begun again each time; look at `task.attempt`
"""

from __future__ import annotations

from sharedstate._light import NamedTuple
from sharedstate.coordination.claims import Claim, Living, find_stopping, require_lasting
from sharedstate.coordination.journal import (
    CLAIMABLE,
    EXHAUSTED,
    RUNNING,
    WAITING,
    Journal,
    TaskRecord,
    begun,
    fresh,
    let_go,
)
from sharedstate.coordination.task import Task
from sharedstate.errors import (
    AttemptsExhaustedError,
    ClaimTakenError,
    ConflictError,
    StoppingError,
    ValueTypeError,
)
from sharedstate.events import tell
from sharedstate.model import ABSENT, MISSING

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sharedstate.store import Store
    from sharedstate.transactions import Transaction

__all__ = ["Outcome", "Tasks"]


class Outcome(NamedTuple):
    """What became of one task that `Tasks.resume` ran.

    Attributes:
        id: the task's.
        status: "finished", "failed", "released" or "lost".
        error: what the handler raised, or None.
    """

    id: str
    status: str
    error: Exception | None


class Tasks:
    """The unfinished tasks of one name.

    Any number of threads, interpreters and processes may use one journal; each
    makes its own `Tasks` over its own handle.

    Args:
        store: shared by all who run these tasks.
        name: of the journal.
        attempts: how many times a task may raise before it is left alone.
        is_stopping: whether this process has been told to stop; None asks
            `sharedstate.deployment.lifecycle`.
    """

    def __init__(
        self, store: Store, name: str, *, attempts: int = 3, is_stopping: Callable[[], bool] | None = None
    ) -> None:
        require_lasting(store, "tasks")
        if type(attempts) is not int or attempts < 1:
            raise ValueTypeError(path="attempts", found=repr(attempts), advice="Give an int from 1 on.")
        self._store = store
        self._journal = Journal(store, name, attempts)
        self._is_stopping = is_stopping or find_stopping()
        self._candidates: list[str] = []  # ids that the latest look found and no claim has tried yet

    # --- Adding and running ---------------------------------------------------

    def add(self, task_id: str, payload: Any = None, transaction: Transaction | None = None) -> bool:
        """Put a task into the journal, for whoever claims it; return whether it was not there.

        Args:
            task_id: one task: adding it again before it has finished adds nothing.
            payload: what it takes to do it; any value.
            transaction: of the same store: the task is added if that commits, and only then.

        Raises:
            KeyFormatError, ValueTypeError: outside the model; nothing was written.
        """
        key = self._journal.key(task_id)
        if transaction is None:
            return self._store.add(key, fresh(payload))
        if key in transaction:
            return False
        transaction.set(key, fresh(payload))
        return True

    def run(self, task_id: str, payload: Any = None) -> Task:
        """Put a task into the journal, if it is not there, and claim it: `with tasks.run("a", 1) as task:`.

        One that is there keeps its payload and goes on from its latest checkpoint.

        Raises:
            ClaimTakenError: its owner is alive.
            AttemptsExhaustedError: it failed as often as it may.
            StoppingError: this process is stopping; the task is in the journal, for another.
            KeyFormatError, ValueTypeError: outside the model; nothing was written.
        """
        what = self._journal.what(task_id)
        if self._is_stopping():
            self.add(task_id, payload)
            raise StoppingError(what=what, reason="this process is stopping; it is in the journal")
        while True:
            entry = self._store.read(self._journal.key(task_id))
            if entry is None:
                task = self._try_begin(task_id, fresh(payload), ABSENT)
            else:
                found = self._journal.parse(task_id, entry.value)
                status = self._journal.status(found, Living(self._store))
                if status == EXHAUSTED:
                    raise self._exhausted(task_id, found)
                if status == RUNNING:
                    raise ClaimTakenError(what=what, reason=f"{found['who']} runs it")
                task = self._try_begin(task_id, found, entry.generation)
            if task is not None:
                return task

    def claim(self, task_id: str | None = None) -> Task | None:
        """Make a task this caller's that nobody has, and return it; None if there is none, or this process is stopping.

        Args:
            task_id: of that task; None takes any.
        """
        living, candidates = Living(self._store), self._candidates if task_id is None else [task_id]
        has_looked = task_id is not None
        while not self._is_stopping():
            try:
                candidate = candidates.pop()
            except IndexError:
                if has_looked:
                    return None
                # Kept for the claims to come: a look at thousands of keys for each would be dear.
                candidates = self._candidates = self._journal.ids()
                has_looked = True
                continue
            task = self._try_claim(candidate, living)
            if task is not None:
                return task
        return None

    def resume(self, handler: Callable[[Task], Any]) -> list[Outcome]:
        """Claim every task that nobody has and run `handler(task)` for each, one after the other.

        Each is run once at the most: one that fails is left for the next `resume`,
        here or elsewhere.  Ends early when this process is told to stop.

        Returns:
            What became of each task that was run here.  What `handler` raised
            stands there and in the journal; it does not come out of this call.
        """
        outcomes: list[Outcome] = []
        tried: set[str] = set()
        while fresh_ids := [task_id for task_id in self._journal.ids() if task_id not in tried]:
            tried.update(fresh_ids)
            living = Living(self._store)
            for task_id in fresh_ids:
                if self._is_stopping():
                    return outcomes
                task = self._try_claim(task_id, living)
                if task is not None:
                    outcomes.append(_run(task, handler))
        return outcomes

    # --- Looking ------------------------------------------------------------

    def records(self) -> list[TaskRecord]:
        """Return all unfinished tasks, in the order in which they were added by the wall clock."""
        living = Living(self._store)
        records: list[TaskRecord] = []
        for task_id in self._journal.ids():
            value = self._store.get(self._journal.key(task_id), MISSING)
            if value is not MISSING:  # else it finished meanwhile
                records.append(self._journal.record(task_id, self._journal.parse(task_id, value), living))
        return sorted(records, key=lambda record: record.added_at)

    def abandoned(self) -> list[TaskRecord]:
        """Return the tasks that can be claimed: nobody has them, their owner is gone, or they failed and may again."""
        return [record for record in self.records() if record.status in CLAIMABLE]

    def exhausted(self) -> list[TaskRecord]:
        """Return the tasks that failed as often as they may; `retry` or `discard` them."""
        return [record for record in self.records() if record.status == EXHAUSTED]

    def count(self) -> int:
        """Return how many tasks are unfinished."""
        return len(self._journal.ids())

    def __contains__(self, task_id: str) -> bool:
        """Return whether that task is unfinished."""
        return self._store.generation(self._journal.key(task_id)) != ABSENT

    # --- Mending ------------------------------------------------------------

    def retry(self, task_id: str) -> bool:
        """Allow a task that failed all its attempts anew; return whether it was there and not running."""
        return self._change_idle(task_id, is_removal=False)

    def discard(self, task_id: str) -> bool:
        """Remove a task that nobody runs, finished or not; return whether it was there and not running."""
        return self._change_idle(task_id, is_removal=True)

    def _change_idle(self, task_id: str, *, is_removal: bool) -> bool:
        key = self._journal.key(task_id)

        def change(transaction: Transaction) -> bool:
            value = transaction.get(key, MISSING)
            if value is MISSING:
                return False
            entry = self._journal.parse(task_id, value)
            if self._journal.status(entry, Living(self._store)) == RUNNING:
                return False
            if is_removal:
                transaction.delete(key)
            else:
                transaction.set(key, let_go(entry, WAITING, 0, entry["error"]))
            return True

        is_changed: bool = self._store.transact(change)
        return is_changed

    # --- Claiming -----------------------------------------------------------

    def _try_claim(self, task_id: str, living: Living) -> Task | None:
        while True:
            entry = self._store.read(self._journal.key(task_id))
            if entry is None:
                return None
            found = self._journal.parse(task_id, entry.value)
            if self._journal.status(found, living) not in CLAIMABLE:
                return None
            task = self._try_begin(task_id, found, entry.generation)
            if task is not None:
                return task
            # Another's write came between, and that one may be gone already: who has it now?

    def _try_begin(self, task_id: str, found: dict[str, Any], generation: int) -> Task | None:
        claim = Claim(self._store)
        entry = begun(found, claim)
        try:
            token = self._store.compare_and_set(self._journal.key(task_id), entry, generation)
        except ConflictError:
            return None  # somebody was faster, and may have it, or it has ended (C3)
        task = Task(
            journal=self._journal,
            task_id=task_id,
            entry=entry,
            claim=claim,
            token=token,
            is_stopping=self._is_stopping,
        )
        if found["status"] == RUNNING:
            tell(
                "task.taken_over",
                store=self._store.url,
                journal=self._journal.name,
                task=task_id,
                who=found["who"],
                attempt=task.attempt,
            )
        return task

    def _exhausted(self, task_id: str, entry: dict[str, Any]) -> AttemptsExhaustedError:
        return AttemptsExhaustedError(
            what=self._journal.what(task_id),
            attempts=entry["failures"],
            error=entry["error"],
            advice="Mend the cause, then call retry() to allow it anew, or discard() to remove it.",
        )


def _run(task: Task, handler: Callable[[Task], Any]) -> Outcome:
    error = None
    try:
        with task:
            handler(task)
    except Exception as raised:  # noqa: BLE001  one task's failure must not keep the others from being resumed
        error = raised
    return Outcome(task.id, task.outcome or "lost", error)
