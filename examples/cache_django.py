"""Four workers of a Django site count visits: in a cache of sharedstate's, and in Django's own file cache.

    python cache_django.py

The first counts 8000, always; the second what its workers did not take from one another.
"""

import os
import tempfile

from django.conf import settings
from django.core.cache import caches

import sharedstate

URL = "shm://cache-django-example"
VISITS = 2000


def visit(name: str) -> None:
    cache = caches[name]
    for _ in range(VISITS):
        try:
            cache.incr("visits")
        except ValueError:  # the file cache loses its entry for a moment while another one writes it
            continue


def main(directory: str) -> None:
    settings.configure(
        CACHES={
            "default": {"BACKEND": "sharedstate.contrib.django.SharedStateCache", "LOCATION": URL},
            "files": {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache", "LOCATION": directory},
        }
    )
    for name in settings.CACHES:
        caches[name].set("visits", 0)
        workers = []
        for _ in range(4):
            worker = os.fork()
            if worker == 0:
                visit(name)
                os._exit(0)
            workers.append(worker)
        for worker in workers:
            os.waitpid(worker, 0)
        print(f"{name}: {caches[name].get('visits')} of {4 * VISITS} visits")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        main(directory)
    sharedstate.remove(URL)
