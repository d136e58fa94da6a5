"""How far a value travels, how long it outlives its writer, and who writes it.

Every backend states its facts once, in its `Capabilities`; the conformance
suite and `sharedstate probe` hold it to them.  Nothing else in the library may
guess them from a backend's name.
"""

from __future__ import annotations

import os
import sys

# Not threading: a first import of it on a sub-interpreter's second thread makes
# CPython 3.11 and 3.12 hang when the interpreter ends.
from _thread import get_native_id
from enum import Enum, IntEnum

from sharedstate._light import NamedTuple

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any, Final

# Not dataclasses: they import inspect, which each fresh interpreter would pay
# for with more time than everything else here costs.

ABSENT: Final = 0
"""The generation of a key that is not there; every entry's is greater."""


class Missing(Enum):
    """The type of `MISSING`, which no stored value can be: None is a value."""

    MISSING = 0


MISSING: Final = Missing.MISSING


class Scope(IntEnum):
    """The widest set of callers that see one another's writes.

    Ordered: a backend of some scope also serves every narrower one.
    """

    INTERPRETER = 1  # threads of one interpreter
    PROCESS = 2  # sub-interpreters too: no Python object crosses, only bytes
    HOST = 3  # any process that can open the same name
    CLUSTER = 4  # any host that can reach the server


class Durability(IntEnum):
    """What the state outlives.  Ordered: each level also gives the ones before it."""

    PROCESS = 1  # dies with the last process, or interpreter, that uses it
    BOOT = 2  # outlives every process, lost at reboot
    DISK = 3  # outlives a reboot


class Clock(Enum):
    """The clock that decides whether an entry has expired."""

    BOOT = "boot"  # seconds since the host booted: steps of the wall clock do not matter
    WALL = "wall"  # seconds since 1970 on the storage's side: steps move every deadline


class Capabilities(NamedTuple):
    """What a backend promises; each field is tested, none is inferred.

    Attributes:
        scope: the widest boundary across which its handles share state.
        durability: what its state outlives.
        clock: the clock of `ttl_s` and of `Entry.expires_at`.
        max_value_bytes: the largest encoded value, in bytes.
        max_transaction_keys: how many keys one commit may write or expect.
        evicts: a full store evicts instead of raising `CapacityError`.
    """

    scope: Scope
    durability: Durability
    clock: Clock
    max_value_bytes: int
    max_transaction_keys: int
    evicts: bool = False


class Costs(NamedTuple):
    """What a backend's verbs cost, so that the cheapest that suffices can be chosen.

    Of an int among 10,000, in nanoseconds: the medians of docs/benchmarks.md.
    They serve to compare backends with one another, not to predict a program.
    """

    get_ns: float
    set_ns: float


class Entry(NamedTuple):
    """One key's value at one generation.

    Attributes:
        value: a copy; changing it changes no store.
        generation: greater than every earlier one of this key.
        expires_at: seconds on the backend's clock (`Capabilities.clock`), or None.
    """

    value: Any
    generation: int
    expires_at: float | None = None


class Keep(Enum):
    """The type of `KEEP`."""

    KEEP = 0


KEEP: Final = Keep.KEEP
"""As the `ttl_s` of a write: the entry expires when it would have, as that stands at the moment of the write.

Only for a key that is expected at some generation, and not `ABSENT`: `touch`
changes no generation, so who read a deadline cannot know that it still holds.
"""


class Put(NamedTuple):
    """A write of one key in a commit.  `ttl_s` None: until deleted or evicted; or `KEEP`."""

    value: Any
    ttl_s: float | Keep | None = None


class Delete(Enum):
    """The type of `DELETE`."""

    DELETE = 0


DELETE: Final = Delete.DELETE
"""The removal of one key in a commit; removing an absent key is no error."""

Write = Put | Delete


# --- Owners ------------------------------------------------------------------


_constant: dict[str, Any] = {}  # what cannot change while this process lives, read once


def boot_id() -> str:
    """Return the kernel's random id of this boot, or "" where there is none."""
    if "boot" not in _constant:
        _constant["boot"] = _read_text("/proc/sys/kernel/random/boot_id").strip()
    boot: str = _constant["boot"]
    return boot


def _own_start_time(pid: int) -> int:
    if _constant.get("pid") != pid:  # never read, or read by the parent of this forked process
        _constant.update(pid=pid, started=process_start_time(pid))
    started: int = _constant["started"]
    return started


def process_start_time(pid: int) -> int:
    """Return when `pid` started, in clock ticks since boot; 0 if there is no such process."""
    # Field 22 of proc(5); the second one, the name, may itself hold spaces and parentheses.
    stat = _read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(stat[19]) if len(stat) > 19 and stat[0] not in {"Z", "X"} else 0


def interpreter_id() -> int:
    """Return the id of the running (sub-)interpreter; 0 is the main one."""
    # CPython's own module, under its name of the version; not imported by
    # statement, since each version's type stubs know one of the two at most.
    module: Any = __import__("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
    current: Any = module.get_current()
    return int(current[0] if sys.version_info >= (3, 13) else current)


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


class Owner(NamedTuple):
    """Who holds a lock or runs a task.

    A bare pid is never an identity: pids are reused, and several interpreters
    and threads share one.  The token tells two claims of one thread apart.
    """

    boot: str
    pid: int
    started: int  # clock ticks since boot
    interpreter: int
    thread: int  # the kernel's id: unique on the host while the thread lives
    token: str

    @classmethod
    def current(cls) -> Owner:
        """Return a new claim of the calling thread; two calls are never equal."""
        pid = os.getpid()
        return cls(
            boot=boot_id(),
            pid=pid,
            started=_own_start_time(pid),
            interpreter=interpreter_id(),
            thread=get_native_id(),
            token=os.urandom(8).hex(),
        )

    def is_alive(self) -> bool:
        """Return whether the process (not the thread) still runs, as seen from this pid namespace."""
        return self.boot == boot_id() and bool(self.started) and process_start_time(self.pid) == self.started

    def __str__(self) -> str:
        interpreter = f", interpreter {self.interpreter}" if self.interpreter else ""
        return f"pid {self.pid}{interpreter}, thread {self.thread}"


class LockRecord(NamedTuple):
    """What a lock says of itself, to anyone who asks.

    Attributes:
        name: as given to `Store.lock` of the store, or namespace, that was asked.
        held: whether somebody holds it now.
        token: the fencing token of the latest acquisition.
        owner: who made it.
        acquired_at: when, in seconds since 1970.
    """

    name: str
    held: bool
    token: int
    owner: Owner
    acquired_at: float


class Sharer(NamedTuple):
    """One handle that has a store open just now, as it told of itself.

    Attributes:
        token: its name among the sharers; never used twice.
        owner: who opened it.
        since: when, in seconds since 1970.
        facts: what else it said: server, incarnation and so on.
    """

    token: str
    owner: Owner
    since: float
    facts: dict[str, Any]


class Change(NamedTuple):
    """One key's change as seen by `Store.watch`; `entry` None: the key is gone."""

    key: str
    entry: Entry | None
