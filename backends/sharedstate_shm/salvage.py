"""`repair`: the sound entries of a damaged region go into a fresh one of its name; a copy of the old is kept first.

A region that others use is left alone: they write to it without a lock that a
repairer could hold.  Who opens it in the very moment finds it marked as removed
and opens the fresh one.

Invariants:
    G1  no generation is given out twice: the fresh region begins above the last
        one that any stripe says to have given out, and by more than can have been
        given out should one of them have lost count
    G2  nothing is changed before the copy is complete
Crash: until the fresh region takes the name, in one rename, the old one is the
store.  A fresh one without its name is removed by the next repair.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from sharedstate.backend import clock_s, translate_os_error
from sharedstate.backend.repairs import Repair, copy_file, copy_name
from sharedstate.errors import CapacityError, CorruptError, LockTimeoutError, StateError, UnavailableError
from sharedstate.model import Clock
from sharedstate_shm import _core
from sharedstate_shm.backend import connect, region_path
from sharedstate_shm.offer import require_core

if TYPE_CHECKING:
    from sharedstate.backend import StoreUrl
    from sharedstate_shm.backend import ShmBackend

__all__ = ["repair"]

_LEAP: Final = 2**48  # of the generations: a century of eighty thousand writes a second to one stripe


def repair(url: StoreUrl, copy_to: str | None = None) -> Repair:
    """Mend the store; see `sharedstate.backend.plugin`."""
    path = region_path(url.name())
    require_core(url.text)
    if not os.path.lexists(path):
        raise UnavailableError(url=url.text, reason="there is no such region", advice="See `sharedstate shm list`.")
    old = connect(url)  # what cannot be opened has nothing certain in it; the error says why
    try:
        try:
            old.check()
        except CorruptError as error:
            damage = error.reason
        else:
            return Repair("", old.count())
        _require_alone(old, path)
        copy = copy_to or copy_name(path.removesuffix(".region"))
        return _repair(old, path, copy, damage, url.seconds("timeout", 5.0))
    finally:
        old.close()


def _require_alone(old: ShmBackend, path: str) -> None:
    """Refuse a region that another process has mapped, or a sharer has open.

    Raises:
        UnavailableError: somebody does; says who.
    """
    try:
        others = [str(sharer.owner) for sharer in old.sharers()]
    except CorruptError:
        others = []  # a damaged record of a sharer; the mappings tell as well
    found = os.stat(path)
    wanted = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x} {found.st_ino}"
    for process in filter(str.isdecimal, os.listdir("/proc")):
        if int(process) != os.getpid():
            others += [f"pid {process}"] * _has_mapped(process, wanted)
    if others:
        raise UnavailableError(
            url=old.url,
            reason=f"it is in use by {', '.join(sorted(set(others)))}",
            advice="End the programs that have it open, then repair it.",
        )


def _has_mapped(process: str, wanted: str) -> bool:
    try:
        with open(f"/proc/{process}/maps", encoding="utf-8", errors="replace") as file:
            # 7f00-7f80 rw-s 00000000 00:1a 4711    /dev/shm/...
            return any(" ".join(line.split(None, 5)[3:5]) == wanted for line in file)
    except OSError:
        return False  # it has ended, or is another user's, who may not open ours


def _repair(user: ShmBackend, path: str, copy: str, damage: str, timeout_s: float) -> Repair:
    url = user.url
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    home, name = os.path.split(path)
    fresh_path, old_path = (os.path.join(home, name.removesuffix(".region") + ending) for ending in (".fresh", ".old"))
    any_owner = os.geteuid() == 0

    def table_at(at: str, size: int, evicts: bool) -> _core.Table:
        return _core.open_region(directory, os.path.basename(at), url, size, 0o600, evicts, any_owner, timeout_s)

    try:
        _drop(fresh_path, old_path)
        old = table_at(path, _core.MIN_SIZE, False)
        keys, broken, lost_stripes, last = old.salvage()
        copy_file(url, path, copy)
        info, found = old.info(), os.stat(path)
        fresh = table_at(fresh_path, info["size"], bool(info["evicts"]))
        fresh.raise_generations(last + _LEAP)
        lost = _fill(fresh, old, keys)
        kept = fresh.count()
        os.chown(fresh_path, found.st_uid, found.st_gid)
        os.chmod(fresh_path, stat.S_IMODE(found.st_mode))
        _require_alone(user, path)  # once more: all this takes seconds
        os.link(path, old_path)
        os.rename(fresh_path, path)
        _core.unlink_region(directory, os.path.basename(old_path), any_owner)  # marks it for whoever opened it just now
    except OSError as error:
        if isinstance(error, StateError):
            raise
        raise translate_os_error(url, error) from error
    finally:
        _drop(fresh_path, old_path)
        os.close(directory)
    notes = [damage]
    if broken:
        notes.append(f"dropped: {broken} entries whose keys are not certain")
    if lost_stripes:
        notes.append(f"dropped: all entries of {lost_stripes} stripes, whose tables cannot be found")
    return Repair(copy, kept, broken + len(lost), tuple(sorted(lost)), tuple(notes))


def _drop(*paths: str) -> None:
    for path in paths:
        if os.path.lexists(path):
            os.unlink(path)


def _fill(fresh: _core.Table, old: _core.Table, keys: list[str]) -> list[str]:
    """Write what can be read of `keys` into the fresh region; return those that cannot, or have no room there."""
    lost: list[str] = []
    for key in keys:
        try:
            entry = old.read(key)
            if entry is not None:
                ttl_s = None if entry.expires_at is None else max(entry.expires_at - clock_s(Clock.BOOT), 1e-6)
                fresh.set(key, entry.value, ttl_s)
        except (CorruptError, CapacityError, LockTimeoutError):
            lost.append(key)
    return lost
