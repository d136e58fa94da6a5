"""What is measured: one row of `WORKLOADS` each, and the values it is measured with.

A workload says how the call is written, with which arguments, and against whom
the others are compared.  A contestant that lacks its verb is left out of it.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["BASELINE", "BATCH", "KINDS", "WORKLOADS", "Form", "Kind", "Workload", "make_keys"]

BASELINE: Final = "dict+Lock"
"""The contestant that ratios are formed against, unless a workload names another."""

BATCH: Final = 100
"""How many keys a batch has, or all where a store has fewer."""


# --- Values ------------------------------------------------------------------


class Kind(NamedTuple):
    """A kind of value, and a pool of different ones.

    Pools are of prime length, so that a key does not meet the same value on
    each pass: SQLite, for one, skips writing a record that equals the old one.

    Attributes:
        value_bytes: the room that one takes when it is encoded, at most.
    """

    name: str
    label: str
    pool: Sequence[Any]
    value_bytes: int


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
    blocks = [dice.randbytes(2**16) for _ in range(37)]
    images = [dice.randbytes(2**20) for _ in range(7)]
    kinds = (
        Kind("int", "int", ints, 64),
        Kind("str", "100 B str", texts, 128),
        Kind("dict", "1 KiB dict", records, 2048),
        Kind("64KiB", "64 KiB bytes", blocks, 2**16),
        Kind("1MiB", "1 MiB bytes", images, 2**20),
    )
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


def _by_absent(keys: Sequence[str], _kind: Kind) -> list[tuple[Any, ...]]:
    return [(_new(key),) for key in _shuffled(keys, 1)]


def _by_new(keys: Sequence[str], kind: Kind) -> list[tuple[Any, ...]]:
    return [(_new(key), kind.pool[index % len(kind.pool)]) for index, key in enumerate(_shuffled(keys, 1))]


def _by_present(keys: Sequence[str], kind: Kind) -> list[tuple[Any, ...]]:
    return [(key, kind.pool[index % len(kind.pool)]) for index, key in enumerate(_shuffled(keys, 1))]


def _by_nothing(_keys: Sequence[str], _kind: Kind) -> list[tuple[Any, ...]]:
    return [(None,)]


def _by_batch(keys: Sequence[str], _kind: Kind) -> list[tuple[Any, ...]]:
    size, shuffled = _batch(len(keys)), _shuffled(keys, 1)
    return [(shuffled[at : at + size],) for at in range(0, len(keys) - size + 1, size)]


def _by_batch_of_values(keys: Sequence[str], kind: Kind) -> list[tuple[Any, ...]]:
    pairs, size = _by_key_and_value(keys, kind), _batch(len(keys))
    # Within a pass only: a key must not come twice in a batch.
    passes = pairs[: len(keys)], pairs[len(keys) :]
    return [(dict(half[at : at + size]),) for half in passes for at in range(0, len(keys) - size + 1, size)]


def _one(_keys: int) -> int:
    return 1


def _all(keys: int) -> int:
    return keys


def _batch(keys: int) -> int:
    return min(BATCH, keys)


def _new(key: str) -> str:
    """Return a key of the same length that no store holds."""
    return f"new{key[3:]}"


def _by_pair(keys: Sequence[str], _kind: Kind) -> list[tuple[Any, ...]]:
    shuffled = _shuffled(keys, 1)
    return list(zip(shuffled, [*shuffled[1:], shuffled[0]], strict=True))


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
        needs: verbs that a contestant must have beside that of the form.
        undo: what takes an operation back, untimed; with it no two operations
            may concern the same key.
        entries: how many entries an operation concerns, given the number of keys.
        baseline: of the ratios.
        family: "store" contestants hold entries; "codec" ones encode and decode.
    """

    name: str
    kind: str
    forms: tuple[Form, ...]
    variables: tuple[str, ...]
    make: Callable[[Sequence[str], Kind], list[tuple[Any, ...]]]
    idle: str
    needs: tuple[str, ...] = ()
    undo: Form | None = None
    entries: Callable[[int], int] = _one
    baseline: str = BASELINE
    family: str = "store"


