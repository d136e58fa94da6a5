"""Claims about transactions: all or nothing, serializable, reading their own writes."""

# ruff: noqa: PT012  what raises is the end of a transaction, after all that led to it

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

import sharedstate
from sharedstate.testing.conformance.support import Claims, unchanged

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate.store import Store
    from sharedstate.transactions import Transaction

__all__ = ["TransactionClaims"]

_MANY_KEYS: Final = 1000


class TransactionClaims(Claims):
    """Several keys change as one, or not at all."""

    # --- All or nothing -------------------------------------------------------

    def test_commits_at_the_end_of_the_block(self, store: Store, open_another: Callable[[], Store]) -> None:
        """Until the block ends nobody sees its writes, not even the same handle; then everybody sees all."""
        other = open_another()
        store.update(a=1, gone=1)

        with store.transaction() as tx:
            tx["a"] = 2
            tx["b"] = [3]
            del tx["gone"]
            assert dict(store) == dict(other) == {"a": 1, "gone": 1}

        assert dict(store) == dict(other) == {"a": 2, "b": [3]}

    def test_exception_discards_everything(self, store: Store) -> None:
        """An exception leaves the block as it is, and the store as it was."""
        store.update(a=1, b=1)

        with pytest.raises(ZeroDivisionError), store.transaction() as tx:
            tx["a"] = 2
            tx["new"] = 1
            del tx["b"]
            raise ZeroDivisionError

        assert dict(store) == {"a": 1, "b": 1}

    def test_conflict_discards_everything(self, store: Store) -> None:
        """If one key that was read has changed, ConflictError names it and no other key is written either."""
        store.update(a=1, b=1, c=1)
        old = store.read("a")
        assert old is not None

        with pytest.raises(sharedstate.ConflictError) as caught, store.transaction() as tx:
            tx["b"] = 5
            tx["c"] = tx["a"] + 1
            del tx["b"]
            store["a"] = 10

        new = store.read("a")
        assert new is not None
        assert (caught.value.key, caught.value.expected, caught.value.found) == ("a", old.generation, new.generation)
        assert dict(store) == {"a": 10, "b": 1, "c": 1}

    @pytest.mark.parametrize("bad", [object(), {1}, 2**64, "\ud800"], ids=ascii)
    def test_bad_value_raises_at_once(self, store: Store, bad: Any) -> None:
        """A value outside the model raises on the line that stores it, and nothing of the transaction is written."""
        with pytest.raises(sharedstate.ValueTypeError), store.transaction() as tx:
            tx["a"] = 1
            tx["b"] = [bad]
            pytest.fail("the line above must raise")

        assert len(store) == 0

    def test_too_large_discards_everything(self, store: Store) -> None:
        """One value beyond max_value_bytes raises CapacityError, and none of the others is written.

        A limit beyond 64 MiB is believed, not tried.
        """
        limit = store.capabilities.max_value_bytes
        size = limit if limit <= 64 * 2**20 else 0

        def write() -> None:
            with store.transaction() as tx:
                tx["a"] = 1
                tx["b"] = bytes(size)
                tx["c"] = 1

        if size:
            with pytest.raises(sharedstate.CapacityError):
                write()
            assert len(store) == 0
        else:
            write()
            assert len(store) == 3

    def test_many_keys_as_one(self, store: Store) -> None:
        """A transaction may write max_transaction_keys; more raise CapacityError and write nothing.

        Up to a thousand are tried.
        """
        limit = store.capabilities.max_transaction_keys
        count = min(limit, _MANY_KEYS)

        def write(count: int, value: int) -> None:
            with store.transaction() as tx:
                for i in range(count):
                    tx[f"k{i}"] = value

        write(count, 1)
        assert dict(store) == {f"k{i}": 1 for i in range(count)}
        if limit < _MANY_KEYS:
            with pytest.raises(sharedstate.CapacityError):
                write(limit + 1, 2)
            assert dict(store) == {f"k{i}": 1 for i in range(count)}

    def test_transaction_that_does_nothing(self, store: Store) -> None:
        """An empty block, or one that only read, writes nothing and raises nothing."""
        store["k"] = 1

        with unchanged(store, "k"):
            with store.transaction():
                pass
            with store.transaction() as tx:
                assert tx["k"] == 1
                assert tx.get("absent", 7) == 7

    # --- Reading ----------------------------------------------------------------

    def test_reads_its_own_writes(self, store: Store) -> None:
        """Within the block, what was set, incremented or deleted there is seen so."""
        store.update(a=1, b=2)

        with store.transaction() as tx:
            tx["a"] = [1]
            assert tx["a"] == [1]
            assert tx.delete("b")
            assert "b" not in tx
            assert tx.get("b", 7) == 7
            assert not tx.delete("b")
            with pytest.raises(KeyError):
                tx["b"]
            with pytest.raises(KeyError):
                del tx["b"]
            assert tx.increment("b", initial=10) == 11
            assert tx["b"] == 11
            tx.set("new", None)
            assert "new" in tx

        assert dict(store) == {"a": [1], "b": 11, "new": None}

    def test_second_read_agrees_with_the_first(self, store: Store) -> None:
        """A key that was read is seen the same until the end, whatever others do; the commit then conflicts."""
        store.update(a=1, b=1)

        with pytest.raises(sharedstate.ConflictError), store.transaction() as tx:
            assert tx["a"] == 1
            store["a"] = 2
            assert tx["a"] == 1
            tx["b"] = tx["a"]

        assert dict(store) == {"a": 2, "b": 1}

    def test_values_are_copies(self, store: Store) -> None:
        """Changing what tx[k] returned, or what was given to it, changes neither transaction nor store."""
        store["a"] = [1]
        given: list[Any] = [2]

        with store.transaction() as tx:
            tx["a"].append("changed")
            assert tx["a"] == [1]
            tx["b"] = given
            given.append("changed")
            tx["b"].append("changed")
            assert tx["b"] == [2]

        assert dict(store) == {"a": [1], "b": [2]}

    def test_not_iterable(self, store: Store) -> None:
        """Iterating over a transaction raises TypeError: it is serializable over the keys it names."""
        with store.transaction() as tx, pytest.raises(TypeError):
            list(tx)

    def test_increment_refuses_what_increment_refuses(self, store: Store) -> None:
        """A bool, a str, a sum beyond 64 bits: the same errors, and nothing written."""
        store.update(text="1", most=2**64 - 1)

        for key, error in (("text", sharedstate.ValueTypeError), ("most", sharedstate.CounterOverflowError)):
            with pytest.raises(error), store.transaction() as tx:
                tx["new"] = 1
                tx.increment(key)
        with pytest.raises(sharedstate.ValueTypeError), store.transaction() as tx:
            tx.increment("new", True)

        assert dict(store) == {"text": "1", "most": 2**64 - 1}

    # --- Serializable -----------------------------------------------------------

    def test_lost_update_is_refused(self, store: Store) -> None:
        """Of two transactions that read and wrote the same key, the later one to commit fails."""
        store["k"] = 1
        first, second = store.transaction(), store.transaction()

        first["k"] = first["k"] + 1
        second["k"] = second["k"] + 1
        first.commit()

        with pytest.raises(sharedstate.ConflictError):
            second.commit()
        assert store["k"] == 2

    def test_write_skew_is_refused(self, store: Store) -> None:
        """Two that each read both keys and write another one of them cannot both commit."""
        store.update(alice="on duty", bob="on duty")
        first, second = store.transaction(), store.transaction()

        for tx, leaver in ((first, "alice"), (second, "bob")):
            assert [tx["alice"], tx["bob"]].count("on duty") == 2
            tx[leaver] = "off duty"
        first.commit()

        with pytest.raises(sharedstate.ConflictError):
            second.commit()
        assert dict(store) == {"alice": "off duty", "bob": "on duty"}

    def test_mixed_reads_are_refused(self, store: Store) -> None:
        """A transaction that only read, but saw one key before and one after another's commit, conflicts."""
        store.update(a=1, b=1)

        with pytest.raises(sharedstate.ConflictError), store.transaction() as reader:
            assert reader["a"] == 1
            with store.transaction() as writer:
                writer["a"] = 2
                writer["b"] = 2
            assert reader["b"] == 2

    def test_reading_an_absent_key_counts(self, store: Store) -> None:
        """A key that was found absent, and has been created since, is a conflict."""
        with pytest.raises(sharedstate.ConflictError) as caught, store.transaction() as tx:
            assert "k" not in tx
            store["k"] = 1
            tx["other"] = 1

        assert caught.value.expected == sharedstate.ABSENT
        assert dict(store) == {"k": 1}

    def test_a_version_that_came_back_is_another(self, store: Store) -> None:
        """Delete and re-create with an equal value between read and commit: a conflict."""
        store["k"] = 1

        with pytest.raises(sharedstate.ConflictError), store.transaction() as tx:
            value = tx["k"]
            store.delete("k")
            store["k"] = 1
            tx["k"] = value + 1

        assert store["k"] == 1

    def test_what_was_not_read_does_not_count(self, store: Store) -> None:
        """A blind write overwrites whatever came meanwhile, and another key's change is no conflict."""
        store.update(a=1, b=1)

        with store.transaction() as tx:
            tx["a"] = 2
            store["a"] = 99
            store["b"] = 99

        assert dict(store) == {"a": 2, "b": 99}

    # --- transact -----------------------------------------------------------------

    def test_transact_tries_again_until_it_commits(self, store: Store, open_another: Callable[[], Store]) -> None:
        """The body runs again, with fresh reads, while others come between; its result is returned."""
        other, seen = open_another(), list[int]()
        store["k"] = 1

        def body(tx: Transaction) -> str:
            value = tx["k"]
            seen.append(value)
            if len(seen) < 3:
                other["k"] = value + 10
            tx["k"] = value + 1
            return f"was {value}"

        assert store.transact(body) == "was 21"
        assert seen == [1, 11, 21]
        assert store["k"] == 22

    def test_transact_gives_up_in_time(self, store: Store, open_another: Callable[[], Store]) -> None:
        """With timeout_s it raises the ConflictError once that has passed; nothing of the body is written."""
        other = open_another()
        store["k"] = 0

        def body(tx: Transaction) -> None:
            tx["new"] = tx["k"]
            other.increment("k")

        with pytest.raises(sharedstate.ConflictError):
            store.transact(body, timeout_s=0.05)

        assert store["k"] >= 1
        assert "new" not in store

    def test_transact_passes_on_the_bodys_error(self, store: Store) -> None:
        """What the body raises comes out, and nothing is written."""

        def body(tx: Transaction) -> None:
            tx["k"] = 1
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            store.transact(body)

        assert len(store) == 0
