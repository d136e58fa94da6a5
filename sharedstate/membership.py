"""One handle's place among the sharers of its store, through forks.

A forked child is none of its parent's presences, so it takes a place of its
own: at once where Python's or uWSGI's at-fork hooks run, else when `join` is
next called.

Thread safety: any thread; all get one and the same token.
"""

from __future__ import annotations

import os
import sys
from _weakref import ref

from sharedstate.backend.forks import fork_epoch
from sharedstate.backend.mutexes import Mutex
from sharedstate.errors import StateError
from sharedstate.events import Silence

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from sharedstate.backend import Presence

__all__ = ["Membership"]


class Membership:
    """The presence of one handle, made anew in each forked child.

    Args:
        announce: makes it, from facts.
        facts: to be told beside those that every process tells of itself.
    """

    def __init__(
        self, announce: Callable[[Mapping[str, Any]], Presence], facts: Mapping[str, Any] | None = None
    ) -> None:
        self._announce = announce
        self._facts = facts or {}
        self._presence: Presence | None = None  # replaced by who has the turn
        self._turns: dict[int, Mutex] = {}  # one for each fork: a thread of the parent may have held its own

    def join(self) -> str:
        """Take a place unless there is one, and return its token."""
        presence = self._presence
        if presence is not None and presence.is_held():
            return presence.token
        # Imported here: who it is costs a few reads of /proc, and most processes open one store.
        from sharedstate.deployment.identity import describe_self

        # Not in our turn: who is described for the first time may begin to serve (`when_serving`), so programs run
        # here that join in turn, and have other threads join.  A second place would end the first, and its claims.
        facts = {**describe_self(), **self._facts}
        with self._turn():
            presence = self._presence
            if presence is None or not presence.is_held():
                if presence is not None:
                    presence.leave()  # one that was lost, while its handle still counts in its page
                presence = self._presence = self._announce(facts)
                _remember(self)
        return presence.token

    def try_join(self) -> None:
        """Take a place if there is room for it; whoever needs it calls `join`, which says what is wrong.

        A full disk, or one that may only be read, must not keep a store from
        being opened and read.
        """
        try:  # noqa: SIM105  contextlib would cost each fresh interpreter its import
            self.join()
        except StateError:
            pass

    def leave(self) -> None:
        """Give the place back.  Leaving twice is no error."""
        with self._turn():
            presence, self._presence = self._presence, None
        _members.pop(id(self), None)
        if presence is not None:
            presence.leave()

    def rejoin_in_child(self) -> None:
        """Take a place in the forked child, whatever thread of the parent was at work."""
        if self._presence is not None:
            self.try_join()

    def _turn(self) -> Mutex:
        return self._turns.setdefault(fork_epoch(), Mutex())


_members: dict[int, ref[Membership]] = {}
_hooks: list[Any] = []  # what was told to call us after a fork


def _remember(member: Membership) -> None:
    identity = id(member)
    _members[identity] = ref(member, lambda _: _members.pop(identity, None))
    if not _hooks:
        _hooks.append(_rejoin_all)
        os.register_at_fork(after_in_child=_rejoin_all)
        # uWSGI runs no hooks of Python's when it forks, but one of its own.
        uwsgi: Any = sys.modules.get("uwsgi")
        if uwsgi is not None:
            _hooks.append(getattr(uwsgi, "post_fork_hook", None))
            uwsgi.post_fork_hook = _after_uwsgi_fork


def _rejoin_all() -> None:
    with Silence():
        for member in list(_members.values()):
            found = member()
            if found is not None:
                found.rejoin_in_child()


def _after_uwsgi_fork() -> None:
    earlier = _hooks[1]
    if earlier is not None:
        earlier()
    _rejoin_all()
