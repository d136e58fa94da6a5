"""What the driver says to the probe application, and the limits of it.

An order is a small JSON object in the body of a POST:

    {"do": "count", "run": "6560aa3f-0123456789abcdef", "backend": "", "hold_s": 0.3, "times": 50, "lap": 1}

Only `do` is needed.  `run` names the store of this run of the probe; it is all
that a requester can say about which store is used.
"""

from __future__ import annotations

from sharedstate._light import NamedTuple

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = [
    "BACKENDS",
    "DEEDS",
    "FORMAT",
    "HEADER",
    "MARKER",
    "MOST_BODY_BYTES",
    "MOST_HOLD_S",
    "MOST_SKEW_S",
    "MOST_TIMES",
    "RUN_S",
    "TOKEN_NAME",
    "Order",
    "OrderError",
    "age_of",
    "read_order",
    "store_name",
]

FORMAT: Final = 1
MARKER: Final = "sharedstate_probe"
"""The key of every answer of ours; its value is `FORMAT`."""

TOKEN_NAME: Final = "SHAREDSTATE_PROBE_TOKEN"  # noqa: S105  its name, not itself
"""Set by the operator, in the environment or as Apache's SetEnv."""

HEADER: Final = "X-Sharedstate-Probe"
"""Carries the token beside `Authorization`, which mod_wsgi keeps to itself unless WSGIPassAuthorization is On."""

BACKENDS: Final = ("memory", "shm", "file", "sqlite")
"""The schemes that a requester may name: each finds a place of its own for a store of some name."""

DEEDS: Final = ("look", "open", "mark", "read", "count", "lock", "end")

MOST_BODY_BYTES: Final = 1024
MOST_HOLD_S: Final = 2.0
MOST_TIMES: Final = 200
RUN_S: Final = 300.0
"""A run is over that long after its first request to an interpreter: its store is removed by the next request."""

MOST_SKEW_S: Final = 900
"""How far the driver's clock may be from the server's: what is older was left behind."""

_PREFIX: Final = "sharedstate-probe-"
_HEX: Final = frozenset("0123456789abcdef")
_KEYS: Final = frozenset({"do", "run", "backend", "hold_s", "times", "lap"})


class OrderError(ValueError):
    """What was sent is no order.  The text says why, and repeats nothing of it."""


class Order(NamedTuple):
    """What a place is to do.

    Attributes:
        do: one of `DEEDS`.
        run: the name of this run, "" for `look`.
        backend: one of `BACKENDS`, or "": what the deployment would choose.
        hold_s: how long the answer keeps its worker busy, the work included.
        times: how often `count` and `lock` do what they do, at the most.
        lap: which lap of `mark` this is.
    """

    do: str
    run: str = ""
    backend: str = ""
    hold_s: float = 0.0
    times: int = 1
    lap: int = 0


def read_order(body: bytes) -> Order:
    """Return the order in a request's body.

    Raises:
        OrderError: there is none in it.
    """
    import json  # only here: an interpreter that is never probed does not pay for it

    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise OrderError("the body is no JSON") from None
    if not _is_order(found):
        raise OrderError(f"an order is an object with some of {', '.join(sorted(_KEYS))}")
    order = Order(
        _one_of(found.get("do"), DEEDS, "do"),
        _run(found.get("run", "")),
        _one_of(found.get("backend", ""), ("", *BACKENDS), "backend"),
        float(_number(found.get("hold_s", 0.0), 0.0, MOST_HOLD_S, "hold_s")),
        int(_whole(found.get("times", 1), 1, MOST_TIMES, "times")),
        int(_whole(found.get("lap", 0), 0, 9, "lap")),
    )
    if order.do != "look" and not order.run:
        raise OrderError("every order but look needs a run")
    return order


def store_name(run: str) -> str:
    """Return the name of the run's store."""
    return _PREFIX + run


def age_of(name: str, now: float) -> float | None:
    """Return how many seconds ago the run began whose store has this name; None: it is no probe's store."""
    run = name.removeprefix(_PREFIX)
    return now - int(run[:8], 16) if run != name and _is_run(run) else None


def _is_run(text: object) -> bool:
    # When it began, in seconds since 1970, and chance: 8 and 16 hexadecimal digits.
    if type(text) is not str or len(text) != 25:
        return False
    began, dash, chance = text[:8], text[8], text[9:]
    return dash == "-" and _HEX.issuperset(began) and _HEX.issuperset(chance)


def _is_order(found: Any) -> bool:
    return type(found) is dict and _KEYS.issuperset(found)  # pyright: ignore[reportUnknownArgumentType]  whatever they are


def _run(value: object) -> str:
    if type(value) is str and (not value or _is_run(value)):
        return value
    raise OrderError("run is 8 hexadecimal digits, a dash, and 16 more")


def _one_of(value: object, allowed: tuple[str, ...], name: str) -> str:
    if type(value) is str and value in allowed:
        return value
    raise OrderError(f"{name} is one of {', '.join(filter(None, allowed))}")


def _number(value: Any, least: float, most: float, name: str) -> float:
    # `not` around it: nan compares as False with everything.
    if type(value) in {int, float} and least <= value <= most:
        return float(value)
    raise OrderError(f"{name} is a number from {least:g} to {most:g}")


def _whole(value: Any, least: int, most: int, name: str) -> int:
    if type(value) is int and least <= value <= most:
        return value
    raise OrderError(f"{name} is a whole number from {least} to {most}")
