"""Who owns a record, whether it may be taken over, and how a late write is refused.

    C1  The owner is a store handle's place among the sharers (`Store.join`),
        not a pid; and each claim has an id of its own, so that two claims by
        one handle differ.
    C2  A record may be taken over only once its owner is gone for good: the
        kernel says that the handle is absent, which it then stays (S1, S3); or
        the handle is the asker's own and the claim's object has ended.  Time
        never decides: slow, stopped and hung owners keep what they own.
    C3  To take over is one compare-and-set on the generation at which the
        record was judged, so of many takers one succeeds.
    C4  Every write of an owner is checked, in the same commit, against the
        claim that stands in the record: one that passed on refuses it, however
        late it comes.
    C5  A forked child owns nothing of its parent's: its handle has another place.

Thread safety: any thread of the owning interpreter may act for a claim.
Crash: a claim that was never recorded, or never taken back, is one whose owner
is gone: see C2.
"""

from __future__ import annotations

import os
import time
from _weakref import ref

from sharedstate.backend.waiting import Backoff, Deadline
from sharedstate.errors import ClaimLostError, ConflictError, CorruptError, KeyFormatError, ScopeError
from sharedstate.model import MISSING, Owner

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType
    from typing import Any, Final

    from sharedstate.store import Store
    from sharedstate.transactions import Transaction

__all__ = [
    "KEYS",
    "Claim",
    "Fenced",
    "Living",
    "corrupt",
    "find_owners",
    "find_stopping",
    "in_words",
    "is_shaped",
    "key_of",
    "now_s",
    "require_lasting",
    "require_ours",
    "transact",
]

KEYS: Final = "sharedstate:"
"""What every key and lock that we put into a user's store starts with."""

_OWNED: Final = ("tasks", "semaphore", "leader")  # of `key_of`
_READ_AT_ONCE: Final = 500

_LONGEST_ERROR: Final = 2000

_held: dict[str, ref[Claim]] = {}  # by id: the claims of this interpreter, some of them dead


def _is_held(claim: str) -> bool:
    found = _held.get(claim)
    return found is not None and found() is not None


class Claim:
    """One hold on one record, by this handle; it ends with this object at the latest (C2).

    Attributes:
        id: differs from that of every other claim.
        owner: the handle's place among the sharers.
        who: the calling thread, for people.
    """

    # No __del__: a Ctrl-C that comes while one runs is lost.
    __slots__ = ("__weakref__", "_store", "id", "owner", "who")

    def __init__(self, store: Store) -> None:
        for claim in [claim for claim, held in list(_held.items()) if held() is None]:
            _held.pop(claim, None)
        self.id = os.urandom(8).hex()
        self._store = store
        self.owner = store.join()
        self.who = str(Owner.current())
        _held[self.id] = ref(self)  # before anyone can read it in a record

    def is_ours(self) -> bool:
        """Return whether the caller may act for it: not in a forked child, and not once it ended."""
        return _is_held(self.id) and self._store.join() == self.owner

    def end(self) -> None:
        """Let others of this interpreter take over what it owns.  Ending twice is no error."""
        _held.pop(self.id, None)


class Living:
    """Who is present, asked once of each owner: for one look over many records."""

    __slots__ = ("_known", "_me", "_store")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._me = store.join()
        self._known: dict[str, bool] = {}

    def holds(self, owner: str, claim: str) -> bool:
        """Return whether that claim by that owner still stands (C2)."""
        if owner == self._me:
            return _is_held(claim)
        if owner not in self._known:
            self._known[owner] = self._store.is_present(owner)
        return self._known[owner]

    def owns(self, owner: Any, claim: Any) -> bool:
        """Return the same of what stands in some record, which names no claim where it is a leader's."""
        if type(owner) is not str or not owner:
            return False
        return self.holds(owner, claim) if type(claim) is str else self._store.is_present(owner)


def find_owners(store: Store, keys: Iterable[str]) -> list[str]:
    """Return in words what those who live own under some of `keys`: tasks that run, permits, leaderships.

    Also in namespaces.  A body that runs `once` holds a lock, and is not told here.
    """
    records = [key for key in keys if KEYS in key and _kind_of(key) in _OWNED]
    living = Living(store)
    found: list[str] = []
    for at in range(0, len(records), _READ_AT_ONCE):
        for key, value in sorted(store.get_many(records[at : at + _READ_AT_ONCE]).items()):
            found += [f"{key.partition(KEYS)[2]!r}: {who}" for who in _owners_in(value, living)]
    return found


def _kind_of(key: str) -> str:
    space, _, rest = key.partition(KEYS)
    return "" if space and space[-1] != ":" else rest.partition("/")[0]


def _owners_in(value: Any, living: Living) -> list[str]:
    """Return who owns a record; of a semaphore's, all who hold a permit.  What is no record of ours has no owner."""
    permits = _fields_of(value).get("permits")
    records: list[Any] = permits if isinstance(permits, list) else [value]  # pyright: ignore[reportUnknownVariableType]
    every = [_fields_of(record) for record in records]
    return [str(fields.get("who")) for fields in every if living.owns(fields.get("owner"), fields.get("claim"))]


