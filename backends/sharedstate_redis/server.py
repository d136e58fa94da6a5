"""What the server keeps, and for how long: read from what it says of itself, once, when a store is opened."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sharedstate.errors import StateError, UnavailableError, redact
from sharedstate.model import Capabilities, Clock, Durability, Scope
from sharedstate_redis.offer import MAX_TRANSACTION_KEYS, MAX_VALUE_BYTES
from sharedstate_redis.sessions import pack

if TYPE_CHECKING:
    from sharedstate_redis.address import Address
    from sharedstate_redis.pool import Pool

__all__ = ["Server", "ask", "figures"]

_OLDEST: Final = 7  # scripts with flags, GETRANGE in scripts that write nothing, PEXPIRETIME


class Server(NamedTuple):
    """What matters of a server's settings.

    Attributes:
        version: Redis's, or the one that a Valkey says it is like.
        appends: whether it logs each write to disk before long.
        snapshots: when it saves all of its data, as `save` says; "" for never, None if it does not tell.
        maxmemory: in bytes; 0 for no limit.
        policy: what it does at the limit.
        needs_replicas: whether it refuses to write while too few replicas listen.
    """

    version: str
    appends: bool
    snapshots: str | None
    maxmemory: int
    policy: str
    needs_replicas: bool

    @property
    def evicts(self) -> bool:
        """Whether entries may vanish for room."""
        return self.maxmemory > 0 and self.policy != "noeviction"

    @property
    def evicts_anything(self) -> bool:
        """Whether what never expires may vanish too: locks, and the store itself."""
        return self.evicts and self.policy.startswith("allkeys")

    def capabilities(self, address: Address) -> Capabilities:
        """Return what a store there promises."""
        return Capabilities(
            scope=Scope.HOST if address.is_of_this_host() else Scope.CLUSTER,
            # Without its log a crash of the server, or of the host, takes all since the latest snapshot.
            durability=Durability.DISK if self.appends else Durability.BOOT,
            clock=Clock.WALL,
            max_value_bytes=MAX_VALUE_BYTES,
            max_transaction_keys=MAX_TRANSACTION_KEYS,
            evicts=self.evicts,
        )

    def describe_persistence(self) -> str:
        """Return what outlives the server, in words."""
        if self.appends:
            return "appendonly"
        if self.snapshots is None:
            return "unknown"
        return f"snapshots ({self.snapshots})" if self.snapshots else "none"

    def warn(self, address: Address) -> None:
        """Warn of a server that drops, or may have to, what it was given."""
        if address.service is not None and not self.needs_replicas:
            warnings.warn(
                f"{redact(address.url)}: when this primary is cut off from its replicas and sentinels, it goes on "
                "writing, and all of that is lost. Let it stop: set its min-replicas-to-write to 1 or more.",
                RuntimeWarning,
                stacklevel=4,
            )
        if self.evicts:
            what = "anything, locks too" if self.evicts_anything else "entries that have a time to live"
            warnings.warn(
                f"{redact(address.url)}: this server evicts {what} "
                f"(maxmemory-policy {self.policy}). Use one with noeviction for state that must stay.",
                RuntimeWarning,
                stacklevel=4,
            )


def figures(pool: Pool) -> dict[str, str]:
    """Return the server's INFO."""
    text: Any = pool.read(pack(b"INFO"))
    lines = text.removeprefix(b"txt:").decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def ask(pool: Pool) -> Server:
    """Return what the server says of itself.

    Raises:
        UnavailableError: it is too old.
    """
    told = figures(pool)
    version = told.get("redis_version", "0")
    if not version.partition(".")[0].isdecimal() or int(version.partition(".")[0]) < _OLDEST:
        raise UnavailableError(
            url=pool.address.url,
            reason=f"the server is Redis {version}, the backend needs {_OLDEST}",
            advice="Use Redis 7 or later, or Valkey.",
        )
    return Server(
        version,
        told.get("aof_enabled") == "1",
        _snapshots(pool),
        int(told.get("maxmemory", "0")),
        told.get("maxmemory_policy", "noeviction"),
        "min_slaves_good_slaves" in told,  # which it says only then
    )


def _snapshots(pool: Pool) -> str | None:
    try:
        reply: Any = pool.read(pack(b"CONFIG", b"GET", b"save"))
    except StateError:
        return None  # hosts of servers often forbid it
    pairs: dict[bytes, bytes] = reply
    return pairs.get(b"save", b"").decode(errors="replace")
