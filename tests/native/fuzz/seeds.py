"""Write what each fuzz target starts from: encodings of real values, frames of a real log, operations and damage.

    seeds.py DIRECTORY      makes DIRECTORY/region, /table, /codec and /frames

The segments themselves are made by the targets, which hold them while they run.
"""

from __future__ import annotations

import datetime as dt
import sys
import tempfile
from base64 import b64decode
from pathlib import Path
from random import Random
from typing import Any

import sharedstate
from sharedstate.values import encode

LOG_HEADER_BYTES, FRAME_HEADER_BYTES = 32, 12  # FORMAT.md of the file backend

VALUES: list[Any] = [
    *(None, True, False, 0, 127, 128, 2**16, 2**32, 2**64 - 1, -1, -33, -(2**63), 0.5, float("nan")),
    *("", "a", "é€", "x" * 31, "x" * 32, "x" * 256, b"", b"x" * 255, b"x" * 300),
    *([], [1, [2, [3]]], list(range(20)), (), (1,), (1, (2, ("x",))), tuple(range(40))),
    *({}, {"a": 1, 2: "b"}, {f"key-{i}": [i] for i in range(20)}, [{"name": "n", "tags": ("a", "b")}] * 3),
    *(dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC), [dt.datetime.max.replace(tzinfo=dt.UTC)]),
]

# What campaigns found, so that it stays found.
TABLE_REDO_THAT_WRAPS = b64decode(  # a redo record of a block so far beyond all that the sum with its size is small
    "AKsj//////////8AAAAAMFwAAB16ZmkT/gCSACeCSiyqWV/xDdzxDf7+/v7+/v7+/v7+/h0uLi4uLi4uLi4uLi4uLi4uLi4uLi4u"
    "Li4uLi4uLi4uLi4uLi4uLi4uLi4uLi4uLi4uLi4uLi4uLi4uLi4uLi4uLi4uLi4uLi4uLi4uLi4uLi56E1pUkgAngkosqllf8XGe"
    "84TdALJ3AQD+/qYcAAEAAAAAAAAAAA+6////mT96oP//////////////4ikFnP//////////0Ur/"
)


def frames() -> list[bytes]:
    """Return the payloads of the frames of a log with every kind of operation."""
    with tempfile.TemporaryDirectory() as directory:
        with sharedstate.open(f"file:{directory}/store") as store:
            for i, value in enumerate(VALUES):
                store[f"key-{i % 7}"] = value
            store.increment("n")
            store.set("expiring", 1, ttl_s=1000)
            del store["key-0"]
            with store.transaction() as tx:
                tx["a"], tx["b"] = 1, [2]
        (log,) = (path for path in Path(directory, "store").iterdir() if path.name.startswith("log"))
        data = log.read_bytes()
    found = []
    at = LOG_HEADER_BYTES
    while length := int.from_bytes(data[at + 4 : at + 8], "little"):
        found.append(data[at + FRAME_HEADER_BYTES : at + FRAME_HEADER_BYTES + length])
        at += FRAME_HEADER_BYTES + length
    return found


def by_chance(first: list[int], length: int) -> list[bytes]:
    """Return lists of operations or of damage, which have no wrong ones: each begins with one of `first`."""
    dice = Random(0)
    return [bytes([dice.choice(first)]) + dice.randbytes(dice.randrange(length)) for _ in range(60)]


def main() -> None:
    """Write the seeds."""
    seeds = {
        "codec": [encode(value) for value in VALUES],
        "frames": frames(),
        "region": by_chance([0, 1, 10, 11, 28, 29, 30], 120),
        "table": [*by_chance([0, 1], 200), TABLE_REDO_THAT_WRAPS],
    }
    for name, found in seeds.items():
        directory = Path(sys.argv[1], name)
        directory.mkdir(parents=True, exist_ok=True)
        for i, seed in enumerate(found):
            (directory / f"seed-{i:03}").write_bytes(seed)


main()
