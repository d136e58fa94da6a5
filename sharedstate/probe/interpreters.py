"""Sub-interpreters of either kind, on every CPython that has them.

A script runs in an interpreter made for it, on the calling thread, and the
interpreter ends with it.  What this Python cannot make is said with its reason.
"""

from __future__ import annotations

import sys
from importlib import import_module

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["ISOLATED", "LEGACY", "reason_unavailable", "run_in_interpreter"]

LEGACY: Final = "legacy"
"""Sharing the GIL of the main interpreter, as mod_wsgi makes them."""

ISOLATED: Final = "isolated"
"""With a GIL of its own (PEP 684)."""


def reason_unavailable(kind: str) -> str:
    """Return why this Python cannot make an interpreter of that kind, "" if it can."""
    if sys.implementation.name != "cpython":
        return f"sub-interpreters are CPython's, this is {sys.implementation.name}"
    if kind == ISOLATED and sys.version_info < (3, 12):
        return f"isolated interpreters need CPython 3.12, this is {sys.version_info[0]}.{sys.version_info[1]}"
    try:
        _module()
    except ImportError as error:
        return f"this CPython was built without sub-interpreters ({error})"
    return ""


def run_in_interpreter(kind: str, script: str) -> str:
    """Run `script` in a new interpreter and end that; return the uncaught error's text, or ""."""
    interpreters = _module()
    if interpreters.__name__ == "_interpreters":
        identity = interpreters.create(kind)
    else:
        identity = interpreters.create(isolated=kind == ISOLATED)
    try:
        failure = interpreters.run_string(identity, script)
    except RuntimeError as error:  # up to 3.12
        return str(error)
    finally:
        interpreters.destroy(identity)
    return "" if failure is None else str(failure.errdisplay or failure.formatted)


def _module() -> Any:
    return import_module("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
