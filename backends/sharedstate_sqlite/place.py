"""Where the database lies: looked at, created and removed, always by path.

    L1  No function here opens a database file that somebody may be using:
        closing any descriptor of it drops SQLite's POSIX locks of the whole
        process.  lstat, link and unlink do not open.
    L2  A database has its name only once it is whole: it is built under another
        name and then linked.  So nobody sees a half-made one, and nobody
        switches to WAL while others open it, which fails with "locked" at once.
    L3  Creation and removal take the same lock, a file in `<database>.locks/`.

Crash: a creator killed at work leaves `<database>.creating`, which the next
creator removes; a remover leaves a database that is refused until `remove` is
called again; a repairer leaves the whole database as `<database>.repaired`:
beside the retired one, until it is called again, or alone, and then the next
opener gives it its name.
"""

from __future__ import annotations

import errno
import os
import stat

from sharedstate.backend import LockDirectory, PresenceFiles, make_directory, open_private, translate_os_error
from sharedstate.errors import CorruptError, LockLostError, StoreAccessError, UnavailableError
from sharedstate_sqlite import schema
from sharedstate_sqlite.faults import FAULTS, is_beyond_use, translate

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from sqlite3 import Connection
    from typing import Final, NoReturn

__all__ = [
    "CREATION_LOCK",
    "GATE",
    "begin",
    "create",
    "file_system_of",
    "finish_replacing",
    "identity_of",
    "look",
    "refuse_absent",
    "remove",
    "replace",
    "require_local",
]

CREATION_LOCK: Final = ""
"""A lock's name that no caller can have: keys are not empty."""

GATE: Final = "moving.gate"
"""The name of the file beside the locks by which a mover keeps them from being taken."""

SIDE_FILES: Final = ("-wal", "-shm", "-journal")

_NETWORK: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs"}
    | {"nfs4", "ocfs2", "orangefs", "pvfs2", "smb3", "smbfs", "vboxsf"}
    | {f"fuse.{kind}" for kind in ("ceph", "davfs2", "glusterfs", "juicefs", "rclone", "s3fs", "sshfs")}
)
_NO_HARD_LINKS: Final = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def look(url: str, path: str) -> os.stat_result | None:
    """Return what lies at `path`, None if nothing does; refuse what could have been planted.

    The files that SQLite keeps beside it are looked at too: a -wal that
    somebody else put there would be replayed into the database.

    Raises:
        StoreAccessError: a link, or another user's.
        UnavailableError: no regular file.
        CorruptError: an empty file; SQLite would take it for an empty database.
    """
    found = _lstat(url, path)
    if found is None:
        return None
    for side_file in SIDE_FILES:
        _refuse_second_name(url, path + side_file)  # SQLite would write what is not its own
    if found.st_size == 0:
        advice = "If it was never more than an empty file, remove it; the store is then created."
        raise CorruptError(url=url, reason=f"{path} is empty, which no store ever is", advice=advice)
    return found


def _refuse_second_name(url: str, path: str) -> None:
    found = _lstat(url, path)
    if found is not None and found.st_nlink > 1:
        reason = f"{path} has another name, a hard link"
        raise StoreAccessError(url=url, reason=reason, advice="It may have been planted: remove one of the two.")


def _lstat(url: str, path: str) -> os.stat_result | None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise translate_os_error(url, error) from error
    if stat.S_ISLNK(found.st_mode):
        advice = "Name the link's target, or remove the link."
        raise StoreAccessError(url=url, reason=f"{path} is a symbolic link", advice=advice)
    if not stat.S_ISREG(found.st_mode):
        kind = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise UnavailableError(url=url, reason=f"{path} is {kind}", advice="Name another path.")
    # As for every file of ours: root may open any, and root's own are trusted by all whom their mode lets in.
    uid = os.geteuid()
    if uid not in {0, found.st_uid} and found.st_uid != 0:
        advice = "It may have been planted: remove it, or run as its owner."
        reason = f"{path} belongs to uid {found.st_uid}, not to uid {uid}"
        raise StoreAccessError(url=url, reason=reason, advice=advice)
    return found


def identity_of(found: os.stat_result) -> tuple[int, int]:
    """Return what tells this file from another of the same path."""
    return found.st_dev, found.st_ino


# --- The file system ----------------------------------------------------------


def require_local(url: str, path: str) -> None:
    """Refuse a network file system: WAL needs shared memory between all who use the database.

    A file system that the kernel's table does not name, as a btrfs subvolume, is trusted.

    Raises:
        UnavailableError: it is one.
    """
    directory = os.path.dirname(path)
    while True:  # the nearest parent that is there; the others will be made in it
        try:
            device = os.stat(directory).st_dev
            break
        except FileNotFoundError:
            directory = os.path.dirname(directory)
        except OSError as error:
            raise translate_os_error(url, error) from error
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            mounts = file.read()
    except OSError:
        return
    kind = file_system_of(mounts, device)
    if kind in _NETWORK:
        raise UnavailableError(
            url=url,
            reason=f"{directory} is on a network file system ({kind}), where SQLite's write-ahead log does not work",
            advice="Name a path on a local disk, or use a server to share state between hosts.",
        )


def file_system_of(mounts: bytes, device: int) -> str:
    """Return the type of the file system on `device` from the text of proc(5)'s mountinfo, or ""."""
    number = f" {os.major(device)}:{os.minor(device)} ".encode()
    at = mounts.find(number)
    if at < 0:
        return ""
    line = mounts[at:].partition(b"\n")[0]
    return line.partition(b" - ")[2].partition(b" ")[0].decode(errors="replace")


