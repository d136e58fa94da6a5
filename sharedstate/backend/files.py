"""Opening what may be hostile: paths that another user could have planted.

Every file-like backend makes its files 0600 and its directories 0700 (or the
mode that its URL asks for), follows no symbolic link in the last component, and
refuses what belongs to somebody else.  root may open any user's store, and what
it makes inside one belongs to that user: a look by an administrator must not
lock the workers out.  A store of root's is refused to everyone else by the
kernel.
"""

from __future__ import annotations

import errno
import os
import stat

from sharedstate.errors import CapacityError, StateError, StoreAccessError, UnavailableError

__all__ = [
    "advise_on_denial",
    "hand_over",
    "has_name",
    "has_own_directory",
    "make_directory",
    "open_private",
    "sync_names",
    "translate_os_error",
]

try:
    from sharedstate._native import has_name
except ImportError:

    def has_name(fd: int, /) -> bool:
        """Return whether the file that `fd` is open on still has a name."""
        return os.fstat(fd).st_nlink > 0


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


def translate_os_error(url: str, error: OSError) -> StateError:
    """Return the error of ours that tells what the kernel's `error` means for the caller."""
    where = f"{error.filename}: " if error.filename else ""
    reason = f"{where}{error.strerror or error}"
    if error.errno in _FULL:
        return CapacityError(url=url, reason=reason, advice="Free space there, or use a store elsewhere.")
    if error.errno == errno.ELOOP:
        advice = "A symbolic link stands where a store should be; name its target, or remove the link."
        return StoreAccessError(url=url, reason=reason, advice=advice)
    if error.errno in _DENIED:
        return StoreAccessError(url=url, reason=reason, advice=advise_on_denial(url, error.filename))
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return UnavailableError(url=url, reason=reason, advice="Raise the limit of open files (ulimit -n).")
    if error.errno == errno.EISDIR:
        advice = "A directory stands where a file should be; name another."
        return UnavailableError(url=url, reason=reason, advice=advice)
    if error.errno == errno.ENOTDIR:
        advice = "A file stands where a directory should be; name another."
        return UnavailableError(url=url, reason=reason, advice=advice)
    return UnavailableError(url=url, reason=reason, advice="Mend that and try again.")


def advise_on_denial(url: str, path: str | None, otherwise: str = "") -> str:
    """Return what to do where the kernel refuses `path` to us: `otherwise`, unless root was there first."""
    uid = os.geteuid()
    if path and uid != 0 and _owner_of(path) == 0:
        return (
            f"root made it first. As root: `sharedstate remove '{url}'` if nothing in it is needed, else give it away "
            f"with `chown -R {uid}` on it and what lies beside it; then let uid {uid} open it first."
        )
    return otherwise or f"Make it readable and writable for uid {uid}, or name another place."


def _owner_of(path: str) -> int | None:
    while path not in {"", "/"}:
        try:
            return os.lstat(path).st_uid
        except PermissionError:
            path = os.path.dirname(path)  # it lies in a directory that keeps us out: whose?
        except OSError:
            return None
    return None


def make_directory(url: str, path: str, mode: int = 0o700) -> None:
    """Make `path` a directory of ours, with its missing parents; those that are made survive a power loss.

    Raises:
        StoreAccessError: it is a link, or belongs to another user.
        UnavailableError: it cannot be made.
    """
    try:
        parent = os.path.dirname(path)
        holders: list[str] = []  # of names that are to be made
        nearest = parent
        while nearest and not os.path.isdir(nearest):
            nearest = os.path.dirname(nearest)
            holders.append(nearest or ".")
        if holders:
            os.makedirs(parent, 0o700, exist_ok=True)
            for holder in holders:
                sync_names(holder)
        try:
            os.mkdir(path, mode)
        except FileExistsError:
            pass
        else:
            os.chmod(path, mode)  # whatever the umask
            hand_over(path, parent or ".")
            sync_names(parent or ".")
        found = os.lstat(path)
    except OSError as error:
        raise translate_os_error(url, error) from error
    _check_directory(url, path, found)


