"""Four workers enforce "10 per minute": with a storage of sharedstate's, and with limits' own in memory.

    python limits_workers.py

The first lets in 10, the second 10 in each worker.
"""

import os

import limits
from limits.storage import storage_from_string
from limits.strategies import MovingWindowRateLimiter

import sharedstate
import sharedstate.contrib.limits  # makes the schemes known to limits

URL = "shm://limits-workers-example"
LIMIT = limits.parse("10/minute")


def work(uri: str) -> None:
    limiter = MovingWindowRateLimiter(storage_from_string(uri))
    with sharedstate.open(URL) as store:
        for _ in range(20):
            if limiter.hit(LIMIT, "203.0.113.7"):
                store.increment(f"let in by {uri}")


def main() -> None:
    for uri in (f"sharedstate+{URL}", "memory://"):
        workers = []
        for _ in range(4):
            worker = os.fork()
            if worker == 0:
                work(uri)
                os._exit(0)
            workers.append(worker)
        for worker in workers:
            os.waitpid(worker, 0)
    with sharedstate.open(URL) as store:
        for key, count in store.items("let in"):
            print(f"{key}: {count}")


if __name__ == "__main__":
    main()
    sharedstate.remove(URL)
