"""The power is cut at every moment of a real program's work, and whatever the disk may then hold is opened.

    C1  sync=disk: the content is one that the history had, from the last acknowledged step on
    C2  sync=os: it is one that the history had; of a file store from the last compaction on
    C3  the store opens, check() finds no fault, it can be written and opened again.  A file store may first refuse,
        where frames that nobody had synced arrived without those before them, but never for one that ends a log;
        then doing what the error advises leaves a content as in C1 or C2
    C4  the recording is complete: all that was recorded, done again, makes the same directory, byte for byte

What a disk may hold is told in `power/__init__.py`.  Each state is opened in
another boot than it was written in, since that is what follows a power cut.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import tempfile
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

import pytest

from campaign import record, scale, span_s
from power.cutting import Cuts
from power.disk import Disk, inodes_of, lay_out, read_tree
from power.history import Bounds, contents, judge_threads, plan
from power.trace import build_recorder, record_program
from power.trial import open_disk
from sharedstate import model
from sharedstate.backend import Deadline
from sharedstate_file import log
from sharedstate_file.head import Head

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from power.disk import Tree
    from power.history import Content
    from power.trace import Step

MEMORY = "/dev/shm"
BELOW = {
    "file": "file:{root}/new/deep/store?sync=",
    "sqlite": "sqlite:{root}/new/deep/state.db?sync=",
}

# So small that a short program's log is compacted several times, and its -wal copied into the database.
SMALL = """
import sharedstate_file.compaction, sharedstate_file.handle
sharedstate_file.compaction.FLOOR_BYTES = sharedstate_file.handle.FLOOR_BYTES = 3000
import sharedstate_sqlite.connections as connections
def open_small(path, *rest, open_connection=connections.open_connection):
    connection = open_connection(path, *rest)
    connection.execute("PRAGMA wal_autocheckpoint=12")
    return connection
connections.open_connection = open_small
import sys
import power.history as history
"""
ONE_THREAD = SMALL + "history.one_thread(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))\n"
WRITE_AFTER_REBOOT = (
    SMALL + "from sharedstate import model; model._constant['boot'] = 'after-a-cut'; history.one_write(sys.argv[1])\n"
)
REMOVAL = SMALL + "history.removal(sys.argv[1])\n"
SEVERAL_THREADS = SMALL + "history.several_threads(sys.argv[1], int(sys.argv[2]))\n"


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_recorder(str(tmp_path_factory.mktemp("recorder")))


class Bench(NamedTuple):
    """What an experiment works with: the library to preload, and a directory for the simulated disks."""

    recorder: str
    disks: str


@pytest.fixture
def bench(recorder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """The disks are in memory, where there is some; this process's boot is restored in the end."""
    monkeypatch.setattr(model, "_constant", dict(model._constant))
    with tempfile.TemporaryDirectory(dir=MEMORY if os.path.isdir(MEMORY) else tmp_path) as path:
        yield Bench(recorder, path)


class Trace:
    """A program that was recorded, and the directory that it left."""

    def __init__(self, bench: Bench, url: str, program: str, *arguments: object, begun: Tree | None = None) -> None:
        root = os.path.join(bench.disks, "real")
        self.begun = dict(sorted((begun or {}).items()))  # so that parents come first
        lay_out(self.begun, root)
        self.inodes = inodes_of(self.begun, root)
        self.url = url
        self.disks = bench.disks
        self.steps: list[Step] = record_program(
            bench.recorder, root, program, url.format(root=root), *map(str, arguments)
        )
        self.left = read_tree(root)
        shutil.rmtree(root)

    def cuts(self, *, may_refuse: bool = False) -> Cuts:
        return Cuts(self.steps, self.disks, self.url, may_refuse=may_refuse, begun=self.begun, inodes=self.inodes)


def cut_one_thread(
    bench: Bench,
    kind: str,
    sync: str,
    dice: random.Random,
    program: str = ONE_THREAD,
    *,
    steps: int,
    most: int,
    wanted: str = "$^",
) -> Cuts:
    """Record a plan of actions, cut it everywhere, and return what was found."""
    seed = dice.randrange(2**32)
    states = contents(plan(seed, steps))
    trace = Trace(bench, BELOW[kind] + sync, program, seed, steps)
    cuts = trace.cuts(may_refuse=kind == "file" and sync == "os")
    cuts.run(lambda content, bounds: bounds.judge(content, states, sync == "disk"), most, dice, wanted)
    return cuts


