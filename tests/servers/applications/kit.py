"""What an application of a server test is made of: routes that answer JSON, by WSGI and by ASGI.

    import kit
    kit.executed(__file__)                        # this module's code ran once more
    routes = {"/report": kit.report, "/double": lambda request: 2 * int(request.query["n"])}
    application = kit.wsgi(routes)                # application.py;  kit.asgi(routes) in asgi.py

The harness puts this file beside every application that it starts.  A path that
has no route answers 404 and counts as nothing: the harness asks for such a one
to learn whether a server is up.  Nothing but the standard library is imported,
and of that only what every interpreter can load.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from urllib.parse import parse_qsl

HERE = os.path.dirname(os.path.abspath(__file__))
STATE = os.path.join(os.path.dirname(HERE), "state")  # the harness's `Server.state`; the server's user may write there

try:
    import _interpreters
except ImportError:
    import _xxsubinterpreters as _interpreters


class Request:
    """What a route is called with.

    `path` and `query` are the same everywhere; `mount` is the prefix that the
    server took off the path; `environ` is WSGI's environ or ASGI's scope.
    """

    def __init__(self, environ: dict, mount: str, path: str, query: str) -> None:
        self.environ = environ
        self.mount = mount
        self.path = path
        self.query = dict(parse_qsl(query, keep_blank_values=True))
        self.hold_s = float(self.query.get("hold_s", "0"))  # a busy answer keeps its thread, so that others get a turn


Route = Callable[[Request], object]


def interpreter_id() -> int:
    """Return the number of the current interpreter in its process; 0 is the main one."""
    current = _interpreters.get_current()
    return int(current[0] if isinstance(current, tuple) else current)


def gil() -> str | None:
    """Return "own" or "shared", or None where this Python cannot tell."""
    try:
        return _interpreters.get_config(interpreter_id()).gil
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return None


def executed(script: str) -> None:
    """Record that a module's code ran: one appended line, which no other process can tear."""
    line = f"{os.getpid()} {interpreter_id()} {os.path.basename(script)}\n"
    descriptor = os.open(os.path.join(STATE, "executions"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


class Counter:
    """A module-global counter: exact between threads of its interpreter, and blind to all others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value = 0  # guarded by _lock

    def next(self) -> int:
        with self._lock:
            self._value += 1
            return self._value


_requests = Counter()


def report(request: Request) -> dict:
    """Say where this request was answered, and how often this interpreter's copy of this module answered one."""
    environ = request.environ
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "uid": os.geteuid(),
        "interpreter": interpreter_id(),
        "gil": gil(),
        "thread": threading.get_native_id(),
        "mount": request.mount,
        "python": sys.version.split()[0],
        "count": _requests.next(),
        "flags": {key.partition(".")[2]: environ[key] for key in environ if key.startswith("wsgi.multi")}
        | ({"run_once": environ["wsgi.run_once"]} if "wsgi.run_once" in environ else {}),
        "mod_wsgi": {key: str(environ[key]) for key in environ if key.startswith("mod_wsgi.")},
        "software": environ.get("SERVER_SOFTWARE"),
    }


def wsgi(routes: dict[str, Route]) -> Callable:
    """Return a WSGI application that answers by `routes`."""

    def application(environ: dict, start_response: Callable) -> list[bytes]:
        path = environ.get("PATH_INFO", "")
        request = Request(environ, environ.get("SCRIPT_NAME", ""), path, environ.get("QUERY_STRING", ""))
        time.sleep(request.hold_s)
        status, body = _answer(routes, request)
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    return application


def asgi(routes: dict[str, Route]) -> Callable:
    """Return an ASGI application that answers by `routes`."""

    async def application(scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        import asyncio

        mount = scope.get("root_path", "")
        request = Request(scope, mount, scope["path"].removeprefix(mount), scope["query_string"].decode())
        await asyncio.sleep(request.hold_s)
        status, body = _answer(routes, request)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": int(status[:3]), "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return application


def _answer(routes: dict[str, Route], request: Request) -> tuple[str, bytes]:
    route = routes.get(request.path)
    if route is None:
        return "404 Not Found", json.dumps({"error": f"no route {request.path}"}).encode()
    try:
        return "200 OK", json.dumps(route(request)).encode()
    except Exception as error:  # noqa: BLE001  the test shall read what went wrong in the server
        import traceback

        traceback.print_exc()
        return "500 Internal Server Error", json.dumps({"error": repr(error)}).encode()
