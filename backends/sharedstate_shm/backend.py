"""One handle on one region of shared memory.

The verbs are the C table's own bound methods, put on the instance: a get from
another process's write costs less than a dict behind a `threading.Lock`.  What
stands here is the rest: names, parameters, locks, errors of opening.

A store `shm://jobs` is the file `sharedstate-jobs.region` in /dev/shm, with its
named locks in `sharedstate-jobs.locks/`.  Neither `multiprocessing` nor its
resource tracker has a hand in it: the tracker unlinks a live segment when any
one of its users ends.

Fork: the mapping and the robust mutexes in it serve the child as they are.
"""

from __future__ import annotations

import errno
import os

from sharedstate.backend import (
    Backend,
    Lock,
    LockDirectory,
    Presence,
    PresenceFiles,
    StoreUrl,
    format_size,
    translate_os_error,
)
from sharedstate.errors import CorruptError, StoreAccessError, UnavailableError
from sharedstate.values import check_key
from sharedstate_shm.offer import CAPABILITIES, DEFAULT_SIZE, require_core

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, Final, NoReturn

    from sharedstate.backend.activity import Activity
    from sharedstate.model import Entry, Keep, LockRecord, Sharer, Write


try:
    from sharedstate_shm import _core
except ImportError:  # `require_core` tells whoever needs it
    if TYPE_CHECKING:
        raise

_DIRECTORY: Final = "/dev/shm"  # noqa: S108  shared memory's place, not a temporary directory
_PREFIX: Final = "sharedstate-"
_REGION: Final = ".region"
_LOCKS: Final = ".locks"
_TIMEOUT_S: Final = 5.0


def connect(url: StoreUrl) -> ShmBackend:
    """Open the region of that name, creating it if there is none."""
    name = url.name()
    require_core(url.text)
    size = url.size("size", DEFAULT_SIZE, minimum=_core.MIN_SIZE)
    full = url.choice("full", ("raise", "evict"))
    mode = url.mode()
    timeout_s = url.seconds("timeout", _TIMEOUT_S)
    url.finish()
    text = url.canonical(f"//{name}")
    directory = _open_directory(text)
    try:
        any_owner = os.geteuid() == 0
        table = _core.open_region(directory, _region(name), text, size, mode, full == "evict", any_owner, timeout_s)
    except OSError as error:
        error.filename = region_path(name)
        raise translate_os_error(text, error) from error
    except ValueError as error:
        _refuse(text, name, error)
    finally:
        os.close(directory)
    found = table.info()
    # A region keeps what its creator asked for: say so rather than ignore it.
    if url.has("size") and found["size"] != size:
        url.refuse(
            f"the region exists with size={format_size(found['size'])}",
            f"Leave size out to use it, or remove it first: sharedstate remove shm://{name}.",
        )
    if url.has("full") and bool(found["evicts"]) != (full == "evict"):
        kept = "evict" if found["evicts"] else "raise"
        url.refuse(
            f"the region exists with full={kept}",
            f"Leave full out to use it, or remove it first: sharedstate remove shm://{name}.",
        )
    locks = LockDirectory(text, os.path.join(_DIRECTORY, _PREFIX + name + _LOCKS), mode, region_path(name))
    return ShmBackend(text, table, locks)


def exists(url: StoreUrl) -> bool:
    """Return whether there is a region of that name."""
    return os.path.lexists(region_path(url.name()))


def path(url: StoreUrl) -> str:
    """Return the path of the region of that name."""
    return region_path(url.name())


def discover() -> list[str]:
    """Return the URLs of the regions in /dev/shm."""
    try:
        files = os.listdir(_DIRECTORY)
    except OSError:
        return []
    names = [
        file[len(_PREFIX) : -len(_REGION)] for file in files if file.startswith(_PREFIX) and file.endswith(_REGION)
    ]
    return [f"shm://{name}" for name in sorted(names)]


