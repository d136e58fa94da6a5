"""The entries of a task journal: one key for each unfinished task, and what stands there.

    sharedstate:tasks/<journal>/<id> -> {
        format      1
        payload     as it was added
        state       of the latest checkpoint; None before the first
        status      "waiting", "running" or "failed"
        owner       the running handle's place among the sharers, or ""
        claim       which claim of that owner, or ""
        who         runs it, or ran it last, for people
        attempt     how often it was begun
        failures    how often it raised since it was added, or retried
        error       what it raised last, or ""
        added_at, started_at, ended_at    the wall clock, for people
    }

An entry is there until its task has finished; its generation changes with
every write, so every change is a compare-and-set on what was read.
"""

from __future__ import annotations

from sharedstate._light import NamedTuple
from sharedstate.coordination.claims import Living, corrupt, is_shaped, key_of, now_s
from sharedstate.errors import KeyFormatError

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any, Final

    from sharedstate.coordination.claims import Claim
    from sharedstate.store import Store

__all__ = [
    "ABANDONED",
    "CLAIMABLE",
    "EXHAUSTED",
    "FAILED",
    "RUNNING",
    "WAITING",
    "Journal",
    "TaskRecord",
    "begun",
    "fresh",
    "let_go",
]

WAITING: Final = "waiting"
RUNNING: Final = "running"
FAILED: Final = "failed"
ABANDONED: Final = "abandoned"  # as running, but its owner is gone: seen by a reader, never written
EXHAUSTED: Final = "exhausted"  # as failed, with no attempt left: the same

CLAIMABLE: Final = frozenset({WAITING, ABANDONED, FAILED})
_STATUSES: Final = frozenset({WAITING, RUNNING, FAILED})

_FORMAT: Final = 1
_SHAPE: Final[dict[str, tuple[type, ...]]] = {
    "format": (int,),
    "payload": (),
    "state": (),
    "status": (str,),
    "owner": (str,),
    "claim": (str,),
    "who": (str,),
    "attempt": (int,),
    "failures": (int,),
    "error": (str,),
    "added_at": (float,),
    "started_at": (float, type(None)),
    "ended_at": (float, type(None)),
}


class TaskRecord(NamedTuple):
    """One unfinished task, as it was when it was looked at.

    Attributes:
        id: within its journal.
        payload: as it was added.
        state: of the latest checkpoint; None before the first.
        status: "waiting" (nobody has it), "running", "abandoned" (its owner is
            gone), "failed" (it raised, with attempts left) or "exhausted" (with none).
        attempt: how often it was begun.
        failures: how often it raised.
        error: what it raised last, or "".
        who: runs it, or ran it last, for people.
        added_at, started_at, ended_at: in seconds since 1970, or None; for people.
    """

    id: str
    payload: Any
    state: Any
    status: str
    attempt: int
    failures: int
    error: str
    who: str
    added_at: float
    started_at: float | None
    ended_at: float | None


class Journal:
    """Where the tasks of one name stand, and how an entry is read.

    Attributes:
        what: the journal, in words for an error.
    """

    def __init__(self, store: Store, name: str, attempts: int) -> None:
        self.store = store
        self.name = name
        self.attempts = attempts
        self._prefix = key_of("tasks", name, "x")[:-1]

    def key(self, task_id: str) -> str:
        """Return the key of a task's entry.

        Raises:
            KeyFormatError: the id is no str, or empty.
        """
        if type(task_id) is not str or not task_id:
            raise KeyFormatError(found=f"made from the task id {task_id!r}")
        return self._prefix + task_id

    def what(self, task_id: str) -> str:
        """Return how errors call a task."""
        return f"task {task_id!r} of {self.name!r}"

    def ids(self) -> list[str]:
        """Return the ids of the unfinished tasks; reads no other key of the store, and no value."""
        skip = len(self._prefix)
        return [key[skip:] for key in self.store.keys(self._prefix)]

    def parse(self, task_id: str, value: Any) -> dict[str, Any]:
        """Return an entry's value, checked to be one.

        Raises:
            CorruptError: it is something else.
        """
        if not is_shaped(value, _SHAPE) or value["format"] != _FORMAT or value["status"] not in _STATUSES:
            raise corrupt(self.store, self.key(task_id), "a task")
        entry: dict[str, Any] = value
        return entry

    def status(self, entry: dict[str, Any], living: Living) -> str:
        """Return what a reader is to think of an entry."""
        status: str = entry["status"]
        if status == RUNNING and not living.holds(entry["owner"], entry["claim"]):
            status = ABANDONED
        if status == FAILED and entry["failures"] >= self.attempts:
            status = EXHAUSTED
        return status

    def record(self, task_id: str, entry: dict[str, Any], living: Living) -> TaskRecord:
        """Return an entry as it is told to the user."""
        return TaskRecord(
            id=task_id,
            payload=entry["payload"],
            state=entry["state"],
            status=self.status(entry, living),
            attempt=entry["attempt"],
            failures=entry["failures"],
            error=entry["error"],
            who=entry["who"],
            added_at=entry["added_at"],
            started_at=entry["started_at"],
            ended_at=entry["ended_at"],
        )


# --- What an entry becomes ----------------------------------------------------


def fresh(payload: Any) -> dict[str, Any]:
    """Return the entry of a task that nobody has begun."""
    return {
        "format": _FORMAT,
        "payload": payload,
        "state": None,
        "status": WAITING,
        "owner": "",
        "claim": "",
        "who": "",
        "attempt": 0,
        "failures": 0,
        "error": "",
        "added_at": now_s(),
        "started_at": None,
        "ended_at": None,
    }


def begun(entry: dict[str, Any], claim: Claim) -> dict[str, Any]:
    """Return the entry as `claim` begins to run its task."""
    return {
        **entry,
        "status": RUNNING,
        "owner": claim.owner,
        "claim": claim.id,
        "who": claim.who,
        "attempt": entry["attempt"] + 1,
        "started_at": now_s(),
        "ended_at": None,
    }


def let_go(entry: dict[str, Any], status: str, failures: int, error: str) -> dict[str, Any]:
    """Return the entry as its owner leaves it to others."""
    return {
        **entry,
        "status": status,
        "owner": "",
        "claim": "",
        "failures": failures,
        "error": error,
        "ended_at": now_s(),
    }
