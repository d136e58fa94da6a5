"""What the server runs: each verb that writes is one script, which nothing comes between.

Every script begins with `_HEAD`: it finds the store, or answers GONE, and reads
the clock.  Its first key is the store's own (`place`), its second, for most, the
index, whose name is also what an entry's name begins with.  It answers with a
list whose first item is one of the numbers below.

    L1  Lua's only numbers are doubles.  Generations and times stay below 2**53,
        where those are exact, until the year 2255; ints of callers never become
        a double, but are added in two halves of ten digits.
    L2  A generation is the greater of the last one plus 1 and the server's clock in
        microseconds: so it grows also where the server has lost its last writes.
    L3  What may fail is done, and what may be refused is looked at, before the
        first write of an entry: a script is never undone.
    L4  An entry's deadline stands in its cell, in the index, and in the server's
        own expiry of the key; the latter is one millisecond less, because the
        server keeps a key during the millisecond that it expires at.
    L5  In a cluster each script names one key more that is never there.  A node
        from which the slot is being moved refuses whoever names a key that it
        lacks: so no script sees half of a store, or fails in its midst because a
        key that it writes is elsewhere.
"""

from __future__ import annotations

from hashlib import sha1
from typing import TYPE_CHECKING, Final

from sharedstate_redis.sessions import pack

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "ACQUIRE",
    "ANNOUNCE",
    "COMMIT",
    "COMMIT_FREEING",
    "COUNT",
    "DONE",
    "FOREIGN",
    "GONE",
    "HOLDS",
    "HOLDS_AT_PRIMARY",
    "INCREMENT",
    "INSPECT",
    "IS_PRESENT",
    "LEAVE",
    "LOCKS",
    "NOW",
    "REFUSED",
    "RELEASE",
    "REMOVE",
    "SCAN",
    "SHARERS",
    "TAKE",
    "TOUCH",
    "Script",
]

DONE: Final = 0
REFUSED: Final = 1  # by what is stored: a conflict, a lock that is held, a value that is no number
GONE: Final = 2  # the store is not there, or is another one
FOREIGN: Final = 3  # the entry that is named next is none of ours


# What differs in a cluster: listeners are its shard's, who are cut off when the slot goes to another node.
_ALONE: Final = "local NUMSUB = 'NUMSUB'\n"
_IN_CLUSTER: Final = "local NUMSUB = 'SHARDNUMSUB'\nKEYS[#KEYS] = nil\n"


class Script:
    """One script.

    Attributes:
        text: in Lua, as the server gets it.
        writes: whether it may change anything.
    """

    __slots__ = ("_digest", "_in_cluster", "_parts", "text", "writes")

    def __init__(self, body: str, flags: str = "", head: str = "", setting: str = _ALONE) -> None:
        self.writes = "no-writes" not in flags
        self.text = f"#!lua{' flags=' + flags if flags else ''}\n{setting}{head}{body}".encode()
        self._parts = body, flags, head
        self._digest = sha1(self.text, usedforsecurity=False).hexdigest().encode()  # it is the server's name for it
        self._in_cluster: Script | None = None

    def in_cluster(self) -> Script:
        """Return the same as a cluster's node runs it: with one key more, the last, which is never there (L5)."""
        if self._in_cluster is None:
            self._in_cluster = Script(*self._parts, _IN_CLUSTER)
        return self._in_cluster

    def request(self, keys: Sequence[bytes], arguments: Sequence[bytes]) -> bytes:
        """Return the packed command that runs it."""
        return pack(b"EVALSHA", self._digest, b"%d" % len(keys), *keys, *arguments)


# ARGV[1] is the id of the store that the handle was opened on.
_HEAD: Final = """
local call = redis.call
local meta = call('HMGET', KEYS[1], 'id', 'last')
if meta[1] ~= ARGV[1] then return {2} end
local clock = call('TIME')
local now_us = clock[1] * 1000000 + clock[2]

local function digits(number)
    return string.format('%.0f', number)
end
"""

