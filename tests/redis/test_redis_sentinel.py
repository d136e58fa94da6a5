"""`redis+sentinel:` reaches whichever server is the primary, and what a failover may take with it.

A call returns, or raises OutcomeUnknownError or UnavailableError; none hangs.
What was counted is at least what the replicas had, and what the new primary
acknowledged; at most what was acknowledged, or may have happened.  Between
the two is what a failover may lose: replication is asynchronous.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

import sharedstate
from redis_server import free_port
from sentinel_set import SERVICE, SentinelSet, figures
from sharedstate.model import Scope
from sharedstate.testing.conformance.support import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis_server import RedisServer
    from sentinel_set import Sentinel
    from sharedstate import Store

_AT_ONCE = ("--repl-diskless-sync-delay", "0")  # a new replica is served without waiting for others

pytestmark = pytest.mark.timeout(300)  # sentinels take their time, on a busy machine too


@pytest.fixture(scope="module")
def everybody() -> Iterator[SentinelSet]:
    """The servers and sentinels of this module's tests."""
    directory = tempfile.mkdtemp(prefix="ss-")
    with SentinelSet(directory) as everybody:
        yield everybody
    shutil.rmtree(directory)


@pytest.fixture
def whole(everybody: SentinelSet) -> SentinelSet:
    """The same, all of them up: the test before may have killed some."""
    everybody.settle()
    return everybody


@pytest.fixture
def url(whole: SentinelSet) -> Iterator[str]:
    """The URL of a fresh store there; its invariants are checked afterwards."""
    url = whole.url(f"test-{uuid4()}")
    with sharedstate.open(url) as store:
        whole.replicate()  # a failover shall not take the store itself
        yield url
        whole.settle()
        store.check()
    sharedstate.remove(url)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """A handle on that store."""
    with sharedstate.open(url) as store:
        yield store


def _done(call: Callable[[], object]) -> bool:
    """Return whether the call succeeds now: for `until`, while a failover is under way."""
    try:
        call()
    except (sharedstate.UnavailableError, sharedstate.OutcomeUnknownError):
        return False
    return True


# --- A failover ------------------------------------------------------------------


class Load:
    """Threads that count through one handle, and how each call ended.

    Attributes:
        ends: how often each end was seen; a call that returned is "acknowledged".
        others: errors that no call may raise.
    """

    def __init__(self, store: Store, threads: int = 4) -> None:
        self.ends: Counter[str] = Counter()
        self.others: list[BaseException] = []
        self._store = store
        self._is_over = threading.Event()
        self._turn = threading.Lock()
        self._threads = [threading.Thread(target=self._count) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _count(self) -> None:
        while not self._is_over.wait(0.002):  # as fast as it goes would leave no time to the sentinels
            try:
                self._store.increment("n")
                end = "acknowledged"
            except (sharedstate.OutcomeUnknownError, sharedstate.UnavailableError) as error:
                end = type(error).__name__
            except BaseException as error:  # noqa: BLE001  it is the test's to judge
                self.others.append(error)
                return
            with self._turn:
                self.ends[end] += 1

    def end(self) -> Counter[str]:
        """Stop, and return how the calls ended."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        assert self.others == []
        return self.ends


_COUNTING = """
import json, sys, threading
from collections import Counter
import sharedstate

store = sharedstate.open(sys.argv[1])
is_over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), is_over.set()), daemon=True).start()
print("counting", flush=True)
ends = Counter()
while not is_over.wait(0.002):
    try:
        store.increment("n")
        ends["acknowledged"] += 1
    except (sharedstate.OutcomeUnknownError, sharedstate.UnavailableError) as error:
        ends[type(error).__name__] += 1
print(json.dumps(ends), flush=True)
"""


@contextmanager
def counting_process(url: str, ends: Counter[str]) -> Iterator[None]:
    """A process that counts while the block lasts, and then adds how its calls ended to `ends`."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _COUNTING, url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "counting\n"
            yield
            out, _ = process.communicate("")
            ends.update(json.loads(out))
        finally:
            process.kill()