# --- Creating and removing ----------------------------------------------------


def create(url: str, path: str, mode: int, timeout_s: float, connect: Callable[[str], Connection]) -> None:
    """Make a store at `path` unless somebody just did.

    Args:
        url: the store's, for errors.
        path: of the database.
        mode: permission bits, whatever the umask; the -wal and -shm get them from SQLite.
        timeout_s: how long to wait for another creator.
        connect: opens the database at a path.

    Raises:
        UnavailableError: it cannot be made there; says why.
    """
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        make_directory(url, directory)
    with LockDirectory(url, f"{path}.locks", mode).lock(CREATION_LOCK, timeout_s):
        if look(url, path) is not None:
            return
        # What a removal that was cut short left beside a database that has gone: SQLite would replay it.
        _unlink(url, *_with_side_files(path)[1:])
        if _lstat(url, repaired := f"{path}.repaired") is not None:
            _unlink(url, f"{path}.creating")  # its other name, where the repair was killed between two
            _refuse_second_name(url, repaired)
            _give_name(url, repaired, path)
            return
        unborn = begin(url, path, mode)
        connection = connect(unborn)
        try:
            schema.create(connection)
        finally:
            connection.close()
        _give_name(url, unborn, path)


def begin(url: str, path: str, mode: int) -> str:
    """Return the path of an empty file that is to become the database at `path`; needs the creation lock."""
    unborn = f"{path}.creating"
    _unlink(url, *_with_side_files(unborn))
    # Made by us and not by SQLite, whose files have the umask's mode.
    os.close(open_private(url, unborn, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode))
    return unborn


def replace(url: str, path: str, unborn: str, connection: Connection) -> bool:
    """Put the whole database `unborn` in the place of the one at `path`; `connection` holds the old one's write lock.

    Returns:
        Whether the old one could be retired, so that every handle that has it
        open fails at its next statement.  If not, the lock is still held: keep
        it until all have looked whether their file is still the store's.
    """
    give_like(url, unborn, path)
    _unlink(url, f"{path}.repaired")
    _give_name(url, unborn, f"{path}.repaired")
    is_retired = True
    try:
        schema.retire(url, connection)
        connection.execute("COMMIT")
    except FAULTS as error:
        if not is_beyond_use(error):
            raise translate(url, error, is_writing=True) from error
        is_retired = False
    finish_replacing(url, path)
    return is_retired


def finish_replacing(url: str, path: str) -> None:
    """Give the whole database the name of the retired one; needs the creation lock."""
    _unlink(url, *_with_side_files(path))  # the database first: nobody opens the new one with the old one's log
    _give_name(url, f"{path}.repaired", path)


def give_like(url: str, made: str, like: str) -> None:
    """Let root give a file that it `made` to the owner and group of the database, which need not be the directory's."""
    if os.geteuid() != 0:
        return
    try:
        found = os.stat(like)
        os.chown(made, found.st_uid, found.st_gid)
    except OSError as error:
        raise translate_os_error(url, error) from error


def _give_name(url: str, unborn: str, path: str) -> None:
    try:
        _link(unborn, path)
        _flush_directory(os.path.dirname(path))
    except OSError as error:
        raise translate_os_error(url, error) from error
    _unlink(url, unborn)


def remove(url: str, path: str, timeout_s: float, connect: Callable[[str], Connection]) -> None:
    """Remove the store at `path` and its locks.

    Its table is renamed before its files go, so every handle that still has
    them open fails at its next statement instead of writing to a ghost.

    Raises:
        UnavailableError: there is none, or one of another version.
        CorruptError: it is no store; it is left as found.  A store that is
            damaged is removed.
    """
    found = look(url, path)
    if found is None:
        refuse_absent(url)
    locks = LockDirectory(url, f"{path}.locks", stat.S_IMODE(found.st_mode))
    lock = locks.lock(CREATION_LOCK, timeout_s)
    lock.acquire()
    try:
        if look(url, path) is not None:
            connection = connect(path)
            try:
                schema.retire(url, connection)
            except FAULTS as error:
                if not is_beyond_use(error):
                    raise translate(url, error, is_writing=True) from error
            finally:
                connection.close()
            _unlink(url, f"{path}.repaired", *_with_side_files(path))
        names = [name for name in os.listdir(locks.path) if name.endswith((".lock", GATE, *PresenceFiles.ENDINGS))]
        _unlink(url, *(os.path.join(locks.path, name) for name in names))
    finally:
        try:  # noqa: SIM105  contextlib would cost each fresh interpreter its import
            lock.release()
        except LockLostError:
            pass  # its file is among those removed; whoever waits for it makes a new one
    try:  # noqa: SIM105  as above
        os.rmdir(locks.path)
    except OSError:
        pass  # a new store's already, or holds what is not ours


def refuse_absent(url: str) -> NoReturn:
    """Raise the error that says that there is no store."""
    raise UnavailableError(url=url, reason="there is no such store", advice="Look for another path.")


def _unlink(url: str, *paths: str) -> None:
    for path in paths:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise translate_os_error(url, error) from error


def _with_side_files(path: str) -> tuple[str, ...]:
    return path, *(path + side_file for side_file in SIDE_FILES)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)  # and not rename, which would replace what another program put there just now
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        os.rename(source, target)


def _flush_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
