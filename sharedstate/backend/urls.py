"""The URL that names a store: `scheme:target?parameter=value&...`.

    memory:jobs            shm://jobs?size=64MiB        file:/var/lib/app/state
    sqlite:state.db        the `//` is optional; a path may be relative
    redis+unix:/run/redis.sock      what follows a `+` says how the plug-in gets there

Parameters are read by typed methods, and what was not read is refused with the
nearest known name, so that a misspelt option never passes unnoticed.
"""

from __future__ import annotations

import os

from sharedstate.errors import UrlError

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final, NoReturn

__all__ = ["StoreUrl", "parse_url"]

_NAME_BYTES: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_LONGEST_NAME: Final = 100
_UNITS: Final = {"": 1, "B": 1, "K": 2**10, "KiB": 2**10, "M": 2**20, "MiB": 2**20, "G": 2**30, "GiB": 2**30}
_HEX_DIGITS: Final = frozenset("0123456789abcdefABCDEF")
_RESERVED: Final = frozenset("%?#&")


# urllib.parse would do all this, at the price of 20 ms in each fresh interpreter.
def _unquote(text: str) -> str:
    head, *rest = text.split("%")
    parts = [head.encode("utf-8", "surrogateescape")]
    for part in rest:
        if not _HEX_DIGITS.issuperset(part[:2]) or len(part) < 2:  # fromhex would take "" and spaces for no byte
            raise ValueError(part)
        parts.append(bytes.fromhex(part[:2]) + part[2:].encode("utf-8", "surrogateescape"))
    return b"".join(parts).decode("utf-8", "surrogateescape")


def _quote(text: str) -> str:
    return "".join(f"%{ord(char):02X}" if char in _RESERVED else char for char in text)


def parse_url(text: str) -> StoreUrl:
    """Split `text` into scheme, target and parameters.

    Raises:
        UrlError: it is no URL of a store.
    """
    if type(text) is not str:
        _refuse(repr(text), "a store is named by a URL, which is a str", "Write for instance 'shm://jobs'.")
    scheme, colon, rest = text.partition(":")
    if not colon or not scheme.replace("+", "_").isidentifier() or not scheme.isascii():
        advice = f"Write for instance 'shm://jobs' or 'file:{text}'." if text else "Write for instance 'shm://jobs'."
        _refuse(text, "a store's URL starts with a scheme and a colon", advice)
    target, _, query = rest.partition("?")
    parameters: dict[str, str] = {}
    try:
        for pair in filter(None, query.split("&")):
            name, equals, value = pair.partition("=")
            if not equals or name in parameters:
                _refuse(text, f"{pair!r} is no parameter, or a second one of its name", "Write ?name=value&name=value.")
            parameters[name] = _unquote(value)
        return StoreUrl(text, scheme.lower(), _unquote(target), parameters)
    except ValueError as error:
        if isinstance(error, UrlError):
            raise
        _refuse(text, "a % must be followed by two hexadecimal digits", "Write %25 for a percent sign.")


def _refuse(url: str, reason: str, advice: str) -> NoReturn:
    raise UrlError(url=url, reason=reason, advice=advice)


