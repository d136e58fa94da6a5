"""Every way through the public API, its error paths among them, each as a call that may be repeated for ever."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import sharedstate

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SHARED", "calls_of"]

_KEY: Final = b"leaked".decode()  # no literal: those may be immortal
_ABSENT: Final = b"absent".decode()
_MANY: Final = {f"many:{number}": number for number in range(5)}
_OBJECT: Final = object()
_VALUES: Final[dict[str, Any]] = {
    "int": 2**40,
    "huge int": 2**64 - 1,
    "float": 1.5e300,
    "str": "x" * 100,
    "wide str": "\N{SNOWMAN}" * 9000,
    "bytes": bytes(40),
    "large bytes": bytes(20_000),
    "list": [1, "two", None, [3.0]],
    "tuple": (1, ("two",), True),
    "dict": {"a": [1, 2], "b": {"c": bytes(3)}, 7: None},
    "datetime": datetime(2026, 1, 2, tzinfo=UTC),
}
SHARED: Final = [_KEY, _ABSENT, _MANY, _OBJECT, *_VALUES.values()]
"""Objects that go through the calls again and again, and whose references are counted."""


def calls_of(store: sharedstate.Store) -> dict[str, tuple[Callable[[], object], int]]:
    """Return the calls by name, each with how many times slower than most it is.

    Args:
        store: what they are made on; another handle holds its lock "held".
    """
    store.set("n", 1)
    store.set("f", 0.5)
    store.set("word", "no number")
    store.set("top", 2**64 - 1)
    for name, value in _VALUES.items():
        store.set(f"a {name}", value)
    calls: dict[str, tuple[Callable[[], object], int]] = {}
    # The dear ones first, while the store is small.
    for group in (_handles, _waiting, _reading, _writing, _refused, _together):
        for name, call in group(store).items():
            calls[name] = (call, 30 if group in (_waiting, _handles) else 1)
    return calls


def _fails(kind: type[BaseException], call: Callable[..., object], *arguments: Any) -> Callable[[], None]:
    def attempt() -> None:
        try:
            call(*arguments)
        except kind:
            return
        raise AssertionError(f"{call} did not raise {kind}")

    return attempt


def _reading(store: sharedstate.Store) -> dict[str, Callable[[], object]]:
    def getter(key: str) -> Callable[[], object]:
        return lambda: store.get(key)

    return {
        **{f"get {name}": getter(f"a {name}") for name in _VALUES},
        "get absent": lambda: store.get(_ABSENT, _OBJECT),
        "read": lambda: store.read("a dict"),
        "generation": lambda: store.generation("a str"),
        "get_many": lambda: store.get_many(["a int", "a str", "a list", _ABSENT]),
        "in": lambda: ("a str" in store, _ABSENT in store),
        "[] absent": _fails(KeyError, store.__getitem__, _ABSENT),
        "ttl": lambda: store.ttl("a str"),
        "len": lambda: len(store),
        "keys": lambda: list(store.keys("a ")),
        "items": lambda: list(store.items("a s")),
        "namespace": lambda: store.namespace("app").get("k", 1),
    }


def _writing(store: sharedstate.Store) -> dict[str, Callable[[], object]]:
    def setter(value: Any) -> Callable[[], object]:
        return lambda: store.set(_KEY, value)

    return {
        **{f"set {name}": setter(value) for name, value in _VALUES.items()},
        "set with ttl": lambda: store.set(_KEY, 1, 1e6),
        "set and delete": lambda: (store.set("new", "x" * 50), store.delete("new")),
        "delete absent": lambda: store.delete(_ABSENT),
        "add refused": lambda: store.add("n", 2),
        "add and pop": lambda: (store.add("new", [1]), store.pop("new")),
        "pop absent": _fails(KeyError, store.pop, _ABSENT),
        "setdefault": lambda: store.setdefault("a list", [2]),
        "increment": lambda: store.increment("n", 3),
        "increment float": lambda: store.increment("f", 0.25),
        "touch": lambda: store.touch("a int", None),
        "compare_and_set": lambda: store.compare_and_set("c", 2**40, store.generation("c")),
        "set_many": lambda: store.set_many(_MANY),
        "set_many and delete_many": lambda: (store.set_many(_MANY), store.delete_many(_MANY)),
        "update_with": lambda: store.update_with("a dict", lambda value: value),
        "namespaced": lambda: store.namespace("app").set("k", "v"),
    }


def _refused(store: sharedstate.Store) -> dict[str, Callable[[], object]]:
    nested: list[Any] = []
    for _ in range(80):
        nested = [nested]
    app = store.namespace("app")
    calls = {
        "conflict": _fails(sharedstate.ConflictError, store.compare_and_set, "n", 1, 2**60),
        "conflict in a namespace": _fails(sharedstate.ConflictError, app.compare_and_set, _KEY, 1, 2**60),
        "value of no type": _fails(sharedstate.ValueTypeError, store.set, _KEY, _OBJECT),
        "value of no type inside": _fails(sharedstate.ValueTypeError, store.set, _KEY, {"a": [1, {"b": _OBJECT}]}),
        "value too deep": _fails(sharedstate.ValueTypeError, store.set, _KEY, nested),
        "int too great": _fails(sharedstate.ValueTypeError, store.set, _KEY, 2**70),
        "one wrong of many": _fails(sharedstate.ValueTypeError, store.set_many, {"many:1": [1], "many:2": _OBJECT}),
        "key of no type": _fails(sharedstate.KeyFormatError, store.set, _OBJECT, 1),
        "key too long": _fails(sharedstate.KeyFormatError, store.get, "k" * 513),
        "key with a surrogate": _fails(sharedstate.KeyFormatError, store.get, "\ud800"),
        "key unhashable": _fails(sharedstate.KeyFormatError, store.get, [_KEY]),
        "wrong ttl": _fails(sharedstate.ValueTypeError, store.set, _KEY, "x" * 50, -1),
        "increment text": _fails(sharedstate.ValueTypeError, store.increment, "word"),
        "increment a list": _fails(sharedstate.ValueTypeError, store.increment, "a list"),
        "increment by text": _fails(sharedstate.ValueTypeError, store.increment, "n", "1"),
        "increment beyond": _fails(sharedstate.CounterOverflowError, store.increment, "top"),
        "add a wrong one": _fails(sharedstate.ValueTypeError, store.add, _ABSENT, _OBJECT),
        "compare_and_set a wrong one": _fails(sharedstate.ValueTypeError, store.compare_and_set, "n", _OBJECT, 0),
        "too few arguments": _fails(TypeError, store.set, _KEY),
        "too many arguments": _fails(TypeError, store.get, _KEY, 1, 2, 3),
    }
    if store.capabilities.max_value_bytes < 1 << 26:  # else filling it costs more than it shows
        too_large = bytes(store.capabilities.max_value_bytes + 1)
        calls["no room"] = _fails(sharedstate.CapacityError, store.set, _KEY, too_large)
        calls["no room in a transaction"] = _fails(
            sharedstate.CapacityError, store.transact, lambda tx: tx.set(_KEY, too_large)
        )
    return calls


def _together(store: sharedstate.Store) -> dict[str, Callable[[], object]]:
    def move() -> None:
        with store.transaction() as tx:
            tx["n"] -= 1
            tx["m"] = tx.get("m", 0) + 1
            tx["text"] = "x" * 300
            tx.delete("text")

    def lose() -> None:
        with store.transaction() as tx:
            tx["m"] = tx["n"] + 1
            store.increment("n")

    def refuse() -> None:
        with store.transaction() as tx:
            tx["m"] = [1]
            tx["k"] = [_OBJECT]

    return {
        "transaction": move,
        "transact": lambda: store.transact(lambda tx: (tx["n"], tx["f"])),
        "transaction that loses": _fails(sharedstate.ConflictError, lose),
        "transaction refused": _fails(sharedstate.ValueTypeError, refuse),
    }


def _waiting(store: sharedstate.Store) -> dict[str, Callable[[], object]]:
    lock = store.lock("own")
    return {
        "wait in vain": lambda: store.wait_for_change("n", store.generation("n"), timeout_s=0),
        "wait for what was": lambda: store.wait_for_change("n", 0, timeout_s=1),
        "watch": lambda: list(store.watch("none", timeout_s=0)),
        "lock": lambda: (lock.acquire(), lock.release()),
        "new lock": lambda: store.lock("own", timeout_s=1).__enter__().release(),
        "lock taken": _fails(sharedstate.LockTimeoutError, lambda: store.lock("held").acquire(0)),
        "lock not ours": _fails(sharedstate.LockOwnershipError, lock.release),
        "lock dropped": lambda: store.lock("dropped").acquire(),
        "locks": store.locks,
        "clear": lambda: store.clear("none"),
        "stats": store.stats,
        "check": store.check,
        "sharers": store.sharers,
        "join": store.join,
    }


def _handles(store: sharedstate.Store) -> dict[str, Callable[[], object]]:
    def again() -> None:
        with sharedstate.open(store.url, allow_narrow=True) as other:
            other.get("n")
            other.increment("n")
            other.set(_KEY, [1])

    def dropped() -> None:
        sharedstate.open(store.url, allow_narrow=True).get("a dict")

    gone = sharedstate.open(store.url, allow_narrow=True)
    gone.close()
    closed = [
        _fails(sharedstate.ClosedError, getattr(gone, verb), *arguments)
        for verb, arguments in {
            "get": (_KEY,),
            "set": (_KEY, 1),
            "add": (_KEY, 1),
            "increment": (_KEY,),
            "read": (_KEY,),
            "delete": (_KEY,),
            "compare_and_set": (_KEY, 1, 0),
            "check": (),
        }.items()
    ]
    calls = {
        "open and close": again,
        "open and drop": dropped,
        "verbs of a closed one": lambda: [call() for call in closed],
        "wrong url": _fails(sharedstate.UrlError, sharedstate.open, "shm://no/slash?never=1"),
        "wrong parameter": _fails(sharedstate.UrlError, sharedstate.open, f"{store.url.partition('?')[0]}?never=1"),
    }
    if store.capabilities.scope > sharedstate.Scope.INTERPRETER:
        calls["pickle"] = lambda: pickle.loads(pickle.dumps(store)).close()
    return calls
