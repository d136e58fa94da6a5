"""From a URL's scheme to the plug-in that serves it, imported when first needed.

A plug-in is found by its module's name, `sharedstate_<scheme>`, or else by an
entry point of the group `sharedstate.backends` whose name is the scheme.  The
convention comes first because reading entry points costs each fresh
interpreter tens of milliseconds.  The library's own backends come through the
same door as a stranger's.

A plug-in of several schemes says so in `SCHEMES`; each is its own name with a
`+how` behind it, or with an `s`, for the same over TLS.
"""

from __future__ import annotations

import os
import sys

from sharedstate.backend.urls import StoreUrl, parse_url
from sharedstate.errors import BackendMissingError, MovedError, UnavailableError, UrlError, redact

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from sharedstate.backend import Backend
    from sharedstate.backend.plugin import Plugin

__all__ = ["connect", "every_scheme", "find_plugin", "known_schemes", "named_schemes"]

_PREFIX = "sharedstate_"
_GROUP = "sharedstate.backends"
_MOST_MOVES = 16  # more are a circle


def connect(text: str) -> Backend:
    """Open the store that a URL names, through the plug-in of its scheme; where it has moved since, there.

    Raises:
        UrlError: malformed, of unknown scheme, or with an unknown parameter.
        BackendMissingError: the plug-in is there but cannot work here.
        StateError: whatever the plug-in refuses.
    """
    where = text
    for _ in range(_MOST_MOVES):
        url = parse_url(where)
        try:
            return find_plugin(url).connect(url)
        except MovedError as moved:
            where = moved.to
    raise UnavailableError(
        url=text, reason=f"it has moved {_MOST_MOVES} times, lastly to {redact(where)}", advice="Open the last one."
    )


def find_plugin(url: StoreUrl) -> Plugin:
    """Return the plug-in that serves the URL's scheme.

    Raises:
        UrlError: there is none.
        BackendMissingError: it cannot be imported.
    """
    scheme = url.scheme
    family = scheme.partition("+")[0]
    module = _by_name(url, family)
    if module is None and scheme[-1] == "s":
        family = scheme[:-1]
        module = _by_name(url, family)
    if module is None or (scheme != family and scheme not in getattr(module, "SCHEMES", ())):
        module = _from_entry_point(url)
    plugin: Plugin = module
    return plugin


def _by_name(url: StoreUrl, family: str) -> Any:
    """Return the module of that name, None if there is none; what it must have, Plugin says."""
    name = _PREFIX + family
    try:
        return __import__(name)  # not importlib's way: that package costs a fresh interpreter 0.25 ms
    except ModuleNotFoundError as error:
        if error.name != name:
            _report_broken(url, error)
    except ImportError as error:
        _report_broken(url, error)
    return None


def named_schemes() -> list[str]:
    """Return the schemes whose plug-in follows the naming convention, in alphabetical order.

    Looks into the directories of sys.path: entry points would cost a fresh
    interpreter tens of milliseconds, and an import of datetime.
    """
    found = {name for name in sys.modules if name.startswith(_PREFIX)}
    for directory in sys.path:
        try:
            found.update(name.partition(".")[0] for name in os.listdir(directory or ".") if name.startswith(_PREFIX))
        except OSError:
            continue  # a zip file, or nothing at all
    return sorted(name.removeprefix(_PREFIX) for name in found if name.isidentifier())


def known_schemes() -> list[str]:
    """Return the schemes for which a plug-in is installed, in alphabetical order."""
    from importlib.metadata import entry_points
    from pkgutil import iter_modules

    named = {module.name.removeprefix(_PREFIX) for module in iter_modules() if module.name.startswith(_PREFIX)}
    return sorted(named | set(named_schemes()) | {entry.name for entry in entry_points(group=_GROUP)})


def every_scheme() -> list[str]:
    """Return all that a store's URL may begin with, also `rediss` and `redis+unix`, in alphabetical order.

    Loads the plug-ins, and passes over those that cannot be.
    """
    found: set[str] = set()
    for scheme in known_schemes():
        try:
            found.update((scheme, *getattr(find_plugin(parse_url(f"{scheme}:any")), "SCHEMES", ())))
        except BackendMissingError:
            continue
    return sorted(found)


def _from_entry_point(url: StoreUrl) -> Any:
    from importlib.metadata import entry_points

    for entry in entry_points(group=_GROUP, name=url.scheme):
        try:
            return entry.load()
        except ImportError as error:
            _report_broken(url, error)
    from difflib import get_close_matches

    known = known_schemes()
    near = get_close_matches(url.scheme, known, 1, 0.5)
    advice = f"Did you mean {near[0]}:? " if near else ""
    raise UrlError(
        url=url.text,
        reason=f"no backend serves the scheme {url.scheme!r}",
        advice=f"{advice}Installed here: {', '.join(known)}.",
    )


def _report_broken(url: StoreUrl, error: ImportError) -> NoReturn:
    raise BackendMissingError(
        url=url.text,
        reason=f"the plug-in for {url.scheme!r} cannot be imported ({error})",
        advice="Install what it misses, or use another backend.",
    ) from error
