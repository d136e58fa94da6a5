"""The codec, and what only C can know about fork.

Loads in any number of interpreters at once, each with its own GIL.  Use
`sharedstate.values` and not this module to encode: it also works where no C
module is built.
"""

from collections.abc import Callable
from typing import Any, final

from sharedstate.values import Value

@final
class Counts:
    """How often a handle was asked; counted in memory of its own, or in a page that others can look at.

    A forked child counts from zero, in memory of its own.
    """

    is_attached: bool
    """Whether it counts in a page."""
    capsule: object
    """What modules in C count by; good as long as this object lives."""

    def hit(self, key: str, /) -> None:
        """Count a question for an entry that was there."""

    def miss(self, key: str, /) -> None:
        """Count a question for an entry that was not there."""

    def wrote(self, key: str, /) -> None:
        """Count a change of an entry."""

    def wrote_many(self, number: int, /) -> None:
        """Count changes of entries."""

    def own(self) -> tuple[int, int, int]:
        """Return hits, misses and writes that no page has."""

    def attach(self, fd: int, offset: int, /) -> None:
        """Count in the page at `offset` of a file, what was counted before too; it stays mapped.

        Raises:
            OSError: it cannot be mapped; nothing has changed.
        """

    def detach(self) -> None:
        """Count in memory of its own again."""

@final
class Guard:
    """Calls `target` with whatever it is called with, without a frame of its own.

    Where that raises `moved`, the exception goes to `follow`, which returns what
    is to be called in its place: with the same arguments, now and from then on.
    """

    __wrapped__: Callable[..., Any]
    """What is called now."""

    def __new__(
        cls, target: Callable[..., Any], follow: Callable[[Any], Callable[..., Any]], moved: type[BaseException], /
    ) -> Guard: ...
    def __call__(self, *arguments: Any, **options: Any) -> Any: ...

def encode(value: Value, /) -> bytes:
    """Return `value` as msgpack bytes, in the shortest forms.

    Raises:
        ValueTypeError: `value` is outside the value model; the error's `path`
            names the element at fault.
    """

def decode(encoded: bytes | bytearray | memoryview, /) -> Value:
    """Return the value that `encode` made these bytes of; what is not `bytes` is copied first.

    Raises:
        CorruptError: the bytes are not exactly one value of the value model;
            `reason` names the offset.  Its url is "encoded value": a caller
            that knows where the bytes lay raises it anew with that.
        TypeError: `encoded` is not bytes-like.
    """

def check_key(key: str, /) -> None:
    """Return if `key` can name an entry: a str of 1 to 512 bytes of UTF-8.

    Raises:
        KeyFormatError: it cannot.
    """

def fork_epoch() -> int:
    """Return how many forks lie between the first process that loaded this module and this one.

    Counted by a pthread_atfork handler, before any Python code of the child
    runs and also where no at-fork hook of Python does (uWSGI).  One number for
    all interpreters of the process.
    """

def forks_made() -> int:
    """Return a number that grows whenever this process begins to fork.

    If it is equal before opening a descriptor and after `close_on_fork`, no
    child has inherited the descriptor in between.  If not, close it before
    locking, and open it anew.
    """

def close_on_fork(fd: int, /) -> None:
    """Have every forked child close `fd` before it runs; once is enough, twice is the same.

    For descriptors of lock files: a flock belongs to the open file
    description, which a child shares for as long as it has `fd` open, so it
    would keep the lock of a parent that has died.  The child's registry starts
    empty, and a holder that sees a new `fork_epoch` must forget `fd`, whose
    number may be another file's by then.

    Raises:
        OSError: `fd` is not open, or 65,536 are registered already (EMFILE).
        ValueError: `fd` is negative or no C int.
    """

def blank_on_fork(fd: int, /) -> None:
    """Have every forked child find an unconnected socket in place of `fd`, which it closes as if it were its own.

    For what Python closes by itself, as a socket that the garbage collector
    finds in a cycle: after `close_on_fork` the child would close whatever has
    the number by then.  Of this and `close_on_fork` the later call counts.

    Raises:
        OSError, ValueError: as `close_on_fork`.
    """

def keep_on_fork(fd: int, /) -> None:
    """Undo `close_on_fork(fd)` or `blank_on_fork(fd)`, if that was called.

    Call it after unlocking and before closing `fd`: after the close the number
    may be another file's, which a child would then lose.
    """

def has_name(fd: int, /) -> bool:
    """Return whether the file that `fd` is open on still has a name: it was not removed, nor replaced.

    Raises:
        OSError: `fd` is not open.
        ValueError: `fd` is negative or no C int.
    """

def bell_announce(bell: memoryview, /) -> int:
    """Say that somebody waits on `bell`, eight aligned bytes of a shared mapping; return how often it was rung.

    Look after that whether there is still something to wait for.

    Raises:
        ValueError: it is shorter, or not aligned.
        BufferError: it cannot be written.
    """

def bell_sleep(bell: memoryview, rung: int, timeout_s: float, /) -> None:
    """Sleep in the kernel until `bell` has been rung other than `rung` times, or `timeout_s` have passed.

    May return early, a signal handler having run.  The GIL is free meanwhile.

    Raises:
        OSError: the memory is of a kind that the kernel cannot wait on.
        BaseException: what a signal handler raised.
    """

def bell_ring(bell: memoryview, /) -> None:
    """Wake all who sleep on `bell`, in whatever process; call it after what they wait for has come to be."""

def boot_ns() -> int:
    """Return nanoseconds since the host booted, time asleep included (CLOCK_BOOTTIME).

    One clock for all processes of the host; no one can set it.
    """
