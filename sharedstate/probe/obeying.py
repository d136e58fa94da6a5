"""The actor's side: a loop that does with a store what it is told over a socket.

The same code runs in a thread, in either kind of sub-interpreter, in a forked
or spawned child and in an unrelated process.  A connection may have several
seats, each with a handle of its own, all used by the one thread.

Thread safety: one thread per connection.  Imports only what every interpreter can.
"""

from __future__ import annotations

import os
import sys
from _thread import get_native_id, start_new_thread

from sharedstate import registry
from sharedstate.backend.urls import parse_url
from sharedstate.model import ABSENT, interpreter_id
from sharedstate.probe.loops import LOOPS
from sharedstate.probe.wire import Channel, ChannelClosedError, pack, pack_error
from sharedstate.store import Store
from sharedstate.values import decode

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any, Final

    from sharedstate.backend import Lock
    from sharedstate.model import Capabilities
    from sharedstate.probe.loops import Tell
    from sharedstate.transactions import Transaction

__all__ = ["connect", "own_descriptors", "serve"]

_STORE_VERBS: Final = frozenset(
    {
        *("add", "check", "clear", "compare_and_set", "delete", "delete_many", "get", "get_many", "increment"),
        *(
            "locks",
            "pop",
            "popitem",
            "read",
            "set",
            "set_many",
            "setdefault",
            "stats",
            "touch",
            "ttl",
            "wait_for_change",
        ),
    }
)
"""Verbs that are methods of the store with arguments and results that travel."""

_SWITCH_INTERVAL_S: Final = 1e-4
"""Threads of one GIL take turns this often, 50 times as often as usual: races are met, not missed."""

own_descriptors: Final = set[int]()
"""Sockets of this process's connections: a forked child closes them."""


