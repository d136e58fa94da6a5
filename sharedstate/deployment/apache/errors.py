"""Why an Apache server could not be read, and what to do about it.

Each way to fail is a class of its own; all of them are `ApacheError`, a
`StateError` that survives pickling like every other one.
"""

from __future__ import annotations

from sharedstate.errors import StateError

__all__ = [
    "ApacheError",
    "ApacheMissingError",
    "ApacheRunError",
    "ConfigAccessError",
    "ConfigSyntaxError",
    "ModWsgiMissingError",
    "NoMountError",
]


class ApacheError(StateError):
    """A server that cannot be read.

    Attributes:
        subject: the program, or the configuration file, that it is about.
        reason: what was found.
        advice: what the reader can do next.
    """

    subject: str
    reason: str
    advice: str

    def __init__(self, *, subject: str, reason: str, advice: str) -> None:
        super().__init__(subject=subject, reason=reason, advice=advice)

    def describe(self) -> str:
        """Return the message, made from the fields."""
        return f"{self.subject}: {self.reason}. {self.advice}"


class ApacheMissingError(ApacheError, FileNotFoundError):
    """No Apache is installed, or none where it was said to be."""


class ApacheRunError(ApacheError, RuntimeError):
    """Apache is there, and its program does not do what it is documented to do."""


class ConfigAccessError(ApacheError, OSError):
    """The configuration, or a file that it includes, is not there or may not be read.

    Attributes:
        file: where the include stands; "" if the configuration itself cannot be read.
        line: of `file`; 0 if there is none.
    """

    file: str
    line: int

    def __init__(self, *, subject: str, reason: str, advice: str, file: str = "", line: int = 0) -> None:
        StateError.__init__(self, subject=subject, reason=reason, advice=advice, file=file, line=line)


class ConfigSyntaxError(ApacheError, ValueError):
    """Apache refuses the configuration.

    Attributes:
        file: where; as Apache names it, so a macro's use is named as such.
        line: of `file`.
    """

    file: str
    line: int

    def __init__(self, *, subject: str, reason: str, advice: str, file: str, line: int) -> None:
        StateError.__init__(self, subject=subject, reason=reason, advice=advice, file=file, line=line)


class ModWsgiMissingError(ApacheError, LookupError):
    """The server does not load mod_wsgi, so it runs no Python application by itself."""


class NoMountError(ApacheError, LookupError):
    """mod_wsgi is loaded, and nothing is mounted with it."""
