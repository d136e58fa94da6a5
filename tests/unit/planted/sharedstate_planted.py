"""`planted:/path?bug=<name>`: the example plug-in with one bug in it, or with none.

Each bug is one that a real backend could have.  test_testing_bites.py shows
which claim, judge or machine finds it.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from sharedstate_onefile import CAPABILITIES, OneFileBackend, discover, remove

from sharedstate.backend import Lock, Presence, add_numbers
from sharedstate.errors import ConflictError
from sharedstate.model import ABSENT, DELETE, KEEP, Entry, Owner, Put, Sharer
from sharedstate.values import check_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sharedstate.backend import Deadline, StoreUrl
    from sharedstate.model import Write

__all__ = ["BUGS", "CAPABILITIES", "connect", "discover", "remove"]


def connect(url: StoreUrl) -> OneFileBackend:
    bug = url.choice("bug", ("none", *BUGS))
    path = url.path()
    url.finish()
    kind = BUGS.get(bug, OneFileBackend)
    return kind(url.canonical(path), path)


def _let_others_in() -> None:
    # The bug's width, not a test's patience: wide enough to be hit within seconds.
    time.sleep(0.0005)


def _remaining_s(backend: OneFileBackend, entry: Entry | None) -> float | None:
    if entry is None or entry.expires_at is None:
        return None
    return max(entry.expires_at - backend.now(), 1e-6)


class IncrementInTwoSteps(OneFileBackend):
    """Another increment can come between the read and the write."""

    def increment(
        self, key: str, by: int | float = 1, initial: int | float = 0, ttl_s: float | None = None
    ) -> int | float:
        entry = self.read(key)
        total = add_numbers(key, initial if entry is None else entry.value, by)
        _let_others_in()
        self.set(key, total, ttl_s if entry is None else _remaining_s(self, entry))
        return total


class AddInTwoSteps(OneFileBackend):
    """Two callers can both find the key absent."""

    def add(self, key: str, value: Any, ttl_s: float | None = None) -> bool:
        if self.read(key) is not None:
            return False
        _let_others_in()
        self.set(key, value, ttl_s)
        return True


class TakeInTwoSteps(OneFileBackend):
    """Two callers can both be given the entry."""

    def take(self, key: str) -> Entry | None:
        entry = self.read(key)
        _let_others_in()
        if entry is not None:
            self.commit({key: DELETE})
        return entry


class ValidateOutsideTheLock(OneFileBackend):
    """What was expected may have changed by the time of the write."""

    def commit(self, writes: Mapping[str, Write], expected: Mapping[str, int] = {}) -> dict[str, int]:
        for key, generation in expected.items():
            entry = self.read(key)
            found = ABSENT if entry is None else entry.generation
            if found != generation:
                raise ConflictError(key=key, expected=generation, found=found)
        _let_others_in()
        # None of them kept its deadline: there is no generation left to keep one of.
        return super().commit(
            {key: Put(write.value) if isinstance(write, Put) else write for key, write in writes.items()}
        )


class ValidateOnlyWhatIsWritten(OneFileBackend):
    """Write skew: a key that was read and not written is not looked at."""

    def commit(self, writes: Mapping[str, Write], expected: Mapping[str, int] = {}) -> dict[str, int]:
        return super().commit(writes, {key: expected[key] for key in expected if key in writes})


class CommitKeyByKey(OneFileBackend):
    """A reader, or a crash, can come between two keys of one transaction."""

    def commit(self, writes: Mapping[str, Write], expected: Mapping[str, int] = {}) -> dict[str, int]:
        generations = super().commit({}, expected)
        for key, write in writes.items():
            generations |= super().commit({key: write}, {key: expected[key]} if key in expected else {})
            _let_others_in()
        return generations


class WriteInTwoHalves(OneFileBackend):
    """A reader can see a value whose bytes are half one's and half another's."""

    def set(self, key: str, value: Any, ttl_s: float | None = None) -> None:
        if isinstance(value, tuple):
            self.commit({key: Put((value[0], *self.get(key, value)[1:]), ttl_s)})
            _let_others_in()
        self.commit({key: Put(value, ttl_s)})


class ReuseGenerations(OneFileBackend):
    """A key that is created again starts at generation 1."""

    def _save(self, last: int, entries: dict[str, Any]) -> None:
        super()._save(max((stored[1] for stored in entries.values()), default=ABSENT), entries)


class HandOutTheObject(OneFileBackend):
    """What one caller got, and changed, the next one gets."""

    def read(self, key: str) -> Entry | None:
        entry = super().read(key)
        kept: dict[tuple[str, int], Entry] = self.__dict__.setdefault("_kept", {})
        return None if entry is None else kept.setdefault((key, entry.generation), entry)


class ReadAheadOfOthers(OneFileBackend):
    """A handle keeps what it read, and does not see what another one writes."""

    def read(self, key: str) -> Entry | None:
        kept: dict[str, Entry | None] = self.__dict__.setdefault("_kept", {})
        if key not in kept:
            kept[key] = super().read(key)
        return kept[key]

    def commit(self, writes: Mapping[str, Write], expected: Mapping[str, int] = {}) -> dict[str, int]:
        self.__dict__["_kept"] = {}
        return super().commit(writes, expected)


class CountTheExpired(OneFileBackend):
    """keys() shows what read() does not."""

    def keys(self, prefix: str = "") -> list[str]:
        now, self.now = self.now, lambda: 0.0  # type: ignore[method-assign]  the bug
        try:
            return super().keys(prefix)
        finally:
            self.now = now  # type: ignore[method-assign]  the bug


class KeepTheDeadline(OneFileBackend):
    """An overwritten entry expires as the one before."""

    def set(self, key: str, value: Any, ttl_s: float | None = None) -> None:
        entry = self.read(key)
        super().set(key, value, _remaining_s(self, entry) if ttl_s is None else ttl_s)


class KeepWhatWasRead(OneFileBackend):
    """A write that keeps the deadline keeps that of the latest read: a touch since then is undone."""

    def read(self, key: str) -> Entry | None:
        entry = super().read(key)
        self._known = {**getattr(self, "_known", {}), key: entry}
        return entry

    def commit(self, writes: Mapping[str, Write], expected: Mapping[str, int] = {}) -> dict[str, int]:
        kept = {
            key: Put(write.value, _remaining_s(self, self._known[key]))
            for key, write in writes.items()
            if isinstance(write, Put) and write.ttl_s is KEEP
        }
        return super().commit({**writes, **kept}, expected)


class KeepWhatIsNotThere(OneFileBackend):
    """A write that is to keep the deadline of an entry that nobody expects lives for ever."""

    def commit(self, writes: Mapping[str, Write], expected: Mapping[str, int] = {}) -> dict[str, int]:
        ruled = {
            key: Put(write.value)
            for key, write in writes.items()
            if isinstance(write, Put) and write.ttl_s is KEEP and not expected.get(key)
        }
        return super().commit({**writes, **ruled}, expected)


class ProlongTheWindow(OneFileBackend):
    """Each increment starts the time to live anew."""

    def increment(
        self, key: str, by: int | float = 1, initial: int | float = 0, ttl_s: float | None = None
    ) -> int | float:
        total = super().increment(key, by, initial, ttl_s)
        if ttl_s is not None:
            self.touch(key, ttl_s)
        return total


class LockPerHandle(OneFileBackend):
    """Two handles have two locks of one name."""

    def lock(self, name: str, timeout_s: float | None = None) -> Lock:
        return super().lock(name and f"{name}-{id(self)}", timeout_s)


class _FileThatExists(Lock):
    """Held while a file exists, whoever made it."""

    def __init__(self, url: str, name: str, timeout_s: float | None, path: str) -> None:
        super().__init__(url, name, timeout_s)
        self._path = path

    def _seize(self, deadline: Deadline) -> int:
        while True:
            try:
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                if deadline.has_passed():
                    raise deadline.timed_out(self.url, self.name) from None
                _let_others_in()
            else:
                return time.time_ns()

    def _free(self) -> None:
        os.unlink(self._path)

    def _forget(self) -> None:
        pass


class LockOutlivesItsHolder(OneFileBackend):
    """Nobody frees the lock of the dead."""

    def lock(self, name: str, timeout_s: float | None = None) -> Lock:
        check_key(name)
        return _FileThatExists(self.url, name, timeout_s, f"{self._path}.locks/{name}.exists")


class TokensThatFall(OneFileBackend):
    """A fencing token is no number that grows."""

    def lock(self, name: str, timeout_s: float | None = None) -> Lock:
        lock = super().lock(name, timeout_s)
        seize = lock._seize
        lock._seize = lambda deadline: 2**62 - seize(deadline)  # type: ignore[method-assign]  the bug
        return lock


class NotShared(OneFileBackend):
    """Claims to reach every process of the host, and keeps a store per process."""

    def _load(self) -> Any:
        shared, self._path = self._path, f"{self._path}.{os.getpid()}"
        try:
            return super()._load() if os.path.exists(self._path) else (ABSENT, {})
        finally:
            self._path = shared

    def _save(self, last: int, entries: dict[str, Any]) -> None:
        super()._save(last, entries)
        os.replace(self._path, f"{self._path}.{os.getpid()}")
        super()._save(ABSENT, {})  # so that remove() finds it


class ForgetTheType(OneFileBackend):
    """A tuple comes back as a list, as plain msgpack or JSON would have it."""

    def read(self, key: str) -> Entry | None:
        entry = super().read(key)
        return entry._replace(value=list(entry.value)) if entry is not None and type(entry.value) is tuple else entry


class PrefixAsPattern(OneFileBackend):
    """A prefix is taken for a pattern, as SQL's LIKE would."""

    def keys(self, prefix: str = "") -> list[str]:
        import fnmatch

        return [key for key in list(super().keys()) if fnmatch.fnmatchcase(key, f"{prefix}*")]


