"""Who the primary is: the sentinels are asked each time a connection is made.

Nothing of their answer is kept, so who connects after a failover reaches the
new primary; connections that there are end by themselves, since sentinels cut
off the clients of a server that they make a replica.

    F1  A connection is handed out only if the server itself says that it is a
        primary: sentinels know of a failover one after the other.
    F2  A sentinel that does not answer, refuses, or names no primary is passed
        over.  Each gets a share of the store's timeout, so that one which is
        stopped leaves time for the others, and to ask them again.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from sharedstate_redis.address import format_place
from sharedstate_redis.connecting import connection_to
from sharedstate_redis.sessions import LateError, LostError, Session, dial, pack

if TYPE_CHECKING:
    from sharedstate.backend import Deadline
    from sharedstate_redis.address import Address, Service

__all__ = ["NoPrimaryError", "Sentinels", "Verdict"]

_LONGEST_S: Final = 1.0  # more is waited for by who asks again


class Verdict(Enum):
    """Why a sentinel was passed over; the first that one of them gives says what to do."""

    NO_PRIMARY = "what it names is no primary, or not there"
    UNKNOWN = "it monitors no such service"
    REFUSED = "it does not let us in"
    STRANGER = "it is no sentinel"
    SILENT = "it does not answer"


class NoPrimaryError(LostError):
    """No sentinel named a server that says that it is the primary.

    Attributes:
        verdict: what to go by.
    """

    def __init__(self, service: str, answers: list[tuple[Verdict, str]]) -> None:
        given = {verdict for verdict, _ in answers}
        self.verdict = next((verdict for verdict in Verdict if verdict in given), Verdict.SILENT)
        reason = f"no sentinel names a primary of the service {service!r}: {'; '.join(text for _, text in answers)}"
        super().__init__(reason)  # pyright: ignore[reportUnknownMemberType]  redis-py does not say what it takes

    @property
    def is_passing(self) -> bool:
        """Whether it ends by itself, with a failover."""
        return self.verdict is Verdict.NO_PRIMARY


class Sentinels:
    """Those of one handle."""

    def __init__(self, address: Address, service: Service) -> None:
        self._address = address
        self._service = service
        self._order = service.sentinels  # the one that was right the last time comes first
        self._share_s = min(_LONGEST_S, address.timeout_s / (len(service.sentinels) + 1))

    def connect(self, deadline: Deadline) -> Session:
        """Return a connection to the primary.

        Raises:
            NoPrimaryError: no sentinel names one, or not before `deadline`.
            AuthenticationError, ResponseError: the server that is named refuses us.
        """
        answers: list[tuple[Verdict, str]] = []
        named: dict[tuple[str, int], tuple[Verdict, str]] = {}
        cause: RedisError | None = None
        for sentinel in self._order:
            who = format_place(*sentinel)
            try:
                place = self._ask(sentinel, deadline.remaining_s(self._share_s))
            except RedisError as error:
                cause = error
                answers.append((_verdict(error), f"{who} {_complaint(error)}"))
                continue
            if place is None:
                answers.append((Verdict.UNKNOWN, f"{who} monitors {self._known(sentinel, deadline)}"))
                continue
            if place not in named:
                try:
                    session = self._dial(place, deadline.remaining_s(self._share_s))
                except AuthenticationError:
                    raise
                except (LostError, LateError) as error:
                    cause = error
                    named[place] = Verdict.NO_PRIMARY, f"which cannot be reached ({error})"
                else:
                    if session.is_of_primary():
                        self._order = (sentinel, *(each for each in self._order if each != sentinel))
                        session.allow(self._address.timeout_s)
                        return session
                    session.close()
                    named[place] = Verdict.NO_PRIMARY, "which is a replica"
            verdict, why = named[place]
            answers.append((verdict, f"{who} names {format_place(*place)}, {why}"))
        raise NoPrimaryError(self._service.name, answers) from cause

    def _dial(self, place: tuple[str, int], wait_s: float) -> Session:
        host, port = place
        at_server = self._address._replace(host=host, port=port, timeout_s=max(wait_s, 1e-3))
        return dial(lambda: connection_to(at_server))

    def _exchange(self, sentinel: tuple[str, int], wait_s: float, *command: bytes) -> Any:
        host, port = sentinel
        at_sentinel = self._address._replace(
            host=host,
            port=port,
            database=0,
            username=self._service.username,
            password=self._service.password,
            timeout_s=max(wait_s, 1e-3),
        )
        session = dial(lambda: connection_to(at_sentinel))
        try:
            return session.exchange(pack(b"SENTINEL", *command))
        finally:
            session.close()

    def _ask(self, sentinel: tuple[str, int], wait_s: float) -> tuple[str, int] | None:
        """Return the primary's host and port, None if the sentinel monitors no such service."""
        reply: Any = self._exchange(sentinel, wait_s, b"GET-MASTER-ADDR-BY-NAME", self._service.name.encode())
        return None if reply is None else (reply[0].decode(), int(reply[1]))

    def _known(self, sentinel: tuple[str, int], deadline: Deadline) -> str:
        """Return what the sentinel monitors instead, in words."""
        try:
            services: list[dict[bytes, bytes]] = self._exchange(
                sentinel, deadline.remaining_s(self._share_s), b"MASTERS"
            )
        except RedisError:
            return "no such service"
        names = sorted(each[b"name"].decode(errors="replace") for each in services)
        return f"only {', '.join(map(repr, names))}" if names else "nothing"


def _verdict(error: RedisError) -> Verdict:
    if isinstance(error, (AuthenticationError, NoPermissionError)):
        return Verdict.REFUSED
    return Verdict.STRANGER if isinstance(error, ResponseError) else Verdict.SILENT


def _complaint(error: RedisError) -> str:
    what = {Verdict.REFUSED: "refuses us", Verdict.STRANGER: "is no sentinel", Verdict.SILENT: "does not answer"}
    return f"{what[_verdict(error)]} ({error})"
