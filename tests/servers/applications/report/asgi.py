"""The ASGI twin of application.py."""

import kit

kit.executed(__file__)
_calls = kit.Counter()


def report(request: kit.Request) -> dict:
    return kit.report(request) | {"calls": _calls.next()}


routes = {"/report": report}
application = kit.asgi(routes)
