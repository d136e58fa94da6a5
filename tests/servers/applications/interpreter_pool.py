"""Increment one key from a pool of interpreters: interpreter_pool.py URL; prints [interpreter, totals] of each task."""

import json
import sys
from concurrent.futures import InterpreterPoolExecutor


def increment(url: str) -> tuple[int, list[int]]:
    from concurrent import interpreters

    import sharedstate

    with sharedstate.open(url, allow_narrow=True) as store:
        return interpreters.get_current().id, [store.increment("total") for _ in range(25)]


if __name__ == "__main__":
    with InterpreterPoolExecutor(max_workers=4) as pool:
        json.dump(list(pool.map(increment, [sys.argv[1]] * 16)), sys.stdout)
