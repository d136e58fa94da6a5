"""The connection that says that a handle lives: locks and presences end with it.

It alone listens to a channel of its own, so the server knows without asking
anybody whether it is there: it counts the listeners.  When a process dies, the
kernel closes the connection, and the server forgets the listener.  In a cluster
the channel is of the store's slot: a node that loses the slot ends the listening,
and says so.

    A1  A nonce is never used twice: whose channel has no listener is gone for ever.
    A2  An anchor whose connection broke is dead; it does not connect again.  What
        it held is lost, and whoever held it is told so when he asks.  So is one
        whose server is the primary no more.
    A3  A lock, or presence, is taken and given back over the connection on which
        it rests, so none is taken by who is no longer there.

Thread safety: any thread; one call at a time, which waits for nobody but the
server.  A finalizer that comes in amid a call of its own thread is served after it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redis.exceptions import ClusterDownError, NoScriptError, RedisError, ResponseError

from sharedstate.backend import Deadline, Mutex, fork_epoch
from sharedstate.errors import StateError
from sharedstate_redis.cluster import Patience
from sharedstate_redis.faults import translate
from sharedstate_redis.sessions import LateError, LostError, pack

if TYPE_CHECKING:
    from sharedstate_redis.place import Place
    from sharedstate_redis.pool import Pool
    from sharedstate_redis.scripts import Script

__all__ = ["Anchor", "Anchors"]


class Anchor:
    """One connection, and the channel that it listens to.

    Attributes:
        nonce: ends the channel's name.
    """

    def __init__(self, pool: Pool, place: Place, deadline: Deadline) -> None:
        self.nonce = os.urandom(12).hex().encode()
        self._turn = Mutex()
        self._is_busy = False  # guarded by _turn, which a finalizer of the same thread enters too
        self._later: list[tuple[Script, list[bytes], list[bytes]]] = []  # guarded by _turn
        self._owes = False  # guarded by _turn; whether a reply is still to come, after an exception from outside
        self._pool = pool
        self._session = pool.dial(deadline=deadline)
        verb = b"SSUBSCRIBE" if pool.address.nodes else b"SUBSCRIBE"
        self._session.send(pack(verb, place.channels + self.nonce))
        try:
            if not self._session.wait_for_push(pool.address.timeout_s):
                raise LateError(f"no answer to {verb.decode()}")
        except ResponseError as error:
            if not pool.is_left_after(error, self._session):
                raise
            raise LostError(f"the slot has gone to another node ({error})") from error

    def is_dead(self) -> bool:
        """Return whether it is known not to listen any more, is a parent's, or of a server that was left."""
        return not self._pool.may_use(self._session) or self._session.is_stale() or self._is_deaf()

    def _is_deaf(self) -> bool:
        if not self._pool.address.nodes:
            return False  # only a cluster ends what goes on
        with self._turn:
            if self._is_busy or self._owes:
                return self._session.was_unsubscribed()
            try:
                return self._session.is_deaf()
            except RedisError:
                return True

    def run(self, script: Script, keys: list[bytes], arguments: list[bytes], is_patient: bool = True) -> list[Any]:
        """Have the server run a script, and return its reply; while the store's slot moves, wait if `is_patient`.

        Raises:
            LostError, LateError: the connection broke; all that rests on it is lost.
            ResponseError: the server refused.
        """
        patience = Patience(self._pool.address.timeout_s)
        while True:
            try:
                return self._run_in_turn(script, keys, arguments)
            except ResponseError as error:
                # Not in our turn: finalizers, and who asks whether it is dead, do not wait for the slot.
                if not (is_patient and self._pool.is_moving(error) and self._pool.is_open and patience.lasts()):
                    raise
                if isinstance(error, ClusterDownError):
                    self._look_around(patience)

    def _run_in_turn(self, script: Script, keys: list[bytes], arguments: list[bytes]) -> list[Any]:
        with self._turn:
            try:
                self._is_busy = True
                reply = self._run(script, keys, arguments)
                while self._later:
                    self._give_back(*self._later.pop())
            finally:
                self._is_busy = False
            return reply

    def _give_back(self, script: Script, keys: list[bytes], arguments: list[bytes]) -> None:
        try:
            self._run(script, keys, arguments)
        except ResponseError as error:
            self._session.close()  # as in `tell`
            raise LostError("what was to be given back could not be") from error

    def _look_around(self, patience: Patience) -> None:
        """Leave a node that is cut off from the cluster, or has forgotten it, if another has the slot."""
        with suppress(StateError):
            self._pool.dial(deadline=patience.deadline).close()
        if not self._pool.may_use(self._session):
            self._session.close()
            raise LostError("the store is at another server")

    def tell(self, script: Script, keys: list[bytes], arguments: list[bytes]) -> None:
        """Have the server run a script that gives something back; if it cannot, the end of the connection does."""
        with self._turn:
            if self._is_busy:  # by a call of this very thread
                self._later.append((script, keys, arguments))
                return
        try:
            self.run(script, keys, arguments, is_patient=False)  # a finalizer may be waiting
        except (LostError, LateError, ResponseError):
            self._session.close()

    def _run(self, script: Script, keys: list[bytes], arguments: list[bytes]) -> list[Any]:
        script, keys = self._pool.fit(script, keys)
        request = script.request(keys, arguments)
        try:
            reply: list[Any] = self._exchange(request)
        except NoScriptError:
            self._exchange(pack(b"SCRIPT", b"LOAD", script.text))
            reply = self._exchange(request)
        return reply

    def _exchange(self, request: bytes) -> Any:
        session = self._session
        if session.epoch != fork_epoch():
            raise LostError("the connection was closed before")
        try:
            if self._owes:
                self._skip()
            self._owes = True
            reply = session.exchange(request)
        except ResponseError as error:
            self._owes = False
            if not self._pool.is_left_after(error, session):
                raise
            session.close()
            raise LostError(f"the store is at another server ({error})") from error
        except RedisError as error:
            session.close()
            if isinstance(error, (LostError, LateError)):
                raise
            raise LostError(f"what came is no reply ({error})") from error
        except BaseException:
            if not session.is_sent:
                session.close()  # it has half a request
            raise
        self._owes = False
        if session.was_unsubscribed():
            # The slot went, and came back: what was just taken rests on nothing (A1).
            session.close()
            raise LostError("the server has ended the listening")
        return reply

    def _skip(self) -> None:
        with suppress(ResponseError):
            self._session.receive()


class Anchors:
    """The anchor of one handle: made when first needed, and anew when it is dead.

    Attributes:
        pool: the handle's connections.
        place: the store's names.
    """

    def __init__(self, pool: Pool, place: Place) -> None:
        self.pool = pool
        self.place = place
        self._anchor: Anchor | None = None  # replaced by who has the turn
        self._turns: dict[int, Mutex] = {}  # one for each fork: a thread of the parent may have held its own

    def get(self) -> Anchor:
        """Return an anchor that is not known to be dead.

        Raises:
            LostError, LateError: the connection broke while it was made.
            StateError: the server cannot be reached, or refuses.
        """
        self.pool.require_open()
        deadline = Deadline(self.pool.address.timeout_s)  # of who waits for another's try, too
        with self._turns.setdefault(fork_epoch(), Mutex()):
            anchor = self._anchor
            if anchor is None or anchor.is_dead():
                try:
                    anchor = self._anchor = Anchor(self.pool, self.place, deadline)
                except ResponseError as error:
                    raise translate(self.pool.address, error) from error
            return anchor

    def close(self) -> None:
        """Let go of it; it ends when no lock and no presence rests on it any more."""
        self._anchor = None
