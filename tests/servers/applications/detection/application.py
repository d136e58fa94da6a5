"""The application that says what the library makes of where it runs: at import time, and in a request."""

import seen

import kit

kit.executed(__file__)
_at_import = seen.facts()


def report(request: kit.Request) -> dict:
    return kit.report(request) | {"at_import": _at_import, "now": seen.facts(request.environ)} | seen.served()


routes = {"/report": report}
application = kit.wsgi(routes)
