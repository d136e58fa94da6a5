"""A store that moves from sqlite to redis while it is used: M1 to M5 of `migration.moving`, and what they stand on."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import sharedstate
from moves import move
from sharedstate import aio
from sharedstate.cli.main import main
from sharedstate.model import ABSENT
from sharedstate.testing.conformance.support import run_together, until
from sharedstate.testing.histories import Recorder, judge_register
from sharedstate_sqlite import gates, moving, schema

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from redis_server import RedisServer
    from sharedstate import Store

_COUNTER = """
import sys, sharedstate
store = sharedstate.open(sys.argv[1])
print("ready", flush=True)
for _ in range(int(sys.argv[2])):
    print(store.increment("n"), flush=True)
"""

_MOVER = """
import sys, sharedstate
with sharedstate.open(sys.argv[1]) as source, sharedstate.open(sys.argv[2]) as target:
    {plant}
    sharedstate.move_store(source, target, linger_s=0.0)
"""


# --- What comes along -------------------------------------------------------------


def test_all_is_there_and_everybody_goes_along(old: Store, old_url: str, url: str) -> None:
    """Values to the bit and deadlines; for who had the store open, and for who opens it by either URL."""
    values = {"int": 2**64 - 1, "nan": [float("-inf"), -0.0], "bytes": b"\0\xff", "nested": {"a": (1, None)}, "ä": "ö"}
    old.update(values)
    old.set("soon", "gone", 100)

    report = move(old_url, url)

    assert report.entries == 6
    for store in (old, sharedstate.open(old_url), sharedstate.open(url)):
        assert {key: store[key] for key in values} == values
        assert type(store["nested"]["a"]) is tuple
        assert 90 < (store.ttl("soon") or 0) <= 100
        assert sorted(store) == sorted([*values, "soon"])
        assert store.url == url
        assert store.capabilities.scope >= sharedstate.Scope.HOST


def test_what_expired_stays_behind(old: Store, old_url: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also an entry that was brought as lasting, and was given a deadline meanwhile that has passed."""
    old.update(stays=1, goes=1)
    bring_all = moving.Move._bring_all

    def bring_and_let_go(self: Any, total: int) -> None:
        bring_all(self, total)
        old.touch("goes", 1e-3)

    monkeypatch.setattr(moving.Move, "_bring_all", bring_and_let_go)
    assert move(old_url, url).entries == 1
    assert dict(old) == {"stays": 1}


