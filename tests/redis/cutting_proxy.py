"""A way to a server that can be cut: between a request and its reply, or altogether."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self


class CuttingProxy:
    """Listens on a socket of its own and passes on to the server's.

    Attributes:
        path: of its socket.
        swallowed: set when a reply was kept back and its connection cut.
    """

    def __init__(self, directory: str, server: str) -> None:
        self.path = os.path.join(directory, "p")
        self.swallowed = threading.Event()
        self._server = server
        self._cuts_at: bytes | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow_reply_to(self, part: bytes) -> None:
        """Pass the next request that holds `part` on to the server, and cut the connection when the reply comes."""
        self.swallowed.clear()
        self._cuts_at = part

    def cut(self) -> None:
        """End every connection that there is."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            self._pairs.append((client, server))
            doomed = threading.Event()
            threading.Thread(target=self._pass_requests, args=(client, server, doomed), daemon=True).start()
            threading.Thread(target=self._pass_replies, args=(client, server, doomed), daemon=True).start()

    def _pass_requests(self, client: socket.socket, server: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while part := client.recv(65536):
                if self._cuts_at is not None and self._cuts_at in part:
                    self._cuts_at = None
                    doomed.set()
                server.sendall(part)
            server.shutdown(socket.SHUT_RDWR)

    def _pass_replies(self, client: socket.socket, server: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while part := server.recv(65536):
                if doomed.is_set():
                    self.swallowed.set()
                    break
                client.sendall(part)
            client.shutdown(socket.SHUT_RDWR)
        client.close()
        server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()
