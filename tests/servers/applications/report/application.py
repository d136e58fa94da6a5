"""The application that says where it runs: a script for mod_wsgi, a module for everybody else."""

import kit

kit.executed(__file__)
_calls = kit.Counter()  # of this script; kit's own counter is of the module that it imports


def report(request: kit.Request) -> dict:
    return kit.report(request) | {"calls": _calls.next()}


routes = {"/report": report}
application = kit.wsgi(routes)
