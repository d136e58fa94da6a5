"""From one store to another: what they differ in, and a copy that a live writer cannot spoil; and out of diskcache.

Generations, locks and sharers stay behind: they are of their store.  So a program
changes its store between two runs, not within one; docs/decisions/0019 says why.
"""

from sharedstate.migration.comparing import Differences, find_differences
from sharedstate.migration.copying import CopyReport, Outcome, copy_entries, put_entry
from sharedstate.migration.diskcache import ImportReport, LeftBehind, import_diskcache
from sharedstate.migration.semantics import SemanticChange, compare_capabilities

__all__ = [
    "CopyReport",
    "Differences",
    "ImportReport",
    "LeftBehind",
    "Outcome",
    "SemanticChange",
    "compare_capabilities",
    "copy_entries",
    "find_differences",
    "import_diskcache",
    "put_entry",
]
