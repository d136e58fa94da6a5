"""Values as JSON, exactly: what JSON lacks is an object with one key that begins with `$`.

    b"hi"        {"$bytes": "aGk="}            (1, 2)      {"$tuple": [1, 2]}
    nan          {"$float": "nan"}             {1: "x"}    {"$dict": [[1, "x"]]}
    a datetime   {"$datetime": "2024-05-01T12:00:00+02:00"}

A dict of which a key begins with `$` is written as `$dict` too, so nothing is
ambiguous.
"""

from __future__ import annotations

import json
import math
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["read_value", "write_value"]


def write_value(value: Any) -> str:
    """Return `value` in one line of JSON."""
    return json.dumps(_plain(value), ensure_ascii=False)


def read_value(text: str) -> Any:
    """Return the value that `text` stands for.

    Raises:
        ValueError: it is no JSON, or has an unknown or malformed `$` object.
    """
    return _rich(json.loads(text, parse_constant=_refuse_constant))


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


_READERS: dict[str, Callable[[Any], Any]] = {
    "$bytes": lambda body: b64decode(body, validate=True),
    "$tuple": lambda body: tuple(_rich(item) for item in body),
    "$float": float,
    "$dict": lambda body: {key: _rich(item) for key, item in body},
    "$datetime": _read_datetime,
}
