"""What `file:` offers, without loading it."""

from __future__ import annotations

from sharedstate.backend import state_directory
from sharedstate.model import Capabilities, Clock, Costs, Durability, Scope

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

__all__ = ["CAPABILITIES", "COSTS", "url_for"]

CAPABILITIES: Final = Capabilities(
    scope=Scope.HOST,
    durability=Durability.DISK,
    clock=Clock.WALL,
    max_value_bytes=2**28,
    max_transaction_keys=2**20,
)
COSTS: Final = Costs(get_ns=597, set_ns=18_000)


def url_for(name: str) -> str:
    """Return the URL of the store of that name, in the place for lasting state.

    Raises:
        UnavailableError: there is no such place that we may write to; says how to make one.
    """
    return f"file:{state_directory('file', name)}/state"
