"""What the library says, as JSON; and who was told that it serves, or that it ends.

A module beside the application's own, as most applications have: one that two
scripts in one interpreter share.
"""

import os
import time

import kit
import sharedstate
from sharedstate.coordination.incarnations import agree
from sharedstate.deployment.identity import describe_self

_serving: list = []


def _begin() -> None:
    _serving.append([os.getpid(), kit.interpreter_id()])


def _end() -> None:
    line = f"{os.getpid()} {kit.interpreter_id()}\n".encode()
    descriptor = os.open(os.path.join(kit.STATE, "ends"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


sharedstate.when_serving(_begin)
sharedstate.when_stopping(_end)
_store = sharedstate.open(f"file:{kit.STATE}/store")


def facts(environ: dict | None = None) -> dict:
    """Return each fact as [value, certainty, evidence], and the incarnation as seen alone and as agreed."""
    began = time.perf_counter()
    found = sharedstate.detect()
    start = sharedstate.incarnation()
    took_s = time.perf_counter() - began
    with_environ = sharedstate.detect(environ)
    return {
        "facts": {name: [fact.value, fact.certainty.value, fact.evidence] for name, fact in found._asdict().items()},
        "application_by_environ": with_environ.application.value,
        "alone": start.token,
        "settled": start.is_settled,
        "evidence": start.evidence,
        "agreed": agree(_store, start).token,
        "self": describe_self(),
        "took_us": round(took_s * 1e6),
    }


def served() -> dict:
    """Return who was told that it serves: this very interpreter, once."""
    return {"serving": _serving, "stopping": sharedstate.is_stopping()}


def until_stopping(request: kit.Request) -> bool:
    """Return whether this request learns that its server is told to end, within some seconds."""
    os.close(os.open(os.path.join(kit.STATE, "waiting"), os.O_WRONLY | os.O_CREAT, 0o666))
    end = time.monotonic() + float(request.query["patience_s"])
    while not sharedstate.is_stopping() and time.monotonic() < end:
        time.sleep(0.01)
    return sharedstate.is_stopping()
