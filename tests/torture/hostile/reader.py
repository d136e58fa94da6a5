"""A process that reads a live store over and over, and says so in shared memory.

    reader.py URL PROGRESS-FILE NUMBER

Every value proves itself: it repeats its key.  A wrong one ends the process
with status 3 and a line that says which; a `StateError` is as good as a value.
The progress file holds two 64-bit words per reader: rounds done, errors met.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from pathlib import Path
from struct import pack_into, unpack_from

import sharedstate
from sharedstate import StateError

KEYS = [f"key-{i}" for i in range(12)]


def value_of(key: str) -> list[str]:
    """Return the value that `key` has: long enough for blocks of several sizes."""
    return [key] * (1 + int(key.removeprefix("key-")) * 5)


def read_round(store: sharedstate.Store) -> int:
    """Read every key by itself and all at once; return how many errors there were."""
    errors = 0
    for key in KEYS:
        try:
            found = store.get(key)
        except StateError:
            errors += 1
        else:
            if found != value_of(key):
                print(f"{key} is {found!r}", flush=True)  # noqa: T201  the parent reads it
                sys.exit(3)
    with contextlib.suppress(StateError):
        for key, found in store.get_many(KEYS).items():
            if found != value_of(key):
                print(f"{key} is {found!r} among many", flush=True)  # noqa: T201
                sys.exit(3)
    return errors


def main() -> None:
    """Read until standard input ends."""
    url, path, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as progress:
        store = sharedstate.open(url)
        while True:
            rounds, errors = unpack_from("=QQ", progress, 16 * number)
            pack_into("=QQ", progress, 16 * number, rounds + 1, errors + read_round(store))
            os.sched_yield()  # there may be fewer processors than readers


if __name__ == "__main__":
    main()
