"""What changed under a prefix between two looks, and when to look again.

A backend tells that something changed, not what: its token moves.  A watcher
remembers each key's generation and compares.
"""

from __future__ import annotations

from sharedstate.model import Change, Entry

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

    from sharedstate.backend import Backend

__all__ = ["LOOK_AT_KEY_S", "Watch", "wait_at_most_s"]

# A writer killed between its write and its wake-up leaves a change that no
# token tells of: look again now and then; more seldom where a look is dear.
LOOK_AT_KEY_S: Final = 1.0
_LOOK_AT_PREFIX_S: Final = 10.0


def wait_at_most_s(backend: Backend, expires_at: float | None, at_most_s: float) -> float:
    """Return how long to wait for the token to move: an expiry moves none, so wake up for it."""
    if expires_at is None:
        return at_most_s
    return min(max(expires_at - backend.now(), 0.0) + 1e-3, at_most_s)


class Watch:
    """The keys that start with a prefix, as the latest look found them.

    Args:
        backend: to look at.
        prefix: of the full keys.
        skip: how many characters of a full key its watcher does not see.

    Attributes:
        token: to wait with for something to change since the latest look.
    """

    def __init__(self, backend: Backend, prefix: str, skip: int) -> None:
        self._backend = backend
        self._prefix = prefix
        self._skip = skip
        self._known: dict[str, tuple[int, float | None]] = {}  # generation and deadline; values may be large
        self._remember(self._look())

    def look(self) -> list[Change]:
        """Return each key that changed since the latest look, once, with its newest entry; None: it is gone."""
        known, entries = self._known, self._look()
        self._remember(entries)
        gone = [Change(key[self._skip :], None) for key in known.keys() - entries.keys()]
        return gone + [
            Change(key[self._skip :], entry)
            for key, entry in entries.items()
            if key not in known or known[key][0] != entry.generation
        ]

    def wait_at_most_s(self) -> float:
        """Return after how many seconds to look again, though the token has not moved."""
        first = min((expires_at for _, expires_at in self._known.values() if expires_at is not None), default=None)
        return wait_at_most_s(self._backend, first, _LOOK_AT_PREFIX_S)

    def _look(self) -> dict[str, Entry]:
        # The token first: a change during the look is then seen by the next one.
        self.token = self._backend.change_token()
        return {key: entry for key in self._backend.keys(self._prefix) if (entry := self._backend.read(key))}

    def _remember(self, entries: dict[str, Entry]) -> None:
        self._known = {key: (entry.generation, entry.expires_at) for key, entry in entries.items()}