# Reading and writing entries.  A deadline is '' or digits.
_ENTRIES: Final = (
    _HEAD
    + """
local function parse(cell)
    return string.match(cell, '^(%d+) (%d*) ()')
end

local function next_generation()
    local generation = digits(math.max(meta[2] + 1, now_us))
    call('HSET', KEYS[1], 'last', generation)
    return generation
end

local function deadline_in(ttl_us)
    return ttl_us == '' and '' or digits(math.floor((now_us + ttl_us) / 1000))
end

local function name_of(key)
    return string.sub(key, #KEYS[2] + 1)
end

local function drop(key)
    call('ZREM', KEYS[2], name_of(key))
    return call('DEL', key)
end

local function put(key, generation, deadline, value)
    local cell = generation .. ' ' .. deadline .. ' ' .. value
    if deadline == '' then
        call('ZADD', KEYS[2], '+inf', name_of(key))
        call('SET', key, cell)
    elseif deadline * 1000 <= now_us then
        drop(key)
    else
        call('ZADD', KEYS[2], deadline, name_of(key))
        call('SET', key, cell, 'PXAT', digits(deadline - 1))
        -- Each write that may expire takes more of those that have out of the index than it adds.
        local expired = call('ZRANGE', KEYS[2], '-inf', digits(math.floor(now_us / 1000)), 'BYSCORE', 'LIMIT', 0, 4)
        if #expired > 0 then call('ZREM', KEYS[2], unpack(expired)) end
    end
end
"""
)

# ARGV from 2 on, four for each of KEYS from 3 on: the generation expected or '', what to do (p put, k put and keep the
# deadline, d delete, or nothing), microseconds to live or '', value.
_COMMIT: Final = """
local kept = {}
local is_writing = false
for i = 3, #KEYS do
    local at = 4 * (i - 3) + 2
    local expected, verb = ARGV[at], ARGV[at + 1]
    if expected ~= '' or verb == 'k' then
        local header = call('GETRANGE', KEYS[i], 0, 39)
        local found = '0'
        if header ~= '' then
            found, kept[i] = parse(header)
            if not found then return {3, i - 3} end
        end
        if expected ~= '' and expected ~= found then return {1, i - 3, found} end
    end
    is_writing = is_writing or verb ~= ''
end
if not is_writing then return {0, '0'} end
local generation = next_generation()
for i = 3, #KEYS do
    local at = 4 * (i - 3) + 2
    local verb = ARGV[at + 1]
    if verb == 'p' then
        put(KEYS[i], generation, deadline_in(ARGV[at + 2]), ARGV[at + 3])
    elseif verb == 'k' then
        put(KEYS[i], generation, kept[i] or '', ARGV[at + 3])
    elseif verb == 'd' then
        drop(KEYS[i])
    end
end
return {0, generation}
"""

COMMIT: Final = Script(_COMMIT, "", _ENTRIES)
COMMIT_FREEING: Final = Script(_COMMIT, "allow-oom", _ENTRIES)
"""The same for commits that only delete, which a full server allows too."""

# KEYS[3] the entry; ARGV[2] what to add, ARGV[3] to what if it is absent, ARGV[4] microseconds to live then, or ''.
# A number is digits, or \xcb and the eight bytes of a double.
INCREMENT: Final = Script(
    """
local function is_int(packed)
    return string.match(packed, '^%-?%d+$')
end

local function is_float(packed)
    return #packed == 9 and string.byte(packed) == 203
end

-- An int as high * 1e10 + low, both of its sign (L1).
local function split(packed)
    local sign, all = string.match(packed, '^(%-?)(%d+)$')
    local high, low = tonumber(string.sub(all, 1, -11)) or 0, tonumber(string.sub(all, -10))
    if sign == '-' then return -high, -low end
    return high, low
end

-- Return the sum of two ints, or nil if it is beyond -2**63 to 2**64 - 1.
local function sum(one, other)
    local one_high, one_low = split(one)
    local other_high, other_low = split(other)
    local high, low = one_high + other_high, one_low + other_low
    if low >= 1e10 then high, low = high + 1, low - 1e10 end
    if low <= -1e10 then high, low = high - 1, low + 1e10 end
    if high > 0 and low < 0 then high, low = high - 1, low + 1e10 end
    if high < 0 and low > 0 then high, low = high + 1, low - 1e10 end
    if high > 1844674407 or (high == 1844674407 and low > 3709551615) then return nil end
    if high < -922337203 or (high == -922337203 and low < -6854775808) then return nil end
    local sign = (high < 0 or low < 0) and '-' or ''
    high, low = math.abs(high), math.abs(low)
    if high == 0 then return sign .. digits(low) end
    return sign .. digits(high) .. string.format('%010.0f', low)
end

local function double(packed)
    if is_int(packed) then return tonumber(packed) end
    return (struct.unpack('>d', string.sub(packed, 2)))
end

local cell = call('GET', KEYS[3])
local deadline, value
if cell then
    local generation, at
    generation, deadline, at = parse(cell)
    if not generation then return {3, 0} end
    value = string.sub(cell, at)
else
    deadline, value = deadline_in(ARGV[4]), ARGV[3]
end
local by, total = ARGV[2], nil
if is_int(value) and is_int(by) then
    total = sum(value, by)
elseif (is_int(value) or is_float(value)) and (is_int(by) or is_float(by)) then
    total = '\\203' .. struct.pack('>d', double(value) + double(by))
end
if not total then return {1} end
put(KEYS[3], next_generation(), deadline, total)
return {0, total}
""",
    "",
    _ENTRIES,
)

