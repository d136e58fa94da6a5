"""Locks and presences: they rest on a handle's `anchor`, and end with it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError, ResponseError

from sharedstate.backend import Backoff, Deadline, Lock, Presence, fork_epoch, new_sharer
from sharedstate.errors import CorruptError
from sharedstate.model import LockRecord, Owner, Sharer
from sharedstate.values import decode, encode
from sharedstate_redis import scripts
from sharedstate_redis.faults import gone, translate
from sharedstate_redis.sessions import LateError, LostError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sharedstate_redis.anchor import Anchor, Anchors

__all__ = ["RedisLock", "RedisPresence", "announce", "is_present", "locks", "sharers"]

_TRIES: Final = 3
_LONGEST_SLEEP_S: Final = 0.02  # a try costs the server as much as a write
_FORMAT: Final = 1


class RedisLock(Lock):
    """A lock whose record names the anchor that it rests on.

    It is lost with the connection.  `token` and `release` ask the server, so
    they know; between two such questions the fencing token is what protects.
    """

    _claim: tuple[Anchor, bytes] | None = None  # the anchor and owner of what may be held; the class's, for __del__

    def __init__(self, anchors: Anchors, name: str, timeout_s: float | None = None) -> None:
        super().__init__(anchors.pool.address.url, name, timeout_s)
        self._anchors = anchors
        self._field = name.encode()

    def _seize(self, deadline: Deadline) -> int:
        if self._claim is not None:
            self._free()  # an exception out of a signal handler ended the release before
        owner = " ".join(map(str, Owner.current())).encode()
        backoff, is_first = Backoff(_LONGEST_SLEEP_S), True
        while True:
            status, found = self._try_hard(owner)
            if status == scripts.DONE:
                return int(found)
            # The holder may have died just before the first try: see `let_it_notice`.
            if not is_first and deadline.has_passed():
                holder = str(_owner(self.url, self.name, found))
                raise deadline.timed_out(self.url, f"lock {self.name!r}", holder)
            if not is_first:
                backoff.sleep(deadline)
            is_first = False

    def _try_hard(self, owner: bytes) -> tuple[int, bytes]:
        """Return DONE and the token, or REFUSED and the owner; also over a new connection, if one broke."""
        for _ in range(_TRIES - 1):
            with suppress(LostError, LateError):
                return self._try(owner)
        try:
            return self._try(owner)
        except RedisError as error:
            raise translate(self._anchors.pool.address, error) from error

    def _try(self, owner: bytes) -> tuple[int, bytes]:
        anchor = self._anchors.get()
        self._claim = (anchor, owner)
        try:
            status, *found = self._ask(anchor, scripts.ACQUIRE, owner)
        except (LostError, LateError):
            raise
        except RedisError as error:
            raise translate(self._anchors.pool.address, error) from error
        except BaseException:
            self._free()
            raise
        if status != scripts.DONE:
            self._claim = None
        if status == scripts.GONE:
            raise gone(self.url)
        if status == scripts.FOREIGN:
            raise CorruptError(url=self.url, reason=f"R4: lock {self.name!r} has the record {found[0]!r}")
        return status, found[0]

    def _ask(self, anchor: Anchor, script: scripts.Script, owner: bytes) -> list[Any]:
        return anchor.run(script, *self._question(anchor, owner))

    def _question(self, anchor: Anchor, owner: bytes) -> tuple[list[bytes], list[bytes]]:
        place = self._anchors.place
        return [place.store, place.locks], [place.id, place.channels, self._field, anchor.nonce, owner]

    def _free(self) -> None:
        if self._claim is not None:
            anchor, owner = self._claim
            anchor.tell(scripts.RELEASE, *self._question(anchor, owner))
            self._claim = None  # only now: freeing twice does no harm

    def _loss(self) -> str | None:
        if self._claim is None:
            return "it was given back"
        anchor, owner = self._claim
        # Where another server may be made the primary, only a primary knows.
        script = scripts.HOLDS_AT_PRIMARY if self._anchors.pool.address.may_change else scripts.HOLDS
        try:
            status = self._ask(anchor, script, owner)[0]
        except ResponseError as error:
            return f"the server does not say that it is held ({error})"
        except RedisError as error:
            return f"the connection that it rests on broke ({error})"
        if status == scripts.DONE:
            return None
        return "the store was removed" if status == scripts.GONE else "the server has lost it, or given it to another"

    def _forget(self) -> None:
        self._claim = None

    def __del__(self) -> None:
        if self._claim is not None and self._epoch == fork_epoch():
            self._free()


def locks(anchors: Anchors) -> list[LockRecord]:
    """Return what each lock says of itself."""
    pool, place = anchors.pool, anchors.place
    pool.let_it_notice()
    status, *found = pool.run(scripts.LOCKS, [place.store, place.locks], [place.id, place.channels])
    if status == scripts.GONE:
        raise gone(pool.address.url)
    return sorted(_lock_record(pool.address.url, *each) for each in found)


def _lock_record(url: str, field: bytes, record: bytes, is_held: int) -> LockRecord:
    try:
        name = field.decode()
        _, token, at, _, owner = record.split(b" ", 4)
        return LockRecord(name, bool(is_held), int(token), _owner(url, name, owner), int(at) / 1e6)
    except ValueError as error:
        raise CorruptError(url=url, reason=f"R4: lock {field!r} has the record {record!r}") from error


def _owner(url: str, name: str, text: bytes) -> Owner:
    try:
        boot, pid, started, interpreter, thread, token = text.decode().split(" ")
        return Owner(boot, int(pid), int(started), int(interpreter), int(thread), token)
    except ValueError as error:
        raise CorruptError(url=url, reason=f"R4: lock {name!r} has the owner {text!r}") from error


# --- Presences ----------------------------------------------------------------------


class RedisPresence(Presence):
    """A place among the sharers, which rests on an anchor."""

    def __init__(self, token: str, anchors: Anchors, anchor: Anchor) -> None:
        self._anchors = anchors
        self._anchor = anchor
        super().__init__(token)

    def is_held(self) -> bool:
        """Return whether the caller is still there: not if the connection is known to have gone."""
        return super().is_held() and not self._anchor.is_dead()

    def _leave(self) -> None:
        place = self._anchors.place
        arguments = [place.id, place.channels, self.token.encode(), self._anchor.nonce]
        self._anchor.tell(scripts.LEAVE, [place.store, place.sharers], arguments)


def announce(anchors: Anchors, facts: Mapping[str, Any], token: str = "") -> RedisPresence:
    """Make the caller a sharer, of a token of its own if none is given."""
    sharer, place, address = new_sharer(facts, token), anchors.place, anchors.pool.address
    record = encode((_FORMAT, sharer.token, tuple(sharer.owner), sharer.since, sharer.facts))
    for last in (False, True):
        try:
            anchor = anchors.get()
            arguments = [place.id, place.channels, sharer.token.encode(), anchor.nonce + b" " + record]
            status = anchor.run(scripts.ANNOUNCE, [place.store, place.sharers], arguments)[0]
        except (LostError, LateError) as error:
            if last:
                raise translate(address, error) from error
        except RedisError as error:
            raise translate(address, error) from error
        else:
            if status == scripts.GONE:
                raise gone(address.url)
            return RedisPresence(sharer.token, anchors, anchor)
    raise AssertionError  # the loop returns or raises


def sharers(anchors: Anchors) -> list[Sharer]:
    """Return those who are present now, in the order in which they came."""
    pool, place = anchors.pool, anchors.place
    pool.let_it_notice()
    status, *found = pool.run(scripts.SHARERS, [place.store, place.sharers], [place.id, place.channels])
    if status == scripts.GONE:
        raise gone(pool.address.url)
    return sorted((_sharer(pool.address.url, each) for each in found), key=lambda sharer: sharer.since)


def _sharer(url: str, record: bytes) -> Sharer:
    try:
        _, told = record.split(b" ", 1)
        _, token, owner, since, facts = decode(told)
        return Sharer(token, Owner(*owner), float(since), dict(facts))
    except (TypeError, ValueError) as error:
        raise CorruptError(url=url, reason=f"R5: a sharer has the record {record!r}") from error


def is_present(anchors: Anchors, token: str) -> bool:
    """Return whether the sharer of that token is present."""
    pool, place = anchors.pool, anchors.place
    pool.let_it_notice()
    arguments = [place.id, place.channels, token.encode(errors="replace")]
    status, *found = pool.run(scripts.IS_PRESENT, [place.store, place.sharers], arguments)
    if status == scripts.GONE:
        raise gone(pool.address.url)
    return bool(found[0])
