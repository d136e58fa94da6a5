"""Who uses which connection, and what a lost one means.

Thread safety: every method, from any thread; lists are taken from and added to
by one atomic operation each.

    N1  A call that only reads is tried again when the connection broke, twice.
    N2  A call that writes is tried again only if it was not sent whole; a reply
        that was lost is `OutcomeUnknownError`.
    N3  No wait for the server is longer than the store's timeout; a call that is
        tried again may wait again.
    N4  At most as many connections stay open as there were calls at one time.
    N5  Where sentinels or a cluster tell which server it is, one that says that it
        is not, and so has written nothing, is left: the call is tried again with
        the other, and no connection from before is used again.
    N6  A call that a cluster refuses while the store's slot moves, or has lost its
        node, has written nothing: it is tried again until the timeout.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ClusterDownError, MovedError, NoScriptError, ReadOnlyError, RedisError, ResponseError

from sharedstate.backend import Backoff, Deadline, fork_epoch, tell
from sharedstate.errors import ClosedError, OutcomeUnknownError, UnavailableError
from sharedstate_redis.cluster import Cluster, NoNodeError, Patience, is_moving
from sharedstate_redis.connecting import connection_to
from sharedstate_redis.faults import MemberError, is_refusal, is_temporary, translate
from sharedstate_redis.place import never
from sharedstate_redis.sentinels import NoPrimaryError, Sentinels
from sharedstate_redis.sessions import LateError, Session, dial, pack

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate_redis.address import Address
    from sharedstate_redis.scripts import Script

__all__ = ["Pool"]

_TRIES: Final = 3
_FRESH_S: Final = 0.01  # so long idle, a connection is looked at before something is written to it
_LONGEST_SLEEP_S: Final = 0.1


class Pool:
    """The connections of one handle."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.is_open = True
        self.era = 0  # of connections; a new one begins when a server was left (N5)
        self._idle: list[Session] = []
        self._watching: list[Session] = []  # those that the server tells of changes
        self._sentinels = Sentinels(address, address.service) if address.service else None
        self._cluster = Cluster(address) if address.nodes else None
        self._never = never(address.name)
        self._place = ("", 0)  # of the node that the latest connection leads to

    # --- Calls ----------------------------------------------------------------

    def read(self, request: bytes) -> Any:
        """Send a packed command that writes nothing, and return the reply."""
        return self._call(request, is_writing=False)

    def read_strings(self, request: bytes) -> list[bytes | None]:
        """Send a packed command that writes nothing, and return the strings that it is answered by."""
        strings: list[bytes | None] = self._call(request, False, Session.exchange_for_strings)
        return strings

    def write(self, request: bytes) -> Any:
        """Send a packed command that writes, and return the reply."""
        return self._call(request, is_writing=True)

    def run(self, script: Script, keys: list[bytes], arguments: list[bytes]) -> list[Any]:
        """Have the server run a script, and return its reply; the server is told the script when it lacks it."""
        script, keys = self.fit(script, keys)
        request = script.request(keys, arguments)
        for _ in range(_TRIES):
            try:
                reply: list[Any] = self._call(request, script.writes)
            except NoScriptError:
                self._call(pack(b"SCRIPT", b"LOAD", script.text), is_writing=False)
            else:
                return reply
        raise UnavailableError(
            url=self.address.url, reason="the server forgets its scripts at once", advice="Look for SCRIPT FLUSH."
        )

    def fit(self, script: Script, keys: list[bytes]) -> tuple[Script, list[bytes]]:
        """Return a script and its keys as this server takes them."""
        return (script, keys) if self._cluster is None else (script.in_cluster(), [*keys, self._never])

    def _call(
        self, request: bytes, is_writing: bool, exchange: Callable[[Session, bytes], Any] = Session.exchange
    ) -> Any:
        refusals, losses, lost = 0, 0, ""
        patience: Patience | None = None
        while True:
            session = self.take(is_writing, None if patience is None else patience.deadline)
            try:
                reply = exchange(session, request)
            except ResponseError as error:
                refusals += 1
                patience = patience or Patience(self.address.timeout_s)
                self._bear_refusal(session, error, refusals, patience)
                lost = str(error)
            except RedisError as error:
                session.close()
                losses += 1
                self._bear(session, error, is_writing, losses)
                lost = str(error)
            except BaseException:
                session.close()  # its reply is still to come
                raise
            else:
                self.give_back(session)
                if refusals or losses:
                    tell("store.reconnected", store=self.address.url, error=lost)
                return reply

    def _bear_refusal(self, session: Session, error: ResponseError, tries: int, patience: Patience) -> None:
        """Return if the call may be tried again, where and when it will be answered otherwise."""
        if self.is_left_after(error, session):
            session.close()
            if tries < _TRIES:
                return
        elif isinstance(error, ClusterDownError):
            session.close()  # it may have been cut off, or have forgotten the cluster: ask all of them again
        else:
            self.give_back(session)
        if self.is_moving(error) and patience.lasts():
            return
        if isinstance(error, NoScriptError):
            raise error
        raise translate(self.address, error) from error

    def _bear(self, session: Session, error: RedisError, is_writing: bool, tries: int) -> None:
        """Return if the call may be tried again."""
        was_sent = session.is_sent and not is_refusal(error)
        if is_writing and was_sent:
            raise OutcomeUnknownError(url=self.address.url, reason=f"the server's reply was lost ({error})") from error
        if tries == _TRIES or isinstance(error, LateError):
            raise translate(self.address, error) from error
        self._close_idle()  # a server that was started anew has ended all of them

    def is_left_after(self, error: RedisError, session: Session) -> bool:
        """Return whether by that refusal another server has the store now; then this one is left."""
        if not isinstance(error, (ReadOnlyError, MovedError)) or not self.address.may_change:
            return False
        self._leave(session.era)
        return True

    def _leave(self, era: int) -> None:
        if era == self.era:  # else somebody else has, and what there is leads to the other server
            self.era += 1
            self._close_idle()

    def is_moving(self, error: RedisError) -> bool:
        """Return whether the cluster will answer otherwise before long (N6)."""
        return self._cluster is not None and is_moving(error)

    def let_it_notice(self) -> None:
        """Return when the server knows which connections were closed before the call.

        It frees the clients that have gone after it has served those whose
        requests came together with that news; so one request later they are free.
        """
        self.read(pack(b"PING"))

    # --- Connections ------------------------------------------------------------

    def take(self, is_writing: bool = False, deadline: Deadline | None = None) -> Session:
        """Return a connection for one call, an idle one or a new one; the latter by `deadline`, if there is one."""
        while self.is_open:
            try:
                session = self._idle.pop()
            except IndexError:
                return self.dial(deadline=deadline)
            if not self.may_use(session) or (
                is_writing and time.monotonic() - session.idle_since > _FRESH_S and session.is_stale()
            ):
                session.close()
                continue
            return session
        raise ClosedError(url=self.address.url)

    def may_use(self, session: Session) -> bool:
        """Return whether it is of this process, and of a server that was not left."""
        return session.epoch == fork_epoch() and session.era == self.era

    def give_back(self, session: Session) -> None:
        """Let others use a connection whose call is over."""
        session.rest()
        self._idle.append(session)
        if not self.is_open:
            self.close()  # which came meanwhile

    def take_watching(self) -> Session:
        """Return a connection on which the server tells of changes of what was read on it.

        Raises:
            ResponseError: the server does not.
        """
        while self._watching:
            try:
                session = self._watching.pop()
            except IndexError:
                break
            if self.may_use(session) and not session.is_stale():
                return session
            session.close()
        session = self.dial()
        session.exchange(pack(b"CLIENT", b"TRACKING", b"ON"))
        return session

    def give_back_watching(self, session: Session) -> None:
        """Let others wait on it."""
        self._watching.append(session)
        if not self.is_open:
            self.close()

    def dial(self, patience_s: float | None = None, deadline: Deadline | None = None) -> Session:
        """Return a new connection; try until `deadline`, or the store's timeout, or `patience_s`, is over.

        What a failover ends is waited for, however little patience there is.
        """
        until = whole = deadline or Deadline(self.address.timeout_s)
        limit = whole if patience_s is None else Deadline(patience_s)
        backoff = Backoff(_LONGEST_SLEEP_S)
        while True:
            era = self.era
            try:
                session = self._connect(whole)
            except RedisError as error:
                is_passing = isinstance(error, (NoPrimaryError, NoNodeError)) and error.is_passing
                until = whole if is_passing else limit
                if until.has_passed() or not is_temporary(error) or isinstance(error, ResponseError):
                    raise translate(self.address, error) from error
            else:
                if era == self.era or session.place == self._place:
                    return self._admit(session, era)
                session.close()  # others have found the store at another server meanwhile
            backoff.sleep(until)
            self.require_open()

    def _admit(self, session: Session, era: int) -> Session:
        """Say to which era a new connection belongs: all of one lead to the same server."""
        if session.place != self._place:
            if self._place[1]:
                self._leave(era)
            self._place, era = session.place, self.era
        session.era = era
        return session

    def _connect(self, deadline: Deadline) -> Session:
        if self._cluster is not None:
            return self._cluster.connect(deadline)
        if self._sentinels is not None:
            return self._sentinels.connect(deadline)
        session = dial(lambda: connection_to(self.address))
        if session.is_of_cluster():
            session.close()
            raise MemberError
        return session

    def require_open(self) -> None:
        """Refuse if the handle was closed."""
        if not self.is_open:
            raise ClosedError(url=self.address.url)

    def close(self) -> None:
        """Close the connections; those that calls have out, when these end."""
        self.is_open = False
        self._close_idle()

    def _close_idle(self) -> None:
        for sessions in (self._idle, self._watching):
            while sessions:
                try:
                    sessions.pop().close()
                except IndexError:
                    break