# KEYS[3] the entry; ARGV[2] microseconds to live, or ''.
TOUCH: Final = Script(
    """
local cell = call('GET', KEYS[3])
if not cell then return {0, 0} end
local generation, _, at = parse(cell)
if not generation then return {3, 0} end
next_generation()
put(KEYS[3], generation, deadline_in(ARGV[2]), string.sub(cell, at))
return {0, 1}
""",
    "allow-oom",
    _ENTRIES,
)

# KEYS from 3 on the entries.
REMOVE: Final = Script(
    """
local removed = 0
for i = 3, #KEYS do removed = removed + drop(KEYS[i]) end
if removed > 0 then next_generation() end
return {0, removed}
""",
    "allow-oom",
    _ENTRIES,
)

# KEYS[3] the entry.
TAKE: Final = Script(
    """
local cell = call('GET', KEYS[3])
if not cell then return {0} end
next_generation()
drop(KEYS[3])
return {0, cell}
""",
    "allow-oom",
    _ENTRIES,
)

# --- Looking at the index -------------------------------------------------------

# ARGV[2] the cursor, ARGV[3] what names begin with, ARGV[4] about how many to look at.
_STEP: Final = """
local step = call('ZSCAN', KEYS[2], ARGV[2], 'COUNT', ARGV[4])
local found = {0, step[1]}
local now_ms = math.floor(now_us / 1000)
for i = 1, #step[2], 2 do
    local name, deadline = step[2][i], step[2][i + 1]
    if (deadline == 'inf' or tonumber(deadline) > now_ms) and string.sub(name, 1, #ARGV[3]) == ARGV[3] then
"""

SCAN: Final = Script(
    _STEP
    + """
        -- An evicting server drops entries, and tells nobody.
        if ARGV[5] == '' or call('EXISTS', KEYS[2] .. name) == 1 then found[#found + 1] = name end
    end
end
return found
""",
    "no-writes",
    _HEAD,
)

COUNT: Final = Script(
    "return {0, call('ZCOUNT', KEYS[2], '(' .. digits(math.floor(now_us / 1000)), '+inf')}", "no-writes", _HEAD
)

# For each name: itself, its deadline in the index, its cell or false, when the server expires it.
INSPECT: Final = Script(
    _STEP
    + """
        local key = KEYS[2] .. name
        found[#found + 1] = {name, deadline, call('GET', key), call('PEXPIRETIME', key)}
    end
end
found[#found + 1] = meta[2]
return found
""",
    "no-writes",
    _HEAD,
)

NOW: Final = Script("return {0, digits(now_us), meta[2]}", "no-writes", _HEAD)

# --- Who lives --------------------------------------------------------------------

# Everything that ends with a process names the channel that only its connection listens to: no listener, no owner.
# ARGV[2] is what the names of channels begin with.
_ALIVE: Final = (
    _HEAD
    + """
local function lives(nonce)
    return tonumber(call('PUBSUB', NUMSUB, ARGV[2] .. nonce)[2]) > 0
end
"""
)