def keep(cuts: Cuts, evidence: Path) -> None:
    if cuts.wrong:
        lay_out(cuts.kept, str(evidence / "disk"))
        (evidence / "wrong.txt").write_text("\n".join(cuts.wrong))


@pytest.mark.timeout(0)  # bounded by span_s
@pytest.mark.parametrize("sync", ["disk", "os"])
@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_what_a_power_cut_leaves_is_history(bench: Bench, evidence: Path, dice, kind: str, sync: str) -> None:
    """C1, C2, C3 for sets, deletes, touches, batches, increments and transactions, amid compactions and checkpoints."""
    enough = Deadline(span_s(0, 0.02))
    while True:
        cuts = cut_one_thread(
            bench,
            kind,
            sync,
            dice,
            steps=scale({"file": 36, "sqlite": 24}[kind], 80),
            most=scale({"file": 12, "sqlite": 4}[kind], 128),
        )
        keep(cuts, evidence)
        record("power cut", f"{kind}, sync={sync}", bad=len(cuts.wrong), **cuts.figures)
        assert not cuts.wrong, cuts.wrong[0]
        if enough.has_passed():
            return


@pytest.mark.timeout(0)  # bounded by span_s
@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_power_cut_takes_nothing_from_threads_that_share_a_sync(bench: Bench, evidence: Path, dice, kind: str) -> None:
    """C1 and C3 for three threads of one handle, whose writes go to the disk together."""
    enough = Deadline(span_s(0, 0.01))
    while True:
        trace = Trace(bench, BELOW[kind] + "disk", SEVERAL_THREADS, scale(8, 30))
        cuts = trace.cuts(may_refuse=kind == "file")
        cuts.run(
            lambda content, bounds: judge_threads(content, bounds, True),
            scale({"file": 12, "sqlite": 4}[kind], 64),
            dice,
        )
        keep(cuts, evidence)
        record("power cut, threads", f"{kind}, sync=disk", bad=len(cuts.wrong), **cuts.figures)
        assert not cuts.wrong, cuts.wrong[0]
        if enough.has_passed():
            return


def cut_twice(bench: Bench, kind: str, dice: random.Random, program: str, *, steps: int, most: int) -> Cuts:
    """Cut a program; let another one open what is left and write once, and cut that one everywhere."""
    url = BELOW[kind] + "disk"
    tree = Trace(bench, url, ONE_THREAD, dice.randrange(2**32), steps).cuts().some_disk(dice)
    once = os.path.join(bench.disks, "once")
    lay_out(tree, once)
    before = open_disk(url.format(root=once)).content
    shutil.rmtree(once)
    assert before is not None
    after = before | {"after": ("the first cut", False)}
    cuts = Trace(bench, url, program, begun=tree).cuts()
    cuts.run(lambda content, bounds: bounds.judge(content, [before, after], True), most, dice)
    return cuts


@pytest.mark.timeout(scale(120, 1200))
@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_power_cut_amid_the_recovery_from_another(bench: Bench, evidence: Path, dice, kind: str) -> None:
    """C1 and C3 for the opening after a cut, and the first write behind it: no content of before is lost."""
    for _ in range(scale({"file": 3, "sqlite": 2}[kind], 100)):
        cuts = cut_twice(bench, kind, dice, WRITE_AFTER_REBOOT, steps=30, most=scale(4, 64))
        keep(cuts, evidence)
        record("power cut, twice", f"{kind}, sync=disk", bad=len(cuts.wrong), **cuts.figures)
        assert not cuts.wrong, cuts.wrong[0]


def judge_removal(content: Content, bounds: Bounds) -> str:
    """Return what is wrong with a content that `history.removal` left, or ""."""
    full = {f"key {number}": ("x" * 300, False) for number in range(5)}
    dues = [[{}, full], [full], [full, {}], [{}]]  # writing, written, being removed, removed
    due = dues[max(bounds.begun.get(0, 0) - 1, 0) + bounds.done.get(0, 0)]
    return "" if content in due else f"holds {sorted(content)}, where {[sorted(each) for each in due]} are due"


@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_power_cut_leaves_a_store_or_none_of_it(bench: Bench, evidence: Path, dice, kind: str) -> None:
    """A removal that a cut ends can be done again; a store that was removed does not come back, nor a part of it."""
    cuts = Trace(bench, BELOW[kind] + "disk", REMOVAL).cuts(may_refuse=kind == "sqlite")

    cuts.run(judge_removal, scale({"file": 24, "sqlite": 4}[kind], 1024), dice)

    keep(cuts, evidence)
    record("power cut, removal", kind, bad=len(cuts.wrong), **cuts.figures)
    assert not cuts.wrong, cuts.wrong[0]