def has_own_directory(url: str, path: str, beside: str = "") -> bool:
    """Return whether there is a directory at `path`; refuse one that another user could have planted.

    Args:
        url: the store's, for errors.
        path: of the directory.
        beside: a file of the store; root trusts the directory of its owner, and nobody else's.

    Raises:
        StoreAccessError: it is no directory, or belongs to another user.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise translate_os_error(url, error) from error
    try:
        owners = {0, found.st_uid if not beside or os.geteuid() != 0 else os.stat(beside).st_uid}
    except FileNotFoundError:
        owners = {0, found.st_uid}  # the store has gone; whoever opens it says so
    except OSError as error:
        raise translate_os_error(url, error) from error
    _check_directory(url, path, found)
    if found.st_uid not in owners:
        raise StoreAccessError(
            url=url,
            reason=f"{path} belongs to uid {found.st_uid}, the store to another",
            advice="It may have been planted: remove it.",
        )
    return True


def _check_directory(url: str, path: str, found: os.stat_result) -> None:
    if not stat.S_ISDIR(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "no directory"
        raise StoreAccessError(url=url, reason=f"{path} is {kind}", advice="Name a directory, or one yet to be made.")
    _check_owner(url, path, found)


def sync_names(directory: str) -> None:
    """Have the names in a directory survive a power loss: a store in it, synced or not, is lost with the name."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return  # ours to write to and not to read: nobody but its owner can sync it
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # of file systems that sync no directories
            raise
    finally:
        os.close(fd)


def open_private(url: str, path: str, flags: int, mode: int = 0o600) -> int:
    """Open `path` and return the descriptor: a regular file of ours, no link of either kind, closed on exec.

    Args:
        url: the store's, for errors.
        path: of the file; its directory exists.
        flags: as for os.open; with O_CREAT the new file gets `mode` whatever the umask,
            and with O_EXCL there must be none.
        mode: permission bits of a file made here.

    Raises:
        FileNotFoundError: without O_CREAT, and there is none.
        StoreAccessError: it is not ours, or not ours to open.
        UnavailableError: it is no regular file, or cannot be opened.
    """
    guarded = flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO must not block us
    try:
        # Open first what is there: fs.protected_regular refuses O_CREAT on a
        # foreign file in a sticky directory, even to root.
        try:
            fd = _create(path, guarded, mode) if flags & os.O_EXCL else os.open(path, guarded & ~os.O_CREAT)
        except FileNotFoundError:
            if not flags & os.O_CREAT or flags & os.O_EXCL:
                raise
            fd = _create(path, guarded, mode)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise translate_os_error(url, error) from error
    try:
        found = os.fstat(fd)
        _check_regular(url, path, found)
        _check_owner(url, path, found)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _create(path: str, flags: int, mode: int) -> int:
    try:
        fd = os.open(path, flags | os.O_EXCL, mode)
    except FileExistsError:
        if flags & os.O_EXCL:
            raise
        return os.open(path, flags & ~os.O_CREAT)
    os.fchmod(fd, mode)
    hand_over(fd, os.path.dirname(path) or ".")
    return fd


def hand_over(made: str | int, like: str) -> None:
    """Give what root has `made` to the user to whom `like`, a store's file or directory, belongs."""
    if os.geteuid() != 0:
        return
    home = os.stat(like)
    if home.st_uid != 0:
        os.chown(made, home.st_uid, home.st_gid)


def _check_regular(url: str, path: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UnavailableError(url=url, reason=f"{path} is no regular file", advice="Name another path.")
    if found.st_nlink > 1:  # what is written here would be written there
        raise StoreAccessError(
            url=url,
            reason=f"{path} has another name, a hard link",
            advice="It may have been planted: remove one of the two.",
        )


def _check_owner(url: str, path: str, found: os.stat_result) -> None:
    # root's own files are trusted by all whom their mode lets in: a master that
    # starts as root may make the store for its workers.
    if os.geteuid() not in {0, found.st_uid} and found.st_uid != 0:
        raise StoreAccessError(
            url=url,
            reason=f"{path} belongs to uid {found.st_uid}, not to uid {os.geteuid()}",
            advice="It may have been planted: remove it, or run as its owner.",
        )
