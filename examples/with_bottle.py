"""The service in Bottle."""

from bottle import Bottle, request, response

import service

service.start()
application = Bottle()


@application.get("/")
def page() -> str:
    return service.page()


@application.get("/status")
def status() -> dict:
    return service.status()


@application.post("/mailings/<name>")
def post(name: str) -> dict:
    response.status, content = service.post(name, request.query.get("letters", "5"), wait="wait" in request.query)
    return content
