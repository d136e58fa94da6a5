"""Who uses which connection, and what a lost one means.

Thread safety: every method, from any thread; lists are taken from and added to
by one atomic operation each.

    N1  A call that only reads is tried again when the connection broke, twice.
    N2  A call that writes is tried again only if it was not sent whole; a reply
        that was lost is `OutcomeUnknownError`.
    N3  Nobody waits for the server longer than the store's timeout.
    N4  At most as many connections stay open as there were calls at one time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import redis
from redis._parsers.resp3 import _RESP3Parser  # pyright: ignore[reportPrivateUsage]  redis-py has no other name for it
from redis.exceptions import NoScriptError, RedisError, ResponseError

from sharedstate.backend import Backoff, Deadline, fork_epoch
from sharedstate.errors import ClosedError, OutcomeUnknownError, UnavailableError
from sharedstate_redis.faults import is_refusal, is_temporary, translate
from sharedstate_redis.sessions import LateError, Session, dial, pack

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate_redis.address import Address
    from sharedstate_redis.scripts import Script

__all__ = ["Pool", "connection_to"]

_TRIES: Final = 3
_FRESH_S: Final = 0.01  # so long idle, a connection is looked at before something is written to it
_LONGEST_SLEEP_S: Final = 0.1


def connection_to(address: Address) -> Any:
    """Return a `Connection` of redis-py's, not yet connected."""
    options: dict[str, Any] = {
        "db": address.database,
        "username": address.username or None,
        "password": address.password or None,
        "protocol": 3,
        # Not hiredis, where that is installed: it crashes the process once a sub-interpreter that used it has
        # ended, and where a signal handler raises in it (3.5.0).
        "parser_class": _Parser,
        "socket_timeout": address.timeout_s,
        "socket_connect_timeout": address.timeout_s,
        "driver_info": None,  # two round trips at each connection
        "command_packer": _Packer(),
    }
    library: Any = redis  # whose types say that a connection to a socket is abstract
    if address.socket:
        return library.UnixDomainSocketConnection(path=address.socket, **options)
    options.update(host=address.host, port=address.port, socket_keepalive=True)
    if not address.has_tls:
        return library.Connection(**options)
    ca, cert, key = address.certificates
    return library.SSLConnection(ssl_ca_certs=ca or None, ssl_certfile=cert or None, ssl_keyfile=key or None, **options)


class _Parser(_RESP3Parser):
    """Redis-py's own, but that it takes logging's lock for each message that the server pushes.

    A signal handler that raises in there would leave that lock held, and every thread that logs afterwards hanging.
    """

    def handle_pubsub_push_response(self, response: Any) -> Any:
        return response


class _Packer:
    """Packs the commands of redis-py's handshake, as `pack` does ours.

    hiredis, which would, crashes when a signal handler raises in it (3.5.0).
    """

    def pack(self, *arguments: object) -> list[bytes]:
        return [pack(*(each if type(each) is bytes else str(each).encode() for each in arguments))]


class Pool:
    """The connections of one handle."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.is_open = True
        self._idle: list[Session] = []
        self._watching: list[Session] = []  # those that the server tells of changes

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

    def _call(
        self, request: bytes, is_writing: bool, exchange: Callable[[Session, bytes], Any] = Session.exchange
    ) -> Any:
        tries = 0
        while True:
            session = self.take(is_writing)
            try:
                reply = exchange(session, request)
            except ResponseError as error:
                self.give_back(session)
                if isinstance(error, NoScriptError):
                    raise
                raise translate(self.address, error) from error
            except RedisError as error:
                session.close()
                tries += 1
                self._bear(session, error, is_writing, tries)
            except BaseException:
                session.close()  # its reply is still to come
                raise
            else:
                self.give_back(session)
                return reply

    def _bear(self, session: Session, error: RedisError, is_writing: bool, tries: int) -> None:
        """Return if the call may be tried again."""
        was_sent = session.is_sent and not is_refusal(error)
        if is_writing and was_sent:
            raise OutcomeUnknownError(url=self.address.url, reason=f"the server's reply was lost ({error})") from error
        if tries == _TRIES or isinstance(error, LateError):
            raise translate(self.address, error) from error

    def let_it_notice(self) -> None:
        """Return when the server knows which connections were closed before the call.

        It frees the clients that have gone after it has served those whose
        requests came together with that news; so one request later they are free.
        """
        self.read(pack(b"PING"))

    # --- Connections ------------------------------------------------------------

    def take(self, is_writing: bool = False) -> Session:
        """Return a connection for one call, an idle one or a new one."""
        while self.is_open:
            try:
                session = self._idle.pop()
            except IndexError:
                return self.dial()
            if session.epoch != fork_epoch() or (
                is_writing and time.monotonic() - session.idle_since > _FRESH_S and session.is_stale()
            ):
                session.close()
                continue
            return session
        raise ClosedError(url=self.address.url)

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
            if session.epoch == fork_epoch() and not session.is_stale():
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

    def dial(self, patience_s: float | None = None) -> Session:
        """Return a new connection; try until the store's timeout, or `patience_s`, is over."""
        deadline = Deadline(self.address.timeout_s if patience_s is None else patience_s)
        backoff = Backoff(_LONGEST_SLEEP_S)
        while True:
            try:
                return dial(lambda: connection_to(self.address))
            except RedisError as error:
                if deadline.has_passed() or not is_temporary(error) or isinstance(error, ResponseError):
                    raise translate(self.address, error) from error
            backoff.sleep(deadline)
            self.require_open()

    def require_open(self) -> None:
        """Refuse if the handle was closed."""
        if not self.is_open:
            raise ClosedError(url=self.address.url)

    def close(self) -> None:
        """Close the connections; those that calls have out, when these end."""
        self.is_open = False
        for sessions in (self._idle, self._watching):
            while sessions:
                try:
                    sessions.pop().close()
                except IndexError:
                    break
