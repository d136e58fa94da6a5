"""What went wrong, grouped by what the caller can do next.

Every error of this library is a `StateError` and also the builtin that fits, so
`except TimeoutError` works for people who never read this page.  The facts
stand in typed fields; the message is made from them and ends with what to do.
Errors survive pickling, since they cross process and interpreter boundaries.

Relied on by every other module; imports nothing of ours.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any


__all__ = [
    "AttemptsExhaustedError",
    "BackendMissingError",
    "CapacityError",
    "ClaimLostError",
    "ClaimTakenError",
    "ClosedError",
    "ConflictError",
    "CorruptError",
    "CounterOverflowError",
    "KeyFormatError",
    "LockLostError",
    "LockOwnershipError",
    "LockTimeoutError",
    "MovedError",
    "OutcomeUnknownError",
    "ScopeError",
    "StateError",
    "StoppingError",
    "StoreAccessError",
    "UnavailableError",
    "UrlError",
    "ValueTypeError",
]


class StateError(Exception):
    """The root: everything that this library raises on purpose.

    Subclasses take their facts as keyword arguments, keep them as attributes
    and build their message from them in `describe`.
    """

    def __init__(self, **facts: Any) -> None:
        for name, fact in facts.items():
            self.__dict__[name] = redact(fact) if type(fact) is str and name not in _CALLERS_OWN else fact
        super().__init__(self.describe())

    def describe(self) -> str:
        """Return the message, made from the fields."""
        raise NotImplementedError

    def __str__(self) -> str:
        # KeyError's own __str__ would print the repr of the message.
        return str(self.args[0])

    def __reduce__(self) -> tuple[Any, ...]:
        facts = {name: fact for name, fact in self.__dict__.items() if not name.startswith("_")}
        return _rebuild, (type(self), facts)


_CALLERS_OWN = frozenset({"key", "name", "to"})  # compared by who catches the error, or opened; in no message as it is
_SECRET_WORDS = ("pass", "pwd", "secret", "token", "credential", "auth", "apikey", "api_key", "_key")
_QUOTES = "'\""


def redact(text: str) -> str:
    """Return `text` with *** in the place of what looks like a password or token in a URL.

    By hand, since `re` costs a fresh interpreter milliseconds, and a process that
    has given up its rights may not be able to load it any more.
    """
    if "@" in text:
        text = _hide_passwords(text)
    return _hide_parameters(text) if "=" in text else text


def _hide_passwords(text: str) -> str:
    """Hide that of `//user:password@` and of `scheme:user:password@`, up to the last @ of the same word."""
    parts: list[str] = []
    begin = 0
    for end in range(len(text) + 1):
        if end < len(text) and text[end] != "/" and text[end] not in _QUOTES and not text[end].isspace():
            continue
        word = text[begin:end]
        at = word.rfind("@")
        colon = word.find(":", 0, max(at, 0))
        if colon >= 0 and text[begin - 1 : begin] != "/":
            colon = word.find(":", colon + 1, at)  # the first one ends the scheme
        if 0 <= colon < at - 1:
            word = f"{word[: colon + 1]}***{word[at:]}"
        parts += [word, text[end : end + 1]]
        begin = end + 1
    return "".join(parts)


def _hide_parameters(text: str) -> str:
    """Hide the values of `?name=value&name=value` whose names speak of a secret."""
    parts: list[str] = []
    kept_from = at = 0
    while (equals := text.find("=", at)) >= 0:
        begin, at = equals, equals + 1
        while begin > 0 and (text[begin - 1].isalnum() or text[begin - 1] in "_.-"):
            begin -= 1
        before = text[begin - 1 : begin]
        name = text[begin:equals].lower()
        if (before in "?&" or before in _QUOTES or before.isspace()) and any(word in name for word in _SECRET_WORDS):
            while at < len(text) and text[at] != "&" and text[at] not in _QUOTES and not text[at].isspace():
                at += 1
            parts += [text[kept_from : equals + 1], "***"]
            kept_from = at
    return "".join([*parts, text[kept_from:]])


def _rebuild(kind: type[StateError], facts: dict[str, Any]) -> StateError:
    return kind(**facts)


class _StoreError(StateError):
    """What is wrong with one store, and what to do about it.

    Attributes:
        url: the store's.
        reason: what was found.
        advice: what the reader can do next.
    """

    url: str
    reason: str
    advice: str

    def __init__(self, *, url: str, reason: str, advice: str) -> None:
        super().__init__(url=url, reason=reason, advice=advice)

    def describe(self) -> str:
        return f"{self.url}: {self.reason}. {self.advice}"


class _ClaimError(StateError):
    """What is wrong with one claim: on a task, a permit, the leadership, a body that runs once.

    Attributes:
        what: was claimed, in words: "task 'a' of 'jobs'".
        reason: what was found.
    """

    what: str
    reason: str

    def __init__(self, *, what: str, reason: str) -> None:
        super().__init__(what=what, reason=reason)


class _LockError(StateError):
    """What is wrong with one lock.

    Attributes:
        name: the lock's, within its store.
        reason: what was found.
    """

    name: str
    reason: str

    def __init__(self, *, name: str, reason: str) -> None:
        super().__init__(name=name, reason=reason)

    def describe(self) -> str:
        return f"lock {self.name!r}: {self.reason}"


# --- Lost a race: read again and retry --------------------------------------


class ConflictError(StateError):
    """Somebody else changed the key first; nothing was written."""

    key: str
    expected: int
    found: int

    def __init__(self, *, key: str, expected: int, found: int) -> None:
        super().__init__(key=key, expected=expected, found=found)

    def describe(self) -> str:
        def version(generation: int) -> str:
            return f"generation {generation}" if generation else "absent"

        return (
            f"{self.key!r} is {version(self.found)}, expected {version(self.expected)}; nothing was written. "
            "Read again and retry, or use update_with() or transact(), which do."
        )


# --- Not now: nothing was written, trying later may work --------------------


class UnavailableError(_StoreError):
    """The storage cannot be reached or used; nothing was written."""


class StoreAccessError(UnavailableError, PermissionError):
    """The storage exists but is not ours to open: another owner, mode or kind of file."""


class BackendMissingError(UnavailableError, ImportError):
    """No plug-in serves this URL scheme here, or the one that does cannot be loaded."""


class MovedError(UnavailableError):
    """The store has moved; nothing was written.  What `sharedstate.open` returns goes along, and does not raise this.

    Attributes:
        to: the URL that opens it now, with its password; the message hides that.
    """

    to: str

    def __init__(self, *, url: str, to: str) -> None:
        StateError.__init__(
            self,
            url=url,
            to=to,
            reason=f"the store has moved to {redact(to)}; nothing was written",
            advice="Open that URL.",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), {"url": self.url, "to": self.to})


class ClosedError(StateError, ValueError):
    """The handle was closed; what was stored is unharmed."""

    url: str

    def __init__(self, *, url: str) -> None:
        super().__init__(url=url)

    def describe(self) -> str:
        return f"{self.url}: this handle is closed. What was stored is unharmed; call sharedstate.open() again."


class LockTimeoutError(UnavailableError, TimeoutError):
    """A lock, or the storage's own write lock, was not free in time; nothing was written."""

    what: str
    timeout_s: float
    holder: str

    def __init__(self, *, url: str, what: str, timeout_s: float, holder: str = "") -> None:
        held = f", held by {holder}," if holder else ""
        StateError.__init__(
            self,
            url=url,
            what=what,
            timeout_s=timeout_s,
            holder=holder,
            reason=f"{what}{held} was not free within {timeout_s:g} s; nothing was written",
            advice="Retry, wait longer, or look for a holder that is stopped.",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (
            type(self),
            {"url": self.url, "what": self.what, "timeout_s": self.timeout_s, "holder": self.holder},
        )


class ClaimTakenError(_ClaimError, RuntimeError):
    """Somebody else owns it, and is alive; nothing was written."""

    def describe(self) -> str:
        return f"{self.what} is taken: {self.reason}. Nothing was written; leave it to its owner, or ask again later."


class StoppingError(_ClaimError, RuntimeError):
    """This process is stopping, so it begins nothing new; others may."""

    def describe(self) -> str:
        return f"{self.what} was not begun: {self.reason}. Leave it to a process that goes on."


# --- May or may not have happened: read back before retrying ----------------


class OutcomeUnknownError(StateError):
    """The storage failed while a write was under way; it may or may not have happened."""

    url: str
    reason: str

    def __init__(self, *, url: str, reason: str) -> None:
        super().__init__(url=url, reason=reason)

    def describe(self) -> str:
        return f"{self.url}: {self.reason}; the write may or may not have happened. Read back before retrying."


# --- No room: delete, expire or evict something, or enlarge the store -------


class CapacityError(_StoreError, MemoryError):
    """Refused for size; nothing was written and nothing was lost."""

    def describe(self) -> str:
        return f"{self.url}: {self.reason}; nothing was written. {self.advice}"


# --- The caller's mistake: mend the program ---------------------------------


class KeyFormatError(StateError, ValueError):
    """A key is not a str of 1 to 512 bytes of UTF-8."""

    found: str

    def __init__(self, *, found: str) -> None:
        super().__init__(found=found)

    def describe(self) -> str:
        return f"a key is a str of 1 to 512 bytes of UTF-8, not {self.found}"


class ValueTypeError(StateError, TypeError):
    """A value is outside the value model, or of the wrong type for the verb; nothing was written."""

    path: str
    found: str
    advice: str

    def __init__(self, *, path: str, found: str, advice: str = "") -> None:
        super().__init__(path=path, found=found, advice=advice)

    def describe(self) -> str:
        return f"{self.path} is {self.found}; nothing was written." + (f" {self.advice}" if self.advice else "")


class CounterOverflowError(ValueTypeError, OverflowError):
    """An increment would leave the 64-bit range of -2**63 to 2**64 - 1; nothing was written."""


class UrlError(_StoreError, ValueError):
    """A store's URL is malformed, or has an unknown or unusable parameter."""


class ScopeError(StateError, RuntimeError):
    """The backend does not reach as far, or last as long, as it would have to."""

    url: str
    needed: str
    given: str
    advice: str

    def __init__(self, *, url: str, needed: str, given: str, advice: str) -> None:
        super().__init__(url=url, needed=needed, given=given, advice=advice)

    def describe(self) -> str:
        return f"{self.url}: needed is {self.needed}, this backend gives {self.given}. {self.advice}"


class LockOwnershipError(_LockError, RuntimeError):
    """Only the thread that acquired a lock may release it, once, and may not acquire it twice."""


class LockLostError(_LockError, RuntimeError):
    """The lock that this caller believes to hold is not held any more."""

    def describe(self) -> str:
        return (
            f"lock {self.name!r} is lost: {self.reason}. "
            "Treat what it guarded as touched by others; use the fencing token to reject stale writes."
        )


class ClaimLostError(_ClaimError, RuntimeError):
    """What this caller believed to own is not its own any more; the write it wanted to make was refused."""

    def describe(self) -> str:
        return f"{self.what} is lost: {self.reason}. Nothing was written; stop, for another may be at it."


# --- It fails again and again: mend the cause, then allow it anew -----------


class AttemptsExhaustedError(StateError, RuntimeError):
    """A body failed as often as it may; it is not run again until somebody says so."""

    what: str
    attempts: int
    error: str
    advice: str

    def __init__(self, *, what: str, attempts: int, error: str, advice: str) -> None:
        super().__init__(what=what, attempts=attempts, error=error, advice=advice)

    def describe(self) -> str:
        return f"{self.what} failed {self.attempts} times, lastly with {self.error}. {self.advice}"


# --- Stored bytes break an invariant: stop, and look ------------------------


class CorruptError(_StoreError, ValueError):
    """Stored bytes break an invariant.  Never retried, never guessed at, nothing changed."""

    def __init__(
        self,
        *,
        url: str,
        reason: str,
        advice: str = "Keep a copy of it for diagnosis, then restore a backup or remove it.",
    ) -> None:
        super().__init__(url=url, reason=reason, advice=advice)
