"""A Redis Cluster, and how a slot of it moves: real processes on free ports of this host."""

from __future__ import annotations

import os
from binascii import crc_hqx
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

import sharedstate
from redis_server import RedisServer, free_port
from sentinel_set import figures
from sharedstate.testing.conformance.support import until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from network import Network

_SLOTS: Final = 16384
_PRIMARIES: Final = 3
_REFUSALS: Final = ("ASK", "TRYAGAIN")


class Node(RedisServer):
    """One node.

    Args:
        directory: as of a `RedisServer`.
        options: likewise.
        timeout_ms: how long a node has to be silent before its replica takes over.
        host: as of a `RedisServer`.
        network: likewise.
    """

    def __init__(
        self,
        directory: str,
        *options: str,
        timeout_ms: int = 2000,
        host: str = "127.0.0.1",
        network: Network | None = None,
    ) -> None:
        self.bus = free_port()
        ours = ("--cluster-enabled", "yes", "--cluster-port", str(self.bus), "--cluster-node-timeout", str(timeout_ms))
        has_port = "--tls-port" not in options
        super().__init__(directory, *ours, *options, has_port=has_port, host=host, network=network)

    def tell(self, *words: str) -> None:
        """Send it a command by hand that it has to accept."""
        reply = self.command(*words)
        assert not reply.startswith(b"-"), (words, reply)

    def identity(self) -> str:
        """Return the name that the nodes give it."""
        return self.command("CLUSTER", "MYID").split(b"\r\n")[1].decode()

    def table(self) -> list[NodeFacts]:
        """Return what it knows of the nodes."""
        text = self.command("CLUSTER", "NODES").decode().partition("\r\n")[2]
        return [NodeFacts.of(line) for line in text.splitlines() if line]

    def refusals(self) -> int:
        """Return how often it has refused because a slot was on its way."""
        lines = self.command("INFO", "errorstats").decode().splitlines()
        found = dict(line.split(":count=") for line in lines if ":count=" in line)
        return sum(int(found.get(f"errorstat_{name}", "0")) for name in _REFUSALS)

    def keys_in(self, slot: int) -> list[bytes]:
        """Return the keys that it has of a slot."""
        return self.command("CLUSTER", "GETKEYSINSLOT", str(slot), "100000").split(b"\r\n")[2::2]


class NodeFacts(NamedTuple):
    """One node, as another knows it."""

    identity: str
    port: int
    flags: frozenset[str]
    primary: str
    is_linked: bool
    slots: str

    @classmethod
    def of(cls, line: str) -> NodeFacts:
        """Return a line of CLUSTER NODES, taken apart."""
        identity, place, flags, primary, _, _, _, link, *slots = line.split(" ")
        port = int(place.partition("@")[0].rpartition(":")[2])
        return cls(identity, port, frozenset(flags.split(",")), primary, link == "connected", " ".join(slots))

    @property
    def is_well(self) -> bool:
        """Whether it is a full member whom nobody suspects."""
        return self.is_linked and not self.flags & {"fail", "fail?", "handshake", "noaddr"}


