"""Claims about threads and forks: nothing is lost, doubled or torn, with one handle and with many."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from sharedstate import ABSENT, ConflictError
from sharedstate.model import Scope
from sharedstate.testing.conformance.support import Claims, fork_and_run, run_together

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate.store import Store
    from sharedstate.transactions import Transaction

__all__ = ["ConcurrencyClaims"]

_THREADS: Final = 8
_ROUNDS: Final = 200
_FORK_ROUNDS: Final = 100


def _each(handles: list[Store], body: Callable[[Store], Any]) -> list[Any]:
    """Run `body(handle)` in a thread for each handle, all at once."""
    return run_together(*(lambda handle=handle: body(handle) for handle in handles))


class ConcurrencyClaims(Claims):
    """Any thread may use any handle, and a forked child goes on using what it inherited."""

    @pytest.fixture(params=["one handle", "a handle each"])
    def handles(self, request: pytest.FixtureRequest, store: Store, open_another: Callable[[], Store]) -> list[Store]:
        """The handles of `_THREADS` threads."""
        if request.param == "one handle":
            return [store] * _THREADS
        return [open_another() for _ in range(_THREADS)]

    def test_counter_loses_no_increment(self, store: Store, handles: list[Store]) -> None:
        """8 threads of 200 increments end at 1600, each total handed out once, to each thread in growing order."""
        receipts = _each(handles, lambda handle: [handle.increment("n") for _ in range(_ROUNDS)])

        assert store["n"] == _THREADS * _ROUNDS
        assert sorted(total for own in receipts for total in own) == list(range(1, _THREADS * _ROUNDS + 1))
        assert all(own == sorted(own) for own in receipts)

    def test_update_with_loses_no_update(self, store: Store, handles: list[Store]) -> None:
        """8 threads of 25 appends by update_with leave a list of all 200, each in its own thread's order."""

        def append(handle: Store, name: int) -> None:
            for i in range(25):
                handle.update_with("log", partial(_appended, item=(name, i)), default=[])

        run_together(*(lambda h=handle, n=name: append(h, n) for name, handle in enumerate(handles)))

        log = store["log"]
        assert len(log) == _THREADS * 25
        assert all([i for name, i in log if name == me] == list(range(25)) for me in range(_THREADS))

    def test_add_is_won_by_one(self, store: Store, handles: list[Store]) -> None:
        """Of 8 threads that add the same key, 30 times over, exactly one gets True each time."""
        wins = _each(handles, lambda handle: [handle.add(f"k{i}", 1) for i in range(30)])

        assert [sum(each) for each in zip(*wins, strict=True)] == [1] * 30
        assert len(store) == 30

    def test_setdefault_agrees(self, store: Store, handles: list[Store]) -> None:
        """All threads that setdefault the same key get the same value, which is the one stored."""

        def settle(handle: Store, name: int) -> list[Any]:
            return [handle.setdefault(f"k{i}", [name, i]) for i in range(20)]

        results = run_together(*(lambda h=handle, n=name: settle(h, n) for name, handle in enumerate(handles)))

        assert all(result == [store[f"k{i}"] for i in range(20)] for result in results)

    def test_compare_and_set_is_won_by_one(self, store: Store, handles: list[Store]) -> None:
        """Of 8 threads that compare-and-set the same absent key, exactly one succeeds; the others conflict."""

        def try_all(handle: Store) -> list[bool]:
            wins: list[bool] = []
            for i in range(20):
                try:
                    handle.compare_and_set(f"k{i}", 1, ABSENT)
                except ConflictError:
                    wins.append(False)
                else:
                    wins.append(True)
            return wins

        wins = _each(handles, try_all)

        assert [sum(each) for each in zip(*wins, strict=True)] == [1] * 20
        assert len(store) == 20

    def test_popitem_hands_out_each_item_once(self, store: Store, handles: list[Store]) -> None:
        """8 threads that popitem until the store is empty get every item exactly once between them."""
        expected = {f"k{i}": i for i in range(100)}
        store.update(expected)

        def drain(handle: Store) -> list[tuple[str, Any]]:
            items: list[tuple[str, Any]] = []
            while True:
                try:
                    items.append(handle.popitem())
                except KeyError:
                    return items

        popped = [item for own in _each(handles, drain) for item in own]

        assert len(popped) == len(expected)
        assert dict(popped) == expected
        assert len(store) == 0

    def test_delete_and_pop_succeed_once(self, store: Store, handles: list[Store]) -> None:
        """Of 8 threads that delete or pop the same key, exactly one finds it there."""
        store.set_many({f"k{i}": 1 for i in range(40)})

        def remove(handle: Store) -> list[int]:
            return [handle.delete(f"k{i}") if i % 2 else handle.pop(f"k{i}", 0) for i in range(40)]

        removed = _each(handles, remove)

        assert [sum(each) for each in zip(*removed, strict=True)] == [1] * 40
        assert len(store) == 0

    def test_nobody_reads_half_a_transaction(self, handles: list[Store]) -> None:
        """Who has read what a transaction wrote to one key reads, from then on, what it wrote to the other one."""
        writer, *readers = handles[:4]
        with writer.transaction() as tx:
            tx["a"] = tx["b"] = 0
        writing = [writer]

        def write() -> None:
            for i in range(500):
                with writer.transaction() as tx:
                    tx["a"] = tx["b"] = i
            writing.pop()

        def read(handle: Store) -> list[Any]:
            halves: list[Any] = []
            while writing:
                first, second = handle["a"], handle["b"]
                if second < first:
                    halves.append((first, second))
            return halves

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)  # or a thread would get through most transactions undisturbed
        try:
            found = run_together(write, *(lambda h=handle: read(h) for handle in readers))
        finally:
            sys.setswitchinterval(interval)

        assert found[1:] == [[]] * 3

    def test_reads_are_never_torn(self, store: Store, handles: list[Store]) -> None:
        """While half the threads overwrite a value by others of other sizes, the rest read only whole ones."""
        writers, readers = handles[: _THREADS // 2], handles[_THREADS // 2 :]
        store["k"] = (0, b"")
        writing = list(writers)

        def write(handle: Store) -> None:
            for i in range(100):
                handle["k"] = (i, bytes([i]) * (1 + i * 41 % 1500))
            writing.pop()

        def read(handle: Store) -> list[Any]:
            torn: list[Any] = []
            while writing:
                number, content = handle["k"]
                if content.strip(bytes([number])):
                    torn.append((number, content))
            return torn

        torn = run_together(
            *(lambda h=handle: write(h) for handle in writers), *(lambda h=handle: read(h) for handle in readers)
        )

        assert not any(torn)

    def test_transfers_keep_the_sum(self, store: Store, handles: list[Store]) -> None:
        """Whatever 8 threads move between 4 accounts by transactions, nobody ever sees another sum."""
        accounts = [f"account-{i}" for i in range(4)]
        store.set_many(dict.fromkeys(accounts, 100))

        def move(handle: Store) -> list[int]:
            sums: list[int] = []
            for i in range(15):
                giver, taker = accounts[i % 4], accounts[(i * 3 + 1) % 4]
                handle.transact(partial(_transfer, giver=giver, taker=taker))
                sums.append(handle.transact(lambda tx: sum(tx[account] for account in accounts)))
            return sums

        sums = _each(handles, move)

        assert {total for own in sums for total in own} == {400}
        assert sum(store.values()) == 400

    def test_iteration_while_others_write(self, store: Store, handles: list[Store]) -> None:
        """A key that is there throughout comes exactly once, while others come and go."""
        stays = {f"stays-{i}": i for i in range(50)}
        store.update(stays)
        writers, readers = handles[:2], handles[2:4]

        def churn(handle: Store) -> None:
            for i in range(100):
                handle[f"goes-{i % 10}"] = bytes(i * 13)
                handle.delete(f"goes-{i % 7}")

        def walk(handle: Store) -> bool:
            every = True
            for _ in range(20):
                found = [item for item in handle.items() if item[0].startswith("stays-")]
                every = every and len(found) == len(stays) and dict(found) == stays
            return every

        *_, first, second = run_together(
            *(lambda h=handle: churn(h) for handle in writers), *(lambda h=handle: walk(h) for handle in readers)
        )

        assert first
        assert second

    # --- Forks ------------------------------------------------------------------

    def test_child_uses_the_inherited_handle(self, store: Store) -> None:
        """After a fork parent and child count, and take a lock, through the same handle.

        Where the scope is HOST or more nothing is lost; below it the child has a
        copy that the parent never hears of.
        """
        store["before"] = "seen"
        shares = store.capabilities.scope >= Scope.HOST

        def count() -> tuple[Any, list[int | float]]:
            receipts = [store.increment("n") for _ in range(_FORK_ROUNDS)]
            for _ in range(_FORK_ROUNDS // 5):
                with store.lock("l"):
                    store["guarded"] = store.get("guarded", 0) + 1
            store.check()
            return store["before"], receipts

        result_of_child = fork_and_run(count)
        parents = count()
        childs = result_of_child()

        assert childs[0] == parents[0] == "seen"
        rounds = _FORK_ROUNDS * 2 if shares else _FORK_ROUNDS
        assert store["n"] == rounds
        assert store["guarded"] == rounds // 5
        assert len({*parents[1], *childs[1]}) == rounds

    def test_child_does_not_hold_its_parents_lock(self, store: Store) -> None:
        """A child cannot release or use what its parent holds, nor does its end free it; it may take its own."""
        shares = store.capabilities.scope >= Scope.HOST
        lock = store.lock("l")
        lock.acquire()

        def be_child() -> tuple[bool, str, bool, bool]:
            held = lock.is_held()
            try:
                lock.release()
            except Exception as error:  # noqa: BLE001  told to the parent by name
                refusal = type(error).__name__
            else:
                refusal = ""
            return held, refusal, store.lock("l").try_acquire(), store.lock("own").try_acquire()

        held, refusal, got_parents, got_own = fork_and_run(be_child)()

        assert not held
        assert refusal == "LockLostError"
        assert got_parents != shares
        assert got_own
        assert lock.is_held()
        assert not store.lock("l").try_acquire()
        lock.release()

    def test_lock_of_a_dead_child_is_free(self, store: Store) -> None:
        """A child that dies with a lock held leaves it free at once, with a greater token to come."""
        token = fork_and_run(lambda: store.lock("l").acquire())()
        # fork_and_run has waited for the child's death by SIGKILL.

        lock = store.lock("l", timeout_s=0)

        assert lock.acquire() > token or store.capabilities.scope < Scope.HOST
        lock.release()

    def test_child_closes_its_handle_alone(self, store: Store) -> None:
        """Closing the inherited handle in the child leaves the parent's open and what is stored unharmed."""
        store["k"] = 1

        fork_and_run(store.close)()

        assert store["k"] == 1
        store["k"] = 2
        assert store["k"] == 2


def _appended(log: list[Any], item: Any) -> list[Any]:
    return [*log, item]


def _transfer(tx: Transaction, giver: str, taker: str) -> None:
    tx[giver] -= 1
    tx[taker] += 1
