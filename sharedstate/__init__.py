"""State that is really shared: one API over memory, files, SQLite and shared memory.

>>> import sharedstate
>>> store = sharedstate.open("memory:readme")
>>> store["greeting"] = {"hello": "world"}
>>> store.increment("visits")
1
"""

from sharedstate.errors import (
    BackendMissingError,
    CapacityError,
    ClosedError,
    ConflictError,
    CorruptError,
    CounterOverflowError,
    KeyFormatError,
    LockLostError,
    LockOwnershipError,
    LockTimeoutError,
    OutcomeUnknownError,
    ScopeError,
    StateError,
    StoreAccessError,
    UnavailableError,
    UrlError,
    ValueTypeError,
)
from sharedstate.model import ABSENT, Capabilities, Change, Clock, Durability, Entry, LockRecord, Owner, Scope
from sharedstate.opening import open_store as open  # noqa: A004  sharedstate.open() reads as what it does
from sharedstate.opening import remove
from sharedstate.store import Store
from sharedstate.transactions import Transaction

__all__ = [
    "ABSENT",
    "BackendMissingError",
    "Capabilities",
    "CapacityError",
    "Change",
    "Clock",
    "ClosedError",
    "ConflictError",
    "CorruptError",
    "CounterOverflowError",
    "Durability",
    "Entry",
    "KeyFormatError",
    "LockLostError",
    "LockOwnershipError",
    "LockRecord",
    "LockTimeoutError",
    "OutcomeUnknownError",
    "Owner",
    "Scope",
    "ScopeError",
    "StateError",
    "Store",
    "StoreAccessError",
    "Transaction",
    "UnavailableError",
    "UrlError",
    "ValueTypeError",
    "open",
    "remove",
]
