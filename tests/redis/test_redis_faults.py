"""What a caller is told when the way to the server breaks, or the server does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

import sharedstate
from redis_server import client_of
from sharedstate import registry
from sharedstate.model import ABSENT, Durability
from sharedstate.testing.conformance.support import run_together, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from cutting_proxy import CuttingProxy
    from redis_server import RedisServer
    from sharedstate import Store


# --- The way to the server --------------------------------------------------------


def test_a_lost_reply_to_a_write_is_an_unknown_outcome(store: Store, cut_off: Store, proxy: CuttingProxy) -> None:
    """The increment was done, once: the caller is told that it may have been, and nobody sends it again."""
    cut_off.increment("n")
    proxy.swallow_reply_to(b"/n\r\n")

    with pytest.raises(sharedstate.OutcomeUnknownError):
        cut_off.increment("n")

    assert proxy.swallowed.is_set()
    assert store["n"] == 2
    assert cut_off.increment("n") == 3


@pytest.mark.parametrize("verb", ["set", "add", "delete", "touch", "set_many", "transact", "pop"])
def test_every_write_says_so(store: Store, cut_off: Store, proxy: CuttingProxy, verb: str) -> None:
    """Whichever verb it was; and the handle goes on working."""
    cut_off.update(k=1, gone=1)
    proxy.swallow_reply_to(b"/k\r\n")

    with pytest.raises(sharedstate.OutcomeUnknownError):
        {
            "set": lambda: cut_off.set("k", 2),
            "add": lambda: cut_off.add("k", 2),
            "delete": lambda: cut_off.delete("k"),
            "touch": lambda: cut_off.touch("k", 100),
            "set_many": lambda: cut_off.set_many({"k": 2}),
            "transact": lambda: cut_off.transact(lambda tx: tx.set("k", 2)),
            "pop": lambda: cut_off.pop("k", None),
        }[verb]()

    cut_off["other"] = 1
    assert store["other"] == 1


def test_a_lost_reply_to_a_read_is_asked_for_again(store: Store, cut_off: Store, proxy: CuttingProxy) -> None:
    """Reading twice does no harm: the caller notices nothing."""
    store["k"] = [1]

    for read in (lambda: cut_off["k"], lambda: cut_off.get_many(["k"])["k"], lambda: cut_off.items("k")):
        proxy.swallow_reply_to(b"/k\r\n")
        assert read() in ([1], {"k": [1]}.items())
        proxy.swallow_reply_to(b"nothing holds this")


def test_who_reaches_the_server_again_is_told(
    store: Store, cut_off: Store, proxy: CuttingProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """By the event `store.reconnected`: not where nothing broke."""
    caplog.set_level("INFO", "sharedstate")
    store["k"] = 1
    assert cut_off["k"] == 1
    assert caplog.records == []
    proxy.swallow_reply_to(b"/k\r\n")

    assert cut_off["k"] == 1

    (record,) = caplog.records
    assert record.__dict__["event"] == "store.reconnected"
    assert record.__dict__["store"] == sharedstate.errors.redact(cut_off.url)


def test_connections_that_ended_while_idle_are_replaced(store: Store, cut_off: Store, proxy: CuttingProxy) -> None:
    """A write after a cut goes over a new connection: nothing was sent over the old one."""
    cut_off["k"] = 1
    pool = cut_off._backend._pool
    proxy.cut()
    until(lambda: all(session.is_stale() for session in pool._idle))
    for session in pool._idle:
        session.idle_since = 0.0  # long ago

    cut_off["k"] = 2

    assert store["k"] == 2


def test_a_lock_is_lost_with_its_connection(store: Store, cut_off: Store, proxy: CuttingProxy) -> None:
    """Its holder is told so by `token` and `release`, and the next one has a greater token."""
    lock = cut_off.lock("l")
    token = lock.acquire()
    assert not store.lock("l").try_acquire()

    proxy.cut()
    other = store.lock("l", timeout_s=30)
    assert other.acquire() > token

    with pytest.raises(sharedstate.LockLostError):
        lock.token  # noqa: B018  a property that raises
    with pytest.raises(sharedstate.LockLostError):
        lock.release()
    assert other.is_held()
    other.release()
    assert lock.acquire(timeout_s=30)
    lock.release()


def test_a_presence_ends_with_its_connection(store: Store, cut_off: Store, proxy: CuttingProxy) -> None:
    """Who is found absent stays absent; `join` takes a new place."""
    token = cut_off.join()
    assert store.is_present(token)

    proxy.cut()
    until(lambda: not store.is_present(token))
    until(lambda: cut_off.join() != token)

    assert not store.is_present(token)
    assert store.is_present(cut_off.join())


def test_a_waiter_survives_a_cut(store: Store, cut_off: Store, proxy: CuttingProxy) -> None:
    """It looks again over a new connection, and sees the change."""

    def cut_and_change() -> None:
        until(lambda: len(proxy._pairs) > 2)  # the one on which it waits
        proxy.cut()
        store["k"] = 1

    found, _ = run_together(lambda: cut_off.wait_for_change("k", ABSENT, timeout_s=30), cut_and_change)

    assert found == store.generation("k")


def test_a_child_keeps_no_lock_of_its_dead_parent_alive(store: Store, url: str) -> None:
    """The parent is killed while its forked child lives on: the child has none of the parent's connections."""
    program = (
        "import os, sys, sharedstate\n"
        "store = sharedstate.open(sys.argv[1])\n"
        "lock = store.lock('l')\n"
        "lock.acquire()\n"
        "child = os.fork()\n"
        "if child:\n"
        "    print(child, flush=True)\n"
        "sys.stdin.read()\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", program, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not store.lock("l").try_acquire()

        parent.kill()
        parent.wait()

        until(lambda: store.lock("l").try_acquire())  # the child may only just have begun
        os.kill(child, 0)  # it lives
        os.kill(child, signal.SIGKILL)


def test_scripts_that_the_server_forgot_are_told_again(store: Store, redis_url: str) -> None:
    """SCRIPT FLUSH, or a server that was started again, costs one more round trip."""
    with client_of(redis_url) as raw:
        for verb in (
            lambda: store.set("k", 1),
            lambda: store.increment("k"),
            lambda: store.lock("l").try_acquire(),
            lambda: len(store),
            store.check,
        ):
            raw.script_flush()
            verb()
    assert store["k"] == 2


# --- The server ------------------------------------------------------------------


def _url(server: RedisServer, timeout_s: float = 5) -> str:
    return f"redis+unix:{server.socket}?name=test-{uuid4()}&timeout={timeout_s}"


def test_a_server_that_is_down_is_unavailable(serve: Callable[..., RedisServer]) -> None:
    """Within the timeout, for reads and writes; nothing was written; and when it is back, the handle works."""
    server = serve("--appendonly", "yes", "--appendfsync", "always")
    with sharedstate.open(_url(server, 0.2)) as store:
        store["k"] = 1
        server.kill()

        with pytest.raises((sharedstate.UnavailableError, sharedstate.OutcomeUnknownError)):
            store["k"] = 2
        for call in (lambda: store.set("k", 3), lambda: store["k"], lambda: store.lock("l").acquire(0), store.locks):
            with pytest.raises(sharedstate.UnavailableError):
                call()

        server.start()
        assert store["k"] == 1
        store["k"] = 4
        assert store.lock("l").try_acquire()
        store.check()


def test_a_crash_of_a_server_with_a_log_loses_nothing(serve: Callable[..., RedisServer]) -> None:
    """Every acknowledged write is there, with its deadline; generations and tokens go on."""
    server = serve("--appendonly", "yes", "--appendfsync", "always")
    with sharedstate.open(_url(server)) as store:
        assert store.capabilities.durability is Durability.DISK
        store.update({f"k{i}": [i] * i for i in range(100)})
        store.set("expires", 1, ttl_s=1000)
        before = {key: store.read(key) for key in store}
        lock = store.lock("l")
        token = lock.acquire()
        server.kill()
        server.start()

        with pytest.raises(sharedstate.LockLostError):
            lock.release()
        assert {key: store.read(key) for key in store} == before
        assert store.lock("l").acquire() > token


def test_generations_grow_over_lost_writes(serve: Callable[..., RedisServer]) -> None:
    """A server that comes back with an older snapshot gives no generation, and no token, a second time."""
    server = serve("--save", "3600 1")
    with sharedstate.open(_url(server)) as store:
        store["k"] = 1
        server.command("SAVE")
        lost = max(store.compare_and_set("k", i, store.generation("k")) for i in range(50))
        token = store.lock("l").acquire()
        server.kill()
        server.start()

        assert store["k"] == 1
        store["k"] = 2
        assert store.generation("k") > lost
        assert store.lock("l").acquire() > token


def test_a_store_that_the_server_lost_is_gone(serve: Callable[..., RedisServer]) -> None:
    """Its handles write to no ghost; whoever opens it anew gets an empty one, whose generations go on."""
    server = serve()
    url = _url(server)
    with sharedstate.open(url) as store:
        assert store.capabilities.durability is Durability.BOOT
        store["k"] = 1
        before = store.generation("k")
        server.kill()
        server.start()

        for call in (
            lambda: store.set("k", 1),
            lambda: store.increment("n"),
            lambda: store.lock("l").acquire(),
            store.check,
        ):
            with pytest.raises(sharedstate.UnavailableError):
                call()
        with sharedstate.open(url) as again:
            assert dict(again) == {}
            again["k"] = 1
            assert again.generation("k") > before
            with pytest.raises(sharedstate.UnavailableError):
                store["k"] = 2
            assert again["k"] == 1


def test_a_full_server_loses_nothing(serve: Callable[..., RedisServer]) -> None:
    """CapacityError, and what is there stays; what deletes works; then there is room again."""
    server = serve("--maxmemory", "6mb")
    with sharedstate.open(_url(server)) as store:
        written = 0

        def fill() -> None:
            nonlocal written
            for i in range(1000):
                store[f"k{i}"] = bytes(20_000)
                written += 1

        with pytest.raises(sharedstate.CapacityError):
            fill()
        with pytest.raises(sharedstate.CapacityError):
            store.transact(lambda tx: (tx.set("k0", 1), tx.set("n", bytes(40_000))))
        assert len(store) == written
        assert store["k0"] == bytes(20_000)
        assert store.touch("k0", 1000)
        store.check()
        assert store.pop("k1")
        store.transact(lambda tx: tx.delete("k2"))
        store.clear()
        store["k"] = 1
        assert dict(store) == {"k": 1}


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru"])
def test_an_evicting_server_is_said_to_be_one(serve: Callable[..., RedisServer], policy: str) -> None:
    """A warning, `capabilities.evicts`; and no locks where the server may drop what never expires."""
    server = serve("--maxmemory", "100mb", "--maxmemory-policy", policy)

    with pytest.warns(RuntimeWarning, match=policy):
        store = sharedstate.open(_url(server))

    with store:
        assert store.capabilities.evicts
        store["k"] = 1
        assert len(store) == 1
        if policy == "allkeys-lru":
            with pytest.raises(sharedstate.UnavailableError, match="noeviction"):
                store.lock("l")
        else:
            assert store.lock("l").try_acquire()


def test_who_may_not_be_told_of_changes_looks(serve: Callable[..., RedisServer]) -> None:
    """A user with no more rights than FORMAT.md names, and without CLIENT TRACKING, waits by looking now and then."""
    server = serve()
    rights = (
        "~sharedstate:* &sharedstate:* +@connection +@read +@write +@scripting +@pubsub +info +time -client|tracking"
    )
    server.command("ACL", "SETUSER", "ada", "on", ">lovelace@/:", *rights.split())
    secret = "lovelace%40/:"
    with sharedstate.open(f"{_url(server)}&username=ada&password={secret}") as store:
        found, _ = run_together(lambda: store.wait_for_change("k", ABSENT, timeout_s=30), lambda: store.set("k", 1))
        assert found == store.generation("k")
        assert "lovelace" not in repr(store)
        assert store.stats()["persistence"] == "unknown"
    with pytest.raises(sharedstate.StoreAccessError) as caught:
        sharedstate.open(f"{_url(server)}&username=ada&password=wrong")
    assert "wrong" not in str(caught.value.url)


def test_a_port_reaches_the_same_store(serve: Callable[..., RedisServer]) -> None:
    """redis://host:port/database/name and redis+unix:/path?db=&name= are two ways to one store."""
    server = serve(has_port=True)
    with (
        sharedstate.open(f"redis://127.0.0.1:{server.port}/3/jobs") as one,
        sharedstate.open(f"redis+unix:{server.socket}?db=3&name=jobs") as other,
        sharedstate.open(f"redis://localhost:{server.port}/jobs") as elsewhere,
    ):
        one["k"] = 1
        assert other["k"] == 1
        assert dict(elsewhere) == {}


# --- What is stored ----------------------------------------------------------------


def test_a_removal_that_died_is_finished_by_the_next_to_open(redis_url: str) -> None:
    """Its entries are nobody's, and go when somebody opens a store of that name."""
    from sharedstate_redis import place

    url = f"{redis_url}?name=test-{uuid4()}"
    with sharedstate.open(url) as store:
        store.update({f"k{i}": i for i in range(1200)})
        pool = store._backend._pool
        place.retire(pool)
        left = place.Place.of(pool.address.name, store._backend._place.id)

        with sharedstate.open(url) as again:
            assert len(again) == 0
            assert pool.read(b"*2\r\n$6\r\nEXISTS\r\n$%d\r\n%b\r\n" % (len(left.entries), left.entries)) == 0
            assert pool.read(b"*2\r\n$6\r\nEXISTS\r\n$%d\r\n%b\r\n" % (len(left.entry("k1")), left.entry("k1"))) == 0
    sharedstate.remove(url)


@pytest.mark.parametrize(
    ("harm", "invariant"),
    [
        (("SET", "{entry}", "rubbish"), "R2"),
        (("SET", "{entry}", "5  \xc1"), "R2"),
        (("SET", "{entry}", "9999999999999999  1"), "R2"),
        (("SET", "{entry}", "5 77 1"), "R3"),
        (("PEXPIRE", "{entry}", "100000"), "R3"),
        (("DEL", "{entry}"), "R3"),
        (("ZADD", "{index}", "99999999999999", "k"), "R3"),
        (("ZADD", "{index}", "+inf", "\udcff"), "R3"),
        (("HSET", "{locks}", "l", "rubbish"), "R4"),
        (("HDEL", "{store}", "id"), "is gone"),
    ],
)
def test_check_finds_what_is_wrong(redis_url: str, harm: tuple[str, ...], invariant: str) -> None:
    """Each kind of damage is named, and a verb that meets it raises CorruptError rather than guess."""
    url = f"{redis_url}?name=test-{uuid4()}"
    with sharedstate.open(url) as store, client_of(redis_url) as raw:
        store["k"] = 1
        place = store._backend._place
        names = {"entry": place.entry("k"), "index": place.entries, "locks": place.locks, "store": place.store}
        words = [names[word[1:-1]] if word[0] == "{" else word.encode("utf-8", "surrogateescape") for word in harm]
        raw.execute_command(*words)

        with pytest.raises((sharedstate.CorruptError, sharedstate.UnavailableError), match=invariant):
            store.check()
        raw.delete(place.store)


def test_a_key_of_another_kind_is_corrupt(redis_url: str) -> None:
    """An entry, or the store's own key, that somebody replaced by a list is refused, not written over."""
    url = f"{redis_url}?name=test-{uuid4()}"
    with client_of(redis_url) as raw:
        with sharedstate.open(url) as store:
            place = store._backend._place
            raw.lpush(place.entry("k"), "x")
            for call in (lambda: store["k"], lambda: store.increment("k"), lambda: store.add("k", 1)):
                with pytest.raises(sharedstate.CorruptError):
                    call()
        raw.delete(place.store)
        raw.lpush(place.store, "x")
        with pytest.raises(sharedstate.CorruptError):
            registry.connect(url)
        raw.delete(place.store)
