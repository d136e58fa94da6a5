"""One module per server: how it is recognised from inside, and what it implies.

Each has three functions:

    recognise(environ) -> Deployment | None   None: this interpreter is not that server's
    incarnate() -> Incarnation                which start of it this is
    serves() -> bool                          False in a master that will fork its workers yet

A module is imported only where one of the modules that tell of its server is
loaded.  The order decides: what is further up may run what is further down (a
gunicorn worker may run uvicorn's protocol; any application may import a server
that does not run it).
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

__all__ = ["SERVERS", "WITHOUT_SERVER"]

SERVERS: Final = (
    ("mod_wsgi", "mod_wsgi"),
    ("uwsgi", "uwsgi"),
    ("gunicorn", "gunicorn.arbiter"),
    ("granian", "granian"),
    ("hypercorn", "hypercorn.config"),
    ("uvicorn", "uvicorn.config"),
    ("waitress", "waitress"),
    ("werkzeug", "werkzeug.serving"),
    ("interpreters", ""),
    ("multiprocess", "multiprocessing.process"),
    ("python", ""),
)
"""(our module, the loaded module that tells of the server; "": always ask)."""

WITHOUT_SERVER: Final = frozenset({"interpreters", "multiprocess", "python"})
"""Those that recognise what no server runs."""
