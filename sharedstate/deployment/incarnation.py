"""`incarnation`: which start of the server this is, read as early as can be and kept.

A supervisor may die while its workers go on serving; so what was read is kept
for the life of the process.  A process that is forked reads it anew, since
before the fork it may have been the supervisor itself.
"""

from __future__ import annotations

from sharedstate.backend.forks import fork_epoch
from sharedstate.deployment.detection import recogniser

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from sharedstate.deployment.model import Incarnation

__all__ = ["incarnation"]

_kept: dict[tuple[int, str], Incarnation] = {}
"""By the fork, and by who recognised us: a program may start a server later on."""


def incarnation() -> Incarnation:
    """Return which start of the server this is: the same in all its workers, also in those that replace dead ones.

    Where a worker cannot see that alone (`Incarnation.is_settled` is False),
    `sharedstate.coordination.incarnations.agree` asks its siblings.
    """
    server = recogniser()
    key = (fork_epoch(), str(server.__name__))
    found = _kept.get(key)
    if found is None:
        found = server.incarnate()
        for old in list(_kept):
            if old[0] != key[0]:
                _kept.pop(old, None)
        _kept[key] = found
    return found
