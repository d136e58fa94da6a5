"""What `shm:` offers, without loading it."""

from __future__ import annotations

from sharedstate.errors import BackendMissingError
from sharedstate.model import Capabilities, Clock, Costs, Durability, Scope

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

__all__ = ["CAPABILITIES", "COSTS", "DEFAULT_SIZE", "require_core", "url_for"]

DEFAULT_SIZE: Final = 64 * 2**20

CAPABILITIES: Final = Capabilities(
    scope=Scope.HOST,
    durability=Durability.BOOT,
    clock=Clock.BOOT,
    max_value_bytes=DEFAULT_SIZE // 4,
    max_transaction_keys=4096,
)
COSTS: Final = Costs(get_ns=165, set_ns=203)


def url_for(name: str) -> str:
    """Return the URL of the store of that name.

    Raises:
        BackendMissingError: the C module is not built.
    """
    url = f"shm://{name}"
    require_core(url)
    return url


def require_core(url: str) -> None:
    """Refuse to go on without the C module.

    Raises:
        BackendMissingError: it cannot be imported; says why and what to do.
    """
    try:
        __import__("sharedstate_shm._core")
    except ImportError as error:
        raise BackendMissingError(
            url=url,
            reason=f"the C module is not built ({error})",
            advice="Install a C compiler and Python's headers, then sharedstate again; or use file: or sqlite:.",
        ) from error
