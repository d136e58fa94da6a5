"""The founding run: tasks under a server that is disturbed, recorded outside of the store, and judged."""

from .judging import Event, Evidence, Verdict, judge
from .reporting import write_report
from .running import DISTURBANCES, Cell, prepare, run

__all__ = ["DISTURBANCES", "Cell", "Event", "Evidence", "Verdict", "judge", "prepare", "run", "write_report"]
