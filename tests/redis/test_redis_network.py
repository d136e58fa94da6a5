"""A network that is cut, and comes back: no call hangs, no lock has two holders, no acknowledged count is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

import sharedstate
from cluster_set import Node, slot_of
from network import Network
from redis_server import RedisServer
from sentinel_set import SERVICE, Sentinel, figures
from sharedstate.testing.conformance.support import until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:.*min-replicas-to-write:RuntimeWarning"),
]

_OPEN = ("--protected-mode", "no")  # only this host is at the other end of the wire
_AT_ONCE = ("--repl-diskless-sync-delay", "0")


@pytest.fixture
def network() -> Iterator[Network]:
    """A wire that can be cut."""
    with Network() as network:
        yield network


@pytest.fixture
def places() -> Iterator[Iterator[str]]:
    """Directories, for servers."""
    directory = tempfile.mkdtemp(prefix="ss-")

    def make() -> Iterator[str]:
        number = 0
        while True:
            number += 1
            path = os.path.join(directory, str(number))
            os.mkdir(path)
            yield path

    yield make()
    shutil.rmtree(directory)


@pytest.fixture
def server(network: Network, places: Iterator[str]) -> Iterator[RedisServer]:
    """A server at the far end, which looks after 1 s of silence whether a client is still there."""
    with RedisServer(next(places), *_OPEN, "--tcp-keepalive", "1", has_port=True, network=network) as server:
        yield server


def _far(server: RedisServer, timeout_s: float) -> str:
    """Return the URL of the store there, by the wire."""
    return f"redis://{server.host}:{server.port}/cut?timeout={timeout_s}"


def _near(server: RedisServer) -> str:
    """Return the URL of the same store by the server's socket, which needs no wire."""
    return f"redis+unix:{server.socket}?name=cut"


def _is_done(call: object) -> bool:
    try:
        call()  # type: ignore[operator]
    except (sharedstate.UnavailableError, sharedstate.OutcomeUnknownError):
        return False
    return True


def test_no_call_hangs_while_the_network_is_cut(network: Network, server: RedisServer) -> None:
    """Reads say that nothing can be had, writes that nobody knows; afterwards the same handle goes on."""
    with sharedstate.open(_far(server, 0.5)) as store:
        assert store.increment("n") == 1

        network.cut()
        with pytest.raises(sharedstate.OutcomeUnknownError):
            store.increment("n")
        for _ in range(3):
            with pytest.raises(sharedstate.UnavailableError):
                store.get("n")
        with pytest.raises(sharedstate.UnavailableError):
            store.increment("n")  # over a new connection, which there is none: nothing was sent
        network.restore()

        until(lambda: _is_done(lambda: store.get("n")))
        assert store["n"] in {1, 2}
        store.check()


