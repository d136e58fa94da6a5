"""One connection to the server, and what a fork does to it.

redis-py's `Connection` does the protocol.  Its `Redis` is not used: it sends a
command a second time when the reply to the first one was lost, so that an
increment may count twice.

    C1  A session serves one call at a time, and none after a call that failed.
    C2  `is_sent` is False only if the server cannot have received the request whole.
    C3  A forked child has none of its parent's sockets open: a copy would keep
        the parent's locks, which live as long as its connection, beyond its death.
        The number stays taken until the child closes its copy of the object, which
        the garbage collector may do at any time.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ConnectionError as LostError
from redis.exceptions import TimeoutError as LateError

from sharedstate.backend import blank_on_fork, fork_epoch, keep_on_fork, open_unshared
from sharedstate_redis.arrays import RefusalError, read_strings

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

__all__ = ["LateError", "LostError", "Session", "dial", "pack"]

_CLOSED: Final = -1
_AT_ONCE: Final = 65536
_open: set[Any] = set()  # the connections of sessions: the garbage collector may not close one before its session


def pack(*arguments: bytes) -> bytes:
    """Return the bytes of one command."""
    parts = [b"*%d\r\n" % len(arguments)]
    parts += [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments]
    return b"".join(parts)


def dial(make: Callable[[], Any]) -> Session:
    """Connect, and return the session.

    Args:
        make: returns a `Connection` of redis-py's that is not yet connected.

    Raises:
        LostError, LateError, ResponseError: the server cannot be reached, or refuses.
    """
    connections: list[Any] = []

    def open_socket() -> int:
        if connections:
            # A fork came between, and `open_unshared` has closed the descriptor.
            lost = connections.pop()
            lost._get_socket().detach()  # noqa: SLF001  redis-py has no other name for it
            lost.disconnect()
        connection = make()
        connection.connect()
        connections.append(connection)
        fd: int = connection._get_socket().fileno()  # noqa: SLF001  as above
        return fd

    try:
        fd = open_unshared(open_socket, blank_on_fork)
        return Session(connections[0], fd)
    except BaseException:
        for connection in connections:
            end = connection._get_socket()  # noqa: SLF001  as above
            if end is not None:  # its session was not made, or has not closed it
                keep_on_fork(end.fileno())
                connection.disconnect()
        raise


class Session:
    """One connection, and the process that may use it."""

    epoch = _CLOSED  # until it is complete, should a signal handler raise before
    era = 0  # as its pool counts them
    place: tuple[str, int] = ("", 0)  # host and port of the node of a cluster that it leads to

    def __init__(self, connection: Any, fd: int) -> None:
        self._connection = connection
        self._socket: socket.socket = connection._get_socket()  # noqa: SLF001  as above
        self._fd = fd
        self._send = self._socket.sendall
        self._read = connection.read_response
        self.is_sent = False
        self.idle_since = 0.0
        _open.add(connection)
        self.epoch = fork_epoch()

    def exchange(self, request: bytes) -> Any:
        """Send a packed command and return the reply.

        Raises:
            LostError, LateError: the connection broke; `is_sent` says whether that was before the server knew all.
            ResponseError: the server refused; the session is as good as before.
        """
        self.send(request)
        return self.receive()

    def exchange_for_strings(self, request: bytes) -> list[bytes | None]:
        """Send a packed command that is answered by an array of strings, and return them; fails as `exchange` does."""
        self.send(request)
        try:
            return read_strings(self._receive_some)
        except RefusalError as error:
            raise self._connection._parser.parse_error(str(error)) from None  # noqa: SLF001  as above
        except ValueError as error:
            raise LostError(f"what came is no reply ({error})") from error
        except TimeoutError as error:
            raise LateError(str(error)) from error
        except OSError as error:
            raise LostError(str(error)) from error

    def _receive_some(self) -> bytes:
        some = self._socket.recv(_AT_ONCE)
        if not some:
            raise LostError("the server closed the connection")
        return some

    def send(self, request: bytes) -> None:
        """Send a packed command; whoever does so by itself sees to the reply."""
        self.is_sent = False
        try:
            self._send(request)
        except OSError as error:  # also a time-out
            raise LostError(str(error)) from error
        self.is_sent = True

    def receive(self) -> Any:
        """Return the reply to a command that was sent."""
        return self._read(disable_decoding=True, disconnect_on_error=False)

    def wait_for_push(self, timeout_s: float) -> bool:
        """Wait until the server says something unasked; return whether it did in time."""
        try:
            self._read(disable_decoding=True, disconnect_on_error=False, push_request=True, timeout=timeout_s)
        except LateError:
            return False
        return True

    def is_of_primary(self) -> bool:
        """Return whether the server said, when it was dialled, that it is no replica."""
        # In its answer to HELLO: ROLE would be a round trip more, and a right that few users have.
        return bool(self._connection.handshake_metadata.get(b"role") == b"master")

    def is_of_cluster(self) -> bool:
        """Return whether the server said, when it was dialled, that it is a node of a cluster."""
        return bool(self._connection.handshake_metadata.get(b"mode") == b"cluster")

    def is_deaf(self) -> bool:
        """Return whether the server has ended a subscription; reads what it has said unasked.

        Only while no reply is to come.
        """
        while self.wait_for_push(0):
            pass
        return self.was_unsubscribed()

    def was_unsubscribed(self) -> bool:
        """Return whether the server was heard to end a subscription."""
        return bool(self._connection._parser.was_unsubscribed)  # noqa: SLF001  as above

    def allow(self, timeout_s: float) -> None:
        """Wait so long for a reply from now on."""
        self._connection.update_current_socket_timeout(timeout_s)

    def is_stale(self) -> bool:
        """Return whether the server has closed the connection, as far as can be seen without asking it."""
        # Not by a look at what has come: another thread may take that between the question and the look.
        poll = select.poll()
        poll.register(self._fd, select.POLLRDHUP)  # POLLHUP and POLLERR are told unasked
        return bool(poll.poll(0))

    def rest(self) -> None:
        """Note that it is idle from now on."""
        self.idle_since = time.monotonic()

    def close(self) -> None:
        """Close the connection, or what a forked child has in its place (C3); twice is no error."""
        if self.epoch == _CLOSED:
            return
        if self.epoch == fork_epoch():
            keep_on_fork(self._fd)
        self.epoch = _CLOSED
        _open.discard(self._connection)
        self._connection.disconnect()  # sends nothing if it is not ours: there is a blank in its place

    def __del__(self) -> None:
        self.close()
