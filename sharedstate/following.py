"""A handle that goes along when its store moves: the same verb, done where the store is now.

A store moves while it is used (`sharedstate.migration.moving`).  Every verb of its
handles is refused from then on with `MovedError`, which has done nothing, and is
done at the new place instead.  The caller sees a call that took longer.

    F1  A verb is done once: at the new place only if it was refused at the old one.
    F2  A handle that has gone along does nothing at the old place any more: the handle
        on the old store refuses everything, so what still calls that goes along too.
    F3  It is a sharer of the new store, by the same token, before it does anything
        there: so nobody takes what it claims there for a dead one's (S5 of `presence`).
    F4  The mover lets nobody hold a lock over a move; so a `Lock` object goes
        along when it is next acquired, and never while it is held.

Thread safety: any thread; one of them goes along for all, the others wait for it.
Fork: a child of a handle that has not gone along goes by itself.
"""

from __future__ import annotations

from _weakrefset import WeakSet
from abc import update_abstractmethods
from time import monotonic

from sharedstate import registry
from sharedstate.backend.contract import Backend
from sharedstate.backend.forks import fork_epoch
from sharedstate.backend.locks import Lock
from sharedstate.backend.mutexes import Mutex
from sharedstate.backend.presence import Presence
from sharedstate.errors import ClosedError, MovedError, StateError, redact
from sharedstate.events import tell

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, Final

    from sharedstate.backend.moves import Moved, MoveOrder
    from sharedstate.backend.waiting import Deadline

__all__ = ["Followed", "Guard", "follow"]

_HOT: Final = (
    "add",
    "compare_and_set",
    "delete",
    "generation",
    "get",
    "increment",
    "read",
    "set",
    "touch",
)
"""The verbs that a program calls a million times: those pass through no frame of Python."""

_OTHERS: Final = (
    "activity",
    "change_token",
    "check",
    "clear",
    "commit",
    "count",
    "is_present",
    "keys",
    "locks",
    "now",
    "sharers",
    "stats",
    "take",
    "wait",
)

try:
    from sharedstate._native import Guard  # pyright: ignore[reportAssignmentType]
except ImportError:

    class Guard:  # type: ignore[no-redef]
        """See `sharedstate._native`."""

        def __init__(
            self, target: Callable[..., Any], follow: Callable[[Any], Callable[..., Any]], moved: type[BaseException], /
        ) -> None:
            self.__wrapped__ = target
            self._follow = follow
            self._moved = moved

        def __call__(self, *arguments: Any, **options: Any) -> Any:
            """Call the target, or what follows."""
            while True:
                try:
                    return self.__wrapped__(*arguments, **options)
                except self._moved as moved:
                    self.__wrapped__ = self._follow(moved)


class _Way:
    """Where a handle's store is now, and how to get there; knows nothing of the handle, so it keeps none alive.

    Attributes:
        backend: the handle's own, on the store where it is.
        left: those on the stores where it was, which only say so.
        places: the handle's presences.
        is_closed: whether the handle is, so that nobody goes along any more.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.left: list[Backend] = []
        self.places: WeakSet[_Place] = WeakSet()
        self.is_closed = False
        # When the new store refused us last, and how to say so again; an error itself would hold frames.
        self._refusal: tuple[Any, ...] = (-1.0, None, ())
        self._turns: dict[int, Mutex] = {}  # one for each fork: a thread of the parent may have held its own

    def turn(self) -> Mutex:
        """Return what to hold while the handle goes along, or takes a place among the sharers."""
        return self._turns.setdefault(fork_epoch(), Mutex())

    def call(self, verb: str, *arguments: Any, **options: Any) -> Any:
        """Do a verb where the store is."""
        while True:
            try:
                return getattr(self.backend, verb)(*arguments, **options)
            except MovedError as moved:
                self.go(moved)

    def guard(self, verb: str) -> Guard:
        """Return a verb that goes along."""

        def follow(moved: MovedError) -> Any:
            self.go(moved)
            return getattr(self.backend, verb)

        return Guard(getattr(self.backend, verb), follow, MovedError)

    def go(self, moved: MovedError) -> None:
        """Go to where a store has moved, unless another thread did.

        Raises:
            ClosedError: the handle was closed.
            StateError: the new store cannot be reached; nothing has changed, and the next call tries again.
        """
        begun = monotonic()
        with self.turn():
            old = self.backend
            if moved.url != redact(old.url):
                return
            if self.is_closed:
                raise ClosedError(url=old.url)
            refused_at, kind, facts = self._refusal
            if refused_at >= begun:  # while we waited for that thread: it has tried for us too
                raise kind(*facts)
            try:
                new = registry.connect(moved.to)
            except StateError as refusal:
                self._refusal = (monotonic(), *refusal.__reduce__())
                raise
            leaves: list[
                Callable[[], None]
            ] = []  # F3.  They stay until all have their new ones, should one be refused.
            try:
                for place in list(self.places):
                    leaves += place.go(new)
            except BaseException:
                new.close()
                raise
            for leave in leaves:
                leave()
            # A signal handler of this thread may have gone before us meanwhile, and then to the same store.
            self.left.append(self.backend)
            self.backend = new
            old.leave(moved.to)  # F2
            if self.is_closed:  # another thread has closed what there was meanwhile
                new.close()
        tell("store.moved", store=old.url, to=new.url)


class Followed(Backend):
    """A handle on a store that may move; itself a backend, with the verbs of the one where the store is.

    Attributes:
        backend: that one.
    """

    def __init__(self, backend: Backend) -> None:
        way = self._way = _Way(backend)
        for verb in _HOT:
            setattr(self, verb, way.guard(verb))

    @property
    def backend(self) -> Backend:
        """The handle on the store where it is now; what no backend promises is had from it."""
        return self._way.backend

    url = property(lambda self: self._way.backend.url)  # pyright: ignore[reportAssignmentType]
    capabilities = property(lambda self: self._way.backend.capabilities)  # pyright: ignore[reportAssignmentType]
    can_move = property(lambda self: self._way.backend.can_move)  # pyright: ignore[reportAssignmentType]

    # An iterator can be read once, but a verb that was refused halfway is done from its beginning.

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those of `keys` that are there."""
        found: dict[str, Any] = self._way.call("get_many", list(keys))
        return found

    def set_many(self, values: Mapping[str, Any], ttl_s: float | None = None) -> None:
        """Store all of `values`, each atomically; a refused one leaves those after it unwritten."""
        pairs = list(values.items())
        for at in range(0, len(pairs), _BATCH):  # what was done before the move is not done again after it
            self._way.call("set_many", dict(pairs[at : at + _BATCH]), ttl_s)

    def delete_many(self, keys: Iterable[str]) -> int:
        """Remove `keys`, each atomically; return how many were there."""
        every, count = list(keys), 0
        for at in range(0, len(every), _BATCH):  # what a backend refuses, it refuses as a whole: none is counted twice
            count += self._way.call("delete_many", every[at : at + _BATCH])
        return count

    def lock(self, name: str, timeout_s: float | None = None) -> Lock:
        """Return a lock of this name, which goes along."""
        return _FollowedLock(self._way, name, timeout_s)

    def announce(self, facts: Mapping[str, Any]) -> Presence:
        """Make the caller one of the sharers, wherever the store goes."""
        with self._way.turn():
            place = _Place(self._way.call("announce", facts), facts)
            self._way.places.add(place)
            return place

    def move_to(self, target: Backend, how: MoveOrder) -> Moved:
        """Move the store; who comes too late is told so, and moves nothing at the new place."""
        return self._way.backend.move_to(target, how)

    def close(self) -> None:
        """Close the handles on the store where it is, and where it was."""
        self._way.is_closed = True
        for backend in (self._way.backend, *self._way.left):
            backend.close()


