"""What may come of one damage to one file of a scene, and what came of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from sharedstate import CorruptError
from sharedstate.backend import parse_url
from sharedstate_file import connect
from sharedstate_file.log import LOG_HEADER_BYTES

if TYPE_CHECKING:
    from damage.scene import Content, Scene
    from sharedstate.backend import Backend

__all__ = ["Due", "Ground", "due_after_cut", "due_after_flip"]


class Due(NamedTuple):
    """What is due.

    Attributes:
        content: that the store must hold; None: it must be refused.
        offset: that a refusal must name; None: none may be given.
        late: a refusal may come with the first write.
    """

    content: Content | None
    offset: int | None = None
    late: bool = False


def due_after_flip(scene: Scene, name: str, at: int, is_head_lost: bool) -> Due:
    """Return what is due when a bit of the byte at `at` of a log is flipped."""
    frame = next((frame for frame in scene.logs[name] if frame.start <= at < frame.stop), None)
    start = 0 if frame is None else frame.start
    if name not in scene.needed(is_head_lost):
        return _due_of_a_copy(scene, name, start, is_head_lost)
    if not is_head_lost:
        return Due(None, start) if at < scene.word[1] else Due(scene.content)  # the end frame does not count yet
    if frame is None or frame.kind == "checkpoint" or frame != scene.logs[name][-1]:
        return Due(None, start)
    # The last frame: it cannot be told from a write that was cut short.
    return Due(scene.content if frame.kind == "end" else scene.contents[name, frame.start])


def due_after_cut(scene: Scene, name: str, length: int, is_head_lost: bool) -> Due:
    """Return what is due when a log is cut to `length` bytes."""
    frames = scene.logs[name]
    whole = [frame for frame in frames if frame.stop <= length]
    end = 0 if length < LOG_HEADER_BYTES else whole[-1].stop if whole else LOG_HEADER_BYTES
    if name not in scene.needed(is_head_lost):
        return _due_of_a_copy(scene, name, end, is_head_lost)
    if not is_head_lost:
        return Due(None, length if end else 0) if length < scene.word[1] else Due(scene.content)
    if not end or any(frame.kind == "checkpoint" and frame.stop > length for frame in frames):
        return Due(None, end)
    return Due(scene.contents[name, end])


def _due_of_a_copy(scene: Scene, name: str, offset: int, is_head_lost: bool) -> Due:
    """Return what is due where nothing rests on the damaged log."""
    if name == "log-copy":
        return Due(scene.content)
    if is_head_lost:
        return Due(None, offset)  # whether it holds no more than a copy cannot be told
    # The next writer goes on with it where the old log names it, and else drops it.
    return Due(scene.content, offset, late=True) if scene.name == "old log ended" else Due(scene.content)


class Ground:
    """A directory in which one scene is laid out, damaged, opened and mended, again and again."""

    def __init__(self, path: str, scene: Scene, is_head_lost: bool) -> None:
        self._path = path
        self._url = parse_url(f"file:{path}")
        self._files = {name: content for name, content in scene.files.items() if name != "head" or not is_head_lost}
        os.makedirs(os.path.join(path, "locks"))
        self._restore()

    def _restore(self) -> None:
        for name in os.listdir(self._path):
            if name not in self._files and name != "locks":
                os.unlink(os.path.join(self._path, name))
        for name, content in self._files.items():
            self.write(name, content)

    def write(self, name: str, content: bytes) -> None:
        """Give a file this content."""
        fd = os.open(os.path.join(self._path, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(fd, content)
        os.close(fd)

    def flip(self, name: str, bit: int, due: Due) -> str:
        """Flip a bit, open the store, and return what is wrong with what came, or ""; the scene is whole again."""
        at, mask = bit // 8, 1 << bit % 8
        content = self._files[name]
        path = os.path.join(self._path, name)
        fd = os.open(path, os.O_WRONLY)
        os.pwrite(fd, bytes([content[at] ^ mask]), at)
        complaint, is_changed = self._open(name, due)
        os.pwrite(fd, content[at : at + 1], at)
        os.close(fd)
        if is_changed:
            self._restore()
        elif self._differs(name):
            self._restore()
            return "it was refused, and changed"
        return complaint

    def cut(self, name: str, length: int, due: Due) -> str:
        """Cut a file, and do as `flip`."""
        os.truncate(os.path.join(self._path, name), length)
        complaint, is_changed = self._open(name, due)
        if not is_changed and os.path.getsize(os.path.join(self._path, name)) != length:
            complaint = "it was refused, and changed"
        self._restore()
        return complaint

    def _differs(self, name: str) -> bool:
        with open(os.path.join(self._path, name), "rb") as file:
            return file.read() != self._files[name]

    def _open(self, name: str, due: Due) -> tuple[str, bool]:
        """Return what is wrong, and whether the directory was written to."""
        try:
            backend = connect(self._url)
        except CorruptError as error:
            return self._judge_refusal(error, name, due, is_late=False), False
        except Exception as error:  # noqa: BLE001  whatever else comes is what we look for
            return f"{type(error).__name__}, which is no refusal: {error}", True
        try:
            return self._judge_content(backend, due), True
        except CorruptError as error:
            return self._judge_refusal(error, name, due, is_late=True), True
        except Exception as error:  # noqa: BLE001
            return f"{type(error).__name__} from an open store: {error}", True
        finally:
            backend.close()

    def _judge_content(self, backend: Backend, due: Due) -> str:
        found = {key: backend.read(key) for key in backend.keys()}  # noqa: SIM118  no mapping
        if due.content is None:
            return f"opened, where offset {due.offset} is damaged"
        if found != due.content:
            differing = sorted(
                key for key in found.keys() | due.content.keys() if found.get(key) != due.content.get(key)
            )
            return f"holds another {differing[:5]}"
        backend.set("written after", True)
        backend.check()
        return "wrote where it should have refused" if due.late else ""

    def _judge_refusal(self, error: CorruptError, name: str, due: Due, *, is_late: bool) -> str:
        if due.offset is None or is_late != due.late:
            return f"refused: {error}"
        where = f"{os.path.join(self._path, name)}, offset {due.offset}:"
        return "" if where in str(error) else f"refused, and did not name offset {due.offset} of {name}: {error}"
