"""Makes and ends sub-interpreters, and measures what the process keeps of each.

`python -m leaks.interpreting ORDERS` prints one JSON object.  Each interpreter
opens a store of each backend, does some verbs and ends.  CPython itself keeps
something of each that ever was, the more so the more code it has loaded (most
strings of that are immortal): so others, to compare with, import the same
modules of the standard library and load the same code, but run none of ours.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from leaks.plants import INTERPRETER_PLANTS
from sharedstate.probe.interpreters import run_in_interpreter

__all__ = ["main"]


def _measure() -> dict[str, int]:
    with open("/proc/self/status", encoding="ascii") as status:
        rows = dict(line.split(":", 1) for line in status)
    with open("/proc/self/maps", "rb") as maps:
        regions = sum(b"/dev/shm/" in line or b"/locks/" in line for line in maps)
    return {
        "resident_bytes": int(rows["VmRSS"].split()[0]) * 1024,
        "threads": int(rows["Threads"]),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "regions": regions,
    }


def main() -> None:
    """Make as many as ordered, and tell what was left behind."""
    orders: dict[str, Any] = json.loads(sys.argv[1])
    prelude = f"import sys; sys.path[:] = {sys.path!r}\n"
    if orders["inventory"]:  # to compare with
        with open(orders["inventory"], encoding="utf-8") as file:
            modules, codes = json.load(file)
        script = prelude + (
            f"for name in {modules!r}: __import__(name)\n"
            "from marshal import loads\n"
            f"kept = [loads(open(path, 'rb').read()[16:]) for path in {codes!r}]"
        )
    else:
        script = prelude + f"from leaks.visiting import visit; visit({orders['urls']!r})\n"
        if orders["plant"].startswith("list "):
            script += f"from leaks.visiting import list_modules; list_modules({orders['plant'][5:]!r})"
        else:
            script += INTERPRETER_PLANTS[orders["plant"]]

    def make(times: int) -> None:
        for number in range(times):
            if number % 100 == 99:
                print(f"progress: {number + 1} {orders['kind']} interpreters", flush=True)  # noqa: T201  for people
            failure = run_in_interpreter(orders["kind"], script)
            if failure:
                raise RuntimeError(failure)

    make(orders["warmers"])
    before = _measure()
    make(orders["times"])
    after = _measure()
    print(json.dumps({name: after[name] - before[name] for name in before}))  # noqa: T201  the answer


if __name__ == "__main__":
    main()
