"""Spans of OpenTelemetry for what a program asks of a store.

    store = traced(sharedstate.open("shm://app"))

    W1  Each question to the storage is one span of kind CLIENT, a child of the
        span that is current; named and attributed as the semantic conventions
        for database clients say (1.33, the first stable ones).
    W2  No value, no text of an error and no secret of a URL is in a span; keys
        and names of locks are only with `record_keys`.
    W3  What a verb does, returns and raises is what it does without a span.
    W4  What is asked again and again has no span: `wait`, `change_token`, the
        time, and a try for a lock that finds it held.

A store that is not traced knows nothing of this: a traced one is another `Store`
over the same handle, whose backend stands in front of the real one.  Only the
API of OpenTelemetry is imported.
"""

from __future__ import annotations

from contextlib import contextmanager
from time import time_ns
from typing import TYPE_CHECKING, overload

from opentelemetry.trace import SpanKind, StatusCode, get_tracer

from sharedstate.backend import Lock, parse_url
from sharedstate.errors import LockLostError, LockTimeoutError, StateError, redact
from sharedstate.model import Scope
from sharedstate.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from typing import Any, Final

    from opentelemetry.trace import Span, TracerProvider
    from opentelemetry.util.types import AttributeValue

    from sharedstate.aio import AsyncStore
    from sharedstate.backend import Backend, Deadline, StoreUrl
    from sharedstate.contrib._tracing_aio import TracedAsyncStore
    from sharedstate.membership import Membership
    from sharedstate.model import Capabilities

__all__ = ["TracedLock", "TracedStore", "traced"]

_SCHEMA: Final = "https://opentelemetry.io/schemas/1.33.0"
_SYSTEM: Final = "sharedstate"
_MOST_KEYS: Final = 100
"""A span has no more of a batch's keys."""

_VERBS: Final = {
    "add": "key",
    "check": "",
    "clear": "prefix",
    "commit": "writes",
    "compare_and_set": "key",
    "count": "prefix",
    "delete": "key",
    "delete_many": "keys",
    "generation": "key",
    "get": "key",
    "get_many": "keys",
    "increment": "key",
    "is_present": "",
    "keys": "prefix",
    "locks": "",
    "read": "key",
    "set": "key",
    "set_many": "values",
    "sharers": "",
    "stats": "",
    "take": "key",
    "touch": "key",
}
"""Those of a backend that have a span, and what their first argument is called if it names keys."""


@overload
def traced(
    store: Store, tracer_provider: TracerProvider | None = None, *, record_keys: bool = False
) -> TracedStore: ...


@overload
def traced(
    store: AsyncStore, tracer_provider: TracerProvider | None = None, *, record_keys: bool = False
) -> TracedAsyncStore: ...


def traced(
    store: Store | AsyncStore, tracer_provider: TracerProvider | None = None, *, record_keys: bool = False
) -> TracedStore | TracedAsyncStore:
    """Return the same store, or namespace, with a span for each question to the storage.

    Both stand on one handle: closing one closes the other.  A traced store is
    pickled as its URL, and so opened without spans on the other side.

    Args:
        store: a `Store`, or one of `sharedstate.aio`; one that is traced stays as it is.
        tracer_provider: None: OpenTelemetry's global one.
        record_keys: whether spans name keys, and locks.  They may tell of users.
    """
    if isinstance(store, TracedStore):
        return store
    if not isinstance(store, Store):
        from sharedstate.contrib._tracing_aio import TracedAsyncStore  # asyncio is for those who use it

        return TracedAsyncStore(traced(store.store, tracer_provider, record_keys=record_keys))
    spans = _Spans(store.url, store.capabilities, tracer_provider, record_keys=record_keys)
    places = store._places  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  the same handle has the same ones
    made = TracedStore(spans.stand_in(store.backend), store.prefix, places)
    if store.choice is not None:
        made.choice = store.choice
    return made