class ClusterSet:
    """Three primaries, with a replica each.

    Args:
        directory: as of a `RedisServer`.
        timeout_ms: as of a `Node`.

    Attributes:
        nodes: all of them; the first three are the primaries to begin with.
    """

    def __init__(self, directory: str, timeout_ms: int = 2000) -> None:
        self._move: Move | None = None
        options = ("--appendonly", "yes", "--repl-diskless-sync-delay", "0")
        with ExitStack() as stack:
            self.nodes: list[Node] = []
            for i in range(2 * _PRIMARIES):
                path = os.path.join(directory, f"n{i}")
                os.mkdir(path)
                self.nodes.append(stack.enter_context(Node(path, *options, timeout_ms=timeout_ms)))
            self._join()
            self._stack = stack.pop_all()

    def _join(self) -> None:
        first, *others = self.nodes
        bounds = [_SLOTS * i // _PRIMARIES for i in range(_PRIMARIES + 1)]
        for i, node in enumerate(self.nodes):
            node.tell("CLUSTER", "SET-CONFIG-EPOCH", str(i + 1))
            if i < _PRIMARIES:
                node.tell("CLUSTER", "ADDSLOTSRANGE", str(bounds[i]), str(bounds[i + 1] - 1))
        for node in others:
            node.tell("CLUSTER", "MEET", "127.0.0.1", str(first.port), str(first.bus))
        count = len(self.nodes)
        until(lambda: all(sum(each.is_well for each in node.table()) == count for node in self.nodes))
        for i in range(_PRIMARIES):
            self.nodes[_PRIMARIES + i].tell("CLUSTER", "REPLICATE", self.nodes[i].identity())
        self.settle()

    def url(self, name: str, timeout_s: float = 60) -> str:
        """Return the URL of a store there; it names half of the nodes."""
        places = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[1:4])
        return f"redis+cluster://{places}/{name}?timeout={timeout_s}"

    def settle(self) -> None:
        """Start who has ended, finish what a failed test has begun, and return when all replicate and agree."""
        if self._move is not None and not self._move.is_over:
            self._move.finish()
        for node in self.nodes:
            if not node.is_running():
                node.start()
        until(self._is_whole)

    def _is_whole(self) -> bool:
        tables = [node.table() for node in self.nodes]
        views = {frozenset((each.identity, each.primary, each.slots) for each in table) for table in tables}
        primaries = [each for each in tables[0] if "master" in each.flags and each.slots]
        well = all(each.is_well for table in tables for each in table)
        states = [node.command("CLUSTER", "INFO").partition(b"cluster_state:")[2][:2] for node in self.nodes]
        if len(views) != 1 or not well or len(primaries) != _PRIMARIES or set(states) != {b"ok"}:
            return False
        return all(figures(self._at(each.port)).get("slave0", "").find("state=online") > 0 for each in primaries)

    def _at(self, port: int) -> Node:
        return next(node for node in self.nodes if node.port == port)

    def owner(self, name: str) -> Node:
        """Return the primary that has the slot of the store `name`, as those say who run."""
        for node in self.nodes:
            if node.is_running():
                for each in node.table():
                    is_up = "master" in each.flags and not each.flags & {"fail", "fail?"}
                    if is_up and _has(each.slots, slot_of(name)) and self._at(each.port).is_running():
                        return self._at(each.port)
        raise LookupError(name)

    def is_owned(self, name: str) -> bool:
        """Return whether a primary that runs has the slot."""
        try:
            self.owner(name)
        except LookupError:
            return False
        return True

    def other(self, name: str) -> Node:
        """Return a primary that has not."""
        owner = self.owner(name)
        return next(self._at(each.port) for each in owner.table() if each.slots and self._at(each.port) is not owner)

    def replicate(self, name: str) -> None:
        """Return when the replica has all that the store's primary has written before the call."""
        owner = self.owner(name)
        written = int(figures(owner)["master_repl_offset"])
        mine = owner.identity()
        replica = self._at(next(each.port for each in owner.table() if each.primary == mine))
        until(lambda: int(figures(replica).get("slave_repl_offset", "0")) >= written)

    def move(self, name: str) -> Move:
        """Begin to move the slot of the store `name` to another node."""
        primaries = [self._at(each.port) for each in self.nodes[0].table() if each.slots]
        others = [node for node in self.nodes if node.is_running() and node not in primaries]
        self._move = Move(self.owner(name), self.other(name), slot_of(name), primaries, others)
        return self._move

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class Move:
    """One slot on its way.

    Attributes:
        source: who gives it away.
        target: who gets it.
        is_over: whether it has been handed over, or left where it was.
    """

    def __init__(
        self, source: Node, target: Node, slot: int, primaries: Sequence[Node], replicas: Sequence[Node]
    ) -> None:
        self.source = source
        self.target = target
        self.is_over = False
        self._slot = slot
        self._primaries = primaries
        self._replicas = replicas
        target.tell("CLUSTER", "SETSLOT", str(slot), "IMPORTING", source.identity())
        source.tell("CLUSTER", "SETSLOT", str(slot), "MIGRATING", target.identity())

    def keys(self) -> list[bytes]:
        """Return what is still to be brought."""
        return self.source.keys_in(self._slot)

    def bring(self, *keys: bytes) -> None:
        """Bring keys to the target."""
        words = (b"MIGRATE", b"127.0.0.1", b"%d" % self.target.port, b"", b"0", b"20000", b"KEYS")
        for key in keys:
            reply = self.source.command(*words, key)
            assert reply.startswith((b"+OK", b"+NOKEY")), reply

    def hand_over(self) -> None:
        """Give the slot to the target; it has to have all keys."""
        new = self.target.identity()
        for node in (self.target, self.source, *self._primaries):
            node.tell("CLUSTER", "SETSLOT", str(self._slot), "NODE", new)
        until(lambda: all(self._knows(node, new) for node in self._replicas))
        self.is_over = True

    def _knows(self, replica: Node, new: str) -> bool:
        return any(each.identity == new and _has(each.slots, self._slot) for each in replica.table())

    def finish(self) -> None:
        """Bring what is left, and hand over."""
        while keys := self.keys():
            self.bring(*keys)
        self.hand_over()

    def cancel(self) -> None:
        """Leave the slot where it was; what has been brought could not come back."""
        assert not self.target.keys_in(self._slot)
        for node in (self.target, self.source):
            node.tell("CLUSTER", "SETSLOT", str(self._slot), "STABLE")
        self.is_over = True

    def let_them_wait(self, refusals: int = 20) -> None:
        """Return when calls have been refused so often because of it."""
        before = self.source.refusals()
        until(lambda: self.source.refusals() >= before + refusals)


def is_done(call: Callable[[], object]) -> bool:
    """Return whether the call succeeds now: for `until`, while a failover is under way."""
    try:
        call()
    except (sharedstate.UnavailableError, sharedstate.OutcomeUnknownError):
        return False
    return True


def slot_of(name: str) -> int:
    """Return the slot of the store `name`."""
    return crc_hqx(name.encode(), 0) % _SLOTS


def _has(slots: str, slot: int) -> bool:
    for span in slots.split():
        if not span.startswith("["):
            first, _, last = span.partition("-")
            if int(first) <= slot <= int(last or first):
                return True
    return False
