"""Values that prove themselves: each follows from its key and version, and tells both."""

from __future__ import annotations

from struct import Struct
from zlib import crc32

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Final

__all__ = ["ABSENT_VERSION", "content", "is_absence", "version_of"]

_HEAD: Final = Struct("<QI")  # version, checksum of what follows
_SIZES: Final = (0, 7, 40, 100, 300, 1000, 1500, 4000, 9000, 20_000, 65_536 - _HEAD.size)
ABSENT_VERSION: Final = -1
"""What `version_of` says of a key that is not there; any deleting version may have left it so."""


def content(key: str, version: int) -> Any:
    """Return the value of `key` at `version`; None: the version is a deletion, as the first one is."""
    dice = crc32(b"%b#%d" % (key.encode(), version))
    kind, size = dice % 6, _SIZES[(dice >> 8) % len(_SIZES)]
    if version == 0 or kind == 0:
        return None
    if kind == 1:
        return version << 32 | dice
    if kind == 2:
        return float(version << 20 | dice & 0xFFFFF)
    seed = b"%b=%d;" % (key.encode(), version)
    body = (seed * (size // len(seed) + 1))[:size]
    if kind == 3:
        return {"key": key, "version": version, "checksum": crc32(body), "body": [body, body[:9].decode(), None, True]}
    packed = _HEAD.pack(version, crc32(body)) + body
    return packed if kind == 4 else packed.hex()[: 2 * _HEAD.size + size]


def version_of(key: str, value: Any) -> int | None:
    """Return the version whose content `value` is; None: it is no content of this key, whole and unmixed."""
    try:
        version = _claimed(value)
    except (KeyError, TypeError, ValueError):
        return None
    if version == ABSENT_VERSION:
        return version
    expected = content(key, version)
    return version if type(expected) is type(value) and expected == value else None


def is_absence(key: str, versions: Iterable[int]) -> bool:
    """Return whether one of `versions` deletes the key."""
    return any(content(key, version) is None for version in versions)


def _claimed(value: Any) -> int:
    if value is None:
        return ABSENT_VERSION
    if type(value) is int:
        return value >> 32
    if type(value) is float:
        return int(value) >> 20
    if type(value) is dict:
        return int(value["version"])
    packed = bytes.fromhex(value[: 2 * _HEAD.size]) if type(value) is str else value[: _HEAD.size]
    if len(packed) < _HEAD.size:
        raise ValueError(value)
    return int(_HEAD.unpack(packed)[0])
