"""The service as a plain WSGI application."""

import json
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

import service

service.start()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
    match environ["REQUEST_METHOD"], path.split("/")[1:]:
        case "GET", [""]:
            start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
            return [service.page().encode()]
        case "GET", ["status"]:
            code, content = 200, service.status()
        case "POST", ["mailings", name] if name:
            query = parse_qs(environ["QUERY_STRING"], keep_blank_values=True)
            code, content = service.post(name, query.get("letters", ["5"])[0], wait="wait" in query)
        case _:
            code, content = 404, {"error": f"nothing at {path}"}
    start_response(f"{code} {HTTPStatus(code).phrase}", [("Content-Type", "application/json")])
    return [json.dumps(content).encode()]