class StoreUrl:
    """A store's URL, taken apart.  `connect` reads each parameter, then calls `finish`.

    Attributes:
        text: as the user wrote it.
        scheme: in lower case.
        target: what stands between the scheme and the parameters, unquoted.
    """

    __slots__ = ("_known", "_parameters", "scheme", "target", "text")

    def __init__(self, text: str, scheme: str, target: str, parameters: dict[str, str]) -> None:
        self.text = text
        self.scheme = scheme
        self.target = target
        self._parameters = parameters
        self._known: list[str] = []

    def refuse(self, reason: str, advice: str) -> NoReturn:
        """Raise the `UrlError` that says `reason` of this URL."""
        _refuse(self.text, reason, advice)

    # --- The target ---------------------------------------------------------

    def name(self, default: str | None = None) -> str:
        """Return the target as a plain name: 1 to 100 ASCII letters, digits, '.', '_' and '-'."""
        name = self.target.removeprefix("//") or (default or "")
        if not name:
            self.refuse("a name is missing", f"Write for instance {self.scheme}://jobs.")
        if "/" in name:
            plain = name.strip("/").replace("/", "-")
            advice = f"A {self.scheme} store has a plain name: write {self.scheme}://{plain}."
            self.refuse(f"the name {name!r} holds a slash", advice)
        if name[0] in ".-" or len(name) > _LONGEST_NAME or not _NAME_BYTES.issuperset(name):
            self.refuse(
                f"{name!r} is no name for a store",
                f"Use 1 to {_LONGEST_NAME} ASCII letters, digits, '.', '_' and '-', the first a letter, digit or '_'.",
            )
        return name

    def path(self) -> str:
        """Return the target as an absolute path."""
        target = self.target
        if target.startswith("//"):
            if not target.startswith("///"):
                bare = target.removeprefix("//")
                advice = f"Write {self.scheme}:{bare} for a relative path, {self.scheme}:///{bare} for an absolute one."
                self.refuse("a host name stands where a path should begin", advice)
            target = f"/{target.lstrip('/')}"  # POSIX, and so abspath, would keep two slashes
        if not target or "\0" in target:
            self.refuse("a path is missing", f"Write for instance {self.scheme}:/var/lib/app/state.")
        return os.path.abspath(target)

    # --- The parameters -----------------------------------------------------

    def has(self, name: str) -> bool:
        """Return whether the URL gives this parameter."""
        return name in self._parameters

    def text_parameter(self, name: str, default: str) -> str:
        """Return the parameter as it stands."""
        self._known.append(name)
        return self._parameters.get(name, default)

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """Return one of `choices`; the first is the default."""
        value = self.text_parameter(name, choices[0])
        if value not in choices:
            self.refuse(f"{name}={value} is unknown", f"Use one of: {', '.join(choices)}.")
        return value

    def size(self, name: str, default: int, minimum: int, maximum: int = 2**46) -> int:
        """Return a number of bytes, written as 512MiB, 1GiB, 4096."""
        value = self.text_parameter(name, "")
        if not value:
            return default
        digits = value.rstrip("BKMGi")
        unit = _UNITS.get(value[len(digits) :])
        if unit is None or not digits.isdecimal() or not digits.isascii() or len(digits) > 20:
            self.refuse(f"{name}={value} is no size", "Write for instance 64MiB or 1GiB.")
        size = int(digits) * unit
        if not minimum <= size <= maximum:
            advice = f"Give at least {format_size(minimum)} and at most {format_size(maximum)}."
            self.refuse(f"{name}={value} is out of range", advice)
        return size

    def mode(self, name: str = "mode", default: int = 0o600) -> int:
        """Return the permission bits of new files, written in octal as 0600."""
        value = self.text_parameter(name, f"{default:04o}")
        try:
            mode = int(value, 8)
        except ValueError:
            mode = -1
        if not 0 <= mode <= 0o777 or mode & 0o600 != 0o600:
            advice = "Write octal bits that let the owner in, as 0600 or 0660."
            self.refuse(f"{name}={value} is no mode for a store", advice)
        return mode

    def seconds(self, name: str, default: float) -> float:
        """Return a time in seconds, from 0 up to an hour."""
        value = self.text_parameter(name, str(default))
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds <= 3600:
            self.refuse(f"{name}={value} is no time", "Give seconds from 0 to 3600.")
        return seconds

    def finish(self) -> None:
        """Refuse the parameters that were not read."""
        for name in self._parameters:
            if name not in self._known:
                from difflib import get_close_matches

                near = get_close_matches(name, self._known, 1, 0.5)
                known = f"Known here: {', '.join(sorted(self._known)) or 'none'}."
                self.refuse(f"unknown parameter {name!r}", f"Did you mean {near[0]!r}? {known}" if near else known)

    def canonical(self, target: str) -> str:
        """Return the URL of `target` with these parameters: it opens the same store from anywhere."""
        query = "&".join(f"{name}={_quote(value)}" for name, value in self._parameters.items())
        return f"{self.scheme}:{_quote(target)}" + (f"?{query}" if query else "")


def format_size(size: int) -> str:
    """Return `size` bytes as people write it: 64MiB."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)