_BATCH: Final = 500  # keys: at most one transaction of each backend that can move


def _passed_on(verb: str) -> Any:
    def call(self: Followed, *arguments: Any, **options: Any) -> Any:
        return self._way.call(verb, *arguments, **options)  # pyright: ignore[reportPrivateUsage]  it stands in the class

    call.__name__, call.__qualname__ = verb, f"Followed.{verb}"
    call.__doc__ = getattr(Backend, verb).__doc__
    return call


for _verb in (*_HOT, *_OTHERS):
    setattr(Followed, _verb, _passed_on(_verb))
update_abstractmethods(Followed)  # type: ignore[type-abstract]  # which it is up to here


def follow(backend: Backend) -> Backend:
    """Return a handle on the same store that goes along when it moves."""
    complete: Any = Followed  # type checkers do not see what was added to it
    followed: Backend = complete(backend)
    return followed


class _Place(Presence):
    """A place among the sharers, in whichever store it is."""

    def __init__(self, inner: Presence, facts: Mapping[str, Any]) -> None:
        self._inner = inner
        self._facts = facts
        super().__init__(inner.token)

    def go(self, backend: Backend) -> list[Callable[[], None]]:
        """Take a place by the same token at another store; return what gives back the one that it leaves, if any."""
        if not super().is_held():  # in a forked child, which takes its own
            return []
        before = self._inner
        made = [backend.readmit(self.token, self._facts)]
        while before is not self._inner:  # a signal handler has gone meanwhile, and its place may be the later one
            before = self._inner
            made.append(backend.readmit(self.token, self._facts))
        *superseded, self._inner = made
        for each in superseded:
            each.forget()  # what it would give back is the last one's by now
        return [before.leave]

    def is_held(self) -> bool:
        """Return whether the caller is still there."""
        return super().is_held() and self._inner.is_held()

    def leave(self) -> None:
        """Give the place back.  Leaving twice is no error."""
        if super().is_held():  # also one that was lost: what it was held by is still ours
            self._has_left = True
            self._leave()

    def _leave(self) -> None:
        self._inner.leave()


class _FollowedLock(Lock):
    """A lock of a store that may move: the old store's, or the new one's.

    It drives the other lock by what a backend supplies, and so is the only one
    that threads take turns at.
    """

    # ruff: noqa: SLF001  what a Lock is made of, used on another Lock

    def __init__(self, way: _Way, name: str, timeout_s: float | None) -> None:
        self._way = way
        self._name_there = name
        self._timeout_there = timeout_s
        self._of, self._inner = self._find()
        super().__init__(self._inner.url, name, timeout_s)

    def _find(self) -> tuple[Backend, Lock]:
        """Return the lock where the store is, and the handle that it is of."""
        while True:
            backend = self._way.backend
            try:
                return backend, backend.lock(self._name_there, self._timeout_there)
            except MovedError as moved:
                self._way.go(moved)

    @property
    def path(self) -> str:
        """The lock's file, where the store keeps its locks in files."""
        path: str = getattr(self._inner, "path")  # noqa: B009  not every lock has one
        return path

    def _seize(self, deadline: Deadline) -> int:
        while True:
            if self._of is not self._way.backend:  # the handle has gone along by another call (F2)
                self._of, self._inner = self._find()
                self.url = self._inner.url
            try:
                token = self._inner._seize(deadline)
            except MovedError as moved:
                self._way.go(moved)
                continue
            if self._of is self._way.backend:
                return token
            self._inner._free()

    def _free(self) -> None:
        self._inner._free()

    def _loss(self) -> str | None:
        return self._inner._loss()

    def _forget(self) -> None:
        self._inner._enter_child()
