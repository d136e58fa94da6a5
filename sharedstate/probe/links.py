"""The stage's end of an actor's connection: commands out, answers and progress in."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sharedstate.probe.processes import ActorTimeoutError, Host
from sharedstate.probe.wire import ActorError, Channel, ChannelClosedError, unpack, unpack_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate.probe.processes import Process

__all__ = ["Link"]


class Link:
    """The connection to one actor's thread, and the commands under way on it."""

    def __init__(self, channel: Channel, process: Process, patience_s: float, number: int, interpreter: int) -> None:
        self.process = process
        self.number = number
        self.interpreter = interpreter
        self.seats = 1
        self.is_interpreter = False
        self._channel = channel
        self._patience_s = patience_s
        self._last = 0  # the number of the latest command
        self._is_closed = False
        self._replies: dict[int, tuple[str, Any]] = {}
        self._told: dict[int, list[Any]] = {}

    def send(self, seat: int, verb: str, arguments: list[bytes], options: dict[str, bytes]) -> int:
        """Send a command and return its number."""
        if self._is_closed:
            raise self.process.gone() if self.process.is_dead() else ActorError("this actor was closed")
        self._last += 1
        try:
            self._channel.send(self._last, seat, verb, arguments, options)
        except ChannelClosedError:
            raise self.process.gone() from None
        return self._last

    def result(self, number: int, timeout_s: float | None) -> Any:
        """Wait for the answer to command `number`; return or raise it."""
        timeout_s = self._patience_s if timeout_s is None else timeout_s
        self._receive_until(lambda: number in self._replies, timeout_s)
        self._told.pop(number, None)
        state, packed = self._replies.pop(number)
        if state == "error":
            raise unpack_error(*packed)
        return unpack(*packed)

    def told(self, number: int, at_least: int, timeout_s: float | None) -> list[Any]:
        """Return what command `number` has told so far, at least `at_least` things."""
        timeout_s = self._patience_s if timeout_s is None else timeout_s
        told = self._told.setdefault(number, [])
        self._receive_until(lambda: len(told) >= at_least, timeout_s)
        try:
            while self._receive_one(0):
                pass
        except ChannelClosedError:
            pass
        return told

    def close(self) -> None:
        """Have the actor stop, and wait until its interpreter or process has ended."""
        if self._is_closed:
            return
        try:
            if not self.process.is_dead():
                self.result(self.send(0, "stop", [], {}), None)
                self._end()
            elif not self.process.is_ours:
                raise self.process.gone()
        finally:
            self.hang_up()

    def hang_up(self) -> None:
        """Close the connection; the other side notices."""
        self._is_closed = True
        self._channel.close()

    def _end(self) -> None:
        if not isinstance(self.process, Host):
            self.process.is_ours = True
            self.process.wait()
        elif self.is_interpreter:
            failure = self.process.order("join", self.number)
            if failure:
                raise ActorError(failure)

    def _receive_until(self, is_enough: Callable[[], bool], timeout_s: float) -> None:
        ends_at = time.monotonic() + timeout_s
        while not is_enough():
            try:
                received = self._receive_one(max(0.0, ends_at - time.monotonic()))
            except ChannelClosedError:
                raise self.process.gone() from None
            if not received:
                raise ActorTimeoutError(
                    f"no answer within {timeout_s:g} s from process {self.process.pid}{self.process.stderr()}"
                )

    def _receive_one(self, timeout_s: float) -> bool:
        message = self._channel.receive(timeout_s)
        if message is None:
            return False
        number, state, payload = message
        if state == "told":
            self._told.setdefault(number, []).append(payload)
        else:
            self._replies[number] = (state, payload)
        return True
