"""What the registry expects of a plug-in's module.

A page of its own, imported by type checkers only: nothing needs it to run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sharedstate.backend.contract import Backend
    from sharedstate.backend.repairs import Repair
    from sharedstate.backend.urls import StoreUrl
    from sharedstate.model import Capabilities, Costs

__all__ = ["Plugin"]


class Plugin(Protocol):
    """What the registry expects of a plug-in's module."""

    CAPABILITIES: Capabilities
    """The most that any store of this scheme gives; used to suggest a backend."""

    COSTS: Costs
    """What its verbs cost; one that says nothing is chosen only where no other suffices."""

    SCHEMES: tuple[str, ...]
    """The schemes it serves, if there are more than its name: `redis`, `rediss`, `redis+unix`.  Others leave it out."""

    def url_for(self, name: str) -> str:
        """Return the URL of the store of an application of that name, for whoever names no place.

        Its `CAPABILITIES`, `COSTS` and this are looked at wherever a store is
        chosen, so they should load little.

        Args:
            name: 1 to 100 ASCII letters, digits, '.', '_' and '-'.

        Raises:
            UnavailableError: no store can be had here; says why and what to do.
        """
        ...

    def connect(self, url: StoreUrl) -> Backend:
        """Open the store that `url` names, creating it if there is none.

        Raises:
            UrlError: a malformed name, or an unknown or unusable parameter.
            UnavailableError: the storage cannot be used; the error says why.
            CorruptError: what is there is foreign or damaged; it is left as found.
        """
        ...

    def exists(self, url: StoreUrl) -> bool:
        """Return whether there is something at the place that `url` names, without making or opening it.

        For people's tools, which must not make a store by looking at one; the
        answer may be out of date when it arrives.  A plug-in of a server may
        leave this out: its stores are always there.
        """
        ...

    def discover(self) -> list[str]:
        """Return the URLs of the stores that exist on this machine, where that can be known."""
        ...

    def path(self, url: StoreUrl) -> str:
        """Return the path of the file that holds the store, which need not exist.

        Its owner and size are shown beside what `discover` returns.  A plug-in
        whose stores are in no file, or not discovered, may leave this out.
        """
        ...

    def remove(self, url: StoreUrl) -> None:
        """Remove the store and its locks.  Handles that are open see it as gone."""
        ...

    def repair(self, url: StoreUrl, copy_to: str | None) -> Repair:
        """Mend the store as far as no guess is needed, after keeping a copy of it.

        A plug-in that repairs nothing leaves this out.  Generations go on
        growing, also of keys that were lost.

        Args:
            url: of the store.
            copy_to: path of the copy, where nothing is yet; None: beside the store.

        Raises:
            CorruptError: nothing in it is certain enough; the store is as it was.
            UnavailableError: there is none, or others are in the way.
        """
        ...

    def temporary_url(self, directory: str) -> str:
        """Return the URL of a store that does not exist yet, for an experiment.

        Args:
            directory: of the caller's, empty; a store that lives in files goes below it.
        """
        ...
