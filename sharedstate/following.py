"""A handle that goes along when its store moves: the same verb, done where the store is now.

A store moves while it is used (`sharedstate.migration.moving`).  Every verb of its
handles is refused from then on with `MovedError`, which has done nothing, and is
done at the new place instead.  The caller sees a call that took longer.

    F1  A verb is done once: at the new place only if it was refused at the old one.
    F2  A handle that has gone along does nothing at the old place any more.
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

from sharedstate import registry
from sharedstate.backend.contract import Backend
from sharedstate.backend.forks import fork_epoch
from sharedstate.backend.locks import Lock
from sharedstate.backend.mutexes import Mutex
from sharedstate.backend.presence import Presence
from sharedstate.errors import MovedError, redact
from sharedstate.events import tell

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, Final

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
    "set_many",
    "touch",
)
"""The verbs that a program calls a million times: those pass through no frame of Python."""

_OTHERS: Final = (
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
        left: those on the stores where it was; calls of other threads may be under way there.
        places: the handle's presences.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.left: list[Backend] = []
        self.places: WeakSet[_Place] = WeakSet()
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
            StateError: the new store cannot be reached; nothing has changed, and the next call tries again.
        """
        with self.turn():
            old = self.backend
            if moved.url != redact(old.url):
                return
            new = registry.connect(moved.to)
            # F3.  Those that are left stay until all have their new ones, should one be refused.
            for leave in [leave for place in list(self.places) if (leave := place.go(new))]:
                leave()
            # A signal handler of this thread may have gone before us meanwhile, and then to the same store.
            self.left.append(self.backend)
            self.backend = new
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

    def move_to(
        self,
        target: Backend,
        find_claims: Callable[[Iterable[str]], list[str]],
        timeout_s: float,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[int, int]:
        """Move the store; who comes too late is told so, and moves nothing at the new place."""
        return self._way.backend.move_to(target, find_claims, timeout_s, progress)

    def close(self) -> None:
        """Close the handles on the store where it is, and where it was."""
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

    def go(self, backend: Backend) -> Callable[[], None] | None:
        """Take a place by the same token at another store; return what gives back the one that it leaves, if any."""
        if not super().is_held():  # in a forked child, which takes its own
            return None
        old, self._inner = self._inner, backend.readmit(self.token, self._facts)
        return old.leave

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
        self._inner: Lock = way.call("lock", name, timeout_s)
        super().__init__(self._inner.url, name, timeout_s)

    @property
    def path(self) -> str:
        """The lock's file, where the store keeps its locks in files."""
        path: str = getattr(self._inner, "path")  # noqa: B009  not every lock has one
        return path

    def _seize(self, deadline: Deadline) -> int:
        while True:
            try:
                return self._inner._seize(deadline)
            except MovedError as moved:
                self._way.go(moved)
                self._inner = self._way.call("lock", self.name, self.timeout_s)
                self.url = self._inner.url

    def _free(self) -> None:
        self._inner._free()

    def _loss(self) -> str | None:
        return self._inner._loss()

    def _forget(self) -> None:
        self._inner._enter_child()
