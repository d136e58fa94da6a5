"""A store's names in the server; how it is made, found and removed.

sharedstate:{jobs}            the store: a hash of `id`, `format`, `last`
sharedstate:{jobs}:retired    ids of stores of this name whose entries are yet to be removed
sharedstate:{jobs}:<id>/      the index: a sorted set of the entries' names by deadline
sharedstate:{jobs}:<id>/k     the entry `k`
sharedstate:{jobs}:<id>:locks, sharedstate:{jobs}:<id>:sharers
sharedstate:{jobs}:never      never there: what scripts name in a cluster (L5 of `scripts`)

P1  A store is made and removed by one script each: it is there or not.
P2  The id is in each name, and is never used twice.  So what a removed store
    left is nobody's, and its handles, whose scripts ask for the id, write nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sharedstate.errors import CorruptError, UnavailableError
from sharedstate_redis.scripts import Script

if TYPE_CHECKING:
    from sharedstate_redis.address import Address
    from sharedstate_redis.pool import Pool

__all__ = ["FORMAT", "Place", "bury", "find", "make_or_find", "never", "retire"]

FORMAT: Final = 1
_BATCH: Final = 500

_FIND: Final = Script("return call('HMGET', KEYS[1], 'id', 'format', 'last')", "no-writes", "local call = redis.call\n")

_MAKE: Final = Script(
    """
if redis.call('EXISTS', KEYS[1]) == 0 then
    local clock = redis.call('TIME')
    local now_us = string.format('%.0f', clock[1] * 1000000 + clock[2])
    redis.call('HSET', KEYS[1], 'id', ARGV[1], 'format', ARGV[2], 'last', now_us)
end
return redis.call('HMGET', KEYS[1], 'id', 'format', 'last')
"""
)

_RETIRE: Final = Script(
    """
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then return {2} end
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[1])
return {0}
""",
    "allow-oom",
)

# KEYS[1] the retired, KEYS[2] the index of one, KEYS[3] and on what else it had; ARGV[1] its id.
_BURY: Final = Script(
    """
local names = redis.call('ZRANGE', KEYS[2], 0, ARGV[2] - 1)
for _, name in ipairs(names) do redis.call('UNLINK', KEYS[2] .. name) end
if #names > 0 then redis.call('ZREM', KEYS[2], unpack(names)) end
if redis.call('EXISTS', KEYS[2]) == 1 then return {0, 1} end
for i = 3, #KEYS do redis.call('UNLINK', KEYS[i]) end
redis.call('SREM', KEYS[1], ARGV[1])
return {0, 0}
""",
    "allow-oom",
)


class Place(NamedTuple):
    """The names of one store's keys; each begins with what hashes all of them to one slot of a cluster."""

    store: bytes
    id: bytes
    entries: bytes  # what the name of each entry begins with, and by itself that of the index
    locks: bytes
    sharers: bytes
    channels: bytes

    @classmethod
    def of(cls, name: str, identity: bytes) -> Place:
        """Return the names for the store `name` of that id."""
        store = _name_of(name)
        own = b"%b:%b" % (store, identity)
        return cls(store, identity, own + b"/", own + b":locks", own + b":sharers", own + b":lives:")

    def entry(self, key: str) -> bytes:
        """Return the name of an entry."""
        return self.entries + key.encode()


def _name_of(name: str) -> bytes:
    return b"sharedstate:{%b}" % name.encode()


def never(name: str) -> bytes:
    """Return the name of a key of the store's slot that nobody makes."""
    return _name_of(name) + b":never"


def make_or_find(pool: Pool) -> Place:
    """Return the place of the store, made if there is none."""
    name = pool.address.name
    found: list[Any] = pool.run(_MAKE, [_name_of(name)], [os.urandom(6).hex().encode(), b"%d" % FORMAT])
    return Place.of(name, _admit(pool.address, found))


def find(pool: Pool) -> Place | None:
    """Return the place of the store, None if there is none."""
    name = pool.address.name
    found: list[Any] = pool.run(_FIND, [_name_of(name)], [])
    return None if found == [None, None, None] else Place.of(name, _admit(pool.address, found))


def _admit(address: Address, found: list[Any]) -> bytes:
    identity, form, last = found
    if not identity or not form or not (last or b"").isdigit():
        raise CorruptError(
            url=address.url,
            reason=f"R1: the key {_name_of(address.name).decode()} is not a store's",
            advice="Look whose it is, and use another name or database.",
        )
    if form != b"%d" % FORMAT:
        raise UnavailableError(
            url=address.url,
            reason=f"the store has format version {form.decode(errors='replace')}, this library reads version {FORMAT}",
            advice="Use the version of sharedstate that made it.",
        )
    own: bytes = identity
    return own


def retire(pool: Pool) -> None:
    """Remove the store; what it had is removed by `bury`.

    Raises:
        UnavailableError: there is none.
    """
    place = find(pool)
    if place is None or pool.run(_RETIRE, [place.store, place.store + b":retired"], [place.id])[0]:
        raise UnavailableError(url=pool.address.url, reason="there is no such store", advice="Nothing to remove.")


def bury(pool: Pool) -> None:
    """Remove what removed stores of this name have left, a few entries at a time."""
    from sharedstate_redis.sessions import pack

    retired = _name_of(pool.address.name) + b":retired"
    for identity in pool.read(pack(b"SMEMBERS", retired)):
        place = Place.of(pool.address.name, identity)
        keys = [retired, place.entries, place.locks, place.sharers]
        while pool.run(_BURY, keys, [identity, b"%d" % _BATCH])[1]:
            pass
