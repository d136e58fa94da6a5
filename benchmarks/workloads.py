"""What is measured: one row of `WORKLOADS` each, and the values it is measured with.

A workload says how the call is written, with which arguments, and against whom
the others are compared.  A contestant that lacks its verb is left out of it.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["BASELINE", "KINDS", "WORKLOADS", "Form", "Kind", "Workload", "make_keys"]

BASELINE: Final = "dict+Lock"
"""The contestant that ratios are formed against, unless a workload names another."""


# --- Values ------------------------------------------------------------------


class Kind(NamedTuple):
    """A kind of value, and a pool of different ones.

    Pools are of prime length, so that a key does not meet the same value on
    each pass: SQLite, for one, skips writing a record that equals the old one.
    """

    name: str
    label: str
    pool: Sequence[Any]


def _make_record(dice: random.Random) -> dict[str, Any]:
    # What applications keep: a session, a job.  Shaped to about 1 KiB of msgpack.
    return {
        "id": dice.getrandbits(48),
        "user": f"user-{dice.getrandbits(32):08x}",
        "active": dice.random() < 0.5,
        "score": dice.random() * 1000,
        "note": None,
        "roles": ["reader", "writer", "reviewer"],
        "preferences": {"language": "en", "zone": "Europe/Vienna", "page_size": 50, "columns": [1, 2, 3, 5, 8]},
        "history": [
            {"at": 1_700_000_000 + dice.getrandbits(24), "page": f"/items/{dice.getrandbits(20)}", "ms": dice.random()}
            for _ in range(20)
        ],
        "text": "".join(dice.choices("abcdefghijklmnopqrstuvwxyz ", k=50)),
    }


def _make_kinds() -> dict[str, Kind]:
    dice = random.Random(20)  # seeded: every run stores the same values
    ints = [dice.getrandbits(31) for _ in range(9973)]
    texts = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=100)) for _ in range(997)]
    records = [_make_record(dice) for _ in range(101)]
    kinds = (Kind("int", "int", ints), Kind("str", "100 B str", texts), Kind("dict", "1 KiB dict", records))
    return {kind.name: kind for kind in kinds}


KINDS: Final = _make_kinds()


# --- Operations --------------------------------------------------------------


def make_keys(count: int) -> list[str]:
    """Return `count` keys."""
    return [f"key:{index:06d}" for index in range(count)]


def _by_key(keys: Sequence[str], _kind: Kind) -> list[tuple[Any, ...]]:
    return [(key,) for key in _shuffled(keys, 1)]


def _by_key_and_value(keys: Sequence[str], kind: Kind) -> list[tuple[Any, ...]]:
    # Two passes, so that each key gets two values in turn.
    return [
        (key, kind.pool[(index + 5 * turn) % len(kind.pool)])
        for turn in (1, 2)
        for index, key in enumerate(_shuffled(keys, 1))
    ]


def _by_pair(keys: Sequence[str], _kind: Kind) -> list[tuple[Any, ...]]:
    once, again = _shuffled(keys, 1), _shuffled(keys, 2)
    return [(a, b) for a, b in zip(once, again, strict=True) if a != b]


def _by_value(keys: Sequence[str], kind: Kind) -> list[tuple[Any, ...]]:
    return [(kind.pool[index % len(kind.pool)],) for index in range(len(keys))]


def _by_encoded(keys: Sequence[str], kind: Kind) -> list[tuple[Any, ...]]:
    from sharedstate.values import encode

    encoded = [encode(value) for value in kind.pool]
    return [(encoded[index % len(encoded)],) for index in range(len(keys))]


def _shuffled(keys: Sequence[str], seed: int) -> list[str]:
    return random.Random(seed).sample(keys, len(keys))


# --- Workloads ---------------------------------------------------------------


class Form(NamedTuple):
    """One way to write the call.

    Attributes:
        verb: what a contestant calls it; see `peers.Session`.
        statement: with the operation's variables in braces.
        label: as people write it.
        suffix: tells its row from the first form's.
    """

    verb: str
    statement: str
    label: str
    suffix: str = ""


class Workload(NamedTuple):
    """One thing that is measured.

    Attributes:
        name: `<verb>-<kind>`, for `--only` and for targets.
        kind: of `KINDS`.
        forms: each contestant takes part once with each of them that it has.
        variables: of one operation.
        make: returns the operations, in the order in which they are run.
        idle: the statement without its call, whose time is subtracted.
        baseline: of the ratios.
        family: "store" contestants hold entries; "codec" ones encode and decode.
    """

    name: str
    kind: str
    forms: tuple[Form, ...]
    variables: tuple[str, ...]
    make: Callable[[Sequence[str], Kind], list[tuple[Any, ...]]]
    idle: str
    baseline: str = BASELINE
    family: str = "store"


_GET: Final = (Form("get", "call({k})", "store.get(k)"),)
_GET_ITEM: Final = (*_GET, Form("getitem", "call[{k}]", "store[k]", " [k]"))
_SET: Final = (Form("set", "call({k}, {v})", "store.set(k, v)"),)
_SET_ITEM: Final = (*_SET, Form("setitem", "call[{k}] = {v}", "store[k] = v", " [k]="))
_INCREMENT: Final = (Form("increment", "call({k})", "store.increment(k)"),)
_COMPARE: Final = (
    Form(
        "compare_and_set",
        "generations[{k}] = call({k}, {v}, generations[{k}])",
        "store.compare_and_set(k, v, generation)",
    ),
)
_SWAP: Final = (Form("swap", "call({k}, {j})", "with store.transaction() as tx: tx[k], tx[j] = tx[j], tx[k]"),)


def _store_workloads(kind: str) -> list[Workload]:
    key, pair = ("k",), ("k", "v")
    is_int = kind == "int"
    # Compare-and-set comes last: it reads the generations once, and then keeps count.
    return [
        Workload(f"get-{kind}", kind, _GET_ITEM if is_int else _GET, key, _by_key, "{k}"),
        Workload(f"set-{kind}", kind, _SET_ITEM if is_int else _SET, pair, _by_key_and_value, "{k}; {v}"),
        *([Workload("increment-int", kind, _INCREMENT, key, _by_key, "{k}")] if is_int else []),
        Workload(f"transaction-{kind}", kind, _SWAP, ("k", "j"), _by_pair, "{k}; {j}"),
        Workload(
            f"compare_and_set-{kind}",
            kind,
            _COMPARE,
            pair,
            _by_key_and_value,
            "generations[{k}] = generations[{k}]; {v}",
        ),
    ]


_ENCODE: Final = (Form("encode", "call({v})", "encode(v)"),)
_DECODE: Final = (Form("decode", "call({v})", "decode(encoded)"),)

WORKLOADS: Final = (
    *(workload for kind in KINDS for workload in _store_workloads(kind)),
    Workload("encode-dict", "dict", _ENCODE, ("v",), _by_value, "{v}", "msgpack", "codec"),
    Workload("decode-dict", "dict", _DECODE, ("v",), _by_encoded, "{v}", "msgpack", "codec"),
)
