"""`redis+cluster:` reaches whichever node has the store's slot, while the slot moves and when its node dies.

A store is served whole or not at all: while its slot is on its way calls wait,
and go on at the node that gets it.  No count is lost or handed out twice by a
move, and nobody holds a lock that another was given without being told so.
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
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import pytest

import sharedstate
from cluster_set import ClusterSet, is_done
from sharedstate.model import Scope
from sharedstate.testing.conformance.support import PATIENCE_S, run_together, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sharedstate import Store

pytestmark = pytest.mark.timeout(100)  # an election takes its time, on a busy machine too


@pytest.fixture(scope="module")
def everybody() -> Iterator[ClusterSet]:
    """The nodes of this module's tests."""
    directory = tempfile.mkdtemp(prefix="ss-")
    with ClusterSet(directory) as everybody:
        yield everybody
    shutil.rmtree(directory)


@pytest.fixture
def whole(everybody: ClusterSet) -> ClusterSet:
    """The same, all of them up: the test before may have killed some."""
    everybody.settle()
    return everybody


@pytest.fixture
def name() -> str:
    """The name of a fresh store."""
    return f"test-{uuid4()}"


@pytest.fixture
def url(whole: ClusterSet, name: str) -> Iterator[str]:
    """The URL of that store; its invariants are checked afterwards."""
    url = whole.url(name)
    with sharedstate.open(url) as store:
        whole.replicate(name)  # a failover shall not take the store itself
        yield url
        whole.settle()
        store.check()
    sharedstate.remove(url)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """A handle on it."""
    with sharedstate.open(url) as store:
        yield store


@pytest.fixture
def hasty(url: str) -> Iterator[Store]:
    """A handle on it that waits for a fifth of a second."""
    with sharedstate.open(url.replace("timeout=60", "timeout=0.2")) as store:
        yield store


# --- Counting ----------------------------------------------------------------------

_COUNTING = """
import json, sys, threading
import sharedstate

store, me = sharedstate.open(sys.argv[1]), sys.argv[2]
is_over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), is_over.set()), daemon=True).start()
print("counting", flush=True)
totals, missing, errors = [], 0, []
while not is_over.wait(0.001):
    try:
        totals.append(store.increment("n"))
        store[f"{me}/{len(totals) % 50}"] = totals[-1]
        missing += len(list(store.keys(f"{me}/"))) != min(len(totals), 50)
    except (sharedstate.OutcomeUnknownError, sharedstate.UnavailableError) as error:
        errors.append(type(error).__name__)
print(json.dumps([totals, missing, errors]), flush=True)
"""


class Counted(NamedTuple):
    """What a process tells: the totals that it got, how many listings lacked a key of its own, and its errors."""

    totals: list[int]
    missing: int
    errors: list[str]