class _Seat:
    """One handle, with the locks and the transaction begun through it; each verb `v` is the method `do_v`."""

    def __init__(self, inherited: Store | None = None) -> None:
        self._store = inherited
        self._locks: dict[str, Lock] = {}
        self._transaction: Transaction | None = None

    @property
    def store(self) -> Store:
        """The open store."""
        if self._store is None:
            raise ValueError("this actor has not opened a store")
        return self._store

    @property
    def transaction(self) -> Transaction:
        """The transaction that was begun."""
        if self._transaction is None:
            raise ValueError("this actor has begun no transaction")
        return self._transaction

    def lock_of(self, name: str) -> Lock:
        """Return this seat's one object for that lock."""
        if name not in self._locks:
            self._locks[name] = self.store.lock(name)
        return self._locks[name]

    # --- Opening and asking ---------------------------------------------------

    def do_open(self, url: str) -> str:
        """Open the store and return its canonical URL."""
        self.do_close_store()
        self._store = Store(registry.connect(url))
        return self._store.url

    def do_close_store(self) -> None:
        """Give back the locks held here, and the handle."""
        self._transaction = None
        for lock in self._locks.values():
            if lock.is_held():
                lock.release()
        self._locks.clear()
        if self._store is not None:
            self._store.close()

    def do_remove(self, url: str) -> None:
        """Remove a store, in this interpreter."""
        parsed = parse_url(url)
        registry.find_plugin(parsed).remove(parsed)

    def do_capabilities(self) -> Capabilities:
        """Return what the store claims."""
        return self.store.capabilities

    def do_loaded_modules(self) -> list[str]:
        """Return the modules that this interpreter has imported."""
        return sorted(sys.modules)

    # --- Mapping verbs that are no methods of a store ---------------------------

    def do_contains(self, key: str) -> bool:
        """Return whether `key` is there."""
        return key in self.store

    def do_generation(self, key: str) -> int:
        """Return the generation of `key`."""
        entry = self.store.read(key)
        return ABSENT if entry is None else entry.generation

    def do_items(self, prefix: str = "") -> list[list[Any]]:
        """Return the keys that start with `prefix`, and their values."""
        return [[key, value] for key, value in self.store.items(prefix)]

    def do_keys(self, prefix: str = "") -> list[str]:
        """Return the keys that start with `prefix`."""
        return list(self.store.keys(prefix))

    def do_len(self) -> int:
        """Return how many entries there are."""
        return len(self.store)

    # --- Locks ------------------------------------------------------------------

    def do_lock_acquire(self, name: str, timeout_s: float | None = None) -> int:
        """Wait for the lock, keep it, and return its fencing token."""
        return self.lock_of(name).acquire(timeout_s)

    def do_lock_is_held(self, name: str) -> bool:
        """Return whether this actor holds the lock."""
        return self.lock_of(name).is_held()

    def do_lock_release(self, name: str) -> None:
        """Give the lock back."""
        self.lock_of(name).release()

    def do_lock_token(self, name: str) -> int:
        """Return the fencing token of the lock held here."""
        return self.lock_of(name).token

    def do_lock_try(self, name: str) -> bool:
        """Take the lock if it is free; return whether it is now held."""
        return self.lock_of(name).try_acquire()

    # --- Transactions, a step at a time -------------------------------------------

    def do_tx_begin(self) -> None:
        """Begin a transaction; one begun before is forgotten."""
        self._transaction = self.store.transaction()

    def do_tx_abandon(self) -> None:
        """Forget the transaction."""
        self._transaction = None

    def do_tx_commit(self) -> None:
        """Commit the transaction."""
        transaction, self._transaction = self.transaction, None
        transaction.commit()

    def do_tx_get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key` as the transaction sees it."""
        return self.transaction.get(key, default)

    def do_tx_set(self, key: str, value: Any, ttl_s: float | None = None) -> None:
        """Store `value` when the transaction commits."""
        self.transaction.set(key, value, ttl_s)

    def do_tx_delete(self, key: str) -> bool:
        """Remove `key` when the transaction commits."""
        return self.transaction.delete(key)

    def do_tx_increment(self, key: str, by: int | float = 1, initial: int | float = 0) -> int | float:
        """Add `by` when the transaction commits."""
        return self.transaction.increment(key, by, initial)


# --- The loop ------------------------------------------------------------------


def connect(address: str, actor: int, failure: str = "") -> Channel:
    """Connect to the stage at `address`, and say who is there or why nobody is."""
    # _socket, not socket: the latter's enums cost a fresh interpreter 5 ms.
    from _socket import AF_UNIX, SOCK_STREAM, socket

    connection = socket(AF_UNIX, SOCK_STREAM)
    connection.connect(address)
    channel = Channel(connection.detach())
    os.set_inheritable(channel.fd, False)
    own_descriptors.add(channel.fd)
    channel.send(actor, os.getpid(), interpreter_id(), get_native_id(), failure)
    return channel


def serve(address: str, actor: int, *, inherited: Store | None = None, is_process: bool = False) -> None:
    """Obey until told to stop, or until the stage is gone.

    Args:
        address: of the stage's socket.
        actor: the number by which the stage knows this actor.
        inherited: a handle opened before a fork, for seat 0.
        is_process: this process is the actor's own, and ends with the stage
            even in the middle of a command.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    channel = connect(address, actor)
    if is_process:
        start_new_thread(_end_with, (channel.fd,))
    seats = {0: _Seat(inherited)}
    try:
        while _obey_next(channel, seats):
            pass
    except ChannelClosedError:
        pass
    finally:
        for seat in seats.values():
            seat.do_close_store()
        own_descriptors.discard(channel.fd)
        channel.close()


def _obey_next(channel: Channel, seats: dict[int, _Seat]) -> bool:
    message = channel.receive()
    assert message is not None
    number, place, verb, arguments, options = message
    seat = seats.setdefault(place, _Seat())

    def tell(progress: Any) -> None:
        channel.send(number, "told", progress)

    try:
        if verb == "stop":
            for each in seats.values():
                each.do_close_store()
            result = None
        else:
            result = _obey(
                seat,
                tell,
                verb,
                [decode(each) for each in arguments],
                {name: decode(each) for name, each in options.items()},
            )
    except ChannelClosedError:
        raise
    except Exception as error:  # noqa: BLE001  whatever it is, it is the answer
        channel.send(number, "error", pack_error(error))
    else:
        channel.send(number, "done", pack(result))
    return bool(verb != "stop")


def _obey(seat: _Seat, tell: Tell, verb: str, arguments: list[Any], options: dict[str, Any]) -> Any:
    if verb in LOOPS:
        return LOOPS[verb](seat.store, tell, *arguments, **options)
    if verb in _STORE_VERBS:
        return getattr(seat.store, verb)(*arguments, **options)
    method = getattr(seat, f"do_{verb}", None)
    if method is None:
        raise ValueError(f"an actor knows no verb {verb!r}")
    return method(*arguments, **options)


def _end_with(fd: int) -> None:
    """End this process at once when the stage hangs up, whatever it is doing."""
    from select import POLLRDHUP, poll

    poller = poll()
    poller.register(fd, POLLRDHUP)
    poller.poll()
    os._exit(3)