_GET: Final = (Form("get", "call({k})", "store.get(k)"),)
_GET_ITEM: Final = (*_GET, Form("getitem", "call[{k}]", "store[k]", " [k]"))
_GET_MISSING: Final = (Form("get", "call({k})", "store.get(k) of a key that is not there"),)
_SET: Final = (Form("set", "call({k}, {v})", "store.set(k, v)"),)
_SET_ITEM: Final = (*_SET, Form("setitem", "call[{k}] = {v}", "store[k] = v", " [k]="))
_SET_NEW: Final = (Form("set", "call({k}, {v})", "store.set(k, v) of a key that is not there"),)
_DELETE: Final = (Form("delete", "call({k})", "store.delete(k)"),)
_INCREMENT: Final = (
    Form("increment", "call({k})", "store.increment(k)"),
    Form("increment_apart", "call({k})", "get(k), then set(k): not atomic", " [not atomic]"),
)
_ITERATE: Final = (Form("items", "consume(call())", "for k, v in store.items(), per entry"),)
_GET_MANY: Final = (Form("get_many", "call({ks})", "store.get_many(keys), per entry"),)
_SET_MANY: Final = (Form("set_many", "call({kv})", "store.set_many(values), per entry"),)
_COMPARE: Final = (
    Form(
        "compare_and_set",
        "generations[{k}] = call({k}, {v}, generations[{k}])",
        "store.compare_and_set(k, v, generation)",
    ),
)
_SWAP: Final = (Form("swap", "call({k}, {j})", "with store.transaction() as tx: tx[k], tx[j] = tx[j], tx[k]"),)


def _store_workloads(kind: str) -> list[Workload]:
    k, kv, kj, pair = ("k",), ("k", "v"), ("k", "j"), "{k}; {v}"
    is_int = kind == "int"
    # Where nothing can be deleted, the keys are fixed and none is missing.
    # Compare-and-set comes last: it reads the generations once, and then keeps
    # count; and some keep generations in entries of their own, which `items` would see.
    return [
        Workload(f"get-{kind}", kind, _GET_ITEM if is_int else _GET, k, _by_key, "{k}"),
        Workload(f"get_missing-{kind}", kind, _GET_MISSING, k, _by_absent, "{k}", ("delete",)),
        Workload(f"set-{kind}", kind, _SET_ITEM if is_int else _SET, kv, _by_key_and_value, pair),
        Workload(f"set_new-{kind}", kind, _SET_NEW, kv, _by_new, pair, ("delete",), _DELETE[0]),
        Workload(f"delete-{kind}", kind, _DELETE, kv, _by_present, "{k}", ("set",), _SET[0]),
        *([Workload("increment-int", kind, _INCREMENT, k, _by_key, "{k}")] if is_int else []),
        Workload(f"iterate-{kind}", kind, _ITERATE, ("n",), _by_nothing, "{n}", entries=_all),
        Workload(f"get_many-{kind}", kind, _GET_MANY, ("ks",), _by_batch, "{ks}", entries=_batch),
        Workload(f"set_many-{kind}", kind, _SET_MANY, ("kv",), _by_batch_of_values, "{kv}", entries=_batch),
        Workload(f"transaction-{kind}", kind, _SWAP, kj, _by_pair, "{k}; {j}"),
        Workload(
            f"compare_and_set-{kind}",
            kind,
            _COMPARE,
            kv,
            _by_key_and_value,
            "generations[{k}] = generations[{k}]; {v}",
        ),
    ]


_ENCODE: Final = (Form("encode", "call({v})", "encode(v)"),)
_DECODE: Final = (Form("decode", "call({v})", "decode(encoded)"),)

WORKLOADS: Final = (
    *(workload for kind in KINDS for workload in _store_workloads(kind)),
    Workload("encode-dict", "dict", _ENCODE, ("v",), _by_value, "{v}", baseline="msgpack", family="codec"),
    Workload("decode-dict", "dict", _DECODE, ("v",), _by_encoded, "{v}", baseline="msgpack", family="codec"),
)
