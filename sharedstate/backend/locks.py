"""Named locks: what every backend's lock promises, and the one that lives in a file.

    L1  At most one thread within the backend's scope holds a lock.
    L2  Only the thread that acquired it may release it, once.  It is not
        re-entrant: a second acquire by the holder raises instead of waiting for ever.
    L3  It is freed by `release`, by the end of its `Lock` object, and by the
        death of its process at the latest: by the kernel, never by a timeout.
    L4  Each acquisition's fencing token is greater than every earlier one's.
    L5  A forked child never holds, frees or keeps alive its parent's lock.
    L6  Who takes a lock looks at the directory's gate once the lock's record says
        so, and who closes the gate looks at the records thereafter: one of the two
        sees the other, so behind a closed gate no lock is taken unseen.

`FileLock` is a flock on a file per name.  flock excludes threads and
interpreters too, since each acquisition opens its own description; POSIX record
locks (lockf) would exclude neither.  Any tool that flocks the file, portalocker
among them, takes part.  Lock files are never removed while their store exists:
two waiters could then hold "the" lock on two inodes.
"""

from __future__ import annotations

import os
import time
from _thread import TIMEOUT_MAX, RLock
from _thread import _local as thread_local  # pyright: ignore[reportPrivateUsage]  threading is not imported here
from abc import ABC, abstractmethod
from errno import ENOSPC
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock

from sharedstate.backend.files import (
    hand_over,
    has_name,
    has_own_directory,
    make_directory,
    open_private,
    translate_os_error,
)
from sharedstate.backend.forks import fork_epoch, keep_on_fork, open_unshared
from sharedstate.backend.waiting import Backoff, Deadline
from sharedstate.errors import (
    CorruptError,
    LockLostError,
    LockOwnershipError,
    LockTimeoutError,
    StateError,
    UnavailableError,
)
from sharedstate.events import tell
from sharedstate.model import MISSING, LockRecord, Missing, Owner

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Final, Self

__all__ = ["FileLock", "Gate", "Lock", "LockDirectory"]


