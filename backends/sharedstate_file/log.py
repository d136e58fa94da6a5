"""A log: one file of frames, each a transaction, written once and never changed.

    log    = header frame*
    header = magic version mark base checkpoint crc   (32 bytes)
    frame  = mark length crc payload                  (12 bytes and the payload)

The mark is four random bytes, other ones in each log.  It makes a frame
findable after damage, and seeds the checksum, so that no stored value can pass
for a frame.  What a payload means is the business of `sharedstate_file.index`.

Thread safety: reading, any thread; writing needs the writers' lock.

Invariants:
    F1  bytes within the committed length never change
    F2  each frame there is whole: its checksum covers its length and payload
Crash: a frame is one write beyond the committed length; a part of it is a torn
tail, which the next writer cuts.
"""

from __future__ import annotations

import mmap
import os
from struct import Struct
from zlib import crc32

from sharedstate.backend import open_private
from sharedstate.errors import CorruptError, UnavailableError
from sharedstate_file.head import VERSION

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Final, Self

__all__ = ["FRAME_BYTES", "LOG_HEADER_BYTES", "MAX_PAYLOAD_BYTES", "Log", "write_whole"]

MAX_PAYLOAD_BYTES: Final = 2**30  # one read or write moves at most 2 GiB
_MAGIC: Final = b"SSLOG\r\n\x1a"
_HEADER: Final = Struct("<8sI4sQII")
LOG_HEADER_BYTES: Final = _HEADER.size
_FRAME: Final = Struct("<4sII")
FRAME_BYTES: Final = _FRAME.size
_BLOCK_BYTES: Final = 2**18


