"""What `redis:` offers, without loading it."""

from __future__ import annotations

import os

from sharedstate.errors import UnavailableError
from sharedstate.model import Capabilities, Clock, Costs, Durability, Scope

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

__all__ = ["CAPABILITIES", "COSTS", "MAX_TRANSACTION_KEYS", "MAX_VALUE_BYTES", "SCHEMES", "temporary_url", "url_for"]

SCHEMES: Final = ("redis", "rediss", "redis+unix", "redis+sentinel", "redis+cluster")
"""The ways to a server: TCP, TLS, a socket of this host, to whichever of several is the primary, or has the slot."""

MAX_VALUE_BYTES: Final = 2**27
"""The server's own limit is 512 MiB; it serves nobody else while it copies a value."""

MAX_TRANSACTION_KEYS: Final = 10_000
"""The server serves nobody else while it commits: about 3 us a key."""

CAPABILITIES: Final = Capabilities(
    scope=Scope.CLUSTER,
    durability=Durability.DISK,
    clock=Clock.WALL,
    max_value_bytes=MAX_VALUE_BYTES,
    max_transaction_keys=MAX_TRANSACTION_KEYS,
)
COSTS: Final = Costs(get_ns=45_000, set_ns=60_000)

_VARIABLE: Final = "SHAREDSTATE_REDIS_URL"
"""Names the server for whoever names none: redis://host:port, redis+unix:/path, redis+sentinel://host:port/service,
redis+cluster://host:port."""


def url_for(name: str) -> str:
    """Return the URL of the store of that name, in the server that the environment names.

    Raises:
        UnavailableError: it names none.
    """
    server = os.environ.get(_VARIABLE, "")
    if not server:
        raise UnavailableError(
            url=f"redis:{name}",
            reason="no server is named",
            advice=f"Give a URL, as redis://localhost/{name}, or set {_VARIABLE} to that of the server.",
        )
    if server.startswith("redis+unix:"):
        return f"{server}{'&' if '?' in server else '?'}name={name}"
    target, question, parameters = server.partition("?")
    return f"{target.rstrip('/')}/{name}{question}{parameters}"


def temporary_url(directory: str) -> str:  # noqa: ARG001  nothing of it lies in files
    """Return the URL of a store that does not exist yet, in the server that the environment names.

    Raises:
        UnavailableError: it names none.
    """
    return url_for(f"experiment-{os.urandom(6).hex()}")