def test_a_primary_killed_under_load(whole: SentinelSet, url: str, store: Store) -> None:
    """Four threads and a process count on through it: none of their calls hangs, or counts twice."""
    first = whole.primary()
    before = sum(1 for _ in range(50) if store.increment("n"))
    generation = store.generation("n")
    whole.replicate()

    ends: Counter[str] = Counter()
    with counting_process(url, ends):
        load = Load(store)
        until(lambda: load.ends["acknowledged"] > 100)
        first.kill()
        until(lambda: whole.primary() is not first and _done(lambda: store.set("up", 1)))
        seen = load.ends["acknowledged"]
        until(lambda: load.ends["acknowledged"] > seen + 100)  # through the handle of before
        by_the_new = load.end()["acknowledged"] - seen
    ends += load.ends
    after = [store.increment("n") for _ in range(50)]

    assert after == list(range(after[0], after[0] + 50))
    most = before + ends["acknowledged"] + ends["OutcomeUnknownError"] + 50
    assert before + by_the_new + 50 <= after[-1] <= most
    assert store.generation("n") > generation


def test_nobody_writes_to_a_primary_that_comes_back(whole: SentinelSet, store: Store) -> None:
    """It begins as the primary that it was, and is made a replica: nothing that was counted meanwhile is lost."""
    first = whole.primary()
    first.kill()
    until(lambda: whole.primary() is not first and _done(lambda: store.set("n", 0)))

    load = Load(store)
    first.start()
    until(lambda: figures(first)["role"] == "slave")
    with sharedstate.open(store.url) as newcomer:
        total = newcomer.increment("n")
    ends = load.end()

    assert 0 < total <= store["n"]
    counted = ends["acknowledged"] + 1
    assert counted <= store["n"] <= counted + ends["OutcomeUnknownError"]
    whole.settle()
    whole.replicate()
    name = store._backend._place.entry("n")
    assert first.command("GET", name) == whole.primary().command("GET", name)


def test_a_lock_is_lost_with_the_primary(whole: SentinelSet, url: str, store: Store) -> None:
    """Its holder is told so by `token` and `release`; the next one has a greater token."""
    first = whole.primary()
    lock = store.lock("l")
    token = lock.acquire()
    whole.replicate()
    with sharedstate.open(url) as other:
        assert not other.lock("l").try_acquire()

        first.kill()

        with pytest.raises(sharedstate.LockLostError):
            lock.token  # noqa: B018  a property that raises
        theirs = other.lock("l", timeout_s=60)
        until(lambda: _done(theirs.acquire))
        assert theirs.token > token
        with pytest.raises(sharedstate.LockLostError):
            lock.release()
        assert theirs.token > token
        theirs.release()
        assert lock.acquire() > token
        lock.release()


def test_a_stopped_primary_is_left(whole: SentinelSet, store: Store) -> None:
    """One that hangs ends nothing by itself: calls under way time out, later ones find the new primary."""
    first = whole.primary()
    with sharedstate.open(store.url.replace("timeout=60", "timeout=5")) as hasty:
        hasty["k"] = 1
        whole.replicate()

        first.pause()
        try:
            with pytest.raises(sharedstate.OutcomeUnknownError):
                hasty["k"] = 2
            until(lambda: whole.primary() is not first and _done(lambda: hasty.set("k", 3)))
            assert hasty["k"] == 3
        finally:
            first.resume()
        whole.settle()
        assert hasty["k"] == 3


# --- A primary that is one no more -------------------------------------------------


def _switch(old: RedisServer, new: RedisServer, sentinel: Sentinel) -> None:
    """Make `new` the primary; nobody's connection ends by it."""
    new.command("REPLICAOF", "NO", "ONE")
    sentinel.point_to(new.port)
    old.command("REPLICAOF", "127.0.0.1", str(new.port))
    until(lambda: _is_replica(old))


def _is_replica(server: RedisServer) -> bool:
    return figures(server).get("master_link_status") == "up"


