"""Many requests at once, bounded in number and time; and what their answers say about the server's topology."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .server import Server

HOLD_S = 0.003  # how long an answer keeps its thread: long enough for another one to get the next request


class RequestError(Exception):
    """A request that did not get its answer."""


def fetch(url: str, timeout_s: float = 30) -> tuple[int, bytes]:
    """Ask once, on a connection of its own."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=timeout_s)
    try:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def ask(url: str, timeout_s: float = 30) -> Any:
    """Return one decoded answer.

    Raises:
        RequestError: no answer in time, another status than 200, or no JSON.
    """
    try:
        status, body = fetch(url, timeout_s)
        if status == 200:
            return json.loads(body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise RequestError(f"{url}: {error!r}") from error
    raise RequestError(f"{url}: {status} {body[:500]!r}")


def load(
    server: Server,
    path: str = "/report",
    *,
    mounts: Sequence[str] | None = None,
    requests: int = 400,
    clients: int = 50,
    hold_s: float = HOLD_S,
    timeout_s: float = 60,
) -> list[Any]:
    """Ask for `path` below each mount in turn, with `clients` at the same time, and return all answers.

    Raises:
        RequestError: a request failed; the first failure, and the server's log.
    """
    mounts = server.mode.mounts if mounts is None else mounts
    query = ("&" if "?" in path else "?") + f"hold_s={hold_s}"
    urls = [server.url(mounts[number % len(mounts)] + path + query) for number in range(requests)]
    answers: list[Any] = []
    failures: list[RequestError] = []
    deadline = time.monotonic() + timeout_s

    def client(urls: Sequence[str]) -> None:
        for url in urls:
            try:
                if failures or time.monotonic() > deadline:
                    return
                answers.append(ask(url, max(1.0, deadline - time.monotonic())))
            except RequestError as error:
                failures.append(error)

    threads = [threading.Thread(target=client, args=(urls[start::clients],)) for start in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures or len(answers) < requests:
        reason = failures[0] if failures else f"only {len(answers)} of {requests} answers in {timeout_s} s"
        raise RequestError(f"{reason}\n{server.log()}")
    return answers


def reach_all(server: Server, path: str = "/report", *, requests: int = 400, clients: int = 50) -> list[Any]:
    """Load the server until every process and interpreter of its mode's truth has answered, and return all answers.

    Where the truth is a range, one round is enough.  A process that never gets
    its turn in six rounds is missing from the answers: the test will see it.
    """
    truth = server.mode.truth
    answers: list[Any] = []
    for _ in range(6):
        answers += load(server, path, requests=requests, clients=clients)
        found = topology(answers)
        enough = truth.processes[0]
        if not truth.exact or (
            len(found.processes) >= enough and len(found.interpreters) >= enough * truth.interpreters
        ):
            break
    return answers


class Topology(NamedTuple):
    """Where a set of answers of the kit's `report` came from."""

    processes: frozenset[int]
    interpreters: frozenset[tuple[int, int]]  # (pid, number in that process)
    threads: frozenset[int]
    mounts: frozenset[str]


def topology(answers: Sequence[Any]) -> Topology:
    return Topology(
        frozenset(answer["pid"] for answer in answers),
        frozenset((answer["pid"], answer["interpreter"]) for answer in answers),
        frozenset(answer["thread"] for answer in answers),
        frozenset(answer["mount"] for answer in answers),
    )


def copies(answers: Sequence[Any], key: str = "count") -> dict[tuple[int, int], int]:
    """Return the last value of a module-global counter in each (process, interpreter) that has a copy of it."""
    last: dict[tuple[int, int], int] = {}
    for answer in answers:
        place = (answer["pid"], answer["interpreter"])
        last[place] = max(last.get(place, 0), answer[key])
    return last
