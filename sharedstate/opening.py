"""`open`: from a URL, or from what the deployment needs, to a Store.

The one place where a need meets a capability: a store that does not reach as
far, or last as long, as it must is refused before it is used.

    O1  An explicit URL is opened, or refused; never replaced by another.
    O2  Without a URL the same application gets the same store in all its
        processes and interpreters, and another application another one.
    O3  A store that falls short is opened only where the caller says that this
        is enough, and is then listed for `sharedstate doctor` while it is open.
"""

from __future__ import annotations

import os

from sharedstate import registry
from sharedstate.backend.urls import parse_url
from sharedstate.errors import ScopeError, StateError, UnavailableError, UrlError
from sharedstate.events import tell
from sharedstate.model import Durability, Scope
from sharedstate.store import Store

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

    from sharedstate.backend import Backend
    from sharedstate.backend.repairs import Repair
    from sharedstate.choice import Needs

__all__ = ["open_store", "remove", "repair"]

_VARIABLE: Final = "SHAREDSTATE_URL"
"""The environment variable whose URL `open()` takes in place of its own choice."""


def open_store(
    url: str | None = None,
    *,
    name: str | None = None,
    scope: Scope | None = None,
    durability: Durability | None = None,
    allow_narrow: bool = False,
) -> Store:
    """Open a store, creating it if there is none.

    Without a URL it is the one that all processes and interpreters of this
    application share, in the narrowest and cheapest backend that does
    (`Store.choice` says why); the environment variable SHAREDSTATE_URL, if set,
    names another.

    Args:
        url: `memory:name`, `shm://name?size=64MiB`, `file:/path`, `sqlite:/path`,
            or that of any other installed plug-in.
        name: of the store, without a URL; by default the application's own. A
            program that gives the same name may still be content with another
            backend: to share with it name a `scope`, too, or a URL.
        scope: who must share it at the least; by default what the deployment needs.
        durability: what it must outlive at the least; likewise.
        allow_narrow: open it even if it falls short.

    Raises:
        UrlError: no such scheme, parameter or name; says which are known.
        ScopeError: the backend shares with fewer, or forgets sooner; says which URL would do.
        UnavailableError: the storage cannot be used here, or nothing tells this
            application from others; says why and what to do.
        CorruptError: what is there is foreign or damaged; it is left as found.
    """
    if url is None and name is None:
        url = os.environ.get(_VARIABLE) or None
    if url is None:
        return _open_chosen(name, scope, durability)
    if name is not None:
        raise UrlError(url=url, reason="a name is given beside the URL", advice="Give one of them.")
    backend = registry.connect(url)
    try:
        shortfall = _refuse_or_tell(backend, scope, durability, allow_narrow)
    except BaseException:
        backend.close()
        raise
    if not shortfall:
        return Store.opened(backend)
    from sharedstate.shortfalls import declare

    store = Store.opened(backend, declare(backend.url, shortfall))
    tell("deployment.shortfall", store=store.url, shortfall="; ".join(shortfall))
    return store


def _open_chosen(name: str | None, scope: Scope | None, durability: Durability | None) -> Store:
    from sharedstate.deployment.detection import detect
    from sharedstate.rendezvous import look_around
    from sharedstate.selection import choose, needs_of

    if name is not None:
        parse_url(f"any:{name}").name()  # refuses what no backend could use
    deployment = detect()
    choice = choose(deployment, needs_of(deployment, scope, durability), name=name)
    store = Store.opened(registry.connect(choice.url))
    store.choice = choice
    look_around(store, deployment)
    return store


def remove(url: str) -> None:
    """Remove the store that `url` names, with its locks.

    Handles that are still open see it as gone: they fail rather than write to a ghost.

    Raises:
        UnavailableError: there is none, or it is not ours to remove.
    """
    parsed = parse_url(url)
    registry.find_plugin(parsed).remove(parsed)


def repair(url: str, copy_to: str | None = None) -> Repair:
    """Mend the store that `url` names as far as no guess is needed, after keeping a copy of it.

    Args:
        url: of the store.
        copy_to: path of the copy, where nothing is yet; by default beside the store.

    Raises:
        CorruptError: nothing in it is certain enough; the store is as it was.
        UnavailableError: there is none, others are in the way, or its backend repairs nothing.
    """
    parsed = parse_url(url)
    plugin = registry.find_plugin(parsed)
    mend = getattr(plugin, "repair", None)
    if mend is None:
        raise UnavailableError(
            url=url,
            reason=f"the backend {parsed.scheme}: repairs nothing",
            advice="Restore a backup, or remove the store.",
        )
    report: Repair = mend(parsed, copy_to)
    if report.copy:
        tell("store.repaired", store=url, copy=report.copy, kept=report.kept, dropped=report.dropped)
    return report


def _refuse_or_tell(
    backend: Backend, scope: Scope | None, durability: Durability | None, allow_narrow: bool
) -> list[str]:
    """Return in what the store falls short of what is needed; raise `ScopeError` unless that is allowed."""
    given = backend.capabilities
    # Enough for any deployment on one host, and no one can see from one host that there are others.
    serves_host = given.scope >= Scope.HOST and given.durability >= Durability.BOOT
    if serves_host and given.scope >= (scope or 0) and given.durability >= (durability or 0):
        return []  # the usual case, which loads nothing to come to it
    needs = _needs_beside(serves_host, backend, scope, durability)
    shortfall = needs.falls_short(given)
    if not shortfall or allow_narrow:
        return shortfall
    raise ScopeError(
        url=backend.url,
        needed=f"scope {needs.scope.name} and durability {needs.durability.name} ({'; '.join(needs.reasons)})",
        given=f"scope {given.scope.name} and durability {given.durability.name}",
        advice=_suggest(backend.url, needs),
    )


def _needs_beside(serves_host: bool, backend: Backend, scope: Scope | None, durability: Durability | None) -> Needs:
    from sharedstate.choice import Needs
    from sharedstate.deployment.detection import detect
    from sharedstate.selection import needs_of

    if not serves_host:
        return needs_of(detect(), scope, durability)
    given = backend.capabilities
    return Needs(scope or given.scope, durability or given.durability, ("the caller asked for it",))


def _suggest(url: str, needs: Needs) -> str:
    from sharedstate.deployment.detection import detect
    from sharedstate.selection import choose

    try:
        name: str | None = parse_url(url).name()
    except UrlError:
        name = None  # a path: then the application's own name
    try:
        instead = f"Open {choose(detect(), needs, name=name).url!r},"
    except StateError:
        instead = _name_those_who_suffice(needs)
    return f"{instead} or pass allow_narrow=True if that is really enough."


def _name_those_who_suffice(needs: Needs) -> str:
    fitting: list[str] = []
    for scheme in registry.known_schemes():
        try:
            plugin = registry.find_plugin(parse_url(f"{scheme}:any"))
        except StateError:  # not built here, say: no reason to keep the refusal from its reader
            continue
        if not needs.falls_short(plugin.CAPABILITIES):
            fitting.append(f"{scheme}:")
    return f"Use {' or '.join(fitting)} instead," if fitting else "Install a backend that does that,"