@pytest.mark.filterwarnings("ignore:.*min-replicas-to-write:RuntimeWarning")
def test_a_refusal_by_a_replica_is_the_way_to_the_primary(
    serve: Callable[..., RedisServer], watch: Callable[..., Sentinel]
) -> None:
    """Whose connections all still stand: the write goes to the new primary, once, and reads are no longer stale."""
    old = serve(*_AT_ONCE, has_port=True)
    new = serve("--replicaof", "127.0.0.1", str(old.port), *_AT_ONCE, has_port=True)
    sentinel = watch(old.port)
    until(lambda: _is_replica(new))
    with sharedstate.open(f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}?timeout=30") as store:
        pool = store._backend._pool
        in_use = pool.take()  # as by another thread
        assert store.increment("n") == 1
        lock = store.lock("l")
        token = lock.acquire()
        until(lambda: figures(new).get("slave_repl_offset") == figures(old)["master_repl_offset"])
        _switch(old, new, sentinel)
        assert not in_use.is_stale()
        assert [session.is_stale() for session in pool._idle] == [False]

        assert store.increment("n") == 2
        pool.give_back(in_use)
        assert store.stats()["role"] == "master"
        assert store.is_present(store.join())
        with pytest.raises(sharedstate.LockLostError):
            lock.token  # noqa: B018  a property that raises
        old.kill()

        assert store["n"] == 2
        with pytest.raises(sharedstate.LockLostError):
            lock.release()
        assert lock.acquire() > token
        lock.release()
        store.check()


def test_a_named_replica_is_not_taken(serve: Callable[..., RedisServer], watch: Callable[..., Sentinel]) -> None:
    """A sentinel that has not heard of a failover names it; whoever asks waits, and is then told."""
    primary = serve(*_AT_ONCE, has_port=True)
    replica = serve("--replicaof", "127.0.0.1", str(primary.port), has_port=True)
    sentinel = watch(primary.port)
    sentinel.point_to(replica.port)
    until(lambda: _is_replica(replica))

    with pytest.raises(sharedstate.UnavailableError, match="which is a replica"):
        sharedstate.open(f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}?timeout=0.5")
    with pytest.raises(sharedstate.UnavailableError, match=r"redis\+sentinel://"):
        sharedstate.open(f"redis://127.0.0.1:{replica.port}")


def test_a_primary_without_replicas_answers_for_no_lock(
    serve: Callable[..., RedisServer], watch: Callable[..., Sentinel]
) -> None:
    """It may be cut off, and another have given the lock away: so it is lost to its holder, and nothing is written."""
    primary = serve("--min-replicas-to-write", "1", "--min-replicas-max-lag", "10", *_AT_ONCE, has_port=True)
    replica = serve("--replicaof", "127.0.0.1", str(primary.port), has_port=True)
    sentinel = watch(primary.port)
    until(lambda: figures(primary).get("min_slaves_good_slaves") == "1")
    with sharedstate.open(f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}") as store:
        lock = store.lock("l")
        assert lock.acquire() == lock.token

        replica.kill()
        until(lambda: figures(primary)["min_slaves_good_slaves"] == "0")

        with pytest.raises(sharedstate.LockLostError, match="does not say that it is held"):
            lock.token  # noqa: B018  a property that raises
        with pytest.raises(sharedstate.UnavailableError):
            store["k"] = 1
        assert "k" not in store


# --- Sentinels ---------------------------------------------------------------------


def test_a_store_in_a_service(whole: SentinelSet, url: str, store: Store) -> None:
    """Every host reaches it; it is the store that the primary's own URL names."""
    assert store.capabilities.scope is Scope.CLUSTER
    store["k"] = [1]

    with sharedstate.open(f"redis://127.0.0.1:{whole.primary().port}/{store._backend._pool.address.name}") as direct:
        assert direct["k"] == [1]
        with store.lock("l"):
            assert not direct.lock("l").try_acquire()
        assert {sharer.token for sharer in direct.sharers()} == {sharer.token for sharer in store.sharers()}
    assert store.stats()["role"] == "master"