class Log:
    """One open log.  Its descriptor is closed with the last reference, so a reader may outlive the file.

    Attributes:
        url: of the store, for errors.
        path: of the file.
        number: in its name; 0 while it is a draft.
        base: the store's generation before its first frame.
        checkpoint: how many frames it had before it got its name, which no power loss can cut.
        mark: what each of its frames begins with.
        fd: for reading and writing at given places only; fork may share it.
    """

    __slots__ = ("_seed", "base", "checkpoint", "fd", "mark", "number", "path", "url")

    def __init__(
        self, url: str, path: str, number: int, fd: int, *, mark: bytes, base: int, checkpoint: int = 0
    ) -> None:
        self.url = url
        self.path = path
        self.number = number
        self.fd = fd
        self.base = base
        self.checkpoint = checkpoint
        self.mark = mark
        self._seed = int.from_bytes(mark, "little")

    @classmethod
    def open(cls, url: str, path: str, number: int) -> Self:
        """Open an existing log.

        Raises:
            FileNotFoundError: there is none.
            CorruptError: it is no log, or its header is damaged.
            UnavailableError: it is of another version of the format.
        """
        fd = open_private(url, path, os.O_RDWR)
        try:
            mark, base, checkpoint = _parse_header(url, path, os.pread(fd, LOG_HEADER_BYTES, 0))
        except BaseException:
            os.close(fd)
            raise
        return cls(url, path, number, fd, mark=mark, base=base, checkpoint=checkpoint)

    @classmethod
    def create(cls, url: str, path: str, base: int, mode: int) -> Self:
        """Begin a new log under a draft's name, which is free."""
        fd = open_private(url, path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        try:
            mark = os.urandom(4)
            write_whole(fd, _make_header(mark, base, 0), 0)
        except BaseException:
            os.close(fd)
            raise
        return cls(url, path, 0, fd, mark=mark, base=base)

    def note_checkpoint(self, frames: int) -> None:
        """Say in the header how many frames a draft begins with; before it is synced and gets its name."""
        write_whole(self.fd, _make_header(self.mark, self.base, frames), 0)
        self.checkpoint = frames

    # The default keeps os.close at hand while an interpreter ends.
    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)

    def size(self) -> int:
        """Return the file's length, whatever of it counts."""
        return os.fstat(self.fd).st_size

    # --- Writing ------------------------------------------------------------

    def append(self, payload: bytes, end: int) -> int:
        """Write a frame at `end`, where the log ends, and return where it ends now.

        Raises:
            OSError: it could not be written; what was written of it has been cut.
        """
        length = len(payload)
        frame = _FRAME.pack(self.mark, length, crc32(payload, self._seed ^ length)) + payload
        try:
            written = os.pwrite(self.fd, frame, end)
            if written != len(frame):
                # A disk that fills up and a limit on file sizes end in a short
                # count first; only the next write tells.
                write_whole(self.fd, memoryview(frame)[written:], end + written)
        except OSError:
            self.cut(end)
            raise
        return end + len(frame)

    def cut(self, end: int) -> None:
        """Cut what lies beyond `end`."""
        os.ftruncate(self.fd, end)

    # --- Reading ------------------------------------------------------------

    def frames(self, start: int, end: int) -> Iterator[tuple[bytes, int]]:
        """Yield the payload of each frame from `start` up to `end`, and where it ends.

        Raises:
            CorruptError: there is anything but whole frames; names the offset.
        """
        offset = origin = start
        block = b""  # the file's bytes from `origin` on
        while offset < end:
            at = offset - origin
            if len(block) - at < FRAME_BYTES:
                origin, block, at = offset, os.pread(self.fd, min(end - offset, _BLOCK_BYTES), offset), 0
                if len(block) < FRAME_BYTES:
                    raise self.damaged(offset)
            mark, length, crc = _FRAME.unpack_from(block, at)
            stop = offset + FRAME_BYTES + length
            if mark != self.mark or stop > end or length > MAX_PAYLOAD_BYTES:
                raise self.damaged(offset)
            if stop - origin > len(block):
                wanted = max(stop - offset, min(end - offset, _BLOCK_BYTES))
                origin, block, at = offset, os.pread(self.fd, wanted, offset), 0
            payload = block[at + FRAME_BYTES : stop - origin]
            if len(payload) != length or crc32(payload, self._seed ^ length) != crc:
                raise self.damaged(offset)
            yield payload, stop
            offset = stop

    def find_frame(self, start: int, end: int) -> int | None:
        """Return where a whole frame begins between `start` and `end`, whatever else lies there."""
        with mmap.mmap(self.fd, end, prot=mmap.PROT_READ) as file:
            at = file.find(self.mark, start, end)
            while at >= 0:
                if end - at >= FRAME_BYTES:
                    _, length, crc = _FRAME.unpack_from(file, at)
                    payload = file[at + FRAME_BYTES : at + FRAME_BYTES + length]
                    if len(payload) == length and crc32(payload, self._seed ^ length) == crc:
                        return at
                at = file.find(self.mark, at + 1, end)
        return None

    def damaged(self, offset: int, what: str = "a damaged frame") -> CorruptError:
        """Return the error that names what is wrong at `offset`."""
        return CorruptError(url=self.url, reason=f"{self.path}, offset {offset}: {what}")


def _make_header(mark: bytes, base: int, checkpoint: int) -> bytes:
    header = _HEADER.pack(_MAGIC, VERSION, mark, base, checkpoint, 0)[:-4]
    return header + crc32(header).to_bytes(4, "little")


def _parse_header(url: str, path: str, header: bytes) -> tuple[bytes, int, int]:
    if len(header) < LOG_HEADER_BYTES or header[:8] != _MAGIC:
        raise CorruptError(url=url, reason=f"{path}, offset 0: not the beginning of a log of a store")
    _, version, mark, base, checkpoint, crc = _HEADER.unpack(header)
    if crc != crc32(header[:-4]):
        raise CorruptError(url=url, reason=f"{path}, offset 0: a damaged header")
    if version != VERSION:
        raise UnavailableError(
            url=url,
            reason=f"{path} is of version {version} of the file format, and this library reads version {VERSION}",
            advice="Use the version of sharedstate that wrote it.",
        )
    return mark, base, checkpoint


def write_whole(fd: int, content: bytes | memoryview, offset: int) -> None:
    """Write all of `content` at `offset`, in as many writes as it takes."""
    view = memoryview(content)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written
