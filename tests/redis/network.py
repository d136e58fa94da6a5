"""A network that can be cut: a namespace of the kernel's, and one wire to it.

What is cut is silent: nothing is refused, no connection ends, packets are gone.
Needs `ip`, which `scripts/system-packages.sh` installs, and root.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from typing import Self


class Network:
    """A namespace, and the wire between it and this host.

    Attributes:
        name: of the namespace.
        here: this host's address on the wire.
        there: the namespace's.
        inside: what a command begins with that is to run at the far end.
    """

    def __init__(self) -> None:
        program = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if program is None:
            pytest.fail("ip is missing: run scripts/system-packages.sh as root")
        self._program = program
        number = random.randrange(2**14)
        self.name = f"ss-{os.getpid()}-{number}"
        self._near, self._far = f"ss{number}n", f"ss{number}f"
        # Of the block that is set aside for tests of networks, four addresses for each wire.
        first = f"198.18.{number >> 6}.{(number & 63) * 4}".rpartition(".")
        self.here, self.there = (f"{first[0]}.{int(first[2]) + at}" for at in (1, 2))
        self.inside = [program, "netns", "exec", self.name]
        self._ip("netns", "add", self.name)
        try:
            self._ip("link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self.name)
            self._ip("address", "add", f"{self.here}/30", "dev", self._near)
            self._ip("link", "set", self._near, "up")
            self._ip("-n", self.name, "address", "add", f"{self.there}/30", "dev", self._far)
            self._ip("-n", self.name, "link", "set", "lo", "up")
            self.restore()
        except BaseException:
            self.close()
            raise

    def cut(self) -> None:
        """Let nothing through, in either direction."""
        self._ip("-n", self.name, "link", "set", self._far, "down")

    def restore(self) -> None:
        """Let everything through again."""
        self._ip("-n", self.name, "link", "set", self._far, "up")

    def give_up_soon(self) -> None:
        """Have the far end's kernel give up on what nobody acknowledges after two seconds, and not after 15 minutes."""
        self._ip("netns", "exec", self.name, "sh", "-c", "echo 4 >/proc/sys/net/ipv4/tcp_retries2")

    def close(self) -> None:
        """Remove it; nobody runs in there any more."""
        try:
            self._ip("link", "delete", self._near)  # connections that nobody ends would keep it, for a while
        finally:
            self._ip("netns", "delete", self.name)

    def _ip(self, *words: str) -> None:
        done = subprocess.run([self._program, *words], capture_output=True, text=True, check=False)
        if "Operation not permitted" in done.stderr:
            pytest.skip("this user, or this container, may make no network namespace")
        assert done.returncode == 0, done.stderr

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