@contextmanager
def counting_processes(url: str, count: int, told: list[Counted]) -> Iterator[None]:
    """Processes that count while the block lasts, and then add what they saw to `told`."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with ExitStack() as stack:
        processes: list[subprocess.Popen[str]] = []
        for i in range(count):
            command = [sys.executable, "-c", _COUNTING, url, f"p{i}"]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            processes.append(process)
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "counting\n"
        yield
        for process in processes:
            out, _ = process.communicate("")
            told.append(Counted(*json.loads(out)))


def test_no_count_is_lost_while_the_slot_moves(whole: ClusterSet, name: str, url: str, store: Store) -> None:
    """Four processes count on while it goes there and back, a few keys at a time: each total is handed out once."""
    meta, index, entry = (store._backend._place.store, store._backend._place.entries, store._backend._place.entry("n"))
    told: list[Counted] = []

    with counting_processes(url, 4, told):
        until(lambda: store.get("n", 0) > 100)
        for order in ((entry, index, meta), (meta, entry, index)):
            move = whole.move(name)
            move.let_them_wait()
            for key in order:
                move.bring(key)
                move.let_them_wait()
            move.finish()
            assert whole.owner(name) is move.target
            seen = store["n"]
            until(lambda seen=seen: store["n"] > seen + 100)

    assert [errors for _, _, errors in told] == [[]] * 4
    assert [missing for _, missing, _ in told] == [0] * 4
    totals = sorted(total for each in told for total in each.totals)
    assert totals == list(range(1, len(totals) + 1))
    assert store["n"] == len(totals)


def test_a_replica_takes_over_under_load(whole: ClusterSet, name: str, url: str, store: Store) -> None:
    """Four processes count on when its replica takes over: none of their calls hangs, or counts twice."""
    first = whole.owner(name)
    told: list[Counted] = []

    with counting_processes(url, 4, told):
        until(lambda: store.get("n", 0) > 100)
        known = store["n"]
        whole.replicate(name)
        first.kill()
        until(lambda: whole.is_owned(name) and is_done(lambda: store.set("up", 1)))
        seen = store["n"]
        until(lambda: store["n"] > seen + 100)

    assert whole.owner(name) is not first
    acknowledged = sum(len(each.totals) for each in told)
    ends = Counter(error for each in told for error in each.errors)
    assert known + 100 <= store["n"] <= acknowledged + ends["OutcomeUnknownError"]
    # What the replica had not been told is lost, and handed out again; nothing else is.
    again = [total for total, times in Counter(t for each in told for t in each.totals).items() if times > 1]
    assert all(known < total for total in again)


def test_the_replica_takes_over_at_an_administrators_word(whole: ClusterSet, name: str, store: Store) -> None:
    """Nothing is lost; the primary of before is a replica whose connections still stand, and refuses."""
    before = [store.increment("n") for _ in range(10)]
    first = whole.owner(name)
    mine = first.identity()
    replica = whole._at(next(each.port for each in first.table() if each.primary == mine))

    replica.tell("CLUSTER", "FAILOVER")
    until(lambda: whole.is_owned(name) and whole.owner(name) is replica)

    assert [store.increment("n") for _ in range(10)] == list(range(before[-1] + 1, before[-1] + 11))
    assert store.stats()["role"] == "master"


# --- A slot on its way -------------------------------------------------------------


def test_a_store_on_its_way_is_served_whole_or_not_at_all(
    whole: ClusterSet, name: str, store: Store, hasty: Store
) -> None:
    """Nothing is missing from a listing, nothing is corrupt, nothing is gone, and nothing can be written: it waits."""
    store.set_many({f"k{i}": i for i in range(40)})
    lock = store.lock("l")
    lock.acquire()
    lock.release()
    place = store._backend._place
    calls: list[Callable[[], object]] = [
        lambda: list(hasty.keys()),
        lambda: len(hasty),
        hasty.check,
        lambda: hasty.increment("k0"),
        lambda: hasty.update({"k0": 1, "new": 1}),
        lambda: hasty.get("never-stored"),
        hasty.locks,
        hasty.sharers,
        lambda: hasty.lock("l").acquire(),
        lambda: hasty.pop("k1"),
        lambda: sharedstate.remove(hasty.url),
        lambda: sharedstate.open(hasty.url),
    ]

    for some in ([], [place.entry("k1")], [place.store], [place.locks], [place.entries]):
        move = whole.move(name)
        move.bring(*some)
        for call in calls:
            with pytest.raises(sharedstate.UnavailableError, match="is being moved to another node"):
                call()
        for i in range(40):
            if place.entry(f"k{i}") not in some:
                assert hasty[f"k{i}"] == i
        move.finish()
        assert {key: store[key] for key in store} == {f"k{i}": i for i in range(40)}
        store.check()


def test_an_evicting_store_on_its_way(whole: ClusterSet, name: str, store: Store, hasty: Store) -> None:
    """Its listings look at each entry, by a name that the script did not declare: they wait like all others."""
    store.set_many({f"k{i}": i for i in range(10)})
    owner = whole.owner(name)
    owner.tell("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    owner.tell("CONFIG", "SET", "maxmemory", "1gb")
    try:
        with pytest.warns(RuntimeWarning, match="evicts"):
            evicting = sharedstate.open(hasty.url)
        with evicting:
            assert len(evicting) == 10
            move = whole.move(name)
            move.bring(store._backend._place.entry("k1"))
            with pytest.raises(sharedstate.UnavailableError, match="is being moved to another node"):
                list(evicting.keys("k"))
            move.finish()
            assert len(evicting) == 10
    finally:
        owner.tell("CONFIG", "SET", "maxmemory", "0")
        owner.tell("CONFIG", "SET", "maxmemory-policy", "noeviction")


def test_a_waiter_wakes_at_the_node_that_got_the_slot(whole: ClusterSet, name: str, url: str, store: Store) -> None:
    """It waits at the source; the slot goes, somebody writes at the target, and it is told."""
    with sharedstate.open(url) as watcher:
        backend = watcher._backend
        token = backend.change_token()
        is_waiting = threading.Event()
        woken: list[bool] = []

        def wait() -> None:
            is_waiting.set()
            woken.append(backend.wait(token, 60))

        thread = threading.Thread(target=wait)
        thread.start()
        is_waiting.wait()
        move = whole.move(name)
        move.finish()
        assert woken == []
        store["k"] = 1
        thread.join(60)

        assert woken == [True]


def test_entries_expire_where_they_were_brought(whole: ClusterSet, name: str, store: Store) -> None:
    """What had a time to live has one there, of the same end but for the way that it took; check finds nothing."""
    store.set("k", 1, ttl_s=3600)
    before = store.read("k")
    assert before is not None

    whole.move(name).finish()

    assert store.read("k") == before
    name_of_k = store._backend._place.entry("k")
    expires_ms = int(whole.owner(name).command("PEXPIRETIME", name_of_k)[1:])
    assert before.expires_at is not None
    assert 0 <= expires_ms + 1 - before.expires_at * 1000 < 60_000
    whole.owner(name).tell("PEXPIREAT", name_of_k.decode(), str(expires_ms + 7))  # as after a longer way
    store.check()
    store.set("short", 1, ttl_s=0.2)
    whole.move(name).finish()
    until(lambda: "short" not in store)
    store.check()


# --- Locks -------------------------------------------------------------------------


def test_a_lock_is_lost_with_the_slot(whole: ClusterSet, name: str, url: str, store: Store) -> None:
    """Its holder is told so; the next one, at the other node, has a greater token."""
    with sharedstate.open(url) as other:
        lock = store.lock("l")
        token = lock.acquire()
        presence = store._backend.announce({})
        assert presence.is_held()

        whole.move(name).finish()

        until(lambda: not presence.is_held())
        assert not other.is_present(presence.token)
        theirs = other.lock("l", timeout_s=60)
        assert theirs.acquire() > token
        with pytest.raises(sharedstate.LockLostError):
            lock.token  # noqa: B018  a property that raises
        with pytest.raises(sharedstate.LockLostError):
            lock.release()
        assert theirs.token > token
        theirs.release()
        assert lock.acquire() > token
        lock.release()


def test_a_lock_outlasts_a_move_that_is_given_up(whole: ClusterSet, name: str, url: str, store: Store) -> None:
    """While the slot is leaving nobody can say that it is held, and nobody else is given it; then it is held on."""
    with sharedstate.open(url.replace("timeout=60", "timeout=0.2")) as other:
        lock = store.lock("l")
        token = lock.acquire()
        move = whole.move(name)

        with pytest.raises(sharedstate.UnavailableError, match="is being moved"):
            other.lock("l").try_acquire()
        move.cancel()

        assert not other.lock("l").try_acquire()
        assert lock.token == token
        lock.release()
        assert other.lock("l").try_acquire()


def test_who_waits_for_the_slot_keeps_nobody_waiting(whole: ClusterSet, name: str, store: Store) -> None:
    """A thread waits for a lock on its way: another asks for its place among the sharers, and drops a lock, at once."""
    token = store.join()
    dropped = store.lock("dropped")
    dropped.acquire()
    move = whole.move(name)
    waiter = threading.Thread(target=lambda: is_done(store.lock("l").acquire))
    waiter.start()
    move.let_them_wait(3)

    answers: list[str] = []
    others = threading.Thread(target=lambda: (answers.append(store.join()), dropped.__del__()))
    others.start()
    others.join(PATIENCE_S / 2)

    assert answers == [token]
    assert not others.is_alive()
    assert waiter.is_alive()
    move.finish()
    waiter.join()


def test_a_lock_does_not_come_back_with_the_slot(whole: ClusterSet, name: str, url: str, store: Store) -> None:
    """The slot goes and returns before anybody asks: whose presence or lock it was has lost it, for ever."""
    lock = store.lock("l")
    token = lock.acquire()
    presence = store._backend.announce({})
    anchor = store._backend._anchors.get()
    whole.move(name).finish()
    whole.move(name).finish()

    assert not presence.is_held()
    assert not store.is_present(presence.token)
    with sharedstate.open(url) as other:
        theirs = other.lock("l", timeout_s=60)
        assert theirs.acquire() > token
        with pytest.raises(sharedstate.LockLostError):
            lock.release()
        assert theirs.token
        theirs.release()
    with store.lock("m") as again:
        assert again.token
        assert store._backend._anchors.get() is not anchor


class Held(NamedTuple):
    """That somebody had a lock for sure: from when it was given to him until when he asked, and was told so."""

    begin: float
    end: float
    token: int


def double_holds(history: list[Held]) -> list[tuple[Held, Held]]:
    """Return which followed one another without the first having ended, or without a greater token."""
    in_order = sorted(history)
    return [(one, next_) for one, next_ in pairwise(in_order) if next_.begin < one.end or next_.token <= one.token]


def test_no_lock_has_two_holders_over_moves(whole: ClusterSet, name: str, url: str, store: Store) -> None:
    """Four handles compete for it while the slot goes there and back five times: who is not told otherwise, has it."""
    history: list[Held] = []
    is_over = threading.Event()

    def compete() -> None:
        with sharedstate.open(url) as mine:
            lock = mine.lock("l", timeout_s=60)
            while not is_over.is_set():
                token = lock.acquire()
                begin = time.monotonic()
                try:
                    for _ in range(3):
                        mine.increment("n")
                        end = time.monotonic()
                        assert lock.token == token
                        history.append(Held(begin, end, token))
                    lock.release()
                except sharedstate.LockLostError:
                    if lock.is_held():
                        with pytest.raises(sharedstate.LockLostError):
                            lock.release()

    def move() -> None:
        for _ in range(10):
            seen = len(history)
            until(lambda seen=seen: len(history) > seen + 20)
            move = whole.move(name)
            move.bring(store._backend._place.locks)
            move.finish()
        is_over.set()

    run_together(compete, compete, compete, compete, move)

    last: dict[int, Held] = {}
    for each in history:
        last[each.token] = max(each, last.get(each.token, each))
    assert double_holds(list(last.values())) == []
    assert len(last) > 50


def test_a_lock_is_lost_with_its_node(whole: ClusterSet, name: str, url: str, store: Store) -> None:
    """Its holder is told so by `token` and `release`; the next one has a greater token."""
    lock = store.lock("l")
    token = lock.acquire()
    whole.replicate(name)
    with sharedstate.open(url) as other:
        whole.owner(name).kill()

        with pytest.raises(sharedstate.LockLostError):
            lock.token  # noqa: B018  a property that raises
        theirs = other.lock("l", timeout_s=60)
        until(lambda: is_done(theirs.acquire))
        assert theirs.token > token
        with pytest.raises(sharedstate.LockLostError):
            lock.release()
        theirs.release()


# --- Which node --------------------------------------------------------------------


def test_a_store_in_a_cluster(whole: ClusterSet, name: str, url: str, store: Store) -> None:
    """Every host reaches it; whichever nodes the URL names, it is the same store, all of it in one slot."""
    assert store.capabilities.scope is Scope.CLUSTER
    store["k"] = [1]

    for node in whole.nodes:
        with sharedstate.open(f"redis+cluster://127.0.0.1:{node.port}/0/{name}") as same:
            assert same["k"] == [1]
            with store.lock("l"):
                assert not same.lock("l").try_acquire()
            assert {sharer.token for sharer in same.sharers()} == {sharer.token for sharer in store.sharers()}
    assert store.stats()["role"] == "master"


def test_a_node_that_hangs_is_passed_over(whole: ClusterSet, name: str, url: str) -> None:
    """And asked later from then on."""
    owner = whole.owner(name)
    hanging = next(node for node in whole.nodes[1:4] if node is not owner)
    places = f"127.0.0.1:{hanging.port},127.0.0.1:{owner.port}"
    hanging.pause()
    try:
        with sharedstate.open(f"redis+cluster://{places}/{name}?timeout=4") as store:
            assert store.setdefault("k", 1) == 1
            assert store._backend._pool._cluster._order[0] == ("127.0.0.1", owner.port)
    finally:
        hanging.resume()


def test_nodes_that_were_learnt_are_asked_when_those_of_the_url_are_gone(
    whole: ClusterSet, name: str, url: str
) -> None:
    """The URL names the primary alone, which dies: its replica was learnt of while it lived."""
    owner = whole.owner(name)
    with sharedstate.open(f"redis+cluster://127.0.0.1:{owner.port}/{name}?timeout=60") as store:
        store["k"] = 1
        whole.replicate(name)

        owner.kill()

        assert store["k"] == 1
        store["k"] = 2


def test_a_cluster_that_is_down(whole: ClusterSet, name: str, url: str, store: Store, hasty: Store) -> None:
    """With a primary and its replica it lacks their slots, and serves none: calls say so, and go on afterwards."""
    owner = whole.owner(name)
    victim = whole.other(name)
    mine = victim.identity()
    replica = whole._at(next(each.port for each in victim.table() if each.primary == mine))
    for node in (victim, replica):
        node.kill()
    until(lambda: b"cluster_state:fail" in owner.command("CLUSTER", "INFO"))

    with pytest.raises(sharedstate.UnavailableError, match="cluster is down"):
        hasty["k"] = 1
    until(lambda: owner.command("INFO", "errorstats").count(b"CLUSTERDOWN") > 0)
    for node in (victim, replica):
        node.start()

    store["k"] = 2
    assert store["k"] == 2
