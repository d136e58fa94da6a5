"""Four workers count, and where Python has them four sub-interpreters: in a store, and in prometheus_client's memory.

    python prometheus_workers.py

A scrape of the first has 8000 requests, and what is open in the workers that live; one of the second has none.
"""

import os
import sys
import threading

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

import sharedstate
from sharedstate.contrib.prometheus import SharedStateCollector, install
from sharedstate.probe.interpreters import LEGACY, reason_unavailable, run_in_interpreter

URL = "shm://prometheus-workers-example"
REQUESTS = 1000

stock = CollectorRegistry()
IN_MEMORY = Counter("requests", "Requests", registry=stock)  # made before install()

install(URL)
SHARED = Counter("requests", "Requests", registry=None)
OPEN = Gauge("open_files", "Open files", multiprocess_mode="livesum", registry=None)


def work() -> None:
    OPEN.set(3)
    for _ in range(REQUESTS):
        SHARED.inc()
        IN_MEMORY.inc()


def in_processes() -> None:
    workers = []
    for _ in range(4):
        worker = os.fork()
        if worker == 0:
            work()
            os._exit(0)
        workers.append(worker)
    for worker in workers:
        os.waitpid(worker, 0)


def in_interpreters() -> None:
    """Each of them imports this program anew, as mod_wsgi's do, and so makes the metrics anew."""
    script = f"import sys; sys.path[:] = {sys.path!r}; import prometheus_workers; prometheus_workers.work()"
    threads = [threading.Thread(target=run_in_interpreter, args=(LEGACY, script)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    OPEN.set(2)
    in_processes()
    if not reason_unavailable(LEGACY):
        in_interpreters()
    shared = CollectorRegistry()
    SharedStateCollector(shared)
    print("--- sharedstate", generate_latest(shared).decode(), sep="\n")
    print("--- in memory", generate_latest(stock).decode(), sep="\n")


if __name__ == "__main__":
    main()
    sharedstate.remove(URL)
