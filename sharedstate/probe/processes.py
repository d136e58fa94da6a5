"""The actors' processes as the stage sees them: killed, waited for and reaped, and how each of them ended.

Thread safety: one thread.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sharedstate.probe.wire import ActorError, Channel, ChannelClosedError

if TYPE_CHECKING:
    import subprocess

__all__ = ["ActorGoneError", "ActorTimeoutError", "Child", "Host", "Process"]

_STDERR_BYTES: Final = 4000


class ActorTimeoutError(ActorError):
    """An actor gave no answer in time."""


class ActorGoneError(ActorError):
    """An actor's process ended: by `kill`, or because it crashed.

    Attributes:
        status: of its process: minus the signal that killed it, None if unknown.
    """

    def __init__(self, text: str, status: int | None) -> None:
        super().__init__(text)
        self.status = status


class Process:
    """A process of actors, killed and waited for through a pidfd, which no reuse of its pid can fool."""

    def __init__(self, pid: int, log: str, patience_s: float) -> None:
        self.pid = pid
        self.status: int | None = None
        self.is_ours = False  # we ended it on purpose
        self.log = log
        self._patience_s = patience_s
        self.pidfd = os.pidfd_open(pid)

    def reap(self) -> int | None:
        """Return the exit status, if anybody can know it."""
        return None

    def is_dead(self, timeout_s: float = 0.0) -> bool:
        """Return whether the process has ended, after waiting up to `timeout_s` for that."""
        if self.pidfd < 0:
            return True
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return bool(poller.poll(timeout_s * 1000))

    def kill(self) -> None:
        """Kill it with SIGKILL, and wait until it is dead."""
        self.is_ours = True
        if self.pidfd < 0:
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.wait()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until it is dead, and reap it."""
        timeout_s = self._patience_s if timeout_s is None else timeout_s
        if not self.is_dead(timeout_s):
            raise ActorTimeoutError(f"process {self.pid} had not ended after {timeout_s:g} s{self.stderr()}")
        if self.pidfd >= 0:
            self.status = self.reap()
            os.close(self.pidfd)
            self.pidfd = -1

    def gone(self) -> ActorGoneError:
        """Return the error that tells how it ended."""
        try:
            self.wait(2.0)
        except ActorTimeoutError:
            return ActorGoneError(f"process {self.pid} hung up but lives{self.stderr()}", None)
        how = "ended"
        if self.status is not None:
            how = f"was killed by {signal.Signals(-self.status).name}" if self.status < 0 else f"exited {self.status}"
        return ActorGoneError(f"process {self.pid} {how}{'' if self.is_ours else self.stderr()}", self.status)

    def stderr(self) -> str:
        """Return the end of what it wrote to stderr, to be appended to a message."""
        try:
            with open(self.log, "rb") as file:
                file.seek(max(0, os.path.getsize(self.log) - _STDERR_BYTES))
                text = file.read().decode(errors="replace").strip()
        except OSError:
            return ""
        return f"; its stderr:\n{text}" if text else ""


class Host(Process):
    """A host process, our child, and the orders it takes."""

    def __init__(self, popen: subprocess.Popen[bytes], log: str, patience_s: float) -> None:
        self._popen = popen
        self.channel: Channel | None = None
        super().__init__(popen.pid, log, patience_s)

    def reap(self) -> int | None:
        """Return the exit status of our child."""
        if self.channel is not None:
            self.channel.close()
        return self._popen.wait(self._patience_s)

    def order(self, verb: str, *arguments: Any) -> Any:
        """Have the host do `verb` on its main thread, and return the result."""
        assert self.channel is not None
        try:
            self.channel.send(verb, arguments)
            message = self.channel.receive(self._patience_s)
        except ChannelClosedError:
            raise self.gone() from None
        if message is None:
            raise ActorTimeoutError(f"host {self.pid} did not {verb} within {self._patience_s:g} s{self.stderr()}")
        state, result = message
        if state == "error":
            raise ActorError(f"host {self.pid} could not {verb}: {result}")
        return result


class Child(Process):
    """A forked or spawned child of a host, which alone can reap it."""

    def __init__(self, pid: int, log: str, patience_s: float, parent: Host) -> None:
        self._parent = parent
        super().__init__(pid, log, patience_s)

    def reap(self) -> int | None:
        """Return the exit status as its parent learns it, None if that is dead too."""
        if self._parent.is_dead():
            return None
        status: int | None = self._parent.order("reap", self.pid)
        return status
