"""Who is present: S1 to S4 of `sharedstate.backend.presence`, and reading a generation alone."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sharedstate.errors import ClosedError
from sharedstate.model import ABSENT, Scope
from sharedstate.testing.conformance.support import Claims

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate.backend import Backend
    from sharedstate.store import Store

_JOIN_AND_WAIT = """
import sys, sharedstate
store = sharedstate.open(sys.argv[1])
print(store.join(), flush=True)
sys.stdin.read()
"""


class SharingClaims(Claims):
    """Sharers and generations."""

    def test_generation_is_that_of_the_entry(self, store: Store) -> None:
        """`generation` says what `read` says, also of what was deleted, expired or never there."""
        assert store.generation("k") == ABSENT
        for value in (1, "text", {"a": [1] * 500}, None, b"x" * 5000):
            store["k"] = value
            entry = store.read("k")
            assert entry is not None
            assert store.generation("k") == entry.generation > ABSENT
        del store["k"]
        assert store.generation("k") == ABSENT

    def test_an_opened_store_has_its_handle_among_the_sharers(self, store: Store) -> None:
        """Each handle is one sharer, with its own token, until it is closed."""
        mine = store.join()

        assert store.join() == mine
        assert [sharer.owner.pid for sharer in store.sharers() if sharer.token == mine] == [os.getpid()]
        assert store.is_present(mine)

    def test_a_closed_handle_is_present_no_more(self, store: Store, open_another: Callable[[], Store]) -> None:
        """Its token is found absent from then on, and a second `close` changes nothing (S1, S3)."""
        other = open_another()
        token = other.join()
        assert store.is_present(token)

        other.close()
        other.close()

        assert not store.is_present(token)
        assert token not in {sharer.token for sharer in store.sharers()}
        with pytest.raises(ClosedError):
            other.sharers()

    def test_a_forgotten_presence_ends(self, store: Store, backend: Backend) -> None:
        """Nobody refers to it any more: it ends, though nobody ended it (S1)."""
        token = store.join()
        before = {sharer.token for sharer in store.sharers()}

        presence = backend.announce({"n": 1})
        announced = presence.token
        assert store.is_present(announced)
        del presence
        gc.collect()

        assert not store.is_present(announced)
        assert {sharer.token for sharer in store.sharers()} == before
        assert store.is_present(token)

    def test_tokens_are_never_used_twice(self, store: Store, backend: Backend) -> None:
        """100 presences one after the other have 100 tokens (S2)."""
        tokens = set[str]()
        for _ in range(100):
            presence = backend.announce({})
            tokens.add(presence.token)
            presence.leave()

        assert len(tokens) == 100
        assert not any(store.is_present(token) for token in tokens)

    def test_what_a_sharer_says_of_itself_arrives(self, store: Store, backend: Backend) -> None:
        """Facts are values, and come back as they were."""
        facts = {"server": "none", "processes": 3, "since": (1, 2.5, None)}

        presence = backend.announce(facts)

        assert [sharer.facts for sharer in store.sharers() if sharer.token == presence.token] == [facts]
        presence.leave()

    def test_nonsense_is_no_token(self, store: Store) -> None:
        """What nobody was ever told is present nowhere, whatever it holds."""
        for token in ("", "x", "../x", "/etc/passwd", "a" * 600, "\0", "\n", "é"):
            assert not store.is_present(token)

    def test_a_killed_process_is_present_no_more(self, store: Store) -> None:
        """The kernel ends a presence with its process, and nothing else does (S1, S3)."""
        if store.capabilities.scope < Scope.HOST:
            return  # no other process opens it: test_a_forked_child_is_not_its_parent says what remains
        with subprocess.Popen(  # noqa: S603  this Python, and a line of ours
            [sys.executable, "-c", _JOIN_AND_WAIT, store.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # where the plug-in under test may lie
        ) as child:
            try:
                assert child.stdout is not None
                token = child.stdout.readline().decode().strip()
                child.send_signal(signal.SIGSTOP)
                assert store.is_present(token), "slow is not dead"
                assert child.pid in {sharer.owner.pid for sharer in store.sharers()}
            finally:
                child.kill()
                child.wait()

            assert not store.is_present(token)
            assert child.pid not in {sharer.owner.pid for sharer in store.sharers()}

    def test_a_forked_child_is_not_its_parent(self, store: Store) -> None:
        """A child has a place of its own; its end leaves the parent where it was (S4)."""
        mine = store.join()
        inbox, outbox = os.pipe()
        pid = os.fork()
        if pid == 0:  # pragma: no cover  the child's lines
            try:
                os.write(outbox, store.join().encode())
            finally:
                os._exit(0)
        os.close(outbox)
        with os.fdopen(inbox) as pipe:
            theirs = pipe.read()
        os.waitpid(pid, 0)

        assert theirs
        assert theirs != mine
        assert store.is_present(mine)
        assert not store.is_present(theirs)
