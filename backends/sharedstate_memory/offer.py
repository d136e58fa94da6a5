"""What `memory:` offers, without loading it."""

from __future__ import annotations

from sharedstate.model import Capabilities, Clock, Costs, Durability, Scope

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

__all__ = ["CAPABILITIES", "COSTS", "url_for"]

CAPABILITIES: Final = Capabilities(
    scope=Scope.INTERPRETER,
    durability=Durability.PROCESS,
    clock=Clock.BOOT,
    max_value_bytes=2**31,
    max_transaction_keys=2**31,
)
COSTS: Final = Costs(get_ns=140, set_ns=173)


def url_for(name: str) -> str:
    """Return the URL of the store of that name."""
    return f"memory:{name}"