def test_changes_made_meanwhile_come_along(old: Store, old_url: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """New, changed, deleted and touched entries, after all were brought once."""
    old.update({f"k{n}": n for n in range(500)})
    bring_all = moving.Move._bring_all

    def bring_and_change(self: Any, total: int) -> None:
        bring_all(self, total)
        old.update(k1="changed", new="new")
        old.delete_many([f"k{n}" for n in range(10, 300)])
        old.touch("k2", 100)

    monkeypatch.setattr(moving.Move, "_bring_all", bring_and_change)
    move(old_url, url)

    assert (old["k1"], old["new"], len(old)) == ("changed", "new", 211)
    assert old.ttl("k2") is not None
    assert old.ttl("k3") is None


def test_values_larger_than_a_batch(old: Store, old_url: str, url: str) -> None:
    """Each is its own transaction of the target's."""
    old.update({f"k{n}": os.urandom(3 * 2**20) for n in range(4)})
    before = dict(old)
    move(old_url, url)
    assert dict(old) == before


# --- Every verb -------------------------------------------------------------------

_VERBS: dict[str, tuple[Callable[[Store], Any], Any]] = {
    "get": (lambda s: s.get("k"), 1),
    "read": (lambda s: s.read("k").value, 1),
    "generation": (lambda s: s.generation("k") > 10**15, True),
    "contains": (lambda s: "k" in s, True),
    "get_many": (lambda s: s.get_many(key for key in ("k", "l")), {"k": 1, "l": 2}),
    "set": (lambda s: (s.set("k", 5), s["k"])[1], 5),
    "set with ttl": (lambda s: (s.set("k", 5, ttl_s=60.0), s["k"])[1], 5),
    "add": (lambda s: s.add("k", 5), False),
    "add new": (lambda s: s.add("new", 5), True),
    "increment": (lambda s: s.increment("k", by=2), 3),
    "increment slowly": (lambda s: s.increment("k", 2**63), 2**63 + 1),
    "compare_and_set new": (lambda s: s.compare_and_set("new", 1, ABSENT) > 10**15, True),
    "touch": (lambda s: s.touch("k", 60), True),
    "delete": (lambda s: s.delete("k"), True),
    "pop": (lambda s: s.pop("k"), 1),
    "set_many": (lambda s: (s.set_many({"k": 7, "m": 8}), s["m"])[1], 8),
    "delete_many": (lambda s: s.delete_many(key for key in ("k", "l", "absent")), 2),
    "clear": (lambda s: (s.clear(), len(s))[1], 0),
    "len": (len, 2),
    "keys": (lambda s: sorted(s.keys("")), ["k", "l"]),
    "transact": (lambda s: s.transact(lambda tx: tx.increment("k")), 2),
    "update_with": (lambda s: s.update_with("k", lambda n: n + 1), 2),
    "lock": (lambda s: s.lock("l").acquire() > 10**15, True),
    "locks": (lambda s: s.locks(), []),
    "sharers": (lambda s: s.join() in {sharer.token for sharer in s.sharers()}, True),
    "is_present": (lambda s: s.is_present(s.join()), True),
    "stats": (lambda s: s.stats()["entries"], 2),
    "check": (lambda s: s.check(), None),
    "namespace": (lambda s: s.namespace("a").increment("n"), 1),
    "backend": (lambda s: s.backend.count(), 2),
}


@pytest.mark.parametrize("verb", _VERBS)
def test_every_verb_goes_along(old: Store, old_url: str, url: str, verb: str) -> None:
    """As the first one after the move, and once more; a verb that writes has written to the new store, once."""
    call, result = _VERBS[verb]
    old.update(k=1, l=2)
    move(old_url, url)

    assert call(old) == result

    assert old.increment("count") == 1
    with sharedstate.open(url) as new:
        assert new["count"] == 1
        assert dict(new) == dict(old)


def test_a_forked_child_goes_along_by_itself(old: Store, old_url: str, url: str) -> None:
    """Its parent's going is none of its own; both count in one store."""
    move(old_url, url)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if old.increment("n") and old.is_present(old.join()) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert old.increment("n") == 2


def test_threads_go_along_together(old: Store, old_url: str, url: str) -> None:
    """One of them connects; all count in one store, and the handle is one sharer."""
    move(old_url, url)
    run_together(*[lambda: old.increment("n")] * 16)
    assert old["n"] == 16
    assert len(old.sharers()) == 2  # this and the witness of the fixture


def test_asyncio_goes_along(old: Store, old_url: str, url: str) -> None:
    """Also a wait that began before."""

    async def use() -> tuple[int, int]:
        store = aio.AsyncStore(old)
        waiting = asyncio.create_task(store.wait_for_change("k", ABSENT, 30))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(move, old_url, url)
        with sharedstate.open(url) as new:
            new["k"] = 1
        return int(await store.increment("n")), await waiting

    count, generation = asyncio.run(use())
    assert count == 1
    assert generation > 10**15


# --- Nothing is lost, and nothing twice (M1) --------------------------------------


def test_counts_of_many_processes(old: Store, old_url: str, url: str) -> None:
    """Each answer comes once, from 1 on: no increment was lost, and none was done twice."""
    counters = [
        subprocess.Popen([sys.executable, "-c", _COUNTER, old_url, "3000"], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert all(counter.stdout and counter.stdout.readline() == "ready\n" for counter in counters)
    until(lambda: old.get("n", 0) > 500)
    move(old_url, url)
    moved_at = old["n"]

    answers = sorted(int(line) for counter in counters for line in counter.communicate()[0].split())

    assert answers == list(range(1, 9001))
    assert moved_at < 9000, "they counted on after the move"
    with sharedstate.open(url) as new:
        assert new["n"] == 9000


@pytest.mark.parametrize("seed", range(3))
def test_what_many_did_meanwhile_has_an_explanation(old_url: str, url: str, seed: int) -> None:
    """Each key's history, before, during and after the move, is one that a single store could have made."""
    recorder, done = Recorder(), threading.Event()

    def act(actor: str) -> None:
        chance = random.Random(f"{seed} {actor}")
        with sharedstate.open(old_url) as store:
            for step in range(200):
                verb = chance.choice(["get", "get", "set", "add", "delete", "increment"])
                key = f"k{chance.randrange(25)}"
                argument = None if verb in {"get", "delete"} else chance.randrange(100) + 1000 * step
                arguments = () if argument is None else (argument,)
                recorder.perform(actor, verb, key, argument, partial(getattr(store, verb), key, *arguments))
                done.wait(chance.random() * 2e-3)  # paced, so that some of it falls before, amid and after the move
            assert done.wait(60)
            store.get("k0")
            assert store.url == url

    def move_amid() -> None:
        until(lambda: len(recorder.operations) > 150)
        move(old_url, url)
        done.set()

    with sharedstate.open(old_url):
        run_together(move_amid, *(partial(act, f"actor {number}") for number in range(5)))
    assert judge_register(recorder.operations) == []


def test_a_writer_waits_while_the_store_ends(
    old: Store, old_url: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last look for changes and the end nobody writes to the old store: he goes on in the new one."""
    totals: list[int | float] = []
    writer = threading.Thread(target=lambda: totals.append(old.increment("n")))
    end = schema.move

    def end_later(connection: Any, to: str) -> None:
        writer.start()
        writer.join(0.2)
        assert not totals, "written while the store ends"
        assert old.get("n") == 5, "readers wait for nothing"
        end(connection, to)

    old["n"] = 5
    monkeypatch.setattr(schema, "move", end_later)
    move(old_url, url)
    writer.join(30)

    assert totals == [6]
    with sharedstate.open(url) as new:
        assert new["n"] == 6


def test_the_test_finds_a_writer_that_does_not_wait(
    old: Store, old_url: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: the write lock is given back before the end.  Then a count is lost, as the tests above would see."""
    end = schema.move

    def end_unlocked(connection: Any, to: str) -> None:
        connection.execute("COMMIT")
        old.increment("n")
        connection.execute("BEGIN IMMEDIATE")
        end(connection, to)

    old["n"] = 5
    monkeypatch.setattr(schema, "move", end_unlocked)
    move(old_url, url)
    assert old["n"] == 5


# --- A mover that fails (M2) --------------------------------------------------------


@pytest.mark.parametrize("place", ["Move._bring_all", "Move._find_claims_", "schema.move", "committed"])
def test_a_killed_mover_leaves_one_store_in_service(old: Store, old_url: str, url: str, place: str) -> None:
    """The old one up to the commit, the new one after it; locks can be taken, and another mover ends the work."""
    old.update({f"k{n}": n for n in range(300)})
    kill = "os.kill(os.getpid(), 9)"
    plant = {
        "Move._bring_all": f"moving.Move._bring_changes = lambda self: {kill}",
        "Move._find_claims_": f"moving.Move._wait_for_clock = lambda self: {kill}",
        "schema.move": f"schema.move = lambda *_, move=schema.move: (move(*_), {kill})",
        "committed": f"gates.MovingGate.open = lambda self: {kill}",
    }[place]
    script = _MOVER.format(plant=f"import os; from sharedstate_sqlite import gates, moving, schema; {plant}")
    ended = subprocess.run([sys.executable, "-c", script, old_url, url], check=False, capture_output=True)
    assert ended.returncode == -9, ended.stderr

    assert old.increment("n") == 1
    with old.lock("l", 5):
        pass
    assert old.url == (url if place == "committed" else old_url)
    if place != "committed":
        with pytest.raises(sharedstate.UnavailableError, match=r"holds 300 entries.*--overwrite"):
            move(old_url, url)
        move(old_url, url, overwrite=True)
    assert old["n"] == 1
    assert len(old) == 301


def test_a_target_that_fails_leaves_the_old_store(
    old: Store, old_url: str, serve: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the end or at it: the error is the target's, and the old store goes on, its locks too."""
    server = serve()
    old["n"] = 1
    monkeypatch.setattr(moving.Move, "_wait_for_clock", lambda self: (server.kill(), self._target.now()))
    with pytest.raises(sharedstate.UnavailableError):
        move(old_url, f"redis+unix:{server.socket}?name=x&timeout=1")
    assert old.increment("n") == 2
    assert old.lock("l").try_acquire()


def test_a_new_store_that_cannot_be_reached(old: Store, old_url: str, serve: Callable[..., RedisServer]) -> None:
    """The call says so and does nothing; the next one tries again."""
    server = serve("--appendonly", "yes")
    old["n"] = 1
    move(old_url, f"redis+unix:{server.socket}?name=x&timeout=1")
    server.stop()
    with pytest.raises(sharedstate.UnavailableError):
        old.increment("n")
    server.start()
    assert old.increment("n") == 2


# --- Refusals -------------------------------------------------------------------------


def test_what_cannot_move(old: Store, old_url: str, url: str, tmp_path: Path) -> None:
    """Says what to do instead; the store goes on."""
    with sharedstate.open(f"sqlite:{tmp_path}/other.db") as other, sharedstate.open(url) as target:
        with pytest.raises(sharedstate.UnavailableError, match="cannot move here"):
            sharedstate.move_store(old, other)
        with pytest.raises(sharedstate.UnavailableError, match="sharedstate copy"):
            sharedstate.move_store(target, target)
        with pytest.raises(sharedstate.UnavailableError, match="namespace"):
            sharedstate.move_store(old.namespace("a"), target)
        target["k"] = 1
        with pytest.raises(sharedstate.UnavailableError, match="holds 1 entries"):
            sharedstate.move_store(old, target)
    assert old.url == old_url


def test_an_evicting_server_is_no_place(old: Store, old_url: str, serve: Callable[..., RedisServer]) -> None:
    """It would forget what the old store kept."""
    server = serve("--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru")
    old["n"] = 1
    with pytest.warns(RuntimeWarning, match="evicts"), pytest.raises(sharedstate.CapacityError, match="noeviction"):
        move(old_url, f"redis+unix:{server.socket}?name=x")
    assert old.increment("n") == 2


def test_only_one_moves_it(old_url: str, url: str, old: Store) -> None:
    """The second waits for the first; and where that ended well, there is nothing to move any more."""
    outcomes: list[str] = []

    def try_to() -> None:
        try:
            move(old_url, url)
            outcomes.append("moved")
        except sharedstate.StateError as error:
            outcomes.append(type(error).__name__)

    old["n"] = 1
    run_together(try_to, try_to, try_to)
    assert outcomes.count("moved") == 1
    assert set(outcomes) <= {"moved", "MovedError", "UnavailableError"}
    assert old["n"] == 1


@pytest.mark.parametrize("what", ["lock", "task", "task in a namespace", "permit", "leader"])
def test_nothing_moves_while_somebody_holds_something(old: Store, old_url: str, url: str, what: str) -> None:
    """The refusal names what, and who; once it is given back the store moves."""
    store = old.namespace("app") if "namespace" in what else old
    lock, tasks, semaphore = store.lock("l"), sharedstate.Tasks(store, "jobs"), sharedstate.Semaphore(store, "s", 2)
    leader = sharedstate.Leader(store, "chief")
    tasks.add("a", None)
    begin: Callable[[], Any]
    begin, end, words = {
        "lock": (lock.acquire, lock.release, "lock 'l'"),
        "task": (lambda: tasks.claim("a"), "finish", "tasks/jobs/a"),
        "permit": (semaphore.acquire, "release", "semaphore/s"),
        "leader": (leader.try_lead, leader.resign, "leader/chief"),
    }[what.partition(" ")[0]]
    held = begin()
    end = getattr(held, end) if isinstance(end, str) else end

    with pytest.raises(sharedstate.LockTimeoutError) as refused:
        move(old_url, url, timeout_s=0.1)
    assert words in refused.value.holder
    assert f"pid {os.getpid()}" in refused.value.holder
    assert old.url == old_url

    end()
    move(old_url, url, overwrite=True)
    assert old.get("n", 0) == 0
    assert old.url == url


def test_the_move_waits_for_locks_that_are_given_back(old: Store, old_url: str, url: str) -> None:
    """Also where they are taken again all the time: no lock is taken behind the gate, so a moment comes."""
    stop = threading.Event()
    tokens: list[int] = []

    def take_and_give() -> None:
        lock = old.lock("l")
        while not stop.is_set():
            with lock:
                tokens.append(lock.token)

    threads = [threading.Thread(target=take_and_give) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: len(tokens) > 10)
    try:
        move(old_url, url)
        seen = len(tokens)
        until(lambda: len(tokens) > seen + 10)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert tokens == sorted(set(tokens)), "each acquisition's token is greater than all before, over the move too"
    with sharedstate.open(url) as new:
        assert [record.name for record in new.locks()] == ["l"]


def test_who_waits_at_the_gate_is_told_in_time(old: Store, old_url: str) -> None:
    """A lock that cannot be taken because a mover is at work is a time-out like any other, and leaves it free."""
    pool = old.backend.backend._pool  # type: ignore[attr-defined]
    locks = old.backend.backend._lock_files()  # type: ignore[attr-defined]
    gate = gates.MovingGate(old_url, locks.path, pool)
    gate.close(locks)
    lock = old.lock("l", 0.05)
    with pytest.raises(sharedstate.LockTimeoutError, match="moves the store"):
        lock.acquire()
    assert not old.locks()[0].held
    gate.open()
    assert lock.try_acquire()
    assert not os.path.lexists(os.path.join(locks.path, "moving.gate")), "it costs the next ones nothing"


def test_a_clock_that_is_behind_is_refused(old: Store, old_url: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fencing token that went backwards would let a stale holder in (M5)."""
    from sharedstate_redis.backend import RedisBackend

    token = old.lock("l").acquire()
    monkeypatch.setattr(RedisBackend, "now", lambda _: token / 1e6 - 60)
    with pytest.raises(sharedstate.UnavailableError, match=r"clock is 6.* s behind"):
        move(old_url, url)
    assert old.url == old_url


# --- What was held, read or waited for before (M5, F3, F4) ------------------------


def test_what_was_read_before_conflicts(old: Store, old_url: str, url: str) -> None:
    """A generation of the old store is none of the new one's; `transact` and `update_with` begin anew."""
    old["k"] = 1
    generation = old.generation("k")
    transaction = old.transaction()
    assert transaction["k"] == 1
    transaction["k"] = 2
    move(old_url, url)

    with pytest.raises(sharedstate.ConflictError):
        transaction.commit()
    with pytest.raises(sharedstate.ConflictError):
        old.compare_and_set("k", 3, generation)
    assert old.transact(lambda tx: tx.increment("k")) == 2


def test_a_sharer_keeps_its_token(old: Store, old_url: str, url: str) -> None:
    """It is present in the new store from its first call on, and in the old one not any more."""
    token = old.join()
    move(old_url, url)
    with sharedstate.open(url) as new:
        assert old.get("anything") is None
        assert old.join() == token
        assert new.is_present(token)
        old.close()
        until(lambda: not new.is_present(token))


def test_a_task_claimed_by_who_comes_along_is_not_taken_from_him(old: Store, old_url: str, url: str) -> None:
    """He joined the old store, and claims in the new one: others know that he lives."""
    tasks = sharedstate.Tasks(old, "jobs")
    tasks.add("a", None)
    old.join()
    move(old_url, url)
    with sharedstate.open(url) as new:
        task = tasks.claim("a")
        assert task is not None
        assert sharedstate.Tasks(new, "jobs").claim("a") is None
        task.finish()


def test_who_waits_sees_what_comes_after(old: Store, old_url: str, url: str) -> None:
    """A wait that began in the old store ends with a change in the new one."""
    seen: list[int] = []
    waiter = threading.Thread(target=lambda: seen.append(old.wait_for_change("k", ABSENT, 30)))
    waiter.start()
    move(old_url, url)
    with sharedstate.open(url) as new:
        new["k"] = 1
    waiter.join(30)
    assert seen
    assert seen[0] > 10**15


def test_a_lock_object_goes_along(old: Store, old_url: str, url: str) -> None:
    """One that was made, and used, before: it excludes whoever opens the new store."""
    lock = old.lock("l", 0)
    with lock:
        before = lock.token
    move(old_url, url)
    with sharedstate.open(url) as new, lock:
        assert lock.token > before
        assert not new.lock("l").try_acquire()
    assert lock.url == url


# --- The command, and what is left ---------------------------------------------------


def test_the_command(old: Store, old_url: str, url: str) -> None:
    """Says what changes, what it did and what to do next; the second time, that there is nothing to move."""
    old.update(a=1, b=2)
    result = CliRunner().invoke(main, ["move", "--linger", "0", old_url, url])
    assert result.exit_code == 0, result.output
    assert "2 entries; all who use it go along" in result.stdout
    assert "remove it once" in result.stdout
    assert "durability: DISK -> BOOT" in result.stderr
    again = CliRunner().invoke(main, ["move", "--linger", "0", old_url, url])
    assert again.exit_code == 1
    assert "cannot move" in again.stderr


def test_a_refused_command_leaves_nothing(old: Store, old_url: str, tmp_path: Path) -> None:
    """No store where one was named that cannot take it; one that was there stays."""
    old["a"] = 1
    new, other = f"sqlite:{tmp_path}/new.db", f"sqlite:{tmp_path}/other.db"
    with sharedstate.open(other) as store:
        store["k"] = 1
        for target in (new, other):
            result = CliRunner().invoke(main, ["move", old_url, target])
            assert result.exit_code == 1
            assert "cannot move here" in result.stderr
        assert store["k"] == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("new.db")]


def test_the_command_as_json(old: Store, old_url: str, url: str) -> None:
    """One object, for programs."""
    old["a"] = 1
    told = json.loads(CliRunner().invoke(main, ["move", "--linger", "0", "--json", old_url, url]).stdout)
    assert (told["from"], told["to"], told["entries"]) == (old_url, url, 1)


def test_the_old_store_can_be_removed(old: Store, old_url: str, url: str, tmp_path: Path) -> None:
    """It takes nothing of the new one along, and its place is free for another store."""
    old["a"] = 1
    move(old_url, url)
    assert old["a"] == 1
    sharedstate.remove(old_url)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("old.db")] == []
    with sharedstate.open(old_url) as another:
        assert len(another) == 0
        assert another.lock("l").try_acquire()
    assert old["a"] == 1
