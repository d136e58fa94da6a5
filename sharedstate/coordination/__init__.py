"""Things done once, by one, or so often: built on a store's public verbs, so that they work on every backend."""

from sharedstate.coordination.journal import TaskRecord
from sharedstate.coordination.once import Run, forget_once, once
from sharedstate.coordination.task import Task
from sharedstate.coordination.tasks import Outcome, Tasks

__all__ = ["Outcome", "Run", "Task", "TaskRecord", "Tasks", "forget_once", "once"]
