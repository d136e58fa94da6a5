"""What a store must hold, kept beside it: each verb that was acknowledged, done to a dict-like model too.

The model is a `memory:` store, which has the same verbs; a verb that was
refused is not done to it.  What may be there in part after a refusal is named:
a batch is atomic for each entry only, and an unknown outcome is old or new.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import sharedstate
from sharedstate import CapacityError, OutcomeUnknownError, StateError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

__all__ = ["BATCHES", "VERBS", "Ledger", "payload"]

_NOTHING = nullcontext()


def payload(number: int, size: int = 700) -> str:
    """Return a value that tells which write it is of, and whether it is whole."""
    return f"{number:08d}" * (size // 8)


def _transaction(store: sharedstate.Store, n: int) -> None:
    with store.transaction() as tx:
        tx["left"] = tx.get("left", 0) - n
        tx["right"] = tx.get("right", 0) + n
        tx[f"tx{n % 7}"] = payload(n)


def _followed(old: list[int], n: int) -> list[int]:
    old.append(n)
    return old[-20:]


VERBS: dict[str, Callable[[sharedstate.Store, int], object]] = {
    "set": lambda store, n: store.set(f"k{n % 40}", payload(n)),
    "set_large": lambda store, n: store.set(f"large{n % 3}", payload(n, 9_000)),
    "add": lambda store, n: store.add(f"new{n}", payload(n, 100)),
    "increment": lambda store, n: store.increment("count"),
    "update_with": lambda store, n: store.update_with("list", lambda old: _followed(old, n), []),
    "touch": lambda store, n: store.touch(f"k{n % 40}", 1e6),
    "transaction": _transaction,
    "set_many": lambda store, n: store.set_many({f"many{i}": payload(n) for i in range(8)}),
    "delete": lambda store, n: store.delete(f"k{(n + 20) % 40}"),
    "pop": lambda store, n: store.pop(f"new{n - 30}", None),
    "delete_many": lambda store, n: store.delete_many([f"many{i}" for i in range(0, 8, n % 3 + 1)]),
}
"""Every kind of write; `n` is another number each time."""

BATCHES = frozenset({"set_many", "delete_many"})

_models = 0


class Ledger:
    """A store under hardship, and what it must hold.

    Attributes:
        store: the one under test.
        acknowledged: verbs that returned.
        refused: verbs that raised.
        refusals: which errors they raised, by name.
    """

    def __init__(self, store: sharedstate.Store) -> None:
        self.store = store
        self.acknowledged = 0
        self.refused = 0
        self.refusals: dict[str, int] = {}
        # A copy opens no file, so it works when there is room for nothing.
        self.model = sharedstate.open(f"memory:ledger-{os.getpid()}-{id(self)}", allow_narrow=True)
        self.model.update(dict(store))
        self._number = 0

    def close(self) -> None:
        """Forget the model."""
        self.model.close()
        sharedstate.remove(self.model.url)

    def do(
        self,
        verb: str,
        refusal: type[Exception] | tuple[type[Exception], ...] = CapacityError,
        under: AbstractContextManager[object] = _NOTHING,
    ) -> bool:
        """Do one verb; return whether it was acknowledged.

        Args:
            verb: of `VERBS`.
            refusal: what may be raised; each says what to do next, or is a plain MemoryError.
            under: what the verb is done under, and not what looks at the store afterwards.
        """
        self._number += 1
        number, act = self._number, VERBS[verb]
        before = dict(self.model) if verb in BATCHES else {}
        try:
            with under:
                found = act(self.store, number)
        except OutcomeUnknownError:
            self._settle(verb, number)
            self._count("OutcomeUnknownError")
            return False
        except refusal as error:
            is_helpful = not isinstance(error, StateError) or getattr(error, "advice", "")
            assert is_helpful, f"{error!r} does not say what to do next"  # noqa: PT017  several may be allowed
            if verb in BATCHES:
                self._adopt(verb, number, before)
            self._count(type(error).__name__)
            return False
        wanted = act(self.model, number)
        assert found == wanted, f"{verb} {number} returned {found!r}, and {wanted!r} is right"
        self.acknowledged += 1
        return True

    def do_all(self, refusal: type[Exception] | tuple[type[Exception], ...] = CapacityError) -> int:
        """Do every verb once; return how many were refused."""
        return sum(not self.do(verb, refusal) for verb in VERBS)

    def audit(self, *others: sharedstate.Store) -> None:
        """Compare the store, and other handles on it, with the model, and check it."""
        wanted = dict(self.model)
        for store in (self.store, *others):
            found = dict(store)
            wrong = sorted(key for key in found | wanted if found.get(key) != wanted.get(key))
            assert not wrong, f"these differ from what was acknowledged: {wrong[:10]}"
            store.check()

    def audit_anew(self) -> None:
        """Audit, also through a handle that is opened now."""
        with sharedstate.open(self.store.url) as other:
            self.audit(other)

    def _count(self, name: str) -> None:
        self.refused += 1
        self.refusals[name] = self.refusals.get(name, 0) + 1

    def _settle(self, verb: str, number: int) -> None:
        """Of an unknown outcome take what is there, if it is the old or the new."""
        found = dict(self.store)
        if verb in BATCHES:
            self._adopt(verb, number, dict(self.model))
        elif found != dict(self.model):
            VERBS[verb](self.model, number)
            assert found == dict(self.model), f"{verb} {number} left neither the old nor the new"

    def _adopt(self, verb: str, number: int, before: dict[str, Any]) -> None:
        """Of a batch that was refused take each entry that is as it was, or as it should have become."""
        VERBS[verb](self.model, number)
        after, found = dict(self.model), dict(self.store)
        for key in before | after | found:
            old, new, now = before.get(key), after.get(key), found.get(key)
            assert now in (old, new), f"{verb} {number} left {key!r} at {now!r}"
            if now is None:
                self.model.delete(key)
            else:
                self.model[key] = now
