"""The ASGI twin of application.py."""

import seen

import kit

kit.executed(__file__)
_at_import = seen.facts()


def report(request: kit.Request) -> dict:
    return kit.report(request) | {"at_import": _at_import, "now": seen.facts()} | seen.served()


routes = {"/report": report, "/until_stopping": seen.until_stopping}
application = kit.asgi(routes)
