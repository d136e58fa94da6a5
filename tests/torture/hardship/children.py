"""Children that answer, hang or die, told apart.

Each experiment that changes a limit, a mount or a namespace does so in a forked
child, so nothing of it outlives the experiment.
"""

from __future__ import annotations

import json
import os
import select
import signal
import traceback
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Child", "ChildDiedError", "ChildFailedError", "fork", "in_child"]

PATIENCE_S = 100.0


class ChildDiedError(Exception):
    """A child was ended by a signal.

    Attributes:
        signal: its number; SIGALRM stands for a child that hung.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"child ended by {signal.Signals(number).name}")
        self.signal = number


class ChildFailedError(Exception):
    """An exception ended a child's body; the message is its traceback."""


def fork() -> int:
    """Fork by Python, without its warning about threads: they are what some experiments are about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


class Child:
    """A forked child that runs `body` and sends what it returns, as JSON."""

    def __init__(self, body: Callable[[], Any], fork: Callable[[], int] = fork) -> None:
        self._reader, writer = os.pipe()
        self.pid = fork()
        if self.pid == 0:
            _answer(body, writer)
        os.close(writer)

    def result(self, patience_s: float = PATIENCE_S) -> Any:
        """Return what the body returned.

        Raises:
            ChildDiedError: a signal ended it, or it hung and was ended.
            ChildFailedError: its body raised.
        """
        answer, hung = b"", False
        while True:
            if not select.select([self._reader], [], [], patience_s)[0]:
                hung = True
                os.kill(self.pid, signal.SIGKILL)
                break
            chunk = os.read(self._reader, 1 << 16)
            if not chunk:
                break
            answer += chunk
        os.close(self._reader)
        _, status = os.waitpid(self.pid, 0)
        if hung:
            raise ChildDiedError(signal.SIGALRM)
        if os.WIFSIGNALED(status):
            raise ChildDiedError(os.WTERMSIG(status))
        found = json.loads(answer)
        if "error" in found:
            raise ChildFailedError(found["error"])
        return found["result"]

    def kill(self) -> None:
        """End it by SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._reader)


def in_child(body: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """Return what `body` returns in a forked child; raises as `Child.result` does."""
    return Child(body).result(patience_s)


def _answer(body: Callable[[], Any], writer: int) -> None:
    try:
        answer = {"result": body()}
    except BaseException:  # noqa: BLE001  the parent judges
        answer = {"error": traceback.format_exc()}
    text = json.dumps(answer).encode()
    while text:
        text = text[os.write(writer, text) :]
    os._exit(0)