def _fields_of(value: Any) -> dict[Any, Any]:
    fields: dict[Any, Any] = value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]
    return fields


# --- Writing as an owner ------------------------------------------------------


class Fenced:
    """A transaction that commits only while the record at `key` is still the caller's (C4).

    Args:
        store: of the record, and of the effects.
        key: of the record.
        verify: returns what the record's value means; raises `ClaimLostError` if
            that (`MISSING`: it is gone) says that the claim passed on.
        conclude: called with the transaction and what `verify` returned, after
            the block: to change the record along with it.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        verify: Callable[[Any], Any],
        conclude: Callable[[Transaction, Any], object] | None = None,
    ) -> None:
        self._store = store
        self._key = key
        self._verify = verify
        self._conclude = conclude
        self._transaction = store.transaction()

    def __enter__(self) -> Transaction:
        self._look()
        return self._transaction

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        record = self._look()  # anew if the block has committed, so that what came after that is fenced too
        if self._conclude is not None:
            self._conclude(self._transaction, record)
        try:
            self._transaction.commit()
        except ConflictError as conflict:
            if conflict.key == self._key:
                self._verify(self._store.get(self._key, MISSING))
            raise

    def _look(self) -> Any:
        # What a transaction has read is what its commit expects.
        return self._verify(self._transaction.get(self._key, MISSING))


def transact(begin: Callable[[], Fenced], body: Callable[[Transaction], Any], timeout_s: float | None = None) -> Any:
    """Run `body(tx)` in a fenced transaction and return its result, again while others come between.

    Raises:
        ClaimLostError: the record is not the caller's any more; nothing was written.
        ConflictError: every attempt within `timeout_s` lost a race; nothing was written.
    """
    deadline, backoff = Deadline(timeout_s), Backoff()
    while True:
        try:
            with begin() as transaction:
                return body(transaction)
        except ConflictError:
            if deadline.has_passed():
                raise
            backoff.sleep(deadline)


def require_ours(claim: Claim, owner: Any, found: Any, what: str) -> None:
    """Check that a record, by its `owner` and the id `found` in it, is that of `claim` and the claim the caller's.

    Raises:
        ClaimLostError: it is not.
    """
    if found != claim.id or owner != claim.owner:
        raise ClaimLostError(what=what, reason="it passed on to another owner" if found else "nobody owns it any more")
    if not claim.is_ours():
        raise ClaimLostError(what=what, reason="it has ended, or belongs to the parent of this forked process")


# --- Keys and records -------------------------------------------------------------


def key_of(kind: str, *names: str) -> str:
    """Return the key of a record; no two lists of names share one, whatever slashes they hold.

    Raises:
        KeyFormatError: a name is no str, or empty.
    """
    for name in names:
        if type(name) is not str or not name:
            raise KeyFormatError(found=f"made from the name {name!r}")
    quoted = [name.replace("%", "%25").replace("/", "%2F") for name in names[:-1]]
    return KEYS + "/".join([kind, *quoted, names[-1]])


def now_s() -> float:
    """Return the wall clock's time, to be shown to people and for nothing else."""
    return time.time()


def in_words(error: BaseException | str) -> str:
    """Return an error as a record can hold it: short, and whatever it is made of."""
    if not isinstance(error, str):
        try:
            error = f"{type(error).__name__}: {error}"
        except Exception:  # noqa: BLE001  its own __str__ failed, and may have raised anything
            error = type(error).__name__
    text = error if len(error) <= _LONGEST_ERROR else f"{error[:_LONGEST_ERROR]} ..."
    return text.encode("utf-8", "backslashreplace").decode()


def is_shaped(value: Any, shape: Mapping[str, tuple[type, ...]]) -> bool:
    """Return whether `value` is a dict of exactly these keys, each value of one of its types.

    A key without types may have any value.
    """
    if type(value) is not dict or value.keys() != shape.keys():  # pyright: ignore[reportUnknownMemberType]
        return False
    fields: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
    return all(not types or type(fields[key]) in types for key, types in shape.items())


def corrupt(store: Store, key: str, what: str) -> CorruptError:
    """Return the error that says that `key` holds something else than a record of ours."""
    advice = "If no program uses that key as its own, delete it; what it recorded is forgotten then."
    return CorruptError(url=store.url, reason=f"{key!r} holds no record of {what}", advice=advice)


def require_lasting(store: Store, what: str) -> None:
    """Refuse a store that may forget on its own what `what` relies on.

    Raises:
        ScopeError: it evicts.
    """
    if store.capabilities.evicts:
        raise ScopeError(
            url=store.url,
            needed=f"a store that keeps its entries, for {what}",
            given="eviction when it is full",
            advice="Open one without full=evict for coordination, beside this one for caching.",
        )


def find_stopping() -> Callable[[], bool]:
    """Return what tells whether this process has been told to stop; it is told from now on."""
    from sharedstate.deployment.lifecycle import is_stopping

    is_stopping()
    return is_stopping
