"""A primary, its replicas, and the sentinels that watch them: real processes on free ports of this host."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from redis_server import RedisServer
from sharedstate.testing.conformance.support import until

if TYPE_CHECKING:
    from typing import Self

SERVICE = "main"

# A sentinel says hello every 2 s, asks its servers every 10 s, and does nothing for 30 s once it was kept from running
# for 2 s: on a busy machine, and for a test, that is long.
_HURRY = ("INFO-PERIOD", "500", "PUBLISH-PERIOD", "200", "TILT-PERIOD", "2000")

_OPTIONS = (
    *("--appendonly", "yes", "--repl-diskless-sync-delay", "0"),
    *("--min-replicas-to-write", "1", "--min-replicas-max-lag", "10"),
)


class Sentinel(RedisServer):
    """One sentinel.

    Args:
        directory: as of a `RedisServer`.
        port: of the primary to begin with.
        quorum: how many have to find it down.
        host: the primary's.
        options: lines of its configuration.
    """

    def __init__(self, directory: str, port: int, *options: str, quorum: int = 1, host: str = "127.0.0.1") -> None:
        self._monitored = f"{host} {port}"
        self._quorum = quorum
        super().__init__(directory, *options, has_port=True)

    def _arguments(self) -> list[str]:
        path = os.path.join(self.directory, "conf")
        if not os.path.exists(path):  # it writes into it what it learns
            lines = (
                f"port {self.port}" if not any(line.startswith("port ") for line in self._options) else "",
                "bind 127.0.0.1",
                f"unixsocket {self.socket}",
                f"dir {self.directory}",
                f"logfile {self.directory}/log",
                f"sentinel monitor {SERVICE} {self._monitored} {self._quorum}",
                f"sentinel failover-timeout {SERVICE} 3000",
                *self._options,
            )
            with open(path, "w", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
        return [path, "--sentinel"]

    def start(self) -> None:
        """Start it, and let it hurry."""
        super().start()
        self.command("SENTINEL", "DEBUG", *_HURRY)

    def point_to(self, port: int) -> None:
        """Name another server as the primary, whatever that one says of itself."""
        self.command("SENTINEL", "REMOVE", SERVICE)
        self.command("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", str(port), "1")

    def facts(self) -> dict[str, str]:
        """Return what it says of the primary."""
        words = self.command("SENTINEL", "MASTER", SERVICE).decode().split("\r\n")[2::2]
        return dict(zip(words[::2], words[1::2], strict=False))


class SentinelSet:
    """A primary, two replicas and three sentinels.

    The servers write only while a replica listens, as they should where a
    primary may be cut off.

    Args:
        directory: as of a `RedisServer`.
        down_after_ms: how long a server has to be silent before another takes over.

    Attributes:
        servers: the first is the primary to begin with.
        sentinels: two of which have to agree.
    """

    def __init__(self, directory: str, down_after_ms: int = 1000) -> None:
        patience = f"sentinel down-after-milliseconds {SERVICE} {down_after_ms}"
        with ExitStack() as stack:

            def place(name: str) -> str:
                path = os.path.join(directory, name)
                os.mkdir(path)
                return path

            first = stack.enter_context(RedisServer(place("d0"), *_OPTIONS, has_port=True))
            self.servers = [first]
            for i in (1, 2):
                of_first = ("--replicaof", "127.0.0.1", str(first.port))
                server = RedisServer(place(f"d{i}"), *_OPTIONS, *of_first, has_port=True)
                self.servers.append(stack.enter_context(server))
            self.sentinels = [
                stack.enter_context(Sentinel(place(f"s{i}"), first.port, patience, quorum=2)) for i in range(3)
            ]
            self._stack = stack.pop_all()

    def url(self, name: str, timeout_s: float = 60) -> str:
        """Return the URL of a store there."""
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{places}/{SERVICE}/{name}?timeout={timeout_s}"

    def primary(self) -> RedisServer:
        """Return the server that the first sentinel names."""
        port = self.sentinels[0].facts()["port"]
        return next(server for server in self.servers if str(server.port) == port)

    def settle(self) -> None:
        """Start who has ended, and return when all servers replicate and all sentinels know of all."""
        for each in (*self.servers, *self.sentinels):
            if not each.is_running():
                each.start()
        until(self._is_whole)

    def _is_whole(self) -> bool:
        told = [sentinel.facts() for sentinel in self.sentinels]
        agree = {(each["port"], each["flags"], each["num-slaves"], each["num-other-sentinels"]) for each in told}
        primary = self.primary()
        known = agree == {(str(primary.port), "master", "2", "2")}
        return known and figures(primary).get("min_slaves_good_slaves") == "2"

    def replicate(self) -> None:
        """Return when the replicas have all that the primary has written before the call."""
        primary = self.primary()
        written = int(figures(primary)["master_repl_offset"])
        for server in self.servers:
            if server is not primary:
                until(lambda server=server: int(figures(server).get("slave_repl_offset", "0")) >= written)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def figures(server: RedisServer) -> dict[str, str]:
    """Return what a server says of its replication."""
    lines = server.command("INFO", "replication").decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
