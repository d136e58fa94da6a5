"""The user's mapping over one backend.

A `Store` adds names to a backend, not time: the verbs that a program calls a
million times are the backend's own bound methods, put on the instance, so no
frame of ours stands between the caller and the storage.  A namespace is a Store
too, whose verbs prefix the key.
"""

from __future__ import annotations

from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    MutableMapping,
    Sequence,
    ValuesView,
)

from sharedstate.backend.waiting import Backoff, Deadline
from sharedstate.errors import ClosedError, ConflictError, KeyFormatError, ScopeError, redact
from sharedstate.membership import Membership
from sharedstate.model import ABSENT, KEEP, MISSING, Capabilities, Change, Entry, LockRecord, Scope, Sharer

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Final, NoReturn, Self

    from sharedstate.backend import Backend, Lock
    from sharedstate.choice import Choice
    from sharedstate.transactions import Transaction
    from sharedstate.views import Selection
    from sharedstate.watching import Watch

__all__ = ["Store"]

_HOT: Final = (
    "add",
    "compare_and_set",
    "delete",
    "delete_many",
    "generation",
    "get",
    "get_many",
    "increment",
    "read",
    "set",
    "set_many",
    "touch",
)
"""The verbs whose meaning and signature are the backend's own."""

_SEPARATOR: Final = ":"


