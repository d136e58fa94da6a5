"""Needs, and the store that was chosen to meet them: the nouns of `selection`.

Below `store`, since a Store carries the choice that led to it.
"""

from __future__ import annotations

from sharedstate._light import NamedTuple
from sharedstate.errors import redact

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from sharedstate.deployment.model import Deployment
    from sharedstate.model import Capabilities, Costs, Durability, Scope

__all__ = ["Choice", "Needs", "Option"]


class Needs(NamedTuple):
    """How far state must reach and how long it must last, at the least.

    Attributes:
        scope: who must share it.
        durability: what it must outlive.
        reasons: why, in words for people.
    """

    scope: Scope
    durability: Durability
    reasons: tuple[str, ...] = ()

    def falls_short(self, given: Capabilities) -> list[str]:
        """Return in what `given` is not enough; nothing if it suffices."""
        short: list[str] = []
        if given.scope < self.scope:
            short.append(f"it shares with scope {given.scope.name}, needed is {self.scope.name}")
        if given.durability < self.durability:
            short.append(f"it lasts as {given.durability.name}, needed is {self.durability.name}")
        return short


class Option(NamedTuple):
    """One backend that was looked at.

    Attributes:
        scheme: of its URLs.
        url: of the store it would give; "" if it can give none here.
        capabilities: what it promises; None if it could not be asked.
        costs: what it costs; None if it does not say.
        reasons_for: it, in words for people.
        reasons_against: it; empty for the one that was chosen.
    """

    scheme: str
    url: str
    capabilities: Capabilities | None
    costs: Costs | None
    reasons_for: tuple[str, ...]
    reasons_against: tuple[str, ...]


class Choice(NamedTuple):
    """A store that suffices, and why it is this one.

    Attributes:
        url: of the store.
        needs: what it had to give.
        deployment: that has these needs.
        options: every backend that was looked at, the chosen one first.
        notes: what else a reader should know, in words for people.
    """

    url: str
    needs: Needs
    deployment: Deployment
    options: tuple[Option, ...]
    notes: tuple[str, ...] = ()

    def explain(self) -> str:
        """Return the choice with its reasons, as lines for people."""
        lines = [redact(self.url)]
        lines += [f"  needed: scope {self.needs.scope.name}, durability {self.needs.durability.name}"]
        lines += [f"    because {reason}" for reason in self.needs.reasons]
        for option in self.options:
            lines.append(f"  {option.scheme}: {'chosen' if option.url == self.url else 'not chosen'}")
            lines += [f"    + {reason}" for reason in option.reasons_for]
            lines += [f"    - {reason}" for reason in option.reasons_against]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)
