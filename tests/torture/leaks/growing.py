"""Calls a verb again and again, and measures what has grown meanwhile.

`python -m leaks.growing ORDERS` prints one JSON object.  It runs with
PYTHONMALLOC=malloc, so that the C library's own count of bytes in use holds
every object of Python's and every block of a C module's, to the byte; a
resident set would hide a leak of less than a page for every hundred calls.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
import tracemalloc
import warnings
from typing import TYPE_CHECKING, Any, Final

import sharedstate
from leaks import plants
from leaks.calls import SHARED, calls_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["main"]

_LEAST_CALLS: Final = 600  # of 32 bytes each, the least that malloc gives: more than may vary
_TRACED_CALLS: Final = 2000


class _Mallinfo2(ctypes.Structure):
    # mallinfo2's order: arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost
    _fields_ = [(f"field_{number}", ctypes.c_size_t) for number in range(10)]

    def bytes_in_use(self) -> int:
        """Return the bytes given out, those in mappings of their own included."""
        return int(self.field_7 + self.field_4)


_libc: Final = ctypes.CDLL(None)
_libc.mallinfo2.restype = _Mallinfo2


def _measure(store: sharedstate.Store) -> dict[str, int]:
    gc.collect()
    # It keeps up to 4096 names by which C looked something up, as datetime and our codec do.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in favour of what 3.12 has not
        sys._clear_type_cache()
    return {
        "objects": len(gc.get_objects()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mappings": _count_mappings(),
        "entries": len(store),
        "references": sum(sys.getrefcount(shared) for shared in SHARED),
        "bytes": _libc.mallinfo2().bytes_in_use(),
    }


def _count_mappings() -> int:
    with open("/proc/self/maps", "rb") as maps:
        return sum(b"/" in line for line in maps)  # not the heap's own, which come and go


def _repeat(call: Callable[[], object], times: int, seconds: float, least: int) -> int:
    end, made = time.monotonic() + seconds, 0
    while made < times and (made < least or time.monotonic() < end):
        for _ in range(min(100, times - made)):
            call()
        made += min(100, times - made)
    return made


def _grown(
    store: sharedstate.Store, call: Callable[[], object], times: int, least: int, seconds: float
) -> dict[str, int]:
    _repeat(call, times // 10, seconds / 10, least // 2)
    before = _measure(store)
    made = _repeat(call, times, seconds, least)
    after = _measure(store)
    return {
        "calls": made,
        **{name: after[name] - before[name] for name in before},
    }


def _where(call: Callable[[], object]) -> list[str]:
    """Return the lines that have most more bytes in use after some calls than before."""
    tracemalloc.start(3)
    call()
    before = tracemalloc.take_snapshot()
    for _ in range(_TRACED_CALLS):
        call()
    gc.collect()
    changes = tracemalloc.take_snapshot().compare_to(before, "lineno")
    tracemalloc.stop()
    return [str(change) for change in changes[:3]]


def main() -> None:
    """Measure every call on one store; see `leaks.judging` for what may grow."""
    orders: dict[str, Any] = json.loads(sys.argv[1])
    store = sharedstate.open(orders["url"], allow_narrow=True)
    held = sharedstate.open(orders["url"], allow_narrow=True)
    lock = held.lock("held")
    lock.acquire()
    plants.plant(orders["plant"], store)
    grown: dict[str, Any] = {}
    for name, (call, slowness) in calls_of(store).items():
        if orders["only"] and name not in orders["only"]:
            continue
        least = _LEAST_CALLS if slowness == 1 else _LEAST_CALLS // 4  # in a short run, where a dear one holds more
        times = max(orders["times"] // slowness, least)
        found = _grown(store, call, times, least, orders["seconds"])
        if found["bytes"] > orders["slack_bytes"]:
            # Once more: a table that doubled grows no further, a leak does.
            again = _grown(store, call, times, least, orders["seconds"])
            found["bytes"] = min(found["bytes"], again["bytes"])
            if found["bytes"] > orders["slack_bytes"]:
                grown[f"where {name}"] = _where(call)
        grown[name] = found
    lock.release()
    print(json.dumps(grown))  # noqa: T201  the answer


if __name__ == "__main__":
    main()
