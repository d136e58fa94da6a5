"""Counts every request in one store that all processes and interpreters are meant to share."""

import kit
import sharedstate
import sharedstate.values

with open(f"{kit.STATE}/url", encoding="utf-8") as file:
    store = sharedstate.open(file.read())


def count(request: kit.Request) -> dict:
    return kit.report(request) | {"total": store.increment("total"), "accelerated": sharedstate.values.ACCELERATED}


application = kit.wsgi({"/count": count})
