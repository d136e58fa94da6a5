"""Claims about the backend itself: what the Store relies on, and its user does not see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sharedstate import ABSENT, ClosedError, ConflictError, ValueTypeError
from sharedstate.backend import Backend
from sharedstate.model import DELETE, KEEP, Put
from sharedstate.testing.conformance.support import PATIENCE_S, Claims, run_together

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate.store import Store

__all__ = ["PrimitiveClaims"]


class PrimitiveClaims(Claims):
    """The verbs of `sharedstate.backend.Backend`, as its docstrings promise them."""

    def test_it_is_a_backend(self, backend: Backend) -> None:
        """What connect() returns derives from Backend, so that verbs added later are there."""
        assert isinstance(backend, Backend)

    def test_commit_returns_the_new_generations(self, backend: Backend) -> None:
        """For each written key the generation that read shows; ABSENT for a deleted one."""
        backend.set("gone", 1)

        generations = backend.commit({"a": Put(1), "b": Put([2], 1000.0), "gone": DELETE, "never": DELETE})

        a, b = backend.read("a"), backend.read("b")
        assert a is not None
        assert b is not None
        assert generations == {"a": a.generation, "b": b.generation, "gone": ABSENT, "never": ABSENT}
        assert a.expires_at is None
        assert b.expires_at is not None

    def test_commit_expects_keys_it_does_not_write(self, backend: Backend) -> None:
        """A key of `expected` need not be written; if it is at another generation nothing is written."""
        backend.set("guard", 1)
        guard = backend.read("guard")
        assert guard is not None

        backend.commit({"k": Put(1)}, {"guard": guard.generation, "absent": ABSENT})
        assert backend.get("k") == 1
        backend.set("guard", 2)
        with pytest.raises(ConflictError) as caught:
            backend.commit({"k": Put(2), "more": Put(2), "guard": DELETE}, {"guard": guard.generation})

        assert caught.value.key == "guard"
        assert caught.value.expected == guard.generation
        assert backend.get_many(["k", "more", "guard"]) == {"k": 1, "guard": 2}

    def test_commit_of_nothing_still_validates(self, backend: Backend) -> None:
        """With no writes it raises ConflictError if an expectation fails, and returns {} if all hold."""
        backend.set("k", 1)
        entry = backend.read("k")
        assert entry is not None

        assert backend.commit({}, {"k": entry.generation, "absent": ABSENT}) == {}
        assert backend.commit({}, {}) == {}
        with pytest.raises(ConflictError):
            backend.commit({}, {"k": ABSENT})
        with pytest.raises(ConflictError):
            backend.commit({}, {"k": entry.generation, "absent": entry.generation})

    def test_take_removes_and_returns_the_entry(self, backend: Backend) -> None:
        """Take returns what read would have returned, once; then None."""
        backend.set("k", [1], 1000.0)
        entry = backend.read("k")

        assert backend.take("k") == entry
        assert backend.take("k") is None
        assert backend.read("k") is None

    def test_keys_and_count_under_a_prefix(self, backend: Backend) -> None:
        """keys(prefix) lists without duplicates what starts with it, and count(prefix) is how many."""
        backend.set_many({"a1": 1, "a2": 2, "b": 3})

        assert sorted(backend.keys("a")) == ["a1", "a2"]
        assert sorted(backend.keys()) == ["a1", "a2", "b"]
        assert backend.keys("none") == []
        assert (backend.count(), backend.count("a"), backend.count("none")) == (3, 2, 0)
        assert backend.clear("a") == 2
        assert backend.clear() == 1

    def test_change_token_differs_after_every_change(self, backend: Backend) -> None:
        """Each write, removal or new deadline gives a token that no earlier state had."""
        seen = [backend.change_token()]

        for change in (
            lambda: backend.set("k", 1),
            lambda: backend.set("k", 1),
            lambda: backend.touch("k", 1000.0),
            lambda: backend.touch("k", None),
            lambda: backend.increment("k"),
            lambda: backend.commit({"k": Put(1), "other": Put(1)}),
            lambda: backend.delete("k"),
            backend.clear,
            lambda: backend.set("k", 1),
        ):
            change()

            assert backend.change_token() not in seen
            seen.append(backend.change_token())

    def test_change_token_stays_while_nothing_changes(self, backend: Backend) -> None:
        """Reads and refused writes do not move it, or every waiter would wake for nothing."""
        backend.set("k", 1)
        token = backend.change_token()

        backend.read("k")
        backend.keys()
        backend.count()
        assert not backend.add("k", 2)
        with pytest.raises(ConflictError):
            backend.compare_and_set("k", 1, ABSENT)

        assert backend.change_token() == token

    def test_wait_returns_when_the_token_differs(self, store: Store, backend: Backend) -> None:
        """True at once for a token that is past, False after the timeout for the present one, True when woken."""
        backend.set("k", 1)
        past = backend.change_token()
        backend.set("k", 2)
        token = backend.change_token()

        assert backend.wait(past)
        assert not backend.wait(token, 0.01)
        woken, _ = run_together(lambda: backend.wait(token, PATIENCE_S), lambda: store.set("k", 3))
        assert woken

    @pytest.mark.parametrize("is_commit", [False, True], ids=["compare_and_set", "commit"])
    def test_keep_is_what_the_entry_has_when_it_is_written(self, backend: Backend, is_commit: bool) -> None:
        """A write with KEEP has the deadline of the entry in its place, to the bit, whatever was read before."""
        backend.set("other", "x")
        for value in (2, "a text", [1, 2]):
            for ttl_s in (None, 50_000.0):
                backend.set("k", 1, 1000.0)
                entry = backend.read("k")
                assert entry is not None
                backend.touch("k", ttl_s)
                touched = backend.read("k")
                assert touched is not None

                if is_commit:
                    backend.commit({"k": Put(value, KEEP), "other": Put(value)}, {"k": entry.generation})
                else:
                    backend.compare_and_set("k", value, entry.generation, KEEP)

                after = backend.read("k")
                assert after is not None
                assert (after.value, after.expires_at) == (value, touched.expires_at)
                assert after.generation > entry.generation

    def test_keep_is_refused_where_no_generation_is_expected(self, backend: Backend) -> None:
        """There is no entry whose deadline it could be: ValueTypeError, whether the key is there or not."""
        for key in ("k", "missing"):
            backend.set("k", 1, 1000.0)
            before = backend.read("k")
            for write in (
                lambda key=key: backend.commit({key: Put(2, KEEP)}),
                lambda key=key: backend.commit({key: Put(2, KEEP), "other": Put(2)}, {key: ABSENT}),
                lambda key=key: backend.compare_and_set(key, 2, ABSENT, KEEP),
            ):
                with pytest.raises(ValueTypeError):
                    write()

                assert backend.read("k") == before
                assert backend.keys() == ["k"]

    def test_closed_backend_says_so(self, backend: Backend, open_another: Callable[[], Store]) -> None:
        """After close each primitive raises ClosedError, and the store is unharmed."""
        backend.set("k", 1)
        backend.close()
        backend.close()

        for call in (
            lambda: backend.read("k"),
            lambda: backend.get("k"),
            lambda: backend.set("k", 1),
            lambda: backend.commit({"k": Put(1)}),
            backend.keys,
            backend.count,
            lambda: backend.touch("k", None),
            backend.change_token,
            backend.locks,
            backend.stats,
            backend.check,
            lambda: backend.lock("l").acquire(0),
        ):
            with pytest.raises(ClosedError):
                call()
        assert open_another()["k"] == 1
