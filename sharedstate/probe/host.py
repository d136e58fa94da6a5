"""A process that actors live in, apart from the probe, so that its crash is evidence and not the probe's end.

The main thread takes orders: start a thread, run an interpreter, fork, spawn.
It does nothing else, so it sees at once when the probe hangs up, and then ends
the process whatever its actors are doing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from _thread import allocate_lock, start_new_thread

from sharedstate import registry
from sharedstate.probe import obeying
from sharedstate.probe.interpreters import run_in_interpreter
from sharedstate.probe.wire import ChannelClosedError, pack_error
from sharedstate.store import Store

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from _thread import LockType
    from typing import Any, Final

    from sharedstate.probe.wire import Channel

__all__ = ["command_line", "run_host", "run_process"]

_JOIN_S: Final = 10.0


def command_line(python: str, entry: str, address: str, actor: int) -> list[str]:
    """Return the command that runs `entry` of this module in a fresh process with our `sys.path`."""
    path = [os.path.abspath(entry) for entry in sys.path]
    script = (
        f"import sys; sys.path[:] = {path!r}; from sharedstate.probe.host import {entry}; {entry}({address!r}, {actor})"
    )
    # CPython warns of forks beside threads; that such a child works is what is to be proved.
    return [python, "-X", "faulthandler", "-W", "ignore:This process:DeprecationWarning", "-c", script]


def run_process(address: str, actor: int) -> None:
    """Be an actor that has this process for itself."""
    obeying.serve(address, actor, is_process=True)


def run_host(address: str, host: int) -> None:
    """Take orders until the stage hangs up."""
    channel = obeying.connect(address, host)
    try:
        _Host(address, channel).run()
    finally:
        # Not sys.exit: CPython 3.13 waits for ever for a thread in a sub-interpreter.
        os._exit(0)


class _Host:
    """The orders, each a method; all run on the main thread."""

    def __init__(self, address: str, channel: Channel) -> None:
        self._address = address
        self._channel = channel
        self._handle: Store | None = None
        self._ended: dict[int, LockType] = {}  # by actor: held while its interpreter exists
        self._failures: dict[int, str] = {}
        self._spawned: dict[int, subprocess.Popen[bytes]] = {}

    def run(self) -> None:
        while True:
            try:
                message = self._channel.receive()
            except ChannelClosedError:
                return
            assert message is not None
            order, arguments = message
            try:
                result = getattr(self, f"order_{order}")(*arguments)
            except Exception as error:  # noqa: BLE001  whatever it is, the stage is told
                self._channel.send("error", pack_error(error)[2])
            else:
                self._channel.send("done", result)

    def order_thread(self, actor: int) -> None:
        """Start an actor in a thread of the main interpreter."""
        start_new_thread(obeying.serve, (self._address, actor))

    def order_interpreter(self, actor: int, kind: str) -> None:
        """Start an actor in a new sub-interpreter, in a thread of its own."""
        ended = self._ended[actor] = allocate_lock()
        ended.acquire()
        start_new_thread(self._run_interpreter, (actor, kind, ended))

    def _run_interpreter(self, actor: int, kind: str, ended: LockType) -> None:
        script = (
            f"import sys; sys.path[:] = {sys.path!r}; from sharedstate.probe.obeying import serve; "
            f"serve({self._address!r}, {actor})"
        )
        try:
            failure = run_in_interpreter(kind, script)
        except Exception as error:  # noqa: BLE001  whatever it is, the stage is told
            failure = pack_error(error)[2]
        self._failures[actor] = failure
        ended.release()
        if failure:
            # In case it failed before it could say hello itself.
            obeying.connect(self._address, actor, failure).close()

    def order_join(self, actor: int) -> str:
        """Wait until the actor's interpreter is destroyed; return how it failed, or ""."""
        if not self._ended[actor].acquire(timeout=_JOIN_S):
            return f"its interpreter had not ended after {_JOIN_S:g} s"
        return self._failures[actor]

    def order_open(self, url: str) -> None:
        """Open the handle that forked children inherit."""
        if self._handle is not None:
            self._handle.close()
        self._handle = Store(registry.connect(url))

    def order_fork(self, actor: int) -> int:
        """Fork an actor; it inherits this process's handle, and opens others when told."""
        pid = os.fork()
        if pid == 0:
            _be_forked(self._address, actor, self._handle)
        return pid

    def order_spawn(self, actor: int) -> int:
        """Start an actor in a fresh interpreter of a child process, as multiprocessing's spawn does."""
        command = command_line(sys.executable, run_process.__name__, self._address, actor)
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603  our own interpreter
        self._spawned[child.pid] = child
        return child.pid

    def order_reap(self, pid: int) -> int | None:
        """Return the exit status of a child that has ended, minus the signal that killed it."""
        if pid in self._spawned:
            return self._spawned.pop(pid).wait(_JOIN_S)
        ends_at = time.monotonic() + _JOIN_S
        while time.monotonic() < ends_at:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.001)
        return None


def _be_forked(address: str, actor: int, inherited: Store | None) -> Any:
    status = 1
    try:
        for fd in obeying.own_descriptors:
            os.close(fd)
        obeying.own_descriptors.clear()
        obeying.serve(address, actor, inherited=inherited, is_process=True)
        status = 0
    except BaseException as error:  # noqa: BLE001  a forked child must never return into its parent's code
        print(pack_error(error)[2], file=sys.stderr, flush=True)  # noqa: T201  the stage shows our stderr
    finally:
        os._exit(status)
