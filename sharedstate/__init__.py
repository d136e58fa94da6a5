"""State that is really shared: one API over memory, files, SQLite and shared memory.

>>> import sharedstate
>>> store = sharedstate.open("memory:readme")
>>> store["greeting"] = {"hello": "world"}
>>> store.increment("visits")
1
"""

from sharedstate.errors import (
    AttemptsExhaustedError,
    BackendMissingError,
    CapacityError,
    ClaimLostError,
    ClaimTakenError,
    ClosedError,
    ConflictError,
    CorruptError,
    CounterOverflowError,
    KeyFormatError,
    LockLostError,
    LockOwnershipError,
    LockTimeoutError,
    MovedError,
    OutcomeUnknownError,
    ScopeError,
    StateError,
    StoppingError,
    StoreAccessError,
    UnavailableError,
    UrlError,
    ValueTypeError,
)
from sharedstate.model import ABSENT, Capabilities, Change, Clock, Durability, Entry, LockRecord, Owner, Scope
from sharedstate.opening import open_store as open  # noqa: A004  sharedstate.open() reads as what it does
from sharedstate.opening import remove
from sharedstate.store import Store

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from sharedstate.coordination import (
        Leader,
        RateLimit,
        Semaphore,
        Snapshot,
        Task,
        Tasks,
        forget_once,
        once,
    )
    from sharedstate.coordination.leading import Candidacy, while_leading
    from sharedstate.deployment import (
        MANY,
        Certainty,
        Deployment,
        Fact,
        Incarnation,
        detect,
        incarnation,
        is_stopping,
        when_serving,
        when_stopping,
    )
    from sharedstate.migration import (
        CopyReport,
        Differences,
        ImportReport,
        LeftBehind,
        MoveReport,
        SemanticChange,
        compare_capabilities,
        copy_entries,
        find_differences,
        import_diskcache,
        move_store,
    )
    from sharedstate.transactions import Transaction

__all__ = [
    "ABSENT",
    "MANY",
    "AttemptsExhaustedError",
    "BackendMissingError",
    "Candidacy",
    "Capabilities",
    "CapacityError",
    "Certainty",
    "Change",
    "ClaimLostError",
    "ClaimTakenError",
    "Clock",
    "ClosedError",
    "ConflictError",
    "CopyReport",
    "CorruptError",
    "CounterOverflowError",
    "Deployment",
    "Differences",
    "Durability",
    "Entry",
    "Fact",
    "ImportReport",
    "Incarnation",
    "KeyFormatError",
    "Leader",
    "LeftBehind",
    "LockLostError",
    "LockOwnershipError",
    "LockRecord",
    "LockTimeoutError",
    "MoveReport",
    "MovedError",
    "OutcomeUnknownError",
    "Owner",
    "RateLimit",
    "Scope",
    "ScopeError",
    "SemanticChange",
    "Semaphore",
    "Snapshot",
    "StateError",
    "StoppingError",
    "Store",
    "StoreAccessError",
    "Task",
    "Tasks",
    "Transaction",
    "UnavailableError",
    "UrlError",
    "ValueTypeError",
    "compare_capabilities",
    "copy_entries",
    "detect",
    "find_differences",
    "forget_once",
    "import_diskcache",
    "incarnation",
    "is_stopping",
    "move_store",
    "once",
    "open",
    "remove",
    "when_serving",
    "when_stopping",
    "while_leading",
]

_LAZY = {
    "MANY": "sharedstate.deployment",
    "Candidacy": "sharedstate.coordination.leading",
    "Certainty": "sharedstate.deployment",
    "CopyReport": "sharedstate.migration",
    "Deployment": "sharedstate.deployment",
    "Differences": "sharedstate.migration",
    "Fact": "sharedstate.deployment",
    "ImportReport": "sharedstate.migration",
    "Incarnation": "sharedstate.deployment",
    "Leader": "sharedstate.coordination",
    "LeftBehind": "sharedstate.migration",
    "MoveReport": "sharedstate.migration",
    "RateLimit": "sharedstate.coordination",
    "SemanticChange": "sharedstate.migration",
    "Semaphore": "sharedstate.coordination",
    "Snapshot": "sharedstate.coordination",
    "Task": "sharedstate.coordination",
    "Tasks": "sharedstate.coordination",
    "Transaction": "sharedstate.transactions",
    "compare_capabilities": "sharedstate.migration",
    "copy_entries": "sharedstate.migration",
    "detect": "sharedstate.deployment",
    "find_differences": "sharedstate.migration",
    "forget_once": "sharedstate.coordination",
    "import_diskcache": "sharedstate.migration",
    "incarnation": "sharedstate.deployment",
    "is_stopping": "sharedstate.deployment",
    "move_store": "sharedstate.migration",
    "once": "sharedstate.coordination",
    "when_serving": "sharedstate.deployment",
    "when_stopping": "sharedstate.deployment",
    "while_leading": "sharedstate.coordination.leading",
}
"""Names whose modules are imported when somebody asks for them (PEP 562): opening a store needs none of them."""


def __getattr__(name: str) -> object:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(__import__(module, fromlist=[name]), name)
    globals()[name] = found  # asked once
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
