"""The contract: what one kind of storage must do to be a backend.

A plug-in is a module named `sharedstate_<scheme>` (or an entry point of the
group `sharedstate.backends`) with a function `connect`; see `plugin.Plugin`.  What it
returns implements `Backend`.  Nine primitives are enough: every other verb is
derived from them here, and may be overridden where the storage does it faster.

The promises, which `sharedstate.testing` proves of every backend:

    P1  Value semantics: what goes in is copied, what comes out is the caller's.
    P2  Each verb on one key is linearizable within `capabilities.scope`.
    P3  `commit` is all or nothing and serializable, also after kill -9.
    P4  A key's generation only grows, also across delete, expiry and `clear`.
    P5  From its deadline on, an entry is absent to every verb.  A write that keeps a
        deadline (`KEEP`, `increment`) undoes no `touch`.
    P6  A refused write (an error other than `OutcomeUnknownError`) wrote nothing.
    P7  One handle serves any thread; after a fork the child may go on using it.
    P8  After `close` every verb raises `ClosedError`, and what is stored is unharmed.

Keys reach a backend as they are; it checks them with `values.check_key`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from sharedstate.backend.waiting import Backoff, Deadline, check_ttl, clock_s
from sharedstate.errors import ConflictError, CounterOverflowError, KeyFormatError, ValueTypeError
from sharedstate.model import ABSENT, DELETE, KEEP, Capabilities, Entry, Keep, LockRecord, Put, Sharer, Write
from sharedstate.values import check_key

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any, ClassVar, Final

    from sharedstate.backend.activity import Activity
    from sharedstate.backend.locks import Lock
    from sharedstate.backend.moves import Moved, MoveOrder
    from sharedstate.backend.presence import Presence

__all__ = ["Backend", "add_numbers", "batches_of"]

_NOTHING_EXPECTED: Mapping[str, int] = {}


class Backend(ABC):
    """One handle on one store.

    Attributes:
        url: opens the same store from any caller within the scope.
        capabilities: what this store promises.
    """

    url: str
    capabilities: Capabilities

    can_move: ClassVar[bool] = False
    """Whether it has `move_to`.  Once the store has moved, each verb raises `MovedError`, and has done nothing."""

    is_clocked: ClassVar[bool] = False
    """Whether a store can move here: each generation and fencing token is at least `now()` in microseconds, and so
    greater than all that a store gave which counts from 1, or goes by a clock that is behind; and it has `readmit`."""

    # --- The primitives -----------------------------------------------------

    @abstractmethod
    def read(self, key: str) -> Entry | None:
        """Return the entry of `key`, or None if it is absent or expired."""

    @abstractmethod
    def commit(self, writes: Mapping[str, Write], expected: Mapping[str, int] = _NOTHING_EXPECTED) -> dict[str, int]:
        """Apply all of `writes` if every key of `expected` is at that generation, else nothing.

        Args:
            writes: a `Put` or `DELETE` for each key to change.
            expected: the generation each key must be at, or `ABSENT`; its keys
                need not be written.

        Returns:
            For each written key its new generation, `ABSENT` if deleted.

        Raises:
            ConflictError: a key is at another generation; nothing was written.
            CapacityError: no room, or too many keys; nothing was written.
            ValueTypeError: a value is outside the value model; nothing was written.
            LockTimeoutError: the storage stayed locked; nothing was written.
        """

    @abstractmethod
    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys that start with `prefix`, in no order.

        A key that is there throughout the call is returned exactly once.
        """

    @abstractmethod
    def touch(self, key: str, ttl_s: float | None) -> bool:
        """Let `key` expire `ttl_s` seconds from now, or never; its generation stays.

        Returns:
            False if the key is absent.
        """

    @abstractmethod
    def change_token(self) -> int:
        """Return a number that differs after any change of the store's entries, deadlines included.

        An entry that expires is no change: who waits for that knows the deadline.
        """

    @abstractmethod
    def lock(self, name: str, timeout_s: float | None = None) -> Lock:
        """Return a lock of this name; it is not yet acquired."""

    @abstractmethod
    def locks(self) -> list[LockRecord]:
        """Return the locks that were ever acquired, with their latest owner."""

    @abstractmethod
    def announce(self, facts: Mapping[str, Any]) -> Presence:
        """Make the caller one of the store's sharers until the presence ends; see `presence` for S1 to S4."""

    @abstractmethod
    def sharers(self) -> list[Sharer]:
        """Return those who are present now."""

    @abstractmethod
    def stats(self) -> dict[str, int | float | str]:
        """Return figures for people: `entries`, `bytes`, `capacity_bytes` and the backend's own."""

    @abstractmethod
    def check(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Verify every stored byte's invariants, while others go on reading and writing.

        Args:
            progress: called now and then with how much is done, and of how much.

        Raises:
            CorruptError: names the invariant and where it is broken.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back what the handle holds.  What is stored stays; closing twice is no error."""

    # --- Derived from them; override what the storage does faster -----------

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, or `default`."""
        entry = self.read(key)
        return default if entry is None else entry.value

    def generation(self, key: str) -> int:
        """Return the generation of `key`, `ABSENT` if it is absent or expired: a read without the value."""
        entry = self.read(key)
        return ABSENT if entry is None else entry.generation

    def set(self, key: str, value: Any, ttl_s: float | None = None) -> None:
        """Store `value`, whatever was there; `ttl_s` None: until deleted or evicted."""
        self.commit({key: Put(value, ttl_s)})

    def add(self, key: str, value: Any, ttl_s: float | None = None) -> bool:
        """Store `value` if `key` is absent; return whether it was."""
        try:
            self.commit({key: Put(value, ttl_s)}, {key: ABSENT})
        except ConflictError:
            return False
        return True

    def delete(self, key: str) -> bool:
        """Remove `key`; return whether it was there."""
        return self.take(key) is not None

    def take(self, key: str) -> Entry | None:
        """Remove `key` and return what it was, or None."""
        backoff = Backoff()
        while entry := self.read(key):
            try:
                self.commit({key: DELETE}, {key: entry.generation})
            except ConflictError:
                backoff.sleep()
            else:
                return entry
        return None

    def compare_and_set(self, key: str, value: Any, expected: int, ttl_s: float | Keep | None = None) -> int:
        """Store `value` if `key` is at generation `expected`; return the new one.

        `ttl_s` may be `KEEP`, unless `expected` is `ABSENT` (`ValueTypeError`).
        """
        return self.commit({key: Put(value, ttl_s)}, {key: expected})[key]

    def increment(
        self, key: str, by: int | float = 1, initial: int | float = 0, ttl_s: float | None = None
    ) -> int | float:
        """Add `by` to the number at `key`, which starts at `initial` and expires as it did.

        `ttl_s` counts only when the key is created: a window starts at its first hit.
        """
        check_ttl(ttl_s)
        backoff = Backoff()
        while True:
            entry = self.read(key)
            total = add_numbers(key, initial if entry is None else entry.value, by)
            try:
                if entry is None:
                    self.commit({key: Put(total, ttl_s)}, {key: ABSENT})
                else:
                    self.commit({key: Put(total, KEEP)}, {key: entry.generation})
            except ConflictError:
                backoff.sleep()
            else:
                return total

    def count(self, prefix: str = "") -> int:
        """Return how many entries start with `prefix`."""
        return len(self.keys(prefix))

    def clear(self, prefix: str = "") -> int:
        """Remove the entries that start with `prefix`, each atomically; return how many."""
        return self.delete_many(self.keys(prefix))

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those of `keys` that are there; each read is its own."""
        entries = {key: self.read(key) for key in keys}
        return {key: entry.value for key, entry in entries.items() if entry is not None}

    def set_many(self, values: Mapping[str, Any], ttl_s: float | None = None) -> None:
        """Store all of `values`, each atomically; a refused one leaves those after it unwritten."""
        for key, value in values.items():
            self.set(key, value, ttl_s)

    def delete_many(self, keys: Iterable[str]) -> int:
        """Remove `keys`, each atomically; return how many were there."""
        return sum(self.delete(key) for key in keys)

    def wait(self, token: int, timeout_s: float | None = None) -> bool:
        """Wait until `change_token()` differs from `token`; False if it did not in time."""
        deadline, backoff = Deadline(timeout_s), Backoff()
        while self.change_token() == token:
            if deadline.has_passed():
                return False
            backoff.sleep(deadline)
        return True

    def is_present(self, token: str) -> bool:
        """Return whether the sharer of that token is present; once False, it stays so."""
        return any(sharer.token == token for sharer in self.sharers())

    def now(self) -> float:
        """Return the time, in seconds, on the clock that decides about expiry."""
        return clock_s(self.capabilities.clock)

    def activity(self) -> list[Activity]:
        """Return what each sharer has done here, with some of its calls; nothing where the backend does not count."""
        return []

    # --- Moving: for backends that say they can (`can_move`, `is_clocked`) ----

    def move_to(self, target: Backend, how: MoveOrder) -> Moved:
        """Bring all entries to `target` while others read and write, and end this store in its favour.

        Args:
            target: the handle on the new store, which `is_clocked`, and which nobody else uses yet.
            how: what to ask, and whom to tell.

        Raises:
            LockTimeoutError: somebody held something all the time; the store is as it was.
            StateError: what either store says; this one is as it was.
        """
        raise NotImplementedError

    def leave(self, to: str) -> None:
        """Let go of the store, which has moved: each further call raises `MovedError`, and asks nobody."""
        raise NotImplementedError

    def readmit(self, token: str, facts: Mapping[str, Any]) -> Presence:
        """Make the caller a sharer under the token that it had where this store was before (S5)."""
        raise NotImplementedError


def add_numbers(key: str, number: Any, by: Any) -> int | float:
    """Return `number + by`, all three checked to be what a counter may hold.

    Raises:
        ValueTypeError: one of them is no int or float (a bool is none), or `by`
            is an int beyond 64 bits.
        CounterOverflowError: the sum is an int beyond 64 bits.
    """
    if type(number) not in _NUMBERS or type(by) not in _NUMBERS:
        path, culprit = ("by", by) if type(by) not in _NUMBERS else (f"value of {key!r}", number)
        raise ValueTypeError(
            path=path, found=f"a {type(culprit).__name__}", advice="increment() adds int and float only."
        )
    if not _fits(by):
        raise ValueTypeError(path="by", found=f"{by}, an int beyond 64 bits", advice="Use a float, or several steps.")
    total: int | float = number + by
    if not _fits(total):
        raise CounterOverflowError(
            path=f"value of {key!r}",
            found=f"{number} + {by}, an int beyond 64 bits",
            advice="Use a float, or split it.",
        )
    return total


def batches_of(keys: Iterable[str], most: int) -> Iterator[list[str]]:
    """Yield `keys`, each checked, in lists of at most `most`.

    Raises:
        KeyFormatError: behind the list that ends with the last good one, as if they were served one by one.
    """
    batch: list[str] = []
    refused: KeyFormatError | None = None
    for key in keys:
        try:
            check_key(key)
        except KeyFormatError as error:
            refused = error
            break
        batch.append(key)
        if len(batch) == most:
            yield batch
            batch = []
    if batch:
        yield batch
    if refused is not None:
        raise refused


_NUMBERS: Final = frozenset({int, float})


def _fits(number: int | float) -> bool:
    return type(number) is float or -(2**63) <= number < 2**64
