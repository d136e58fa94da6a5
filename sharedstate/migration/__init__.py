"""From one store to another: what they differ in, a copy that a live writer cannot spoil, and a move under full use.

And out of diskcache.

A copy leaves generations, locks and sharers behind: they are of their store.  So a
program changes its store between two runs (docs/decisions/0019), or has it moved
(docs/decisions/0024).
"""

from sharedstate.migration.comparing import Differences, find_differences
from sharedstate.migration.copying import CopyReport, Outcome, copy_entries, put_entry
from sharedstate.migration.diskcache import ImportReport, LeftBehind, import_diskcache
from sharedstate.migration.moving import MoveReport, move_store
from sharedstate.migration.semantics import SemanticChange, compare_capabilities

__all__ = [
    "CopyReport",
    "Differences",
    "ImportReport",
    "LeftBehind",
    "MoveReport",
    "Outcome",
    "SemanticChange",
    "compare_capabilities",
    "copy_entries",
    "find_differences",
    "import_diskcache",
    "move_store",
    "put_entry",
]
