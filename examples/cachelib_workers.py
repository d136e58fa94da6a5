"""Four workers count: in a cache of sharedstate's, and in cachelib's own file cache.

    python cachelib_workers.py

The first counts 8000, always; the second what its workers did not take from one another.
"""

import os
import tempfile

from cachelib import BaseCache, FileSystemCache

import sharedstate
from sharedstate.contrib.cachelib import SharedStateCache

URL = "shm://cachelib-workers-example"
VISITS = 2000


def count(cache: BaseCache) -> None:
    workers = []
    for _ in range(4):
        worker = os.fork()
        if worker == 0:
            for _ in range(VISITS):
                cache.inc("visits")
            os._exit(0)
        workers.append(worker)
    for worker in workers:
        os.waitpid(worker, 0)
    print(f"{type(cache).__name__}: {cache.get('visits')} of {4 * VISITS} visits")


if __name__ == "__main__":
    count(SharedStateCache(URL))
    with tempfile.TemporaryDirectory() as directory:
        count(FileSystemCache(directory))
    sharedstate.remove(URL)
