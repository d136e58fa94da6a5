"""A Redis server of one's own, on a socket or a port of this host, and how it ends.

Debian's redis-server, which `scripts/system-packages.sh` installs: where it is
missing, the tests fail.  A skip would hide that nothing was tested.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sharedstate.backend import Backoff, Deadline
from sharedstate.probe.boundaries import Kind, available_kinds

if TYPE_CHECKING:
    from typing import Self

    import redis

    from network import Network

_PATIENCE_S = 30.0


class RedisServer:
    """One server; its data lies in `directory`.

    Args:
        directory: short, for the path of a socket has at most 107 bytes.
        options: of redis-server, beside those that make it ours.
        has_port: whether it listens on a port too.
        host: at which address.
        network: at whose far end, if it is not on this host's.
    """

    def __init__(
        self,
        directory: str,
        *options: str,
        has_port: bool = False,
        host: str = "127.0.0.1",
        network: Network | None = None,
    ) -> None:
        self.directory = directory
        self.host = network.there if network else host
        self._inside = network.inside if network else []
        self.socket = os.path.join(directory, "s")
        self.port = free_port() if has_port else 0
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and return when it answers."""
        program = shutil.which("redis-server")
        if program is None:
            pytest.fail("redis-server is missing: run scripts/system-packages.sh as root")
        with_us = ["setpriv", "--pdeathsig", "KILL"]  # it ends also where a test run is killed
        self._process = subprocess.Popen([*self._inside, *with_us, program, *self._arguments()])
        deadline, backoff = Deadline(_PATIENCE_S), Backoff()
        while not self._answers():
            assert self._process.poll() is None, "redis-server ended; see its log"
            assert not deadline.has_passed(), "redis-server does not answer"
            backoff.sleep(deadline)

    def _arguments(self) -> list[str]:
        ours = ["--port", str(self.port), "--bind", self.host, "--unixsocket", self.socket, "--dir", self.directory]
        quiet = ["--daemonize", "no", "--loglevel", "warning", "--logfile", os.path.join(self.directory, "log")]
        persistence = [] if "--save" in self._options else ["--save", ""]
        return [*ours, *quiet, *persistence, *self._options]

    def command(self, *words: bytes | str) -> bytes:
        """Send it a command by hand, and return what comes back first, as the protocol has it."""
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(_PATIENCE_S)
            wire.connect(self.socket)
            parts = [word if isinstance(word, bytes) else word.encode() for word in words]
            wire.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts))
            return wire.recv(2**20)

    def _answers(self) -> bool:
        try:
            return self.command("PING").startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def is_running(self) -> bool:
        """Return whether it was started, and not ended."""
        return self._process is not None

    def pause(self) -> None:
        """Let it hang: what is sent to it is taken, and not answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """End it as an administrator does."""
        self._end("terminate")

    def kill(self) -> None:
        """End it as a crash does."""
        self._end("kill")

    def _end(self, how: str) -> None:
        if self._process is not None:
            getattr(self._process, how)()
            self._process.wait(_PATIENCE_S)
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def free_port() -> int:
    """Return a port of the loopback address at which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def client_of(url: str) -> redis.Redis:
    """Return redis-py's own client of the server at a `redis+unix:` URL.

    By its parser in Python: hiredis, where it is installed, crashes whoever uses
    it after a sub-interpreter that had it too has ended.
    """
    import redis
    from redis._parsers.resp3 import _RESP3Parser

    pool = redis.ConnectionPool(
        connection_class=redis.UnixDomainSocketConnection,
        path=url.partition(":")[2].partition("?")[0],
        parser_class=_RESP3Parser,
    )
    return redis.Redis.from_pool(pool)


def interpreters_for(scheme: str) -> list[Kind]:
    """Return the kinds of sub-interpreter that this Python can make, and that can open such a store in it."""
    kinds = [kind for kind in (Kind.LEGACY, Kind.ISOLATED) if not available_kinds()[kind]]
    if scheme.startswith("redis") and sys.version_info < (3, 13):
        kinds = [Kind.LEGACY]  # test_redis_interpreters shows that isolated ones are refused there, and why
    return kinds
