"""The directory of one store: the names in it, and whether it may be one at all.

    lock          whose flock the writers hold, one at a time; never removed before the store
    head          which log is current, and how much of it counts
    log-<n>       the entries
    log-draft     a log in the making, while nobody else writes
    log-copy      one that is made while others write on
    locks/        the named locks; and `.lock`, which who compacts holds

Whatever else lies there is somebody's, and is left alone; but no store is begun
in a directory that holds such things.
"""

from __future__ import annotations

import os

from sharedstate.backend import LockDirectory, make_directory, open_private, translate_os_error
from sharedstate.errors import CorruptError, UnavailableError
from sharedstate_file.log import Log

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

    from sharedstate.backend.locks import FileLock

__all__ = ["COMPACTION_LOCK", "Place", "StoreLocks", "read_text", "remove_file"]

COMPACTION_LOCK: Final = ""
_LOG: Final = "log-"
_TRIES: Final = 20

# flock there is the server's affair at best, and one host's mapping of the head
# does not follow another's.
_NETWORK: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gfs2", "glusterfs", "gpfs", "lustre"}
    | {"ncpfs", "nfs", "nfs4", "ocfs2", "smb3", "smbfs"}
)


class Place:
    """Where a store is.

    Attributes:
        url: of the store.
        path: of its directory.
        mode: permission bits of its files.
        timeout_s: how long a writer waits for its turn.
    """

    __slots__ = ("copy", "draft", "head", "lock", "locks", "mode", "path", "timeout_s", "url")

    def __init__(self, url: str, path: str, mode: int, timeout_s: float) -> None:
        self.url = url
        self.path = path
        self.mode = mode
        self.timeout_s = timeout_s
        self.lock = os.path.join(path, "lock")
        self.locks = os.path.join(path, "locks")
        self.head = os.path.join(path, "head")
        self.draft = os.path.join(path, "log-draft")
        self.copy = os.path.join(path, "log-copy")

    def log(self, number: int) -> str:
        """Return the path of log `number`."""
        return os.path.join(self.path, f"{_LOG}{number}")

    def open_log(self, number: int) -> Log:
        """Open log `number`; raises as `Log.open` does."""
        return Log.open(self.url, self.log(number), number)

    # --- What is there ------------------------------------------------------

    def names(self) -> list[str]:
        """Return what the directory holds."""
        try:
            return os.listdir(self.path)
        except OSError as error:
            raise translate_os_error(self.url, error) from error

    def log_numbers(self) -> list[int]:
        """Return the numbers of the logs that are there."""
        digits = [name.removeprefix(_LOG) for name in self.names() if name.startswith(_LOG)]
        return [int(number) for number in digits if number.isdecimal() and number.isascii()]

    def require_free(self, names: list[str]) -> None:
        """Refuse to make a store among somebody else's files."""
        foreign = sorted(set(names) - {"lock", "locks", "log-draft"})
        if foreign:
            raise CorruptError(
                url=self.url,
                reason=f"{self.path} holds {foreign[0]!r} and no store",
                advice="Name an empty directory, or one yet to be made.",
            )

    # --- Making and opening ---------------------------------------------------

    def make(self) -> None:
        """Make the directory, with its parents, unless it is there.

        Raises:
            StoreAccessError: it is not ours, or no directory.
            UnavailableError: it is on a network file system, or cannot be made.
        """
        self.refuse_network()
        # Whoever may read the files must be able to reach them.
        make_directory(self.url, self.path, 0o100 | self.mode | (self.mode & 0o444) >> 2)

    def refuse_network(self, mounts: str = "/proc/self/mountinfo") -> None:
        """Refuse a network file system, where neither flock nor a shared mapping can be relied on."""
        place: str = self.path
        while not os.path.exists(place) and place != "/":
            place = os.path.dirname(place)
        device = os.stat(place).st_dev
        if os.major(device):
            return  # a disk of this host; the others have no device number of their own
        wanted = f"{os.major(device)}:{os.minor(device)}"
        for line in read_text(mounts).splitlines():
            # 36 35 0:42 / /mnt rw - nfs4 server:/export rw
            mount, _, source = line.partition(" - ")
            kind = source.partition(" ")[0]
            if kind in _NETWORK and mount.split(" ")[2] == wanted:
                raise UnavailableError(
                    url=self.url,
                    reason=f"{place} is on a network file system ({kind})",
                    advice="Use a directory on a disk of this host, or a server (redis:) to share between hosts.",
                )

    def open_lock(self) -> int:
        """Open the writers' lock file; made only where there is no store yet.

        Raises:
            FileNotFoundError: the directory has gone meanwhile.
            CorruptError: the directory is somebody else's, or lost its lock file.
        """
        for _ in range(_TRIES):
            try:
                return open_private(self.url, self.lock, os.O_RDWR)
            except FileNotFoundError:
                names = os.listdir(self.path)
            if "lock" in names:
                continue  # somebody makes the store at this moment
            if "head" in names or any(name.startswith(_LOG) for name in names):
                if not os.path.exists(self.lock):
                    # A new one would not exclude those who still hold the old one.
                    raise CorruptError(
                        url=self.url,
                        reason=f"{self.lock} was removed, and writers may still hold it",
                        advice="End all programs that use the store, then make an empty file of that name.",
                    )
                continue
            self.require_free(names)
            return open_private(self.url, self.lock, os.O_RDWR | os.O_CREAT, self.mode)
        raise self.gone()

    def sync_directory(self) -> None:
        """Have the names in the directory survive a power loss."""
        for path in (self.path, os.path.dirname(self.path)):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def compactors_lock(self) -> FileLock:
        """Return the lock of who compacts: of a name that no caller's lock can have."""
        return StoreLocks(self).lock(COMPACTION_LOCK)

    def drop_copy_of_the_dead(self) -> None:
        """Remove what a killed compactor left."""
        if os.path.lexists(self.copy):
            lock = self.compactors_lock()
            if lock.try_acquire():
                remove_file(self.copy)
                lock.release()

    # --- Removing -------------------------------------------------------------

    def drop_logs(self, keep: int = 0) -> None:
        """Remove the draft and every log but `keep`; needs the writers' lock."""
        for path in (self.draft, *(self.log(number) for number in self.log_numbers() if number != keep)):
            remove_file(path)

    def gone(self) -> UnavailableError:
        """Return the error for a store that was removed."""
        advice = "Close this handle and open the store again, which makes a new one."
        return UnavailableError(url=self.url, reason=f"the store was removed from {self.path}", advice=advice)


class StoreLocks(LockDirectory):
    """The named locks; made in no directory but the store's own, so none appears in the place of a removed one."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.url, place.locks, place.mode)
        self._place = place

    def open(self, path: str) -> int:
        """Open a lock's file, made if there is none."""
        if not os.path.exists(self._place.lock):
            raise self._place.gone()
        return super().open(path)


def remove_file(path: str) -> None:
    """Remove a file that may have gone already."""
    try:  # noqa: SIM105  contextlib would cost each fresh interpreter its import
        os.unlink(path)
    except FileNotFoundError:
        pass


def read_text(path: str) -> str:
    """Return what a file of /proc says, "" if there is no such file here."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