def test_counts_are_exact_but_for_those_that_nobody_knows(network: Network, server: RedisServer) -> None:
    """Four threads count while the wire is cut and mended five times."""
    acknowledged, unknown = [0] * 4, [0] * 4
    is_over = threading.Event()
    with sharedstate.open(_far(server, 0.3)) as store:

        def count(thread: int) -> None:
            while not is_over.is_set():
                try:
                    store.increment("n")
                    acknowledged[thread] += 1
                except sharedstate.OutcomeUnknownError:
                    unknown[thread] += 1
                except sharedstate.UnavailableError:
                    pass

        threads = [threading.Thread(target=count, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(5):
                seen, lost = sum(acknowledged), sum(unknown)
                until(lambda seen=seen: sum(acknowledged) > seen + 20)
                network.cut()
                until(lambda lost=lost: sum(unknown) > lost)
                network.restore()
        finally:
            is_over.set()
            for thread in threads:
                thread.join()

    with sharedstate.open(_near(server)) as store:
        assert sum(acknowledged) <= store["n"] <= sum(acknowledged) + sum(unknown)
    assert sum(unknown) >= 5


def test_a_lock_outlasts_a_cut_that_the_server_does_not_notice(network: Network, server: RedisServer) -> None:
    """Slow is not dead: while the connection stands nobody else gets it, and its holder goes on."""
    server.command("CONFIG", "SET", "tcp-keepalive", "300")
    with sharedstate.open(_far(server, 20)) as store, sharedstate.open(_near(server)) as other:
        lock = store.lock("l")
        token = lock.acquire()

        network.cut()
        assert not other.lock("l").try_acquire()
        network.restore()

        assert lock.token == token
        assert not other.lock("l").try_acquire()
        lock.release()
        assert other.lock("l").try_acquire()


def test_a_lock_is_lost_by_a_cut_that_the_server_notices(network: Network, server: RedisServer) -> None:
    """The server ends the connection; who comes next has a greater token, and the first is told as soon as he asks.

    It notices by `tcp-keepalive`; or, where an answer of its own was under way when the wire was cut, by the kernel's
    `tcp_retries2`.
    """
    network.give_up_soon()
    with sharedstate.open(_far(server, 20)) as store, sharedstate.open(_near(server)) as other:
        lock = store.lock("l")
        token = lock.acquire()

        network.cut()
        theirs = other.lock("l")
        until(theirs.try_acquire)
        assert theirs.token > token
        network.restore()

        with pytest.raises(sharedstate.LockLostError):
            lock.token  # noqa: B018  a property that raises
        with pytest.raises(sharedstate.LockLostError):
            lock.release()
        assert theirs.token > token
        theirs.release()


def test_a_primary_that_is_cut_off_is_left_and_writes_nothing(network: Network, places: Iterator[str]) -> None:
    """The service goes on with a replica; who is alone with the old one is refused, and it comes back as a replica."""
    lonely = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "3")
    with ExitStack() as stack:
        old = stack.enter_context(RedisServer(next(places), *_OPEN, *_AT_ONCE, *lonely, has_port=True, network=network))
        new = stack.enter_context(
            RedisServer(
                *(next(places), *_OPEN, *_AT_ONCE, "--replicaof", old.host, str(old.port)),
                has_port=True,
                host=network.here,
            )
        )
        until(lambda: figures(new).get("master_link_status") == "up")
        patience = f"sentinel down-after-milliseconds {SERVICE} 2000"
        sentinel = stack.enter_context(Sentinel(next(places), old.port, patience, host=old.host))
        until(lambda: sentinel.facts().get("num-slaves") == "1")
        store = stack.enter_context(
            sharedstate.open(f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}/cut?timeout=3")
        )
        beside = stack.enter_context(sharedstate.open(_near(old)))  # who will be left with it
        lock = store.lock("l")
        token = lock.acquire()
        assert store.increment("n") == 1
        until(lambda: figures(new).get("slave_repl_offset") == figures(old)["master_repl_offset"])

        network.cut()
        until(lambda: _is_done(lambda: store.increment("n")))
        with pytest.raises(sharedstate.LockLostError):
            lock.release()
        assert lock.acquire() > token
        until(lambda: figures(old).get("min_slaves_good_slaves") == "0")
        with pytest.raises(sharedstate.UnavailableError):
            beside["k"] = "written by nobody else"
        total = store["n"]
        network.restore()

        until(lambda: figures(old).get("role") == "slave" and figures(old).get("master_link_status") == "up")
        assert store["n"] == total
        assert "k" not in store
        assert lock.token > token
        lock.release()
        store.check()


_HOLDING = """
import sys, threading
import sharedstate

store = sharedstate.open(sys.argv[1])
lock = store.lock("l")
print(lock.acquire(), flush=True)
try:
    while not threading.Event().wait(0.01):
        lock.token
except sharedstate.LockLostError:
    print("lost", flush=True)
try:
    store["k"] = "written by nobody else"
except sharedstate.UnavailableError:
    print("refused", flush=True)
"""


def test_a_node_that_is_cut_off_stops_by_itself(network: Network, places: Iterator[str]) -> None:
    """Its replica takes over; who is alone with it is told that his lock is lost, and writes nothing."""
    slot = slot_of("cut")
    with ExitStack() as stack:
        old = stack.enter_context(Node(next(places), *_OPEN, *_AT_ONCE, network=network))
        first, last, new = near = [
            stack.enter_context(Node(next(places), *_OPEN, *_AT_ONCE, host=network.here)) for _ in range(3)
        ]
        for node, *span in ((old, slot, slot), (first, 0, slot - 1), (last, slot + 1, 16383)):
            node.tell("CLUSTER", "ADDSLOTSRANGE", *map(str, span))
        for epoch, node in enumerate((old, *near), 1):
            node.tell("CLUSTER", "SET-CONFIG-EPOCH", str(epoch))
        for node in near:
            node.tell("CLUSTER", "MEET", old.host, str(old.port), str(old.bus))
        until(lambda: all(sum(each.is_well for each in node.table()) == 4 for node in (old, *near)))
        new.tell("CLUSTER", "REPLICATE", old.identity())
        until(lambda: figures(new).get("master_link_status") == "up")
        until(lambda: all(b"cluster_state:ok" in node.command("CLUSTER", "INFO") for node in (old, *near)))
        store = stack.enter_context(sharedstate.open(f"redis+cluster://{first.host}:{first.port}/cut?timeout=2"))
        assert store.increment("n") == 1
        command = [
            *network.inside,
            sys.executable,
            "-c",
            _HOLDING,
            f"redis+cluster://{old.host}:{old.port}/cut?timeout=1",
        ]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        alone = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True))
        stack.callback(alone.kill)
        assert alone.stdout is not None
        token = int(alone.stdout.readline())
        until(lambda: figures(new).get("slave_repl_offset") == figures(old)["master_repl_offset"])

        network.cut()
        theirs = store.lock("l", timeout_s=60)
        until(lambda: _is_done(theirs.acquire))
        assert theirs.token > token
        assert [alone.stdout.readline(), alone.stdout.readline()] == ["lost\n", "refused\n"]
        total = store.increment("n")
        network.restore()

        until(lambda: figures(old).get("role") == "slave" and figures(old).get("master_link_status") == "up")
        assert store["n"] == total
        assert "k" not in store
        assert theirs.token > token
        theirs.release()
        store.check()
