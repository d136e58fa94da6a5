"""What a repair tells, and the copy that it keeps first.

A plug-in that can mend a damaged store has a function `repair` (see `plugin`).
It guesses at nothing: what is not certain is dropped, said to be, and still in
the copy.
"""

from __future__ import annotations

import os
import stat
import time
from typing import Final, NamedTuple, NoReturn

from sharedstate.backend.files import hand_over, open_private, sync_names, translate_os_error
from sharedstate.errors import UnavailableError

__all__ = ["Repair", "copy_file", "copy_name", "make_copy_directory", "sync_copies"]

_BLOCK_BYTES: Final = 2**18
_ZEROS: Final = bytes(_BLOCK_BYTES)


class Repair(NamedTuple):
    """What `repair` did.

    Attributes:
        copy: the path of the copy of what was damaged; "" if nothing was, and nothing was changed.
        kept: how many entries are in the store now.
        dropped: how many entries, or changes of entries, are known to be lost.
        keys: of those, as far as they could be read.
        notes: what else is to be said, a sentence each.
    """

    copy: str
    kept: int
    dropped: int = 0
    keys: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def copy_name(path: str) -> str:
    """Return a free name beside `path` for its copy."""
    return f"{path}.damaged-{time.strftime('%Y%m%dT%H%M%S')}-{os.urandom(3).hex()}"


def make_copy_directory(url: str, path: str, like: str) -> None:
    """Make `path`, which must be free, a directory for copies that only the owner of `like` may enter.

    Raises:
        UnavailableError: there is something, or it cannot be made.
    """
    try:
        os.mkdir(path, 0o700)
        hand_over(path, like)
    except FileExistsError:
        _refuse_taken(url, path)
    except OSError as error:
        raise translate_os_error(url, error) from error


def sync_copies(path: str) -> None:
    """Have the names in a directory of copies, and its own, survive a power loss."""
    sync_names(path)
    sync_names(os.path.dirname(os.path.abspath(path)))


def copy_file(url: str, source: str, target: str) -> None:
    """Copy a file of a store to `target`, which must be free, durably and with no more rights than it had.

    Raises:
        UnavailableError: it cannot be done; a half-made copy is gone.
        CapacityError: there is no room for it.
    """
    fd = open_private(url, source, os.O_RDONLY)
    try:
        found = os.fstat(fd)
        try:
            new = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            _refuse_taken(url, target)
        try:
            os.fchmod(new, stat.S_IMODE(found.st_mode) & 0o660)
            hand_over(new, source)
            while block := os.read(fd, _BLOCK_BYTES):
                if block == _ZEROS[: len(block)]:
                    os.lseek(new, len(block), os.SEEK_CUR)  # a hole stays one, where the source may be full of them
                    continue
                view = memoryview(block)
                while view:
                    view = view[os.write(new, view) :]
            os.ftruncate(new, os.lseek(new, 0, os.SEEK_CUR))
            os.fsync(new)
        except BaseException:
            os.unlink(target)
            raise
        finally:
            os.close(new)
    except OSError as error:
        if isinstance(error, UnavailableError):
            raise
        raise translate_os_error(url, error) from error
    finally:
        os.close(fd)


def _refuse_taken(url: str, path: str) -> NoReturn:
    raise UnavailableError(url=url, reason=f"{path} is taken, and a copy replaces nothing", advice="Name another path.")
