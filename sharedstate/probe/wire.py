"""Messages between a probe and its actors: length-prefixed values on a stream socket.

Payloads are encoded by `sharedstate.values`, each argument on its own, so a
value of the full depth travels exactly.  Errors travel as the name of their
class and their fields; nothing is unpickled.

Used on both sides, so this imports only what every interpreter can.
"""

from __future__ import annotations

import builtins
import os
import select
import time

from sharedstate import errors
from sharedstate.errors import StateError
from sharedstate.model import Capabilities, Clock, Durability, Entry, LockRecord, Owner, Scope
from sharedstate.values import decode, encode

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["ActorError", "Channel", "ChannelClosedError", "pack", "pack_error", "unpack", "unpack_error"]

_LENGTH_BYTES: Final = 4


class ChannelClosedError(Exception):
    """The other side is gone."""


class ActorError(Exception):
    """An actor failed in a way that is no error of the library's; the message holds its traceback."""


class Channel:
    """One end of a stream socket.

    Thread safety: one thread may send while another receives, no more.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._received = bytearray()

    def send(self, *parts: Any) -> None:
        """Send one message.

        Raises:
            ChannelClosedError: nobody is there to read it.
        """
        payload = encode(parts)
        unsent = memoryview(len(payload).to_bytes(_LENGTH_BYTES, "big") + payload)
        try:
            while unsent:
                unsent = unsent[os.write(self.fd, unsent) :]
        except (BrokenPipeError, ConnectionResetError):
            raise ChannelClosedError from None

    def receive(self, timeout_s: float | None = None, also: int | None = None) -> tuple[Any, ...] | None:
        """Return the next message, or None if none came in time.

        Args:
            timeout_s: 0 takes only what is there; None waits for ever.
            also: a descriptor that ends the waiting when it becomes readable.

        Raises:
            ChannelClosedError: the other side is gone, and everything it sent was received.
        """
        ends_at = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            message = self._take()
            if message is not None:
                return message
            left_ms = None if ends_at is None else max(0.0, ends_at - time.monotonic()) * 1000
            poller = select.poll()
            poller.register(self.fd, select.POLLIN)
            if also is not None:
                poller.register(also, select.POLLIN)
            ready = {fd for fd, _ in poller.poll(left_ms)}
            if self.fd not in ready:
                return None
            try:
                received = os.read(self.fd, 1 << 18)
            except ConnectionResetError:
                received = b""
            if not received:
                raise ChannelClosedError
            self._received += received

    def close(self) -> None:
        """Hang up; closing twice is no error."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def _take(self) -> tuple[Any, ...] | None:
        received = self._received
        if len(received) < _LENGTH_BYTES:
            return None
        end = _LENGTH_BYTES + int.from_bytes(received[:_LENGTH_BYTES], "big")
        if len(received) < end:
            return None
        message: tuple[Any, ...] = decode(bytes(received[_LENGTH_BYTES:end]))
        del received[:end]
        return message


# --- Results -----------------------------------------------------------------


def pack(result: Any) -> tuple[str, Any]:
    """Return `result` as a tag and a value that can be sent."""
    if isinstance(result, Entry):
        return "entry", (encode(result.value), result.generation, result.expires_at)
    if isinstance(result, Capabilities):
        scope, durability, clock, *rest = result
        return "capabilities", (scope.value, durability.value, clock.value, *rest)
    kind: type = type(result)  # pyright: ignore[reportUnknownVariableType]  the type of Any
    if kind is list and result and type(result[0]) is LockRecord:
        return "locks", [(*record[:3], tuple(record.owner), record.acquired_at) for record in result]
    return "value", encode(result)


def unpack(tag: str, sent: Any) -> Any:
    """Return what `pack` was given."""
    if tag == "entry":
        return Entry(decode(sent[0]), sent[1], sent[2])
    if tag == "capabilities":
        scope, durability, clock, *rest = sent
        return Capabilities(Scope(scope), Durability(durability), Clock(clock), *rest)
    if tag == "locks":
        return [LockRecord(name, held, token, Owner(*owner), at) for name, held, token, owner, at in sent]
    return decode(sent)


# --- Errors ------------------------------------------------------------------


def pack_error(error: BaseException) -> tuple[str, Any, str]:
    """Return the name of the error's class, its fields, and its text with the place it came from."""
    name = type(error).__name__
    text = f"{name}: {error}{_place(error)}"
    if isinstance(error, StateError) and getattr(errors, name, None) is type(error):
        _, (_, facts) = error.__reduce__()
        return name, facts, text
    try:
        encode(error.args)
    except StateError:
        return name, (), text
    return name, error.args, text


def unpack_error(name: str, facts: Any, text: str) -> Exception:
    """Return the error that `pack_error` was given, or an `ActorError` that tells of it."""
    kind = getattr(errors, name, None) if name in errors.__all__ else None
    if kind is None and name in {"KeyError", "TypeError", "ValueError", "OverflowError"}:
        kind = getattr(builtins, name)
    if kind is None:
        return ActorError(text)
    error: Exception = kind(**facts) if isinstance(facts, dict) else kind(*facts)
    return error


def _place(error: BaseException) -> str:
    # The traceback module costs a fresh interpreter more than everything here.
    lines: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        lines.append(f"\n    {code.co_filename}:{trace.tb_lineno} in {code.co_name}")
        trace = trace.tb_next
    return "".join(lines)
