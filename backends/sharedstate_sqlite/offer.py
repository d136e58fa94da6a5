"""What `sqlite:` offers, without loading it."""

from __future__ import annotations

from sharedstate.backend import state_directory
from sharedstate.model import Capabilities, Clock, Costs, Durability, Scope

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

__all__ = ["CAPABILITIES", "COSTS", "MAX_VALUE_BYTES", "url_for"]

MAX_VALUE_BYTES: Final = 2**28
"""SQLite's own limit is 10**9 unless its builder lowered it; a row is read and written whole."""

CAPABILITIES: Final = Capabilities(
    scope=Scope.HOST,
    durability=Durability.DISK,
    clock=Clock.WALL,
    max_value_bytes=MAX_VALUE_BYTES,
    max_transaction_keys=1_000_000,
)
COSTS: Final = Costs(get_ns=11_000, set_ns=26_000)


def url_for(name: str) -> str:
    """Return the URL of the store of that name, in the place for lasting state.

    Raises:
        UnavailableError: there is no such place that we may write to; says how to make one.
    """
    return f"sqlite:{state_directory('sqlite', name)}/state.db"
