"""Four workers of a Django site count visits: in a cache of sharedstate's, and in Django's own in files and a database.

    python cache_django.py

The first counts 800, always; the others what was neither lost to another worker nor refused with an error.
"""

import os
import tempfile

import django
from django.conf import settings
from django.core.cache import caches
from django.core.management import call_command
from django.db import DatabaseError, connections

import sharedstate

URL = "shm://cache-django-example"
VISITS = 200


def visit(name: str) -> None:
    cache = caches[name]
    for _ in range(VISITS):
        try:
            cache.incr("visits")
        # The file cache loses its entry for a moment while another one writes it; the database may be locked.
        except (ValueError, DatabaseError):
            continue


def main(directory: str) -> None:
    settings.configure(
        CACHES={
            "default": {"BACKEND": "sharedstate.contrib.django.SharedStateCache", "LOCATION": URL},
            "files": {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache", "LOCATION": directory},
            "database": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "visits"},
        },
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{directory}/site.db"}},
    )
    django.setup()
    call_command("createcachetable")
    for name in settings.CACHES:
        caches[name].set("visits", 0)
        connections.close_all()  # each worker opens its own
        workers = []
        for _ in range(4):
            worker = os.fork()
            if worker == 0:
                try:
                    visit(name)
                finally:
                    os._exit(0)
            workers.append(worker)
        for worker in workers:
            os.waitpid(worker, 0)
        print(f"{name}: {caches[name].get('visits')} of {4 * VISITS} visits")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        main(directory)
    sharedstate.remove(URL)