class CountTrueAsOne(OneFileBackend):
    """A stored True is incremented to 2."""

    def increment(
        self, key: str, by: int | float = 1, initial: int | float = 0, ttl_s: float | None = None
    ) -> int | float:
        if self.get(key) is True:
            self.set(key, 1)
        return super().increment(key, by, initial, ttl_s)


class RemovalsUntold(OneFileBackend):
    """change_token() stays when a key is removed."""

    def change_token(self) -> int:
        return max((stored[1] for stored in self._load()[1].values()), default=ABSENT)


class OpenForEver(OneFileBackend):
    """A closed handle goes on working."""

    def close(self) -> None:
        pass


class SharersOutliveTheirDeath(OneFileBackend):
    """A file is enough to be present: nobody asks whether its maker still holds it."""

    def sharers(self) -> list[Sharer]:
        return [
            Sharer(name.partition(".")[0], Owner.current(), 0.0, {})
            for name in os.listdir(self._locks.path)
            if name.endswith(".sharer")
        ]

    def announce(self, facts: Mapping[str, Any]) -> Presence:
        presence = super().announce(facts)
        presence._leave = lambda: None
        return presence


class SharersDieOfSlowness(OneFileBackend):
    """Who has shown no sign of life for a while is taken for dead."""

    def sharers(self) -> list[Sharer]:
        return [sharer for sharer in super().sharers() if time.time() - sharer.since < 1e-6]


class SharersAreTheirPids(OneFileBackend):
    """The token is the pid, which is used again."""

    def announce(self, facts: Mapping[str, Any]) -> Presence:
        presence = super().announce(facts)
        presence.token = str(os.getpid())
        return presence


class GenerationOfTheDead(OneFileBackend):
    """`generation` is answered from a memory that removals do not reach."""

    def generation(self, key: str) -> int:
        self._known = {
            **getattr(self, "_known", {}),
            key: super().generation(key) or getattr(self, "_known", {}).get(key, 0),
        }
        return self._known[key]


BUGS: dict[str, type[OneFileBackend]] = {
    kind.__name__: kind
    for kind in list(globals().values())
    if isinstance(kind, type) and issubclass(kind, OneFileBackend) and kind is not OneFileBackend
}