class Store(MutableMapping[str, "Any"]):
    """A mapping from str to values, shared as far as its backend reaches.

    Every verb is atomic, and linearizable per key.  Values are copied in and
    out: changing what you got changes no store.  See `sharedstate.open`.

    Any thread may use one Store.  A forked child may go on using it; another
    interpreter or process opens its own by `url` (pickling a Store does that).
    """

    @classmethod
    def opened(cls, backend: Backend, beside: Membership | None = None) -> Self:
        """Return the store of a fresh handle, which takes its place among the sharers.

        Args:
            backend: the handle; where the store may move, it goes along from now on.
            beside: another place that it holds until it is closed.
        """
        if backend.can_move:
            from sharedstate.following import follow  # not by who opens a store that cannot

            backend = follow(backend)
        own = Membership(backend.announce)
        own.try_join()
        return cls(backend, "", (own,) if beside is None else (own, beside))

    def __init__(self, backend: Backend, prefix: str = "", places: Sequence[Membership] = ()) -> None:
        self._backend = backend
        self._prefix = prefix
        self._places = places or (Membership(backend.announce),)  # among the sharers, and wherever else it is listed
        if not prefix:
            self._bind(backend)

    choice: Choice | None = None
    """Why it is this store; None if the caller named it by a URL."""

    def _bind(self, backend: Backend) -> None:
        for verb in _HOT:
            setattr(self, verb, getattr(backend, verb))

    # --- Reading ------------------------------------------------------------
    # The bodies below serve namespaces; a root store has the backend's own
    # methods in their place.

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, or `default` if it is absent or expired."""
        return self._backend.get(self._full(key), default)

    def read(self, key: str) -> Entry | None:
        """Return value, generation and expiry of `key` as one consistent Entry, or None."""
        return self._backend.read(self._full(key))

    def generation(self, key: str) -> int:
        """Return the generation of `key`, `ABSENT` if it is absent or expired; cheaper than `read`."""
        return self._backend.generation(self._full(key))

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those of `keys` that are there.  Each is read atomically, not all at one instant."""
        skip = len(self._prefix)
        found = self._backend.get_many([self._full(key) for key in keys])
        return {key[skip:]: value for key, value in found.items()}

    def __getitem__(self, key: str) -> Any:
        value = self.get(key, MISSING)
        if value is MISSING:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        if type(key) is not str:
            raise KeyFormatError(found=f"a {type(key).__name__}")
        return self.get(key, MISSING) is not MISSING

    def ttl(self, key: str) -> float | None:
        """Return the seconds until `key` expires, None if it never does.

        Raises:
            KeyError: it is absent.
        """
        entry = self.read(key)
        if entry is None:
            raise KeyError(key)
        return None if entry.expires_at is None else max(entry.expires_at - self.now(), 0.0)

    def now(self) -> float:
        """Return the time on the clock of `Entry.expires_at`, in seconds."""
        return self._backend.now()

    # --- Writing ------------------------------------------------------------

    def set(self, key: str, value: Any, ttl_s: float | None = None) -> None:
        """Store `value`, whatever was there.

        Args:
            key: 1 to 512 bytes of UTF-8.
            value: see docs/guarantees.md for the value model; copied.
            ttl_s: seconds until the entry expires; None: until deleted or evicted.

        Raises:
            KeyFormatError, ValueTypeError: outside the model; nothing was written.
            CapacityError: no room; nothing was written.
        """
        self._backend.set(self._full(key), value, ttl_s)

    def add(self, key: str, value: Any, ttl_s: float | None = None) -> bool:
        """Store `value` if `key` is absent; return whether it was."""
        return self._backend.add(self._full(key), value, ttl_s)

    def increment(
        self, key: str, by: int | float = 1, initial: int | float = 0, ttl_s: float | None = None
    ) -> int | float:
        """Add `by` to the number at `key` and return the sum; no increment is ever lost.

        Args:
            key: of an int or float, or absent.
            by: may be negative.
            initial: what an absent key starts from.
            ttl_s: counts only when this call creates the key, so that a
                rate-limit window starts at its first hit; otherwise the entry
                expires as it did.

        Raises:
            ValueTypeError: the value, or `by`, is no number.
            CounterOverflowError: the sum is an int beyond 64 bits.
        """
        return self._backend.increment(self._full(key), by, initial, ttl_s)

    def compare_and_set(self, key: str, value: Any, expected: int, ttl_s: float | None = None) -> int:
        """Store `value` if `key` is still at generation `expected`.

        Args:
            key: 1 to 512 bytes of UTF-8.
            value: copied.
            expected: the generation the caller read, or `ABSENT`.
            ttl_s: seconds until the entry expires; None: until deleted or evicted.

        Returns:
            The new generation: greater than every earlier one of this key, also
            across delete and re-create, so it can fence a stale writer.

        Raises:
            ConflictError: the key is at another generation; nothing was written.
        """
        try:
            return self._backend.compare_and_set(self._full(key), value, expected, ttl_s)
        except ConflictError as conflict:
            # In the namespace's own names: its user knows no others.
            raise ConflictError(key=key, expected=conflict.expected, found=conflict.found) from None

    def delete(self, key: str) -> bool:
        """Remove `key`; return whether it was there."""
        return self._backend.delete(self._full(key))

    def touch(self, key: str, ttl_s: float | None) -> bool:
        """Let `key` expire `ttl_s` seconds from now, or never if None; False if it is absent.

        The value and its generation stay as they are.
        """
        return self._backend.touch(self._full(key), ttl_s)

    def set_many(self, values: Mapping[str, Any], ttl_s: float | None = None) -> None:
        """Store all of `values`, each atomically.  For all or nothing, use `transaction`."""
        self._backend.set_many({self._full(key): value for key, value in values.items()}, ttl_s)

    def delete_many(self, keys: Iterable[str]) -> int:
        """Remove `keys`, each atomically; return how many were there."""
        return self._backend.delete_many([self._full(key) for key in keys])

    def __setitem__(self, key: str, value: Any) -> None:
        self.set(key, value)

    def __delitem__(self, key: str) -> None:
        if not self.delete(key):
            raise KeyError(key)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, after storing `default` if it was absent; all callers get the same."""
        while True:
            value = self.get(key, MISSING)
            if value is not MISSING:
                return value
            if self.add(key, default):
                from sharedstate.transactions import copy_value

                return copy_value(default)  # not get(key): another writer may have been there since

    def pop(self, key: str, default: Any = MISSING) -> Any:
        """Remove `key` and return its value: of several callers one gets it.

        Raises:
            KeyError: it is absent and no `default` was given.
        """
        entry = self._backend.take(self._full(key))
        if entry is not None:
            return entry.value
        if default is MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[str, Any]:
        """Remove some entry and return its key and value.

        Raises:
            KeyError: the store is empty.
        """
        while keys := list(self):
            for key in keys:
                entry = self._backend.take(self._prefix + key)
                if entry is not None:
                    return key, entry.value
        raise KeyError("the store is empty")

    def update(self, other: Any = (), /, **values: Any) -> None:
        """Store every item of `other` and `values`, each atomically."""
        self.set_many(dict(other, **values))

    def clear(self, prefix: str = "") -> None:
        """Remove the entries whose keys start with `prefix`, each atomically."""
        self._backend.clear(self._prefix + prefix)

    # --- Reading, thinking, writing -----------------------------------------

    def update_with(
        self, key: str, change: Callable[[Any], Any], default: Any = None, ttl_s: float | None = None
    ) -> Any:
        """Replace the value of `key` by `change(value)` and return it, atomically.

        Args:
            key: of the value to change.
            change: gets a copy of the value; called again if another writer came
                between, so it must have no other effect.
            default: what `change` gets if the key is absent.
            ttl_s: None keeps the time at which the entry expires, also if it was touched meanwhile.
        """
        backoff = Backoff()
        while True:
            entry = self.read(key)
            value = change(default if entry is None else entry.value)
            try:
                if entry is None:
                    self.compare_and_set(key, value, ABSENT, ttl_s)
                else:
                    until = KEEP if ttl_s is None else ttl_s
                    self._backend.compare_and_set(self._full(key), value, entry.generation, until)
            except ConflictError:
                backoff.sleep()
            else:
                return value

    def transaction(self) -> Transaction:
        """Return a transaction: `with store.transaction() as tx:` reads and writes `tx`, all or nothing.

        Raises:
            ConflictError: at the end of the block, if a key that was read has
                changed meanwhile; nothing was written.  `transact` retries.
        """
        from sharedstate.transactions import Transaction  # now, and not by who only opens a store

        return Transaction(self._backend, self._prefix)

    def transact(self, body: Callable[[Transaction], Any], timeout_s: float | None = None) -> Any:
        """Run `body(tx)` in a transaction and return its result, again and again while others come between.

        Args:
            body: may be called several times, so it must have no other effect.
            timeout_s: when to give up; None: never.

        Raises:
            ConflictError: every attempt within `timeout_s` lost a race; nothing was written.
        """
        deadline, backoff = Deadline(timeout_s), Backoff()
        while True:
            try:
                with self.transaction() as transaction:
                    return body(transaction)
            except ConflictError:
                if deadline.has_passed():
                    raise
                backoff.sleep(deadline)

    # --- Waiting ------------------------------------------------------------

    def wait_for_change(self, key: str, since: int, timeout_s: float | None = None) -> int:
        """Wait until `key` is at another generation than `since`.

        Args:
            key: need not exist; `since` is then `ABSENT`.
            since: the generation the caller has seen.
            timeout_s: None waits for ever.

        Returns:
            The generation found: `ABSENT` if the key is gone, `since` if nothing
            changed in time.
        """
        from sharedstate.watching import LOOK_AT_KEY_S, wait_at_most_s  # not by who only opens a store

        deadline = Deadline(timeout_s)
        while True:
            token = self._backend.change_token()
            entry = self.read(key)
            generation = ABSENT if entry is None else entry.generation
            if generation != since or deadline.has_passed():
                return generation
            expires_at = None if entry is None else entry.expires_at
            self._backend.wait(token, deadline.remaining_s(wait_at_most_s(self._backend, expires_at, LOOK_AT_KEY_S)))

    def watch(self, prefix: str = "", timeout_s: float | None = None) -> Iterator[Change]:
        """Yield each change of a key that starts with `prefix`, from now on.

        A key that changed several times between two looks is yielded once, with
        its newest entry; None stands for a key that is gone.

        Args:
            prefix: of the keys to watch.
            timeout_s: end after that long without a change; None: never end.
        """
        from sharedstate.watching import Watch

        # Not a generator itself: what changes before the first next() counts too.
        return self._changes(Watch(self._backend, self._prefix + prefix, len(self._prefix)), timeout_s)

    def _changes(self, watch: Watch, timeout_s: float | None) -> Iterator[Change]:
        deadline = Deadline(timeout_s)
        while True:
            self._backend.wait(watch.token, deadline.remaining_s(watch.wait_at_most_s()))
            changes = watch.look()
            if changes:
                yield from changes
                deadline = Deadline(timeout_s)
            elif deadline.has_passed():
                return

    # --- Locks --------------------------------------------------------------

    def lock(self, name: str, timeout_s: float | None = None) -> Lock:
        """Return the lock of this name: `with store.lock("rebuild") as lock: ...`.

        It is freed when its holder dies, excludes threads, interpreters and
        processes as far as the store reaches, is not re-entrant, and hands out
        a fencing token (`lock.token`).

        Args:
            name: 1 to 512 bytes of UTF-8; locks and keys do not meet.
            timeout_s: how long `with` and `acquire()` wait; None: for ever.
        """
        return self._backend.lock(self._full(name), timeout_s)

    def locks(self) -> list[LockRecord]:
        """Return the locks that were ever acquired here, each with its latest owner and whether it is held."""
        records = [record for record in self._backend.locks() if record.name.startswith(self._prefix)]
        return [record._replace(name=record.name[len(self._prefix) :]) for record in records]

    # --- Sharers ------------------------------------------------------------

    def join(self) -> str:
        """Take a place among the store's sharers, unless this handle has one, and return its token.

        `sharedstate.open` does so where there is room for it.  The place is this handle's in this process:
        a forked child gets another.  The kernel ends it when the process dies,
        and `close` before that; who is not among the sharers any more never
        comes back, so what it left behind may be taken over.
        """
        return self._places[0].join()

    def sharers(self) -> list[Sharer]:
        """Return the handles that have this store open just now, this one among them, in the order of their coming."""
        self._places[0].try_join()  # in a child that was forked without hooks, nobody has done so yet
        return self._backend.sharers()

    def is_present(self, token: str) -> bool:
        """Return whether the sharer of that token is present; once False, it stays so."""
        return self._backend.is_present(token)

    # --- Iterating ----------------------------------------------------------

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys as they are now; a key that stays throughout comes exactly once."""
        return iter(self._names(""))

    def __len__(self) -> int:
        return self._backend.count(self._prefix)

    def keys(self, prefix: str = "") -> KeysView[str]:
        """Return a view of the keys that start with `prefix`."""
        return KeysView(self._select(prefix))

    def values(self, prefix: str = "") -> ValuesView[Any]:
        """Return a view of the values whose keys start with `prefix`."""
        from sharedstate.views import Values

        return Values(self._select(prefix))

    def items(self, prefix: str = "") -> ItemsView[str, Any]:
        """Return a view of the items whose keys start with `prefix`."""
        from sharedstate.views import Items

        return Items(self._select(prefix))

    def _names(self, prefix: str) -> list[str]:
        skip = len(self._prefix)
        return [key[skip:] for key in self._backend.keys(self._prefix + prefix)]

    def _select(self, prefix: str) -> Selection:
        from sharedstate.views import Selection

        return Selection(self, prefix, lambda: self._names(prefix), lambda: self._backend.count(self._prefix + prefix))

    # --- Names, figures, the end --------------------------------------------

    def namespace(self, name: str) -> Store:
        """Return a view of the entries and locks whose names start with `name` and a colon.

        It shares the backend, and is closed with it.
        """
        if type(name) is not str or not name or _SEPARATOR in name:
            raise KeyFormatError(found=f"the namespace {name!r}; its name is a str without a colon")
        return Store(self._backend, f"{self._prefix}{name}{_SEPARATOR}", self._places)

    @property
    def backend(self) -> Backend:
        """The handle on the storage; its verbs take full keys, and it is closed with this store."""
        return self._backend

    @property
    def prefix(self) -> str:
        """What this namespace's keys start with in the storage; "" for the store itself."""
        return self._prefix

    @property
    def url(self) -> str:
        """The URL that opens the same store from any caller within its scope."""
        return self._backend.url

    @property
    def capabilities(self) -> Capabilities:
        """What the backend promises: scope, durability, clock, limits."""
        return self._backend.capabilities

    def stats(self) -> dict[str, int | float | str]:
        """Return figures for people: entries, bytes, capacity_bytes and the backend's own."""
        return self._backend.stats()

    def check(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Verify every invariant of what is stored; others go on reading and writing meanwhile.

        Args:
            progress: called now and then with how much is done, and of how much.

        Raises:
            CorruptError: names the invariant and the place.
        """
        if progress is None:
            self._backend.check()
        else:
            self._backend.check(progress)

    def close(self) -> None:
        """Give back what this handle holds; what is stored stays.  Closing twice is no error."""
        backend = self._backend
        closed: Any = _ClosedBackend(backend.url, backend.capabilities)
        self._backend = closed
        self._bind(closed)
        if not self._prefix:
            for place in self._places:
                place.leave()
        backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self.capabilities.scope < Scope.PROCESS:
            raise ScopeError(
                url=self.url,
                needed="scope PROCESS, to open it on the other side",
                given=f"scope {self.capabilities.scope.name}",
                advice="Use shm:, file: or sqlite: to share a store with another interpreter or process.",
            )
        return _reopen, (self.url, self._prefix)

    def __repr__(self) -> str:
        return f"<Store {redact(self.url)}{f' namespace {self._prefix!r}' if self._prefix else ''}>"

    def _full(self, key: str) -> str:
        if type(key) is not str or not key:
            raise KeyFormatError(found=repr(key) if type(key) is str else f"a {type(key).__name__}")
        return self._prefix + key


def _reopen(url: str, prefix: str) -> Store:
    from sharedstate.registry import connect

    store = Store.opened(connect(url))
    for name in filter(None, prefix.split(_SEPARATOR)):
        store = store.namespace(name)
    return store


class _ClosedBackend:
    """What a closed store has in place of its backend: every verb says so."""

    def __init__(self, url: str, capabilities: Capabilities) -> None:
        self.url = url
        self.capabilities = capabilities

    def close(self) -> None:
        """Closing twice is no error."""

    def __getattr__(self, verb: str) -> Callable[..., NoReturn]:
        def refuse(*_arguments: Any, **_options: Any) -> NoReturn:
            raise ClosedError(url=self.url)

        return refuse
