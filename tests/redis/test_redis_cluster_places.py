"""What stands in a `redis+cluster:` URL, and is no node that has the slot, is told in words that say what to do."""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

import sharedstate
from cluster_set import Node, is_done
from redis_server import free_port
from sentinel_set import figures
from sharedstate.testing.conformance.support import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis_server import RedisServer


@pytest.fixture
def lone() -> Iterator[Callable[..., Node]]:
    """Start a cluster of one node, with the given options; it ends with the test."""
    with ExitStack() as stack:

        def start(*options: str, has_slots: bool = True) -> Node:
            directory = tempfile.mkdtemp(prefix="ss-")
            stack.callback(shutil.rmtree, directory)
            node = stack.enter_context(Node(directory, *options))
            if has_slots:
                node.tell("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
                until(lambda: b"cluster_state:ok" in node.command("CLUSTER", "INFO"))
            return node

        yield start


def test_a_server_that_is_of_no_cluster(serve: Callable[..., RedisServer]) -> None:
    """Whoever takes it for a node is told which scheme it is, at once."""
    server = serve(has_port=True)

    with pytest.raises(sharedstate.UnavailableError, match="Open redis://"):
        sharedstate.open(f"redis+cluster://127.0.0.1:{server.port}/jobs?timeout=250")


def test_a_node_is_no_server_by_itself(lone: Callable[..., Node]) -> None:
    """By another scheme its locks would not be seen: it is refused, also where the node has the slot."""
    node = lone()

    for url in (f"redis://127.0.0.1:{node.port}/jobs", f"redis+unix:{node.socket}?name=jobs"):
        with pytest.raises(sharedstate.UnavailableError, match=r"Open redis\+cluster://"):
            sharedstate.open(url)


def test_no_node_is_there(lone: Callable[..., Node]) -> None:
    """Down, or hanging, all of them: the error tells whom was asked, within the timeout."""
    nobody = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    hanging = lone()
    hanging.pause()

    for places in (nobody, [*nobody[:2], f"127.0.0.1:{hanging.port}"]):
        began = time.monotonic()
        with pytest.raises(sharedstate.UnavailableError, match="See that the nodes run") as caught:
            sharedstate.open(f"redis+cluster://{','.join(places)}/jobs?timeout=2")
        assert time.monotonic() - began < 10
        for place in places:
            assert f"{place} does not answer" in str(caught.value)
    hanging.resume()


def test_a_slot_that_nobody_has(lone: Callable[..., Node]) -> None:
    """The error says so, and what gives it to a node; calls of a handle wait for that until their timeout."""
    node = lone(has_slots=False)
    url = f"redis+cluster://127.0.0.1:{node.port}/jobs"

    with pytest.raises(sharedstate.UnavailableError, match=r"no node has the slot.*--cluster fix"):
        sharedstate.open(f"{url}?timeout=250")
    node.tell("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
    until(lambda: is_done(lambda: sharedstate.open(url).close()))
    with sharedstate.open(f"{url}?timeout=0.5") as store:
        store["k"] = 1
        node.tell("CLUSTER", "DELSLOTSRANGE", "0", "16383")
        with pytest.raises(sharedstate.UnavailableError, match="no node has the slot"):
            store["k"] = 2
        node.tell("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        until(lambda: is_done(lambda: store.set("k", 2)))


def test_a_node_that_forgot_the_cluster_is_left(lone: Callable[..., Node]) -> None:
    """Its slots went to another while nobody called, and then it was reset: the next call finds who has them."""
    old = lone("--repl-diskless-sync-delay", "0")
    new = lone("--repl-diskless-sync-delay", "0", has_slots=False)
    old.tell("CLUSTER", "SET-CONFIG-EPOCH", "1")
    new.tell("CLUSTER", "SET-CONFIG-EPOCH", "2")
    new.tell("CLUSTER", "MEET", "127.0.0.1", str(old.port), str(old.bus))
    until(lambda: all(sum(each.is_well for each in node.table()) == 2 for node in (old, new)))
    new.tell("CLUSTER", "REPLICATE", old.identity())
    until(lambda: any("slave" in each.flags for each in old.table()))
    until(lambda: b"state=online" in old.command("INFO", "replication"))
    until(lambda: all(b"cluster_state:ok" in node.command("CLUSTER", "INFO") for node in (old, new)))
    url = f"redis+cluster://127.0.0.1:{old.port},127.0.0.1:{new.port}/jobs?timeout=30"
    with sharedstate.open(url) as store:
        store["k"] = 1
        until(lambda: figures(new).get("slave_repl_offset") == figures(old)["master_repl_offset"])
        new.tell("CLUSTER", "FAILOVER")
        until(lambda: figures(new)["role"] == "master" and figures(old)["role"] == "slave")
        forgotten = old.identity()
        old.tell("CLUSTER", "RESET")
        new.tell("CLUSTER", "FORGET", forgotten)
        until(lambda: b"cluster_state:ok" in new.command("CLUSTER", "INFO"))

        with sharedstate.open(url.replace("timeout=30", "timeout=5")) as hasty:
            assert hasty["k"] == 1
        assert store["k"] == 1
        store["k"] = 2
        assert store.lock("l").try_acquire()


def test_passwords_and_users(lone: Callable[..., Node]) -> None:
    """They are the nodes', and none is ever told; a user who may not ask for the slots does without."""
    node = lone("--requirepass", "of-nodes", has_slots=False)
    url = f"redis+cluster://:of-nodes@127.0.0.1:{node.port}/jobs"
    with node_client(node, "of-nodes") as tell:
        tell("CLUSTER ADDSLOTSRANGE 0 16383")
        rights = "~sharedstate:* &sharedstate:* +@connection +@read +@write +@scripting +@pubsub +info +time"
        tell(f"ACL SETUSER app on >of-app {rights}")
    until(lambda: is_done(lambda: sharedstate.open(url).close()))

    with sharedstate.open(url) as store:
        store["k"] = 1
        told = [repr(store)]
    with sharedstate.open(url.replace(":of-nodes@", "app:of-app@")) as store:
        assert store["k"] == 1
        with store.lock("l") as lock:
            assert lock.token
    with pytest.raises(sharedstate.StoreAccessError, match="user and the password in the URL") as caught:
        sharedstate.open(url.replace("of-nodes", "mistaken"))
    told.append(str(caught.value))

    assert not any(secret in text for text in told for secret in ("of-nodes", "mistaken"))


@contextmanager
def node_client(node: Node, password: str) -> Iterator[Callable[[str], None]]:
    """By hand, at a node that wants a password; each command has to be accepted."""
    with socket.socket(socket.AF_UNIX) as wire, wire.makefile("rb") as replies:
        wire.connect(node.socket)

        def tell(line: str) -> None:
            wire.sendall(f"{line}\r\n".encode())
            assert replies.readline() == b"+OK\r\n"

        tell(f"AUTH {password}")
        yield tell


def test_another_database_than_the_first() -> None:
    """A cluster has none; a store's name that is a number is written behind it."""
    with pytest.raises(sharedstate.UrlError, match=r"a cluster has database 0 only.*write /0/2024"):
        sharedstate.open("redis+cluster://localhost/2024")
