"""Four processes increment one key, and every 50 ms one of them is killed with -9.

    python killing.py URL SECONDS

Each worker is forked, opens its own handle, and after each increment stores in
a shared page how many were acknowledged to it.  Prints one JSON object: the
final value, the acknowledged increments, the kills, and receipts out of order.
`tests/stress/test_increments.py` judges it.
"""

import json
import mmap
import os
import select
import signal
import sys
import time
from typing import NoReturn

import sharedstate

WORKERS = 4
RHYTHM_S = 0.05
SLOTS = 1 << 16  # workers ever started


def work(url: str, acknowledged: memoryview, disorder: memoryview, slot: int) -> NoReturn:
    """Increment until killed."""
    store = sharedstate.open(url)
    last = 0
    while True:
        total = store.increment("hits")
        if total <= last:
            disorder[0] = 1
        last = int(total)
        acknowledged[slot] += 1


def main() -> None:
    """Run, kill, and report."""
    url, seconds = sys.argv[1], float(sys.argv[2])
    sharedstate.open(url).close()
    page = mmap.mmap(-1, SLOTS * 8)
    acknowledged = memoryview(page).cast("Q")
    disorder = memoryview(mmap.mmap(-1, 8)).cast("Q")
    started = 0
    workers: dict[int, int] = {}

    def start() -> None:
        nonlocal started
        slot, started = started, started + 1
        pid = os.fork()
        if pid == 0:
            work(url, acknowledged, disorder, slot)
        workers[pid] = slot

    for _ in range(WORKERS):
        start()
    kills, died = 0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        select.select([], [], [], RHYTHM_S)
        victim = next(iter(workers))  # the oldest: each lives for about four beats
        os.kill(victim, signal.SIGKILL)
        _, status = os.waitpid(victim, 0)
        died += os.WTERMSIG(status) != signal.SIGKILL or not os.WIFSIGNALED(status)
        del workers[victim]
        kills += 1
        start()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        kills += 1
    with sharedstate.open(url) as store:
        store.check()
        # Nobody is blocked, and what is there can be changed.
        after = store.increment("hits")
        store.check()
    json.dump(
        {
            "value": after - 1,
            "acknowledged": sum(acknowledged),
            "kills": kills,
            "died_by_themselves": died,
            "silent_workers": sum(1 for slot in range(started) if not acknowledged[slot]),
            "started": started,
            "disorder": disorder[0],
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
