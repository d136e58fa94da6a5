"""Things done once, by one, or so often: built on a store's public verbs, so that they work on every backend."""

from sharedstate.coordination.journal import TaskRecord
from sharedstate.coordination.leader import Leader
from sharedstate.coordination.rate_limit import Decision, RateLimit
from sharedstate.coordination.runs import Run, forget_once, once
from sharedstate.coordination.semaphore import Permit, Semaphore
from sharedstate.coordination.snapshot import Snapshot
from sharedstate.coordination.task import Task
from sharedstate.coordination.tasks import Outcome, Tasks

__all__ = [
    "Decision",
    "Leader",
    "Outcome",
    "Permit",
    "RateLimit",
    "Run",
    "Semaphore",
    "Snapshot",
    "Task",
    "TaskRecord",
    "Tasks",
    "forget_once",
    "once",
]
