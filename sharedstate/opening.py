"""`open`: from a URL, and what the caller needs of it, to a Store.

The one place where a need meets a capability: a store that does not reach as
far, or last as long, as its user says it must is refused before it is used.
"""

from __future__ import annotations

from sharedstate import registry
from sharedstate.backend.urls import parse_url
from sharedstate.errors import ScopeError, StateError
from sharedstate.store import Store

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from sharedstate.model import Capabilities, Durability, Scope

__all__ = ["open_store", "remove"]


def open_store(
    url: str, *, scope: Scope | None = None, durability: Durability | None = None, allow_narrow: bool = False
) -> Store:
    """Open the store that `url` names, creating it if there is none.

    Args:
        url: `memory:name`, `shm://name?size=64MiB`, `file:/path`, `sqlite:/path`,
            or that of any other installed plug-in.
        scope: who must share it at the least.
        durability: what it must outlive at the least.
        allow_narrow: open it even if it falls short of these two.

    Raises:
        UrlError: no such scheme, parameter or name; says which are known.
        ScopeError: the backend shares with fewer, or forgets sooner; says which URL would do.
        UnavailableError: the storage cannot be used here; says why and what to do.
        CorruptError: what is there is foreign or damaged; it is left as found.
    """
    backend = registry.connect(url)
    try:
        if not allow_narrow:
            _require(backend.url, backend.capabilities, scope, durability)
    except BaseException:
        backend.close()
        raise
    store = Store(backend)
    store.join()
    return store


def remove(url: str) -> None:
    """Remove the store that `url` names, with its locks.

    Handles that are still open see it as gone: they fail rather than write to a ghost.

    Raises:
        UnavailableError: there is none, or it is not ours to remove.
    """
    parsed = parse_url(url)
    registry.find_plugin(parsed).remove(parsed)


def _require(url: str, given: Capabilities, scope: Scope | None, durability: Durability | None) -> None:
    if scope is not None and given.scope < scope:
        raise ScopeError(
            url=url, needed=f"scope {scope.name}", given=f"scope {given.scope.name}", advice=_suggest(scope, durability)
        )
    if durability is not None and given.durability < durability:
        raise ScopeError(
            url=url,
            needed=f"durability {durability.name}",
            given=f"durability {given.durability.name}",
            advice=_suggest(scope, durability),
        )


def _suggest(scope: Scope | None, durability: Durability | None) -> str:
    fitting = [
        f"{scheme}:"
        for scheme in registry.known_schemes()
        if (given := _promised_by(scheme)) is not None and _suffices(given, scope, durability)
    ]
    if not fitting:
        return "No installed backend does that; install one that does."
    return f"Use {' or '.join(fitting)} instead, or pass allow_narrow=True if that is really enough."


def _promised_by(scheme: str) -> Capabilities | None:
    try:
        return registry.find_plugin(parse_url(f"{scheme}:any")).CAPABILITIES
    except StateError:  # not built here, say: no reason to keep the refusal from its reader
        return None


def _suffices(given: Capabilities, scope: Scope | None, durability: Durability | None) -> bool:
    return (scope is None or given.scope >= scope) and (durability is None or given.durability >= durability)