@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_recording_is_complete(bench: Bench, kind: str) -> None:
    """C4: files, lengths, names and mapped memory come out as the program left them."""
    trace = Trace(bench, BELOW[kind] + "os", ONE_THREAD, 1, 60)
    disk = Disk()

    for step in trace.steps:
        disk.take(step)

    assert disk.everything() == trace.left
    assert len(trace.left) >= 5
    assert {step.kind for step in trace.steps} >= {"CREATE", "WRITE", "SYNC_END", "UNLINK", "MKDIR", "STORE", "NOTE"}


# --- What the experiments find: planted bugs ---------------------------------------------


@pytest.fixture
def same_dice(request: pytest.FixtureRequest) -> random.Random:
    """The same in each run, whatever its seed: a bug must be found, and not by luck."""
    return random.Random(crc32(request.node.nodeid.encode()))


QUICK_ACKNOWLEDGEMENT = """
import sharedstate_file.durability as durability
durability.SharedSync.wait = lambda *_: None
"""
NO_DIRECTORY_SYNC = """
import sharedstate_file.place as place
place.Place.sync_directory = lambda self: None
"""
NO_SYNC_OF_PARENTS = """
import sharedstate.backend.files as files
files.sync_names = lambda directory: None
"""
NAMES_SYNCED_IN_THE_END_ONLY = """
import sharedstate.backend.files as files, sharedstate_file.head as head, sharedstate_file.place as place, os
files.sync_names = lambda directory, sync=files.sync_names: None if "store" in directory else sync(directory)
sync = place.Place.sync_directory
place.Place.sync_directory = lambda self: sync(self) if os.path.exists(self.head) else None
def make(url, path, mode, make=head.Head.make):
    made = make(url, path, mode)
    files.sync_names.__defaults__[0](os.path.dirname(path))
    return made
head.Head.make = make
"""
CHECKPOINT_NOT_SYNCED = """
import sharedstate_file.compaction as compaction, os
compaction.os = type("os", (), {**{name: staticmethod(call) for name, call in vars(os).items() if callable(call)},
                                "path": os.path, "fsync": staticmethod(lambda fd: None)})
"""
END_FRAME_BEFORE_THOSE_BEFORE_IT = """
import sharedstate_file.compaction as compaction, sharedstate_file.handle as handle
calls = []
def sync_log(head, log, real=compaction.sync_log):
    calls.append(log)
    if calls.count(log) > 2:  # beside the writers, in their section, and after the end frame
        real(head, log)
compaction.sync_log = handle.sync_log = sync_log
"""
REMOVAL_NOT_SYNCED = """
import sharedstate_file.recovery as recovery, sharedstate_file.backend as backend, sharedstate_file.head as head
head.Head.end = lambda self: self.store(head.REMOVED)
def finish(place, real=recovery.finish_removal):
    type(place).sync_directory = lambda self: None
    real(place)
backend.finish_removal = finish
"""
SHORT_CHECKSUM = """
import sharedstate_file.log as log, zlib
log.crc32 = lambda content, seed=0: zlib.crc32(content[:16], seed)
"""
LESS_SYNCHRONOUS = """
import sharedstate_sqlite.opening as opening
opening.Pool = lambda url, path, synchronous, timeout, real=opening.Pool: real(url, path, {lower!r}, timeout)
"""


@pytest.mark.parametrize(
    "case",
    [
        ("file", "disk", QUICK_ACKNOWLEDGEMENT, "are due"),
        ("file", "disk", NO_DIRECTORY_SYNC, "are due|log-"),
        ("file", "disk", NO_SYNC_OF_PARENTS, "are due"),
        ("file", "disk", NAMES_SYNCED_IN_THE_END_ONLY, "lock was removed|and no store"),
        ("file", "disk", CHECKPOINT_NOT_SYNCED, "are due|log-"),
        ("file", "os", CHECKPOINT_NOT_SYNCED, "are due|log-"),
        ("file", "os", END_FRAME_BEFORE_THOSE_BEFORE_IT, "a whole one at offset"),
        ("sqlite", "disk", LESS_SYNCHRONOUS.format(lower="NORMAL"), "are due"),
        ("sqlite", "os", LESS_SYNCHRONOUS.format(lower="OFF"), "are due|malformed|Error"),
        ("sqlite", "disk", NO_SYNC_OF_PARENTS, "are due"),
    ],
)
def test_bug_in_the_program_is_found(bench: Bench, same_dice, case: tuple[str, str, str, str]) -> None:
    """A sync that is missing, late or too weak is found by the cuts."""
    kind, sync, bug, complaint = case
    cuts = cut_one_thread(
        bench,
        kind,
        sync,
        same_dice,
        bug + ONE_THREAD,
        steps=50,
        most={"file": 32, "sqlite": 10}[kind],
        wanted=complaint,
    )

    assert cuts.wrong
    assert re.search(complaint, cuts.wrong[-1]), cuts.wrong[:3]