class TracedStore(Store):
    """A store whose verbs, transactions, namespaces and locks have spans; see `traced`."""

    def __init__(self, backend: Backend, prefix: str = "", places: Sequence[Membership] = ()) -> None:
        super().__init__(backend, prefix, places)
        stand_in: Any = backend
        self.spans: _Spans = stand_in.spans

    def update_with(
        self, key: str, change: Callable[[Any], Any], default: Any = None, ttl_s: float | None = None
    ) -> Any:
        """Replace the value of `key` by `change(value)` and return it, atomically; see `Store.update_with`."""
        with self.spans.attempts("update_with", change) as counted:
            return super().update_with(key, counted, default, ttl_s)

    def transact(self, body: Callable[[Any], Any], timeout_s: float | None = None) -> Any:
        """Run `body(tx)` in a transaction, again and again while others come between; see `Store.transact`."""
        with self.spans.attempts("transact", body) as counted:
            return super().transact(counted, timeout_s)

    def namespace(self, name: str) -> TracedStore:
        """Return a view of the entries and locks whose names start with `name` and a colon; traced, too."""
        return TracedStore(self._backend, super().namespace(name).prefix, self._places)


class TracedLock(Lock):
    """A lock of the store's, of which each wait for it is a span.

    Attributes:
        inner: the backend's own.
    """

    def __init__(self, inner: Lock, spans: _Spans) -> None:
        super().__init__(inner.url, inner.name, inner.timeout_s)
        self.inner = inner
        self._spans = spans

    def _seize(self, deadline: Deadline) -> int:
        if self.inner.is_held():
            self.inner.release()  # an exception out of a signal handler came between the two
        timeout_s = None if deadline.timeout_s is None else deadline.remaining_s(deadline.timeout_s)
        began = time_ns()
        try:
            token = self.inner.acquire(timeout_s)
        except BaseException as error:
            # Not of a try, which tasks of asyncio repeat (W4).
            if timeout_s != 0 or not isinstance(error, LockTimeoutError):
                self._spans.tell_of_lock(self.name, began, error)
            if isinstance(error, LockTimeoutError):
                raise deadline.timed_out(self.url, error.what, error.holder) from None  # the time that was asked for
            raise
        self._spans.tell_of_lock(self.name, began)
        return token

    def _free(self) -> None:
        self.inner.release()

    def _forget(self) -> None:
        """Leave it to the inner one, which knows of forks."""

    def _loss(self) -> str | None:
        try:
            self.inner.token  # noqa: B018  it asks the storage
        except LockLostError as lost:
            return lost.reason
        return None