class Lock(ABC):
    """A named lock, held by one thread at a time.

    One object may serve many threads; each object, and each thread, competes
    with all others of the same name within the backend's scope.

    Attributes:
        name: within its store.
        url: of its store.
        timeout_s: how long `with lock:` and `acquire()` wait; None: for ever.
    """

    def __init__(self, url: str, name: str, timeout_s: float | None = None) -> None:
        self.url = url
        self.name = name
        self.timeout_s = timeout_s
        # Held by the thread that holds, or waits first for, the lock.  Re-entrant
        # only because such a lock knows whether it is ours to release.
        self._turn = RLock()
        self._holder: object = None  # guarded by _turn; what `_this_thread` says in the holding thread
        self._token = 0  # guarded by _turn
        self._epoch = fork_epoch()

    # --- What a backend supplies --------------------------------------------

    @abstractmethod
    def _seize(self, deadline: Deadline) -> int:
        """Take the lock and return its fencing token, or raise `LockTimeoutError`."""

    @abstractmethod
    def _free(self) -> None:
        """Give the lock back; called by the holder only."""

    @abstractmethod
    def _forget(self) -> None:
        """Drop, in a forked child, what was inherited; must not free the parent's lock."""

    def _loss(self) -> str | None:
        """Return why the lock that we believe to hold is lost, or None."""
        return None

    # --- What callers use ---------------------------------------------------

    def acquire(self, timeout_s: float | Missing | None = MISSING) -> int:
        """Wait for the lock and return its fencing token.

        Args:
            timeout_s: 0 tries once; None waits for ever; by default the lock's own.

        Raises:
            LockTimeoutError: somebody else held it all the time.
            LockOwnershipError: this thread holds it already.
        """
        self._enter_child()
        me = _this_thread()
        if self._holder is me:
            raise LockOwnershipError(name=self.name, reason="this thread holds it already; it is not re-entrant")
        deadline = Deadline(self.timeout_s if timeout_s is MISSING else timeout_s)
        # An exception out of a signal handler may come at any call here: it
        # leaves the lock either held, and known to be, or free.
        try:
            self._take_turn(deadline)
            self._token = self._seize(deadline)
            self._holder = me
        except BaseException:
            try:  # noqa: SIM105  contextlib would cost each fresh interpreter its import
                self._turn.release()
            except RuntimeError:
                pass  # it was never ours
            raise
        return self._token

    def try_acquire(self) -> bool:
        """Take the lock if it is free; return whether it is now held."""
        try:
            self.acquire(0)
        except LockTimeoutError:
            return False
        return True

    def release(self) -> None:
        """Give the lock back.

        Raises:
            LockOwnershipError: this thread does not hold it; nothing happened.
            LockLostError: it was lost before; it is not held any more.
        """
        self._require_holder()
        loss = self._loss()
        self._holder = None
        try:
            self._free()
        finally:
            self._turn.release()  # not by a function of Python: on the way into it an exception would skip it
        if loss is not None:
            tell("lock.lost", store=self.url, lock=self.name, reason=loss)
            raise LockLostError(name=self.name, reason=loss)

    @property
    def token(self) -> int:
        """The fencing token of the acquisition that this thread holds.

        Send it with each write to what the lock guards, and refuse writes whose
        token is less than the greatest seen: so a holder that was stopped, and
        woke up after the lock went on, does no harm.

        Raises:
            LockOwnershipError: this thread does not hold the lock.
            LockLostError: it did, and it is lost.
        """
        self._require_holder()
        loss = self._loss()
        if loss is not None:
            raise LockLostError(name=self.name, reason=loss)
        return self._token

    def is_held(self) -> bool:
        """Return whether the calling thread holds the lock through this object."""
        return self._epoch == fork_epoch() and self._holder is _this_thread()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} of {self.url}{', held' if self._holder is not None else ''}>"

    # --- Threads and forks --------------------------------------------------

    def _take_turn(self, deadline: Deadline) -> None:
        if not self._turn.acquire(timeout=deadline.remaining_s(TIMEOUT_MAX)):
            raise deadline.timed_out(self.url, f"lock {self.name!r}", "another thread through the same Lock object")

    def _require_holder(self) -> None:
        if self._epoch != fork_epoch():
            held = self._holder is _this_thread()
            self._enter_child()
            if held:
                raise LockLostError(name=self.name, reason="it belongs to the parent of this forked process")
        if self._holder is None:
            raise LockOwnershipError(name=self.name, reason="nobody holds it through this object")
        if self._holder is not _this_thread():
            raise LockOwnershipError(name=self.name, reason="another thread holds it")

    def _enter_child(self) -> None:
        if self._epoch != fork_epoch():
            self._turn = RLock()  # the old one may be held by a thread that is not here
            self._holder = None
            self._forget()
            self._epoch = fork_epoch()


_threads = thread_local()


def _this_thread() -> object:
    """Return what no other thread is told, ever: the idents of the dead are given to new ones."""
    try:
        return _threads.identity
    except AttributeError:
        _threads.identity = identity = object()
        return identity


_HELD: Final = "+"
_FREE: Final = "-"
_RECORD_BYTES: Final = 4096
_LONGEST_FILE_NAME: Final = 200
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


class Gate(ABC):
    """What may keep all locks of a directory from being taken for a while (L6)."""

    @abstractmethod
    def is_open(self) -> bool:
        """Return whether a lock may be taken now.

        Raises:
            MovedError: never again: the store and its locks are elsewhere.
        """

    def wait(self, deadline: Deadline, url: str, what: str) -> None:
        """Return once `what` may be taken."""
        backoff = Backoff()
        while not self.is_open():
            if deadline.has_passed():
                raise deadline.timed_out(url, what, "who moves the store")
            backoff.sleep(deadline)


