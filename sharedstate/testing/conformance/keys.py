"""Claims about keys: which are keys, that each is only itself, and that every verb refuses the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

import sharedstate
from sharedstate.testing.conformance.support import Claims
from sharedstate.values import MAX_KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate.store import Store

__all__ = ["KeyClaims"]

_KEYS: Final = [
    "a",
    "A",
    " ",
    "a ",
    "\0",
    "a\0",
    "a\0b",
    "\n",
    "a\nb",
    "1",
    "01",
    "1.0",
    "1e0",
    "None",
    "é",
    "e\u0301",  # the same to a reader, another key to us
    "日本語",
    "\U0001f600",
    "\U0010ffff",
    "\ufeff",
    "/",
    "..",
    "a:b",
    "a=b&c?d#e%41",
    "'; DROP TABLE entries; --",
    "x" * MAX_KEY_BYTES,
    "x" * (MAX_KEY_BYTES - 1) + "y",
    "é" * (MAX_KEY_BYTES // 2),
    "日" * (MAX_KEY_BYTES // 3),
    "\U0001f600" * (MAX_KEY_BYTES // 4),
]

_NO_KEYS: Final[dict[str, Any]] = {
    "empty": "",
    "too long": "x" * (MAX_KEY_BYTES + 1),
    "too long by one multi-byte character": "x" * (MAX_KEY_BYTES - 1) + "é",
    "too long, all multi-byte": "日" * (MAX_KEY_BYTES // 3 + 1),
    "lone surrogate": "\ud800",
    "lone surrogate within": "a\udcffb",
    "bytes": b"k",
    "int": 1,
    "bool": True,
    "None": None,
    "float": 1.0,
    "tuple": ("k",),
    "str subclass": type("Text", (str,), {})("k"),
}


class KeyClaims(Claims):
    """A key is a str of 1 to 512 bytes of UTF-8."""

    @pytest.mark.parametrize("index", range(len(_KEYS)))
    def test_any_such_str_is_a_key(self, store: Store, index: int) -> None:
        """It can be set, read, counted, iterated over, locked and deleted like any other."""
        key = _KEYS[index]

        store[key] = index
        assert store[key] == index
        assert list(store) == [key]
        assert list(store.keys(key)) == [key]
        assert store.increment(key) == index + 1
        with store.lock(key):
            assert [record.name for record in store.locks()] == [key]
        assert store.delete(key)
        assert list(store) == []

    def test_each_key_is_only_itself(self, store: Store) -> None:
        """Keys that a file system, a database or a reader might confuse are different keys."""
        for index, key in enumerate(_KEYS):
            store[key] = index

        assert dict(store) == {key: index for index, key in enumerate(_KEYS)}
        for index, key in enumerate(_KEYS):
            assert store.pop(key) == index
        assert len(store) == 0

    @pytest.mark.parametrize("name", _NO_KEYS)
    def test_every_verb_refuses_what_is_no_key(self, store: Store, name: str) -> None:
        """KeyFormatError, which is a ValueError, from every verb that takes a key; nothing is written."""
        for verb, call in _calls(store, _NO_KEYS[name]).items():
            with pytest.raises(sharedstate.KeyFormatError):
                pytest.fail(f"{verb} accepted it and returned {call()!r}")

        assert len(store) == 0
        assert issubclass(sharedstate.KeyFormatError, ValueError)

    @pytest.mark.parametrize("name", _NO_KEYS)
    def test_batches_refuse_what_is_no_key(self, store: Store, name: str) -> None:
        """set_many, get_many, delete_many and update refuse it too."""
        key = _NO_KEYS[name]

        for call in (
            lambda: store.set_many({key: 1}),
            lambda: store.get_many([key]),
            lambda: store.delete_many([key]),
            lambda: store.update({key: 1}),
        ):
            with pytest.raises(sharedstate.KeyFormatError):
                call()

        assert len(store) == 0


def _calls(store: Store, key: Any) -> dict[str, Callable[[], Any]]:
    """Return a call of each verb that takes one key."""

    def in_transaction(verb: str, *arguments: Any) -> Callable[[], Any]:
        return lambda: getattr(store.transaction(), verb)(key, *arguments)

    return {
        "get": lambda: store.get(key),
        "read": lambda: store.read(key),
        "[]": lambda: store[key],
        "in": lambda: key in store,
        "ttl": lambda: store.ttl(key),
        "set": lambda: store.set(key, 1),
        "[] =": lambda: store.__setitem__(key, 1),
        "add": lambda: store.add(key, 1),
        "setdefault": lambda: store.setdefault(key, 1),
        "increment": lambda: store.increment(key),
        "compare_and_set": lambda: store.compare_and_set(key, 1, sharedstate.ABSENT),
        "update_with": lambda: store.update_with(key, lambda _: 1),
        "touch": lambda: store.touch(key, 10),
        "delete": lambda: store.delete(key),
        "del": lambda: store.__delitem__(key),
        "pop": lambda: store.pop(key),
        "pop with a default": lambda: store.pop(key, 1),
        "wait_for_change": lambda: store.wait_for_change(key, sharedstate.ABSENT, 0),
        "lock": lambda: store.lock(key),
        "get in a transaction": in_transaction("get"),
        "[] in a transaction": in_transaction("__getitem__"),
        "in in a transaction": in_transaction("__contains__"),
        "set in a transaction": in_transaction("set", 1),
        "delete in a transaction": in_transaction("delete"),
        "increment in a transaction": in_transaction("increment"),
    }
