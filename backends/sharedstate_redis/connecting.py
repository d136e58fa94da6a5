"""redis-py's connections, set up so that neither a signal handler nor a sub-interpreter makes them crash or hang."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import redis
from redis._parsers.resp3 import _RESP3Parser  # pyright: ignore[reportPrivateUsage]  redis-py has no other name for it

from sharedstate_redis.sessions import pack

if TYPE_CHECKING:
    from sharedstate_redis.address import Address

__all__ = ["connection_to"]


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

    Attributes:
        was_unsubscribed: whether the server has ended a subscription, which it does when a slot goes to another node.
    """

    was_unsubscribed = False

    def handle_pubsub_push_response(self, response: Any) -> Any:
        if response[0] == b"sunsubscribe":
            self.was_unsubscribed = True
        return response


class _Packer:
    """Packs the commands of redis-py's handshake, as `pack` does ours.

    hiredis, which would, crashes when a signal handler raises in it (3.5.0).
    """

    def pack(self, *arguments: object) -> list[bytes]:
        return [pack(*(each if type(each) is bytes else str(each).encode() for each in arguments))]
