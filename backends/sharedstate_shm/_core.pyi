"""The shared-memory table, as Python sees it: `c/py_table.c`.

A `Table`'s verbs are the contract's (`sharedstate.backend.Backend`), with the
same arguments, results and errors; only what differs is described here.
"""

from collections.abc import Iterable, Mapping
from typing import Any, final

from sharedstate.backend import Counts
from sharedstate.model import Entry, Keep, Write

MIN_SIZE: int
"""The smallest size of a region, in bytes."""
MAX_TRANSACTION_KEYS: int
"""How many keys one commit may write or expect."""
FAILURES: Mapping[str, int]
"""Why a region cannot be opened, by name: the first argument of `open_region`'s ValueError."""

def open_region(
    directory_fd: int, name: str, url: str, size: int, mode: int, evict: bool, any_owner: bool, timeout_s: float, /
) -> Table:
    """Open the region `name` in a directory, creating it if there is none.

    Args:
        directory_fd: of a directory on tmpfs.
        name: of the file there.
        url: of the store, for errors.
        size: bytes for entries, if the region is created here.
        mode: permission bits, if it is created here.
        evict: evict instead of refusing when full, if it is created here.
        any_owner: accept a region that belongs to another user.
        timeout_s: how long a verb waits for a busy stripe before `LockTimeoutError`.

    Raises:
        OSError: a system call failed.
        ValueError: (status, reason): what is there is no region of ours; the
            status is one of `FAILURES`.
    """

def unlink_region(directory_fd: int, name: str, any_owner: bool, /) -> None:
    """Mark the region as gone for all who hold it, and remove its name.  Raises as `open_region`."""

@final
class Table:
    """One handle on one region.  Unmapped when the last reference goes, not by `close`."""

    counts: Counts
    """Where the verbs count."""

    def get(self, key: str, default: Any = None) -> Any: ...
    def read(self, key: str, /) -> Entry | None: ...
    def generation(self, key: str, /) -> int: ...
    def take(self, key: str, /) -> Entry | None: ...
    def get_many(self, keys: Iterable[str], /) -> dict[str, Any]: ...
    def set(self, key: str, value: Any, ttl_s: float | None = None) -> None: ...
    def add(self, key: str, value: Any, ttl_s: float | None = None) -> bool: ...
    def compare_and_set(self, key: str, value: Any, expected: int, ttl_s: float | Keep | None = None) -> int: ...
    def set_many(self, values: Mapping[str, Any], ttl_s: float | None = None) -> None: ...
    def delete(self, key: str, /) -> bool: ...
    def delete_many(self, keys: Iterable[str], /) -> int: ...
    def touch(self, key: str, ttl_s: float | None) -> bool: ...
    def increment(
        self, key: str, by: int | float = 1, initial: int | float = 0, ttl_s: float | None = None
    ) -> int | float: ...
    def commit(self, writes: Mapping[str, Write], expected: Mapping[str, int] | None = None) -> dict[str, int]: ...
    def keys(self, prefix: str = "") -> list[str]: ...
    def count(self) -> int: ...
    def clear(self, prefix: str = "") -> int: ...
    def change_token(self) -> int: ...
    def wait(self, token: int, timeout_s: float | None = None) -> bool: ...
    def stats(self) -> dict[str, int]: ...
    def check(self) -> None: ...
    def salvage(self) -> tuple[list[str], int, int, int]:
        """Return what is sound in a region that nobody else uses.

        The keys of sound entries, expired ones too; how many others there are;
        how many stripes cannot be read; and the last generation that any stripe
        says to have given out, those from 2^60 on apart, which are damage.
        """

    def raise_generations(self, floor: int, /) -> None:
        """Give out no generation up to `floor` from now on."""

    def info(self) -> dict[str, int]:
        """Return size, max_value_bytes, evicts and created."""

    def close(self) -> None: ...
