"""Values as JSON, exactly: what JSON lacks is an object with one key that begins with `$`.

    b"hi"        {"$bytes": "aGk="}            (1, 2)      {"$tuple": [1, 2]}
    nan          {"$float": "nan"}             {1: "x"}    {"$dict": [[1, "x"]]}
    a datetime   {"$datetime": "2024-05-01T12:00:00+02:00"}

A dict of which a key begins with `$` is written as `$dict` too, so nothing is
ambiguous.

An entry is a line of its own, with the seconds that are left until it expires:

    {"key": "k", "value": [1, 2], "ttl_s": 59.5, "generation": 7}
"""

from __future__ import annotations

import json
import math
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate.model import Entry

__all__ = ["entry_line", "read_line", "read_value", "write_value"]

_NEEDED = frozenset({"key", "value"})
_MEMBERS = frozenset({"key", "value", "ttl_s", "generation"})


def write_value(value: Any) -> str:
    """Return `value` in one line of JSON."""
    return json.dumps(_plain(value), ensure_ascii=False)


def read_value(text: str) -> Any:
    """Return the value that `text` stands for.

    Raises:
        ValueError: it is no JSON, or has an unknown or malformed `$` object.
    """
    return _rich(_parse(text))


def entry_line(key: str, entry: Entry, now: float) -> str:
    """Return an entry in one line of JSON; `now` is its store's."""
    ttl_s = None if entry.expires_at is None else max(entry.expires_at - now, _LEAST_TTL_S)
    members = {"key": key, "value": _plain(entry.value), "ttl_s": ttl_s, "generation": entry.generation}
    return json.dumps(members, ensure_ascii=False)


def read_line(text: str) -> tuple[Any, Any, Any]:
    """Return key, value and `ttl_s` of an entry's line; the generation is of the store that it came from.

    Raises:
        ValueError: it is no object of such members, or its value has an unknown or malformed `$` object.
    """
    found: dict[str, Any] = _parse(text)
    if type(found) is not dict or not _NEEDED <= found.keys() <= _MEMBERS:
        raise ValueError(f'an entry is {{"key": ..., "value": ..., "ttl_s": ...}}, not {text.strip():.60}')
    return found["key"], _rich(found["value"]), found.get("ttl_s")


def _parse(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise ValueError(f"{error.msg} at {where}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _plain(value: Any) -> Any:
    kind: type = type(value)  # pyright: ignore[reportUnknownVariableType]  the type of Any
    if kind in {list, tuple}:
        items = [_plain(item) for item in value]
        return items if kind is list else {"$tuple": items}
    if kind is dict:
        pairs = [(key, _plain(item)) for key, item in value.items()]
        is_json = all(type(key) is str and not key.startswith("$") for key, _ in pairs)
        return dict(pairs) if is_json else {"$dict": pairs}
    if kind is bytes:
        return {"$bytes": b64encode(value).decode()}
    if kind is float and not math.isfinite(value):
        return {"$float": repr(value)}
    if value is None or kind in {bool, int, float, str}:
        return value
    return {"$datetime": value.isoformat()}


def _rich(plain: Any) -> Any:
    kind: type = type(plain)  # pyright: ignore[reportUnknownVariableType]  the type of Any
    if kind is list:
        return [_rich(item) for item in plain]
    if kind is not dict:
        return plain
    tagged = [key for key in plain if key.startswith("$")]
    if not tagged:
        return {key: _rich(item) for key, item in plain.items()}
    tag = tagged[0]
    if len(plain) > 1 or tag not in _READERS:
        known = ", ".join(_READERS)
        raise ValueError(f'{tag} is none of {known} alone; write such a key as {{"$dict": [[key, value]]}}')
    try:
        return _READERS[tag](plain[tag])
    except (TypeError, ValueError) as error:
        raise ValueError(f"malformed {tag}: {error}") from None


def _read_datetime(text: str) -> Any:
    from datetime import datetime

    return datetime.fromisoformat(text)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f'write {{"$float": "{name.lower().replace("infinity", "inf")}"}} for {name}')


_LEAST_TTL_S = 1e-3
"""Of an entry that expires as it is written down: no store takes a time of 0."""

_READERS: dict[str, Callable[[Any], Any]] = {
    "$bytes": lambda body: b64decode(body, validate=True),
    "$tuple": lambda body: tuple(_rich(item) for item in body),
    "$float": float,
    "$dict": lambda body: {key: _rich(item) for key, item in body},
    "$datetime": _read_datetime,
}