class LockDirectory:
    """The lock files of one store.

    A lock's file holds one line: its state (`+` held, `-` free), fencing token,
    time, owner (boot id, pid, start, interpreter, thread, token) and name, the
    latter with "=" and newline written as =3d and =0a.
    """

    gate: Gate | None = None
    """What may keep them from being taken for a while, if anything does."""

    def __init__(self, url: str, path: str, mode: int = 0o600, beside: str = "") -> None:
        self.url = url
        self.path = path
        self.mode = mode
        self._beside = beside  # the store's own file: whose it is, his are its locks, also if root makes them

    def lock(self, name: str, timeout_s: float | None = None) -> FileLock:
        """Return the lock of this name, not yet acquired."""
        return FileLock(self, name, timeout_s)

    def file_of(self, name: str) -> str:
        """Return the path of a lock's file: its name, with what is not plain as =hex."""
        quoted = "".join(chr(byte) if chr(byte) in _PLAIN else f"={byte:02x}" for byte in name.encode())
        if len(quoted) > _LONGEST_FILE_NAME:
            from hashlib import blake2b  # only here: importing it crashes CPython 3.12.1's isolated interpreters

            quoted = f"{quoted[:100]}={blake2b(name.encode(), digest_size=16).hexdigest()}"
        return os.path.join(self.path, quoted + ".lock")

    def open(self, path: str) -> int:
        """Open a lock's file, made if there is none.

        Raises:
            StoreAccessError: the directory belongs to another user, who could remove what we hold.
            UnavailableError: the store was removed.
        """
        if self.is_there():
            try:
                return open_private(self.url, path, os.O_RDWR | os.O_CREAT, self.mode)
            except FileNotFoundError:
                pass  # removed in between
        if self._beside and not os.path.lexists(self._beside):
            # Who still has it open, or is its forked child, must leave nothing in the place of a removed store.
            raise UnavailableError(url=self.url, reason="the store was removed", advice="Open it anew.")
        # Whoever may read the files must be able to reach them.
        make_directory(self.url, self.path, self.mode | (self.mode & 0o444) >> 2)
        if self._beside:
            hand_over(self.path, self._beside)
        return open_private(self.url, path, os.O_RDWR | os.O_CREAT, self.mode)

    def is_there(self) -> bool:
        """Return whether the directory is there; refuse one that another user could have planted."""
        return has_own_directory(self.url, self.path, self._beside)

    def remove(self) -> None:
        """Remove the directory of locks and sharers, as part of removing the store.  Holders' locks are lost."""
        try:
            for name in os.listdir(self.path):
                os.unlink(os.path.join(self.path, name))
            os.rmdir(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise translate_os_error(self.url, error) from error

    def records(self) -> list[LockRecord]:
        """Return what each lock says of itself."""
        try:
            names = sorted(os.listdir(self.path)) if self.is_there() else []
        except FileNotFoundError:
            return []
        except OSError as error:
            if isinstance(error, StateError):
                raise
            raise translate_os_error(self.url, error) from error
        found = [self._record(os.path.join(self.path, name)) for name in names if name.endswith(".lock")]
        return [record for record in found if record is not None]

    def _record(self, path: str) -> LockRecord | None:
        try:
            fd = open_unshared(lambda: open_private(self.url, path, os.O_RDONLY))
        except FileNotFoundError:
            return None
        try:
            record = self.parse(os.pread(fd, _RECORD_BYTES, 0), path)
            if record is None or not record.held:
                return record
            # It says "held": true unless its owner died.  Only then does this
            # probe get the lock, for a moment.
            try:
                flock(fd, LOCK_SH | LOCK_NB)
            except BlockingIOError:
                return record
            flock(fd, LOCK_UN)  # before a fork at the lines below could inherit it
            return record._replace(held=False)
        finally:
            keep_on_fork(fd)
            os.close(fd)

    def parse(self, line: bytes, path: str) -> LockRecord | None:
        """Return the record in a lock's file, None if it was never acquired.

        Raises:
            CorruptError: these bytes are not ours.
        """
        if not line.strip(b"\0"):  # zeros are what a power loss may leave of the first record
            return None
        try:
            text = line.decode().rstrip("\n")
            state, token, at, boot, pid, started, interpreter, thread, nonce, name = text.split(" ", 9)
            owner = Owner(boot, int(pid), int(started), int(interpreter), int(thread), nonce)
            is_held = {_HELD: True, _FREE: False}[state]
            name = name.replace("=0a", "\n").replace("=3d", "=")
            return LockRecord(name, is_held, int(token), owner, int(at) / 1e6)
        except (KeyError, ValueError) as error:
            advice = "If no program uses that file as its own, remove it while nobody holds the lock."
            raise CorruptError(url=self.url, reason=f"{path} holds no lock record", advice=advice) from error


class FileLock(Lock):
    """A lock by flock(2) on a file of its own.

    It can be lost in one way: somebody removes the file.  `token` and `release`
    then raise `LockLostError`.
    """

    _fd = -1  # open while held; the class's, for __del__: an exception may come as __init__ begins

    def __init__(self, directory: LockDirectory, name: str, timeout_s: float | None = None) -> None:
        super().__init__(directory.url, name, timeout_s)
        self._directory = directory
        self._path = directory.file_of(name)

    @property
    def path(self) -> str:
        """The lock's file, for tools that flock it themselves; it is there once the lock was acquired."""
        return self._path

    def _seize(self, deadline: Deadline) -> int:
        if self._fd >= 0 and self._holder is None:
            self._free()  # an exception out of a signal handler ended the release before
        gate = self._directory.gate
        while True:
            fd = open_unshared(lambda: self._directory.open(self._path))
            is_kept_out = False
            try:
                self._wait(fd, deadline)
                if has_name(fd):
                    token = self._sign(fd)
                    if gate is None or gate.is_open():
                        self._fd = fd
                        return token
                    os.pwrite(fd, _FREE.encode(), 0)
                    is_kept_out = True
            except BaseException:
                flock(fd, LOCK_UN)  # before a fork at the lines below could inherit it
                self._close(fd)
                raise
            # Else its file was removed while we waited: the lock is another file now.
            flock(fd, LOCK_UN)  # as above
            self._close(fd)
            if gate is not None and is_kept_out:
                gate.wait(deadline, self.url, f"lock {self.name!r}")

    def _wait(self, fd: int, deadline: Deadline) -> None:
        if deadline.timeout_s is None:
            flock(fd, LOCK_EX)  # waits in the kernel, in turn; signals are handled meanwhile
            return
        backoff = Backoff()
        while True:
            try:
                flock(fd, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                if deadline.has_passed():
                    raise deadline.timed_out(self.url, f"lock {self.name!r}", self._describe_holder(fd)) from None
                backoff.sleep(deadline)
            else:
                return

    def _sign(self, fd: int) -> int:
        last = self._directory.parse(os.pread(fd, _RECORD_BYTES, 0), self._path)
        now_us = time.time_ns() // 1000
        # The clock carries the token over the loss of the record, the record
        # over a step of the clock.
        token = max(last.token + 1 if last else 1, now_us)
        owner = Owner.current()
        name = self.name.replace("=", "=3d").replace("\n", "=0a")  # a newline ends the record
        line = " ".join((_HELD, str(token), str(now_us), *map(str, owner), name)).encode() + b"\n"
        try:
            # Longer first, so that no reader sees the new line with the old one's tail.
            written = os.pwrite(fd, line.ljust(os.fstat(fd).st_size, b"\n"), 0)
            if written < len(line):
                os.ftruncate(fd, 0)  # a part of a record would pass for foreign bytes
        except OSError as error:
            raise translate_os_error(self.url, error) from error
        if written < len(line):
            raise translate_os_error(self.url, OSError(ENOSPC, os.strerror(ENOSPC), self._path))
        return token

    def _describe_holder(self, fd: int) -> str:
        record = self._directory.parse(os.pread(fd, _RECORD_BYTES, 0), self._path)
        return str(record.owner) if record else ""

    def _free(self) -> None:
        fd, self._fd = self._fd, -1
        try:
            os.pwrite(fd, _FREE.encode(), 0)
        finally:
            flock(fd, LOCK_UN)
            self._close(fd)

    def _close(self, fd: int) -> None:
        keep_on_fork(fd)
        os.close(fd)

    def _forget(self) -> None:
        self._fd = -1  # closed by close_on_fork

    def _loss(self) -> str | None:
        return None if has_name(self._fd) else f"its file {self._path} was removed"

    def __del__(self) -> None:
        if self._fd >= 0 and self._epoch == fork_epoch():
            self._free()
