"""The kernel's walls: mounts, namespaces, limits and filters, for a forked child that ends with them."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hardship.children import in_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "CLONE_NEWNS",
    "CLONE_NEWPID",
    "CLONE_NEWTIME",
    "PAGE",
    "fake_reservations",
    "fill_to",
    "in_pid_namespace",
    "in_time_namespace",
    "limit",
    "mount_small",
    "next_pid",
    "open_fds",
    "raw_fork",
    "resize",
    "stop",
    "unshare",
]

PAGE = 4096
CLONE_NEWTIME = 0x80
CLONE_NEWNS = 0x20000
CLONE_NEWPID = 0x20000000
_MS_REMOUNT, _MS_REC, _MS_PRIVATE = 32, 16384, 1 << 18
_FALLOCATE = {"x86_64": 285, "aarch64": 47}
_SECCOMP_FILTER, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 2, 22, 38
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_RET_ALLOW, _RET_ERRNO = 0x7FFF0000, 0x00050000

_libc = ctypes.CDLL(None, use_errno=True)
raw_fork: Callable[[], int] = ctypes.PyDLL(None).fork
"""fork(2) as a server in C does it: Python's at-fork hooks do not run."""


def _call(name: str, *args: Any) -> None:
    if getattr(_libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave the parent's namespaces; no mount made from here on is seen outside."""
    _call("unshare", flags)
    if flags & CLONE_NEWNS:
        _call("mount", b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)


def mount_small(place: str, size: int) -> None:
    """Mount a tmpfs of `size` bytes."""
    _call("mount", b"tmpfs", os.fsencode(place), b"tmpfs", ctypes.c_ulong(0), f"size={size},mode=1777".encode())


def resize(place: str, size: int) -> None:
    """Make a tmpfs larger or smaller, down to what is in use."""
    _call("mount", b"none", os.fsencode(place), None, ctypes.c_ulong(_MS_REMOUNT), f"size={size}".encode())


def fill_to(place: str, free: int) -> None:
    """Leave `free` bytes of a small tmpfs: by its size, as a neighbour's file would."""
    found = os.statvfs(place)
    resize(place, (found.f_blocks - found.f_bfree) * found.f_frsize + free)


def in_pid_namespace(body: Callable[[], Any]) -> Any:
    """Return what `body` returns as process 1 of a new pid namespace, with a /proc of its own, as in a container."""
    unshare(CLONE_NEWNS | CLONE_NEWPID)

    def first() -> Any:
        _call("mount", b"proc", b"/proc", b"proc", ctypes.c_ulong(0), None)
        return body()

    return in_child(first)


def in_time_namespace(body: Callable[[], Any], boot_s: int) -> Any:
    """Return what `body` returns where the boot clock is `boot_s` seconds ahead."""
    unshare(CLONE_NEWTIME)
    with open("/proc/self/timens_offsets", "w", encoding="ascii") as file:
        file.write(f"boottime {boot_s} 0")
    return in_child(body)


def next_pid(pid: int) -> None:
    """Have the next process of this pid namespace get `pid`, if that is free."""
    with open("/proc/sys/kernel/ns_last_pid", "w", encoding="ascii") as file:
        file.write(str(pid - 1))


def fake_reservations() -> None:
    """Have fallocate(2) do nothing and report success in this process: what a library that only truncates does."""
    number = _FALLOCATE[os.uname().machine]
    steps = ((_LOAD, 0, 0, 0), (_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _RET_ERRNO), (_RETURN, 0, 0, _RET_ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("prctl", _PR_SET_SECCOMP, _SECCOMP_FILTER, program, 0, 0)


@contextmanager
def limit(what: int, soft: int) -> Iterator[None]:
    """Lower a soft limit of this process."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


def open_fds() -> list[int]:
    """Return the descriptors that are open, but the one that looks."""
    found = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
    try:
        return sorted(int(name) for name in os.listdir(found) if int(name) != found)
    finally:
        os.close(found)


def stop(pid: int) -> None:
    """Stop a child, and return once it stands still."""
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
