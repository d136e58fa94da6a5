"""What a program will notice when its store is another one, from what both promise.

The names of the stores play no part: only their `Capabilities` do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sharedstate.backend.urls import format_size
from sharedstate.model import Clock, Durability, Scope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sharedstate.model import Capabilities

__all__ = ["SemanticChange", "compare_capabilities"]

_REACH: Final = {
    Scope.INTERPRETER: "only threads of one interpreter share it",
    Scope.PROCESS: "only interpreters of one process share it",
    Scope.HOST: "only processes of one host share it",
    Scope.CLUSTER: "hosts share it",
}
_LOSS: Final = {
    Durability.PROCESS: "it is gone with the last process that uses it",
    Durability.BOOT: "it is gone after a reboot",
    Durability.DISK: "it outlives a reboot",
}
_CLOCK: Final = {
    Clock.BOOT: "steps of the wall clock no longer move deadlines",
    Clock.WALL: "a step of the wall clock moves every deadline",
}


class SemanticChange(NamedTuple):
    """One promise that two stores do not share.

    Attributes:
        what: the field of `Capabilities`.
        before: what the first store promises, in words.
        after: what the second one does.
        is_weaker: whether a program that relied on it may fail now.
        meaning: what follows from it, for people.
    """

    what: str
    before: str
    after: str
    is_weaker: bool
    meaning: str


def compare_capabilities(before: Capabilities, after: Capabilities) -> list[SemanticChange]:
    """Return what changes for a program that goes from a store of `before` to one of `after`."""
    return list(_changes(before, after))


def _changes(before: Capabilities, after: Capabilities) -> Iterator[SemanticChange]:
    if before.scope != after.scope:
        is_weaker = after.scope < before.scope
        yield SemanticChange("scope", before.scope.name, after.scope.name, is_weaker, _REACH[after.scope])
    if before.durability != after.durability:
        is_weaker = after.durability < before.durability
        yield SemanticChange(
            "durability", before.durability.name, after.durability.name, is_weaker, _LOSS[after.durability]
        )
    if before.evicts != after.evicts:
        words = {True: "evicts", False: "refuses"}
        meaning = (
            "a full store removes what was not used for long"
            if after.evicts
            else "a full store raises CapacityError, and removes nothing"
        )
        # Weaker both ways: one loses entries, and the other refuses writes that used to succeed.
        yield SemanticChange("evicts", words[before.evicts], words[after.evicts], True, meaning)
    if before.clock != after.clock:
        is_weaker = after.clock is Clock.WALL
        yield SemanticChange("clock", before.clock.name, after.clock.name, is_weaker, _CLOCK[after.clock])
    if before.max_value_bytes != after.max_value_bytes:
        yield SemanticChange(
            "max_value_bytes",
            _size(before.max_value_bytes),
            _size(after.max_value_bytes),
            after.max_value_bytes < before.max_value_bytes,
            f"a value has at most {_size(after.max_value_bytes)}, encoded",
        )
    if before.max_transaction_keys != after.max_transaction_keys:
        yield SemanticChange(
            "max_transaction_keys",
            str(before.max_transaction_keys),
            str(after.max_transaction_keys),
            after.max_transaction_keys < before.max_transaction_keys,
            f"a transaction has at most {after.max_transaction_keys} keys",
        )


def _size(size: int) -> str:
    text = format_size(size)
    return f"{size} bytes" if text.isdecimal() else text
