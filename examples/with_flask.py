"""The service in Flask."""

from flask import Flask, request

import service

service.start()
application = Flask(__name__)


@application.get("/")
def page() -> str:
    return service.page()


@application.get("/status")
def status() -> dict:
    return service.status()


@application.post("/mailings/<name>")
def post(name: str) -> tuple[dict, int]:
    code, content = service.post(name, request.args.get("letters", "5"), wait="wait" in request.args)
    return content, code