def remove(url: StoreUrl) -> None:
    """Mark the region as gone for all who hold it; remove it and its lock files."""
    name = url.name()
    require_core(url.text)
    directory = _open_directory(url.text)
    try:
        try:
            _core.unlink_region(directory, _region(name), os.geteuid() == 0)
        except FileNotFoundError as error:
            raise UnavailableError(
                url=url.text, reason="there is no such region", advice="See `sharedstate shm list`."
            ) from error
        except OSError as error:
            raise translate_os_error(url.text, error) from error
        except ValueError:
            # Not a region that we could open, but it has the name of one: the user wants it gone.
            os.unlink(_region(name), dir_fd=directory)
    finally:
        os.close(directory)
    LockDirectory(url.text, os.path.join(_DIRECTORY, _PREFIX + name + _LOCKS)).remove()


def temporary_url(directory: str) -> str:
    """Return the URL of a store that does not exist yet, for an experiment; `directory` is not used."""
    del directory
    return f"shm://temporary-{os.getpid()}-{os.urandom(6).hex()}?size=16MiB"


class ShmBackend(Backend):
    """One handle on one region; see `sharedstate.backend.Backend` for the verbs."""

    def __init__(self, url: str, table: _core.Table, locks: LockDirectory) -> None:
        self.url = url
        found = table.info()
        self.capabilities = CAPABILITIES._replace(
            max_value_bytes=found["max_value_bytes"],
            max_transaction_keys=_core.MAX_TRANSACTION_KEYS,
            evicts=bool(found["evicts"]),
        )
        self._table = table
        self._locks = locks
        self._counts = table.counts
        self._presences = PresenceFiles(locks, self._counts)
        for verb in _VERBS:
            setattr(self, verb, getattr(table, verb))

    # The methods below that only hand on to the table are what a type checker
    # and a subclass see; each instance has the table's own in their place.

    def get(self, key: str, default: Any = None) -> Any:
        return self._table.get(key, default)

    def read(self, key: str) -> Entry | None:
        return self._table.read(key)

    def generation(self, key: str) -> int:
        return self._table.generation(key)

    def take(self, key: str) -> Entry | None:
        return self._table.take(key)

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        return self._table.get_many(keys)

    def set(self, key: str, value: Any, ttl_s: float | None = None) -> None:
        self._table.set(key, value, ttl_s)

    def add(self, key: str, value: Any, ttl_s: float | None = None) -> bool:
        return self._table.add(key, value, ttl_s)

    def compare_and_set(self, key: str, value: Any, expected: int, ttl_s: float | Keep | None = None) -> int:
        return self._table.compare_and_set(key, value, expected, ttl_s)

    def set_many(self, values: Mapping[str, Any], ttl_s: float | None = None) -> None:
        self._table.set_many(values, ttl_s)

    def delete(self, key: str) -> bool:
        return self._table.delete(key)

    def delete_many(self, keys: Iterable[str]) -> int:
        return self._table.delete_many(keys)

    def touch(self, key: str, ttl_s: float | None) -> bool:
        return self._table.touch(key, ttl_s)

    def increment(
        self, key: str, by: int | float = 1, initial: int | float = 0, ttl_s: float | None = None
    ) -> int | float:
        return self._table.increment(key, by, initial, ttl_s)

    def commit(self, writes: Mapping[str, Write], expected: Mapping[str, int] | None = None) -> dict[str, int]:
        return self._table.commit(writes, expected)

    def keys(self, prefix: str = "") -> list[str]:
        return self._table.keys(prefix)

    def count(self, prefix: str = "") -> int:
        """Return how many entries start with `prefix`; each stripe is counted at one instant."""
        return len(self._table.keys(prefix)) if prefix else self._table.count()

    def clear(self, prefix: str = "") -> int:
        return self._table.clear(prefix)

    def change_token(self) -> int:
        return self._table.change_token()

    def wait(self, token: int, timeout_s: float | None = None) -> bool:
        return self._table.wait(token, timeout_s)

    def check(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Verify every invariant of the format stripe by stripe, that every value decodes, and the lock files."""
        self._table.check()
        keys = self._table.keys()
        for done, key in enumerate(keys):
            if progress is not None and done % 10_000 == 0:
                progress(done, len(keys))
            try:
                self._table.read(key)
            except CorruptError as error:
                raise CorruptError(url=self.url, reason=f"the value of {key!r} is damaged: {error.reason}") from error
        self._locks.records()
        self._presences.sharers()
        from sharedstate.backend.activity import check_activity  # not by who only opens a store

        check_activity(self._locks)

    # --- What is not the table's --------------------------------------------

    def lock(self, name: str, timeout_s: float | None = None) -> Lock:
        """Return the lock of this name: a file, so that the kernel frees it when its holder dies."""
        self._table.info()  # refuses after close
        check_key(name)
        return self._locks.lock(name, timeout_s)

    def locks(self) -> list[LockRecord]:
        """Return what each lock says of itself."""
        self._table.info()
        return self._locks.records()

    def announce(self, facts: Mapping[str, Any]) -> Presence:
        """Make the caller one of the sharers."""
        self._table.info()
        return self._presences.announce(facts)

    def sharers(self) -> list[Sharer]:
        """Return those who are present now."""
        self._table.info()
        return self._presences.sharers()

    def is_present(self, token: str) -> bool:
        """Return whether the sharer of that token is present."""
        self._table.info()
        return self._presences.is_present(token)

    def stats(self) -> dict[str, int | float | str]:
        """Return the region's figures; `bytes` counts whole pages in use."""
        figures: dict[str, int | float | str] = {"entries": self._table.count()}
        figures.update(self._table.stats())
        figures.update(self._totals())
        return figures

    def _totals(self) -> dict[str, int | float | str]:
        from sharedstate.backend.activity import total_activity  # not by who only opens a store

        return total_activity(self._locks, self._counts)

    def activity(self) -> list[Activity]:
        """Return what each sharer has done here."""
        from sharedstate.backend.activity import read_activity

        self._table.info()
        return read_activity(self._locks, with_samples=True)

    def close(self) -> None:
        """Refuse every further verb; the memory is unmapped when the last reference goes."""
        self._table.close()


_VERBS: Final = (
    "add",
    "change_token",
    "clear",
    "commit",
    "compare_and_set",
    "delete",
    "delete_many",
    "generation",
    "get",
    "get_many",
    "increment",
    "keys",
    "read",
    "set",
    "set_many",
    "take",
    "touch",
    "wait",
)


def _region(name: str) -> str:
    return _PREFIX + name + _REGION


def region_path(name: str) -> str:
    """Return the path of the region of that name."""
    return os.path.join(_DIRECTORY, _region(name))


def _open_directory(url: str) -> int:
    try:
        return os.open(_DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise translate_os_error(url, error) from error


def _refuse(url: str, name: str, error: ValueError) -> NoReturn:
    """Raise what the table found in place of a region."""
    status, reason = error.args
    path = region_path(name)
    failures = _core.FAILURES
    if os.path.islink(path):
        raise StoreAccessError(
            url=url, reason=f"{path} is a symbolic link", advice="It may have been planted: remove it."
        ) from error
    if status == failures["OWNER"]:
        raise StoreAccessError(
            url=url,
            reason=f"{path} belongs to another user",
            advice="It may have been planted: remove it, or run as its owner.",
        ) from error
    if status in {failures["VERSION"], failures["LAYOUT"]}:
        raise UnavailableError(
            url=url,
            reason=f"{path}: {reason}",
            advice="Use the sharedstate and libc that made it, or remove it: its contents are then lost.",
        ) from error
    if status == failures["NOSPC"]:
        raise translate_os_error(url, OSError(errno.ENOSPC, "no space left in shared memory", path)) from error
    raise CorruptError(url=url, reason=f"{path}: {reason}") from error
