"""Four workers want the same page at the same time: it is made once, and again once when a worker dies over it.

python dogpile_workers.py
"""

import os
import time

from dogpile.cache import make_region

import sharedstate
import sharedstate.contrib.dogpile  # needed only where sharedstate is on the path, and not installed

URL = "shm://dogpile-workers-example"
region = make_region().configure("sharedstate", arguments={"url": URL})
store = sharedstate.open(URL)


def make_page() -> str:
    if store.increment("begun") == 1:
        os._exit(1)  # the first one dies, and leaves the mutex to the next
    time.sleep(0.2)
    return f"made by attempt {store['begun']}"


if __name__ == "__main__":
    workers = []
    for number in range(4):
        worker = os.fork()
        if worker == 0:
            page = region.get_or_create("page", make_page)
            print(f"worker {number}: {page}", flush=True)
            os._exit(0)
        workers.append(worker)
    for worker in workers:
        os.waitpid(worker, 0)
    print(f"begun {store['begun']} times")
    store.close()
    sharedstate.remove(URL)
