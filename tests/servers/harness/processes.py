"""The processes of a server, as /proc shows them; and their end, each by its own pid.

A server is started as the leader of a new session, and none of those that the
tests start leaves it: the session finds orphans too, whose parentage is lost.
Its number is the leader's pid, and free for others once the session is empty: a
long run of tests comes round to it.  So a session is asked for by its leader.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from subprocess import Popen


class Process(NamedTuple):
    pid: int
    parent: int
    session: int
    started: int  # clock ticks after boot: with the pid, an identity that no later process repeats


def find_process(pid: int) -> Process | None:
    """Return a process that lives; None for one that is gone or only waits to be reaped."""
    found = _look(pid)
    return None if found is None or found[0] in b"ZX" else found[1]


def leader_of(child: Popen[Any]) -> Process:
    """Return what identifies a child that was started as the leader of a new session, and is not reaped yet."""
    found = _look(child.pid)
    assert found, f"{child.args} was reaped already"
    return found[1]


def _look(pid: int) -> tuple[bytes, Process] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], Process(pid, int(fields[1]), int(fields[3]), int(fields[19]))


def in_sessions(leaders: Iterable[Process]) -> list[Process]:
    """Return the living processes of these leaders' sessions, and what descends from them, oldest first."""
    started = {leader.pid: leader.started for leader in leaders}
    processes = sorted(
        filter(None, (find_process(int(name)) for name in os.listdir("/proc") if name.isdigit())),
        key=lambda process: (process.started, process.pid),
    )
    for process in processes:
        if started.get(process.pid, process.started) != process.started:
            del started[process.pid]  # the leader's pid is another's by now: its session has ended
    found: dict[int, Process] = {}
    for process in processes:
        if process.session in started or process.parent in found:
            found[process.pid] = process
    return list(found.values())


def is_helper(process: Process) -> bool:
    """Say whether it is multiprocessing's tracker of resources, which some servers bring along and never replace."""
    try:
        with open(f"/proc/{process.pid}/cmdline", "rb") as file:
            return b"multiprocessing.resource_tracker" in file.read()
    except (FileNotFoundError, ProcessLookupError):
        return False


def send(process: Process, number: int) -> None:
    """Signal this very process; nothing happens if it is gone, or its pid is another's by now."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if find_process(process.pid) == process:
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def wait_for(condition: Callable[[], object], timeout_s: float, poll_s: float = 0.02) -> bool:
    """Ask until `condition` holds, or the time is over; say whether it held."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_s)
    return True