@pytest.mark.parametrize("sync", ["disk", "os"])
def test_checksum_of_a_part_is_found(bench: Bench, same_dice, monkeypatch: pytest.MonkeyPatch, sync: str) -> None:
    """A frame whose checksum covers its beginning only is taken for whole when its end did not arrive."""
    monkeypatch.setattr(log, "crc32", lambda content, seed=0: crc32(content[:16], seed))

    cuts = cut_one_thread(bench, "file", sync, same_dice, SHORT_CHECKSUM + ONE_THREAD, steps=20, most=32, wanted="")

    assert cuts.wrong


def test_head_that_is_believed_after_a_reboot_is_found(
    bench: Bench, same_dice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head is on the disk as of any time; a log that is older, or newer, than it is then taken for damaged."""
    monkeypatch.setattr(Head, "is_true", lambda head, boot: head.is_sealed() and head._map[:8] == b"SSHEAD\r\n")

    cuts = cut_one_thread(bench, "file", "os", same_dice, steps=20, most=12, wanted="")

    assert cuts.wrong


def test_acknowledgement_before_the_shared_sync_is_found(bench: Bench, same_dice) -> None:
    """Among threads too."""
    trace = Trace(bench, BELOW["file"] + "disk", QUICK_ACKNOWLEDGEMENT + SEVERAL_THREADS, 8)
    cuts = trace.cuts(may_refuse=True)

    cuts.run(lambda content, bounds: judge_threads(content, bounds, True), 12, same_dice, "was acknowledged")

    assert "was acknowledged" in cuts.wrong[-1]


def test_acknowledgement_before_the_sync_amid_a_recovery_is_found(bench: Bench, same_dice) -> None:
    """The second cut then takes what was acknowledged behind the first."""
    cuts = cut_twice(bench, "file", same_dice, QUICK_ACKNOWLEDGEMENT + WRITE_AFTER_REBOOT, steps=10, most=16)

    assert any("are due" in wrong for wrong in cuts.wrong)


def test_removal_that_is_not_synced_is_found(bench: Bench, same_dice) -> None:
    """The store comes back, or a part of it stands in the way of the next one."""
    cuts = Trace(bench, BELOW["file"] + "disk", REMOVAL_NOT_SYNCED + REMOVAL).cuts()

    cuts.run(judge_removal, 32, same_dice)

    assert any("are due" in wrong for wrong in cuts.wrong)
    assert any("CorruptError" in wrong for wrong in cuts.wrong)


@pytest.mark.parametrize("missing", ["WRITE", "UNLINK", "STORE", "GROW"])
def test_call_that_was_not_recorded_is_found(bench: Bench, missing: str) -> None:
    """Without one kind of call the recording makes another directory."""
    trace = Trace(bench, BELOW["file"] + "os", ONE_THREAD, 1, 60)
    disk = Disk()

    for step in trace.steps:
        if step.kind != missing:
            disk.take(step)

    assert disk.everything() != trace.left


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ({"count 0": 2, "pad 0": "x" * 194, "sum": 2}, ""),
        ({"count 0": 3, "pad 0": "x" * 291, "sum": 3}, ""),
        ({"count 0": 1, "pad 0": "x" * 97, "sum": 1}, "acknowledged"),
        ({"count 0": 4, "pad 0": "x" * 388, "sum": 4}, "not begun"),
        ({"count 0": 2, "pad 0": "x" * 97, "sum": 2}, "pad"),
        ({"count 0": 2, "pad 0": "x" * 194, "sum": 3}, "sum"),
    ],
)
def test_judge_of_threads(content: dict, wrong: str) -> None:
    """It accepts what lies between the acknowledged and the begun, as a whole, and nothing else."""
    bounds = Bounds()
    for note in (b"begin 0 2", b"done 0 2", b"begin 0 3"):
        bounds.take(note)

    complaint = judge_threads({key: (value, False) for key, value in content.items()}, bounds, True)

    assert wrong in complaint
    assert bool(wrong) == bool(complaint)