def test_a_sentinel_that_hangs_is_passed_over(whole: SentinelSet, url: str) -> None:
    """And asked last from then on."""
    first, *others = whole.sentinels
    first.pause()
    try:
        with sharedstate.open(url) as store:
            assert store.setdefault("k", 1) == 1
            assert store._backend._pool._sentinels._order[0] == ("127.0.0.1", others[0].port)
    finally:
        first.resume()


def test_a_service_of_another_name(whole: SentinelSet) -> None:
    """The error tells whom was asked, and what they know instead; at once, however long the timeout."""
    url = whole.url("jobs").replace(f"/{SERVICE}/", "/mymaster/")

    with pytest.raises(sharedstate.UnavailableError, match="Name a service that they monitor") as caught:
        sharedstate.open(url.replace("timeout=60", "timeout=250"))

    for sentinel in whole.sentinels:
        assert f"127.0.0.1:{sentinel.port} monitors only '{SERVICE}'" in str(caught.value)


def test_a_server_is_no_sentinel(whole: SentinelSet) -> None:
    """Whoever names the servers instead is told."""
    with pytest.raises(sharedstate.UnavailableError, match="Name the sentinels, not the servers"):
        sharedstate.open(f"redis+sentinel://127.0.0.1:{whole.primary().port}/{SERVICE}/jobs")


def test_no_sentinel_is_there(serve: Callable[..., RedisServer], watch: Callable[..., Sentinel]) -> None:
    """Down, or hanging, all of them: the error tells whom was asked, within the timeout."""
    nobody = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    hanging = watch(free_port())
    hanging.pause()

    for places in (nobody, [*nobody[:2], f"127.0.0.1:{hanging.port}"]):
        began = time.monotonic()
        with pytest.raises(sharedstate.UnavailableError, match="See that the sentinels run") as caught:
            sharedstate.open(f"redis+sentinel://{','.join(places)}/{SERVICE}/jobs?timeout=2")
        assert time.monotonic() - began < 10
        for place in places:
            assert f"{place} does not answer" in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*min-replicas-to-write:RuntimeWarning")
def test_handles_outlast_their_sentinels(serve: Callable[..., RedisServer], watch: Callable[..., Sentinel]) -> None:
    """Without any, connections that there are go on; a new one is refused within the timeout, until they are back."""
    server = serve(has_port=True)
    sentinel = watch(server.port)
    with sharedstate.open(f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}?timeout=1") as store:
        store["k"] = 1
        sentinel.kill()
        assert store["k"] == 1

        server.command("CLIENT", "KILL", "TYPE", "normal")
        with pytest.raises(sharedstate.UnavailableError, match="does not answer"):
            store["k"]

        sentinel.start()
        until(lambda: _done(lambda: store.set("k", 2)))
        assert store["k"] == 2


def test_sentinels_and_servers_with_passwords(
    serve: Callable[..., RedisServer], watch: Callable[..., Sentinel]
) -> None:
    """Each has its own in the URL, and none is ever told; who lacks the sentinels' is told which parameter it is."""
    server = serve("--requirepass", "of-servers", has_port=True)
    sentinel = watch(server.port, f"sentinel auth-pass {SERVICE} of-servers", "requirepass of-sentinels")
    place = f"127.0.0.1:{sentinel.port}/{SERVICE}/jobs"
    url = f"redis+sentinel://:of-servers@{place}?sentinel_password=of-sentinels"

    with pytest.warns(RuntimeWarning, match="min-replicas-to-write") as warned:
        store = sharedstate.open(url)

    with store:
        store["k"] = 1
        assert store["k"] == 1
        told = [repr(store), *(str(each.message) for each in warned)]
    with pytest.raises(sharedstate.StoreAccessError, match="sentinel_password=") as caught:
        sharedstate.open(f"redis+sentinel://:of-servers@{place}")
    told.append(str(caught.value))
    with pytest.raises(sharedstate.StoreAccessError, match="user and the password in the URL") as caught:
        sharedstate.open(f"redis+sentinel://:mistaken@{place}?sentinel_password=of-sentinels")
    told.append(str(caught.value))

    assert not any(secret in text for text in told for secret in ("of-servers", "of-sentinels", "mistaken"))
