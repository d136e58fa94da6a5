"""A file store's log cut at every byte, and with every single bit flipped, amid a compaction and after it.

    E1  a damaged frame that counts is refused: CorruptError, naming the file and the offset where the frame begins
    E2  with the head lost, damage to the last frame is taken for a write cut short, and the store holds what it held
        before that write; but not where that frame is a checkpoint's, which was synced before it got its name
    E3  what was cut with the head lost holds the state after the last whole frame, exactly: each value, generation
        and deadline
    E4  damage to what no content rests on changes no content
    E5  what was refused is left as it was; what was opened can be checked and written
    E6  whatever happens to the head, all is there

No other exception, no other content, no wait without end.  The short form takes
the beginnings and ends of the logs, and of the rest every so many bits.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from typing import TYPE_CHECKING
from zlib import crc32

import pytest

from campaign import record, scale
from damage.judge import Due, Ground, due_after_cut, due_after_flip
from damage.scene import LOG_BYTES, make_scenes
from sharedstate import CorruptError
from sharedstate_file import handle, log
from sharedstate_file.compaction import LOG_HEADER_BYTES
from sharedstate_file.head import HEAD_BYTES, Head
from sharedstate_file.log import Log

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from damage.scene import Scene

MEMORY = "/dev/shm"
MOMENTS = ["draft written", "draft renamed", "old log ended", "head flipped", "old log removed", "written on"]
HEADS = pytest.mark.parametrize("is_head_lost", [False, True], ids=["head there", "head lost"])
EDGE_BYTES = 16  # of each log's beginning and end, of which every bit is flipped in the short form too


@pytest.fixture
def place(tmp_path: Path) -> Iterator[str]:
    """A directory in memory, where there is some: it is written to a million times."""
    with tempfile.TemporaryDirectory(dir=MEMORY if os.path.isdir(MEMORY) else tmp_path) as path:
        yield path


def scene_of(place: str, moment: str, seed: int = 1) -> Scene:
    with pytest.MonkeyPatch.context() as patch:
        scenes = {scene.name: scene for scene in make_scenes(f"{place}/history", patch, seed)}
    assert list(scenes) == MOMENTS
    return scenes[moment]


def some(size: int, stride: int, edge: int, dice: random.Random) -> Iterable[int]:
    """Return numbers below `size`: all if `stride` is 1, else one in so many, and all of either edge."""
    if stride == 1:
        return range(size)
    edges = {*range(min(edge, size)), *range(max(size - edge, 0), size)}
    return sorted(edges.union(range(dice.randrange(stride), size, stride)))


def damage(
    place: str, scene: Scene, is_head_lost: bool, dice: random.Random, strides: tuple[int, int]
) -> tuple[Counter, list[str]]:
    """Flip and cut each log, one bit in `strides[0]` and one byte in `strides[1]`; return figures and complaints."""
    ground = Ground(os.path.join(place, "ground"), scene, is_head_lost)
    figures: Counter[str] = Counter()
    wrong = []
    for name in scene.logs:
        size = len(scene.files[name])
        for bit in some(size * 8, strides[0], EDGE_BYTES * 8, dice):
            figures["flips"] += 1
            if complaint := ground.flip(name, bit, due_after_flip(scene, name, bit // 8, is_head_lost)):
                wrong.append(f"{name}, bit {bit}: {complaint}")
        for length in some(size, strides[1], EDGE_BYTES, dice):
            figures["cuts"] += 1
            if complaint := ground.cut(name, length, due_after_cut(scene, name, length, is_head_lost)):
                wrong.append(f"{name}, cut to {length}: {complaint}")
    return figures, wrong


@pytest.mark.timeout(scale(120, 7200))
@HEADS
@pytest.mark.parametrize("moment", MOMENTS)
def test_damaged_log_is_history_or_refused(place: str, dice, moment: str, is_head_lost: bool) -> None:
    """E1 to E5.  In full: each byte and bit of the log in use, and of both logs where one goes on with the other."""
    scene = scene_of(place, moment, dice.randrange(2**32))
    needed = scene.needed(is_head_lost)
    is_whole = moment == "written on" or (moment == "old log ended" and is_head_lost)

    figures, wrong = damage(place, scene, is_head_lost, dice, scale((3001, 701), (1, 1) if is_whole else (29, 7)))

    assert sum(len(scene.files[name]) for name in needed) >= LOG_BYTES or moment in {"head flipped", "old log removed"}
    record("kill at every byte", "file", bad=len(wrong), **figures)
    assert not wrong, wrong[:5]


@pytest.mark.timeout(scale(120, 7200))
@pytest.mark.parametrize("moment", ["old log ended", "head flipped", "written on"])
def test_damaged_head_loses_nothing(place: str, dice, moment: str) -> None:
    """E6: it is derived from the logs, so each of its bits may flip, and any part of it be missing."""
    scene = scene_of(place, moment)
    ground = Ground(os.path.join(place, "ground"), scene, is_head_lost=False)
    due = Due(scene.content)
    bits = list(some(HEAD_BYTES * 8, scale(1021, 1), 0, dice))
    bits = sorted({*bits, *range(0, 256 * 8, scale(11, 1))})
    lengths = list(some(HEAD_BYTES, scale(127, 1), 8, dice))

    wrong = [f"bit {bit}: {complaint}" for bit in bits if (complaint := ground.flip("head", bit, due))]
    wrong += [f"cut to {length}: {complaint}" for length in lengths if (complaint := ground.cut("head", length, due))]

    record("kill at every byte", "file, head", bad=len(wrong), flips=len(bits), cuts=len(lengths))
    assert not wrong, wrong[:5]


# --- What the experiment finds: planted bugs -----------------------------------------------


def found(place: str, moment: str, is_head_lost: bool, dice: random.Random) -> str:
    _, wrong = damage(place, scene_of(place, moment), is_head_lost, dice, (4001, 997))
    return "\n".join(wrong)


@HEADS
def test_checksum_of_a_part_is_found(place: str, dice, monkeypatch: pytest.MonkeyPatch, is_head_lost: bool) -> None:
    """What it does not cover is read as it is."""
    monkeypatch.setattr(log, "crc32", lambda content, seed=0: crc32(content[: len(content) // 2], seed))

    assert "is damaged" in found(place, "written on", is_head_lost, dice)


def test_damage_taken_for_a_torn_tail_is_found(place: str, dice, monkeypatch: pytest.MonkeyPatch) -> None:
    """An opener that looks for no whole frame behind a damaged one throws away what was acknowledged."""
    monkeypatch.setattr(Log, "find_frame", lambda *_: None)

    assert "opened, where offset" in found(place, "written on", True, dice)


def test_log_that_is_not_measured_is_found(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An opener that is content with a log shorter than its head says opens to an earlier state."""
    monkeypatch.setattr(handle, "load", lambda log, end, load=handle.load: load(log, min(end, log.size())))

    scene = scene_of(place, "written on")
    ground, length = Ground(os.path.join(place, "ground"), scene, is_head_lost=False), scene.logs["log-2"][-9].start

    complaint = ground.cut("log-2", length, due_after_cut(scene, "log-2", length, is_head_lost=False))

    assert "opened, where offset" in complaint


