"""Flip bytes of a live segment of shared memory under its readers."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path
from struct import unpack_from
from typing import TYPE_CHECKING, Self

import sharedstate
from hostile import reader

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["HEADER_BYTES", "LiveSegment"]

HEADER_BYTES = 4096  # FORMAT.md: the header is one page
READERS = 2
STUCK_S = 30.0
"""Far beyond the half second that a verb of the readers may wait for a lock."""


class LiveSegment:
    """A small store of shared memory, with readers in processes of their own, and all its bytes to hand."""

    def __init__(self, directory: Path) -> None:
        self.name = f"hostile-{os.getpid()}-{os.urandom(4).hex()}"
        self.path = Path(f"/dev/shm/sharedstate-{self.name}.region")
        self.url = f"shm://{self.name}?size=1MiB&timeout=0.5"
        self._progress_path = directory / "progress"
        self._progress_path.write_bytes(bytes(16 * READERS))

    def __enter__(self) -> Self:
        self.store = sharedstate.open(self.url)
        self.store.update({key: reader.value_of(key) for key in reader.KEYS})
        with self.path.open("r+b") as file:
            self.bytes = mmap.mmap(file.fileno(), 0)
        with self._progress_path.open("r+b") as file:
            self._progress = mmap.mmap(file.fileno(), 0)
        self.readers = [
            subprocess.Popen(
                [sys.executable, reader.__file__, self.url, str(self._progress_path), str(number)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for number in range(READERS)
        ]
        self.wait_for_readers()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self.readers:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        self.store.close()
        sharedstate.remove(f"shm://{self.name}")

    def rounds(self) -> list[int]:
        """Return how many rounds each reader has done."""
        return [unpack_from("=Q", self._progress, 16 * number)[0] for number in range(READERS)]

    def errors(self) -> int:
        """Return how many errors the readers have met."""
        return sum(unpack_from("=Q", self._progress, 16 * number + 8)[0] for number in range(READERS))

    def wait_for_readers(self) -> str:
        """Wait until each reader has done a whole round; return "" or what became of one."""
        target = [rounds + 2 for rounds in self.rounds()]  # the one under way may have begun earlier
        limit = time.monotonic() + STUCK_S
        while any(now < then for now, then in zip(self.rounds(), target, strict=True)):
            for process in self.readers:
                if process.poll() is not None:
                    return (
                        f"a reader ended with {process.returncode}: {process.stdout.read() if process.stdout else ''}"
                    )
            if time.monotonic() > limit:
                return "a reader is stuck"
            os.sched_yield()
        return ""

    def flip(self, at: int, bits: int) -> str:
        """Flip `bits` of one byte, let the readers go over it, put it back; return "" or what went wrong."""
        before = self.bytes[at]
        self.bytes[at] = before ^ bits
        wrong = self.wait_for_readers()
        self.bytes[at] = before
        return f"byte {at}, bits {bits:#04x}: {wrong}" if wrong else ""