class _Spans:
    """The spans of one store, and what stands in all of them.

    Args:
        url: the store's.
        given: its capabilities.
        tracer_provider: None: the global one.
        record_keys: whether they name keys.
    """

    def __init__(
        self, url: str, given: Capabilities, tracer_provider: TracerProvider | None, *, record_keys: bool
    ) -> None:
        self._tracer = get_tracer(_SYSTEM, tracer_provider=tracer_provider, schema_url=_SCHEMA)
        self._attributes = {"db.system.name": _SYSTEM, **_place_of(url, given)}
        self._target = self._attributes.get("db.namespace") or self._attributes.get("server.address", "")
        self._has_keys = record_keys

    def stand_in(self, backend: Backend) -> Any:
        """Return what a store takes for the backend, with spans around its verbs."""
        return _TracedBackend(backend, self)

    def around(self, verb: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method of a backend with a span around each call."""
        first = _VERBS[verb]
        name, attributes = self._naming(verb)

        def call(*arguments: Any, **options: Any) -> Any:
            with self._tracer.start_as_current_span(
                name, kind=SpanKind.CLIENT, attributes=attributes, record_exception=False, set_status_on_exception=False
            ) as span:
                if first and span.is_recording():
                    self._describe(span, first, arguments[0] if arguments else options.get(first))
                try:
                    return method(*arguments, **options)
                except BaseException as error:
                    _note(span, error)
                    raise

        return call

    @contextmanager
    def attempts(self, verb: str, body: Callable[[Any], Any]) -> Generator[Callable[[Any], Any]]:
        """Have a span around a verb that calls `body` again after each conflict, which is told by an event."""
        name, attributes = self._naming(verb)
        attempt = 0
        with self._tracer.start_as_current_span(
            name, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:

            def counted(given: Any) -> Any:
                nonlocal attempt
                attempt += 1
                if attempt > 1:
                    span.add_event("sharedstate.conflict", {"sharedstate.attempt": attempt - 1})
                return body(given)

            try:
                yield counted
            except BaseException as error:
                _note(span, error)
                raise
            finally:
                span.set_attribute("sharedstate.attempts", attempt)

    def tell_of_lock(self, lock: str, began_ns: int, error: BaseException | None = None) -> None:
        """Make the span of a wait for a lock, which is over."""
        name, attributes = self._naming("lock")
        if self._has_keys:
            attributes["sharedstate.lock"] = _printable(lock)
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes, start_time=began_ns)
        if error is not None:
            _note(span, error)
        span.end()

    def _naming(self, verb: str) -> tuple[str, dict[str, AttributeValue]]:
        return f"{verb} {self._target}".rstrip(), {**self._attributes, "db.operation.name": verb}

    def _describe(self, span: Span, first: str, argument: Any) -> None:
        if first in {"key", "prefix"}:
            if self._has_keys and isinstance(argument, str):
                span.set_attribute(f"sharedstate.{first}", _printable(argument))
        elif isinstance(argument, (list, tuple, dict, set, frozenset)):  # whatever else may be walked once only
            count = len(argument)  # pyright: ignore[reportUnknownArgumentType]
            if count > 1:
                span.set_attribute("db.operation.batch.size", count)
            if self._has_keys:
                keys = [_printable(key) for key in argument if isinstance(key, str)]  # pyright: ignore[reportUnknownVariableType]
                span.set_attribute("sharedstate.keys", keys[:_MOST_KEYS])


class _TracedBackend:
    """What a traced store has in place of its backend: all else is that one's own."""

    def __init__(self, backend: Backend, spans: _Spans) -> None:
        self.inner = backend
        self.spans = spans
        for verb in _VERBS:
            setattr(self, verb, spans.around(verb, getattr(backend, verb)))

    def lock(self, name: str, timeout_s: float | None = None) -> TracedLock:
        """Return the lock of this name; it is not yet acquired."""
        return TracedLock(self.inner.lock(name, timeout_s), self.spans)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def _note(span: Span, error: BaseException) -> None:
    # Its text may hold a key, or a part of a value (W2).
    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(StatusCode.ERROR)


def _place_of(url: str, given: Capabilities) -> dict[str, AttributeValue]:
    """Return where the store is, in the words of the conventions."""
    found: dict[str, AttributeValue] = {}
    try:
        parsed = parse_url(url)
    except StateError:
        return found  # a stranger's, who reads it in a way of his own
    found["sharedstate.backend"] = parsed.scheme
    target = parsed.target.removeprefix("//")
    if "+" in parsed.scheme and target == parsed.target:  # a path, or another way to get there
        _add_server(found, target)
        namespace = parsed.text_parameter("name", "")
    elif _names_a_server(parsed, given):
        # From the right: a password may hold anything.
        authority, _, namespace = target.rpartition("@")[2].partition("/")
        _add_server(found, authority)
    else:
        namespace = target
    if namespace:
        found["db.namespace"] = _printable(redact(namespace))
    return found


def _names_a_server(url: StoreUrl, given: Capabilities) -> bool:
    rest = url.target.removeprefix("//")
    is_authority = rest != url.target and not rest.startswith("/")
    return is_authority and (given.scope >= Scope.CLUSTER or any(mark in rest for mark in "@:/"))


def _add_server(found: dict[str, AttributeValue], authority: str) -> None:
    host, colon, port = authority.rpartition(":")
    if colon and port.isdecimal() and (host.endswith("]") or ":" not in host):
        found["server.port"] = int(port)
    else:
        host = authority
    found["server.address"] = _printable(redact(host.strip("[]")))


def _printable(text: str) -> str:
    # A path may hold bytes that are no UTF-8, which exporters refuse.
    return text.encode(errors="backslashreplace").decode()