@pytest.mark.parametrize("moment", ["old log ended", "old log removed"])
def test_checkpoint_of_unknown_length_is_found(place: str, dice, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """One flipped bit of a checkpoint's last frame would leave half of the store, as no history ever had it."""
    monkeypatch.setattr(Log, "note_checkpoint", lambda self, frames: None)

    assert "opened, where offset" in found(place, moment, True, dice)


def test_other_exception_is_found(place: str, dice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an opener raises besides CorruptError is no answer."""
    monkeypatch.setattr(Log, "damaged", lambda self, offset, what="": ValueError(offset))

    assert "ValueError, which is no refusal" in found(place, "written on", False, dice)


def test_refusal_that_names_no_offset_is_found(place: str, dice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has to mend the file must know where."""
    monkeypatch.setattr(Log, "damaged", lambda self, offset, what="": CorruptError(url=self.url, reason=self.path))

    assert "did not name offset" in found(place, "written on", True, dice)


def test_refusal_that_changes_the_log_is_found(place: str, dice, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is cut before it is looked through has lost what it held."""

    def cut_and_find(self: Log, start: int, end: int, find=Log.find_frame) -> int | None:
        later = find(self, start, end)
        self.cut(max(start - 1, LOG_HEADER_BYTES))
        return later

    monkeypatch.setattr(Log, "find_frame", cut_and_find)

    assert "it was refused, and changed" in found(place, "written on", True, dice)


def test_head_without_a_seal_is_found(place: str, dice, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word that nothing vouches for sends its reader anywhere."""
    monkeypatch.setattr(Head, "is_sealed", lambda self: True)
    scene = scene_of(place, "written on")
    ground = Ground(os.path.join(place, "ground"), scene, is_head_lost=False)

    wrong = [ground.flip("head", bit, Due(scene.content)) for bit in range(64 * 8, 72 * 8)]

    assert any(wrong)