# A lock's record: + (held) or -, token, microseconds since 1970, the owner's nonce, the owner.
_LOCKS: Final = (
    _ALIVE
    + """
local function parse(record)
    return string.match(record, '^([+-]) (%d+) (%d+) (%S+) (.*)$')
end
"""
)

# KEYS[2] the locks; ARGV[3] the lock's name, ARGV[4] our nonce, ARGV[5] the owner.
ACQUIRE: Final = Script(
    """
local record = call('HGET', KEYS[2], ARGV[3])
local last = 0
if record then
    local state, token, at, nonce, owner = parse(record)
    if not state then return {3, record} end
    if state == '+' and lives(nonce) then return {1, owner} end
    last = token
end
-- As a generation (L2).
local token = digits(math.max(last + 1, now_us))
call('HSET', KEYS[2], ARGV[3], table.concat({'+', token, digits(now_us), ARGV[4], ARGV[5]}, ' '))
return {0, token}
""",
    "",
    _LOCKS,
)

# KEYS[2] the locks; ARGV[3] the lock's name, ARGV[4] our nonce, ARGV[5] the owner, as it was acquired.
_MINE: Final = """
local record = call('HGET', KEYS[2], ARGV[3])
if not record then return {1} end
local state, token, at, nonce, owner = parse(record)
if state ~= '+' or nonce ~= ARGV[4] or owner ~= ARGV[5] then return {1} end
"""
RELEASE: Final = Script(
    _MINE + "call('HSET', KEYS[2], ARGV[3], '-' .. string.sub(record, 2))\nreturn {0}\n", "allow-oom", _LOCKS
)
_HOLDS: Final = _MINE + "return {lives(nonce) and 0 or 1}\n"
HOLDS: Final = Script(_HOLDS, "no-writes", _LOCKS)
HOLDS_AT_PRIMARY: Final = Script(_HOLDS, "allow-oom", _LOCKS)
"""The same as if it wrote: a replica, and a primary that lacks the replicas it should have, refuse to say."""

# KEYS[2] the locks.  For each its name, its record, and whether its latest owner lives.
LOCKS: Final = Script(
    """
local all = call('HGETALL', KEYS[2])
local found = {0}
for i = 1, #all, 2 do
    local state, token, at, nonce = parse(all[i + 1])
    found[#found + 1] = {all[i], all[i + 1], state == '+' and lives(nonce) and 1 or 0}
end
return found
""",
    "no-writes",
    _LOCKS,
)

# A sharer's record: its nonce, and what it tells of itself.
_SHARERS: Final = (
    _ALIVE
    + """
local function is_there(record)
    return lives(string.match(record, '^(%S+) '))
end
"""
)

# KEYS[2] the sharers; ARGV[3] the token, ARGV[4] the record.  Each that comes removes more of the dead than one.
ANNOUNCE: Final = Script(
    """
local some = call('HRANDFIELD', KEYS[2], 4, 'WITHVALUES')
for i = 1, #some, 2 do
    if not is_there(some[i + 1]) then call('HDEL', KEYS[2], some[i]) end
end
call('HSET', KEYS[2], ARGV[3], ARGV[4])
return {0}
""",
    "",
    _SHARERS,
)

# KEYS[2] the sharers.
SHARERS: Final = Script(
    """
local all = call('HGETALL', KEYS[2])
local found = {0}
for i = 1, #all, 2 do
    if is_there(all[i + 1]) then
        found[#found + 1] = all[i + 1]
    else
        call('HDEL', KEYS[2], all[i])
    end
end
return found
""",
    "allow-oom",
    _SHARERS,
)

# KEYS[2] the sharers; ARGV[3] the token.
IS_PRESENT: Final = Script(
    """
local record = call('HGET', KEYS[2], ARGV[3])
return {0, record and is_there(record) and 1 or 0}
""",
    "no-writes",
    _SHARERS,
)

# KEYS[2] the sharers; ARGV[3] the token, ARGV[4] our nonce: who came again by another connection stays.
LEAVE: Final = Script(
    """
local record = call('HGET', KEYS[2], ARGV[3])
if record and string.match(record, '^(%S+) ') == ARGV[4] then call('HDEL', KEYS[2], ARGV[3]) end
return {0}
""",
    "allow-oom",
    _SHARERS,
)
