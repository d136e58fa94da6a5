"""A real history of a file store, and its directory at six moments of it.

The log is written through the public API: sets, deletes, transactions, touches
and batches, a value that stays in the log, and a compaction whose checkpoint
has several frames.  Five scenes are taken within that compaction, at its named
points, and the last one when the new log is as long as the old one was.
"""

from __future__ import annotations

import itertools
import os
import random
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

import sharedstate
from sharedstate.model import Entry
from sharedstate.values import decode
from sharedstate_file import compaction, handle
from sharedstate_file.head import Head, length_of, number_of
from sharedstate_file.log import FRAME_BYTES, LOG_HEADER_BYTES

if TYPE_CHECKING:
    import pytest

__all__ = ["LOG_BYTES", "Frame", "Scene", "make_scenes"]

LOG_BYTES = 2**16
_KEYS = 40
_FRAME = Struct("<4sII")

Content = dict[str, Entry]
"""What a store holds: values, generations and deadlines."""


class Frame(NamedTuple):
    """Where a frame of a log lies, and what it is: checkpoint, entry or end."""

    start: int
    stop: int
    kind: str


class Scene:
    """The directory at one moment.

    Attributes:
        name: of the moment.
        files: name -> bytes, the head among them.
        word: log number and committed length, as the head says.
        logs: name -> its frames.
        contents: (log, length) -> what the store holds after the frame that ends there.
        content: what the store holds.
    """

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.files = {}
        for file in ("lock", "head", *(name for name in os.listdir(path) if name.startswith("log-"))):
            with open(os.path.join(path, file), "rb") as opened:
                self.files[file] = opened.read()
        head = Head.open("file:", os.path.join(path, "head"))
        assert head is not None
        self.word = f"log-{number_of(head.words[0])}", length_of(head.words[0])
        self.logs = {name: _frames(content) for name, content in self.files.items() if name.startswith("log-")}
        self.contents: dict[tuple[str, int], Content] = {}
        self.content: Content = {}

    def needed(self, is_head_lost: bool) -> list[str]:
        """Return the logs on which the content rests; all numbered ones are looked at if the head is lost."""
        if not is_head_lost:
            return [self.word[0]]
        if self.name in {"draft written", "draft renamed"}:
            return ["log-1"]
        return [name for name in self.logs if name != "log-copy"]


def _frames(content: bytes) -> list[Frame]:
    """Read a log without the library's reader."""
    frames, at = [], LOG_HEADER_BYTES
    base = int.from_bytes(content[16:24], "little")
    while at < len(content):
        _, length, _ = _FRAME.unpack_from(content, at)
        generation, *operations = decode(content[at + FRAME_BYTES : at + FRAME_BYTES + length])
        kind = "entry"
        if isinstance(operations[0], int):
            kind = "end"
        elif len(operations[0]) == 4 and generation == base:
            kind = "checkpoint"
        frames.append(Frame(at, at + FRAME_BYTES + length, kind))
        at += FRAME_BYTES + length
    return frames


def make_scenes(path: str, patch: pytest.MonkeyPatch, seed: int) -> list[Scene]:
    """Write a history of two logs of at least `LOG_BYTES` each; return its scenes."""
    dice = random.Random(seed)
    scenes: list[Scene] = []
    floor = LOG_BYTES  # of dead bytes; with the live ones the log is longer
    patch.setattr(compaction, "FLOOR_BYTES", floor)
    patch.setattr(handle, "FLOOR_BYTES", floor)
    patch.setattr(compaction, "_FRAME_BYTES", LOG_BYTES // 16)
    patch.setattr(compaction, "reached", lambda point: scenes.append(Scene(point, path)))
    contents: dict[tuple[str, int], Content] = {("log-1", LOG_HEADER_BYTES): {}}
    with sharedstate.open(f"file:{path}?sync=disk") as store:
        for number in itertools.count():
            _write(store, dice, number)
            figures = store.stats()
            place = f"log-{figures['log_number']}", figures["log_bytes"]
            content = {key: store._backend.read(key) for key in store}
            if len(scenes) == 5 and not scenes[0].content:
                # The write that set it off is the last frame but the end frame of the old log.
                written = [frame.stop for frame in scenes[0].logs["log-1"] if frame.kind == "entry"][-1]
                contents["log-1", written] = content
                for scene in scenes:
                    scene.content = content
            contents[place] = content
            if len(scenes) == 5 and figures["log_bytes"] >= LOG_BYTES:
                break
    scenes.append(Scene("written on", path))
    scenes[-1].content = content
    for scene in scenes:
        scene.contents = contents
    return scenes


def _write(store: sharedstate.Store, dice: random.Random, number: int) -> None:
    keys = [f"key {dice.randrange(_KEYS)}" for _ in range(4)]
    value = dice.choice([number, [number, "x" * dice.randrange(900)], str(number) * dice.randrange(200), None, 1.5])
    if number == 10:
        store["large"] = "l" * 17_000  # its bytes are not kept in memory
        return
    match number % 7:
        case 0 | 1:
            store[keys[0]] = value
        case 2:
            store.delete(keys[0])
        case 3:
            store.transact(lambda tx: [tx.set(keys[0], value), tx.delete(keys[1]), tx.set(keys[2], number)])
        case 4:
            store.touch(keys[0], dice.choice([None, 10**6]))
        case 5:
            store.set_many(dict.fromkeys(keys, value))
        case _:
            store.set(keys[0], number, ttl_s=10**6)
