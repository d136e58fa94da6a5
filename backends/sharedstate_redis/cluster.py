"""Which node has a store: the cluster is asked each time a connection is made.

All names of a store hash to one slot (`place`), so one primary has all of it.
Connections that there are go on until their node refuses by MOVED.

    G1  A connection is handed out only if its node itself answers for the slot.
        It is asked for a key that is never there: who does not serve the slot
        says who does (MOVED), and who gives it away says so too (ASK).
    G2  A node that does not answer, or refuses, is passed over.  Each gets a share
        of the store's timeout, so that one which is stopped leaves time for the
        others, and to ask them again.
    G3  Nobody is ever asked by ASKING: what a node is yet to be given it is not
        asked for, so nothing is written there before it has the whole slot.
"""

from __future__ import annotations

from binascii import crc_hqx
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from sharedstate.backend import Backoff, Deadline
from sharedstate_redis.address import format_place
from sharedstate_redis.connecting import connection_to
from sharedstate_redis.place import never
from sharedstate_redis.sessions import LostError, Session, dial, pack

if TYPE_CHECKING:
    from sharedstate_redis.address import Address

__all__ = ["Cluster", "NoNodeError", "Patience", "Standing", "is_moving"]

_SLOTS: Final = 2**14
_LONGEST_S: Final = 1.0  # more is waited for by who asks again
_LONGEST_SLEEP_S: Final = 0.1
_GUIDES: Final = 3  # who have other slots, but know who has ours: a replica is told of only once it replicates


class Standing(Enum):
    """Why a node was passed over; the first that one of them has says what to do."""

    REFUSED = "it does not let us in"
    UNOWNED = "no node has the slot"
    DOWN = "the cluster is down"
    AWAY = "another has the slot, which does not answer"
    STRANGER = "it is of no cluster"
    SILENT = "it does not answer"


class NoNodeError(LostError):
    """No node answered for the slot.

    Attributes:
        standing: what to go by.
    """

    def __init__(self, slot: int, answers: list[tuple[Standing, str]]) -> None:
        given = {standing for standing, _ in answers}
        self.standing = next((standing for standing in Standing if standing in given), Standing.SILENT)
        reason = f"no node of the cluster answers for slot {slot}: {'; '.join(text for _, text in answers)}"
        super().__init__(reason)  # pyright: ignore[reportUnknownMemberType]  redis-py does not say what it takes

    @property
    def is_passing(self) -> bool:
        """Whether it ends by itself, with a failover."""
        return self.standing in {Standing.DOWN, Standing.AWAY}


def is_moving(error: BaseException) -> bool:
    """Return whether a node has refused because the slot is elsewhere, on its way, or for now nobody's."""
    return isinstance(error, (AskError, TryAgainError, ClusterDownError))  # MovedError is an AskError


class Patience:
    """How long one call waits for a slot to arrive.

    Attributes:
        deadline: when it ends.
    """

    def __init__(self, timeout_s: float) -> None:
        self.deadline = Deadline(timeout_s)
        self._backoff = Backoff(_LONGEST_SLEEP_S)

    def lasts(self) -> bool:
        """Wait a while, longer each time; return False, at once, if the time is over."""
        if self.deadline.has_passed():
            return False
        self._backoff.sleep(self.deadline)
        return True


class Cluster:
    """The nodes that one handle knows."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._question = pack(b"EXISTS", never(address.name))
        self._slot = crc_hqx(address.name.encode(), 0) % _SLOTS  # Redis hashes what stands in braces
        self._order = address.nodes  # who had the slot the last time comes first, his replicas next

    def connect(self, deadline: Deadline) -> Session:
        """Return a connection to the node that has the slot.

        Raises:
            NoNodeError: none says so, or not before `deadline`.
            AuthenticationError: a node refuses us.
        """
        answers: list[tuple[Standing, str]] = []
        cause: RedisError | None = None
        to_ask = list(self._order)
        share_s = min(_LONGEST_S, self._address.timeout_s / (len(to_ask) + 1))
        asked: set[tuple[str, int]] = set()
        while to_ask:
            place = to_ask.pop(0)
            if place in asked:
                continue
            asked.add(place)
            who = format_place(*place)
            try:
                found = self._visit(place, deadline.remaining_s(share_s))
            except AuthenticationError:
                raise
            except RedisError as error:
                cause = error
                answers.append((_standing(error), f"{who} {_complaint(error)}"))
                continue
            if isinstance(found, Session):
                return found
            if isinstance(found, Standing):
                answers.append((found, f"{who} says that {found.value}"))
            else:
                answers.append((Standing.AWAY, f"{who} names {format_place(*found)}"))
                to_ask.insert(0, found)
        raise NoNodeError(self._slot, answers) from cause

    def _visit(self, place: tuple[str, int], wait_s: float) -> Session | Standing | tuple[str, int]:
        """Return a connection if the node has the slot, else who has, or what is wrong."""
        host, port = place
        at_node = self._address._replace(host=host, port=port, timeout_s=max(wait_s, 1e-3))
        session = dial(lambda: connection_to(at_node))
        found: Session | Standing | tuple[str, int] = session
        try:
            found = self._judge(session, place)
        finally:
            if found is not session or not session.place[1]:
                session.close()
        return found

    def _judge(self, session: Session, place: tuple[str, int]) -> Session | Standing | tuple[str, int]:
        if not session.is_of_cluster():
            return Standing.STRANGER
        try:
            session.exchange(self._question)
        except MovedError as error:
            moved: Any = error  # whose types redis-py does not say
            if moved.host == "?":  # it does not know where that one is to be reached
                return Standing.AWAY
            return moved.host or place[0], moved.port
        except ClusterDownError:
            return Standing.DOWN if self._learn(session, place)[0] else Standing.UNOWNED
        except (AskError, TryAgainError):
            pass  # it has the slot, and is giving it away
        nodes, guides = self._learn(session, place)
        self._order = tuple(dict.fromkeys((place, *nodes, *self._address.nodes, *guides)))
        session.allow(self._address.timeout_s)
        session.place = place
        return session

    def _learn(self, session: Session, place: tuple[str, int]) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
        """Return who has the slot, by what the node believes, the primary first; and some primaries of other slots."""
        try:
            ranges: Any = session.exchange(pack(b"CLUSTER", b"SLOTS"))
        except ResponseError:  # it may not be asked, or has another name there
            return [place], []  # then those of the URL have to do
        owners: list[tuple[str, int]] = []
        guides: list[tuple[str, int]] = []
        for first, last, *nodes in ranges:
            # A host is null, or empty, for the one that was asked at, and a question mark if the node does not know.
            places = [((host or b"").decode() or place[0], port) for host, port, *_ in nodes if host != b"?"]
            if first <= self._slot <= last:
                owners = places
            else:
                guides += places[:1]
        return owners, guides[:_GUIDES]


def _standing(error: RedisError) -> Standing:
    return Standing.REFUSED if isinstance(error, ResponseError) else Standing.SILENT


def _complaint(error: RedisError) -> str:
    return f"{'refuses us' if isinstance(error, ResponseError) else 'does not answer'} ({error})"
