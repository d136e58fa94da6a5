"""The parts beside single operations: their judges bite, their workers end, and a run of them leaves nothing behind."""

import json
import math
import os
import subprocess
import sys

import pytest

import sharedstate
from benchmarks.parts import isolated
from benchmarks.parts.contenders import CONTENDERS, HALVED, RACY, ours
from benchmarks.parts.contention import QUARRELS, Contended, contend, sum_up_races
from benchmarks.parts.crash import count_lost
from benchmarks.parts.crew import Crew, WorkerError
from benchmarks.parts.registry import MORE_PARTS
from benchmarks.parts.room import PLANS, Room
from benchmarks.parts.waiting import time_hand_overs, time_watch
from benchmarks.parts.worker import fold, receive, send
from benchmarks.targets import PART_TARGETS, judge

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture
def room(tmp_path):
    plan = PLANS["smoke"]._replace(workers=(1, 4), race_s=0.05, waits=5)
    return Room(str(tmp_path), f"{os.getpid()}-parts", ("memory", "file"), plan, lambda line: None, math.inf)


@pytest.fixture(autouse=True)
def import_path(monkeypatch):
    """Workers find what this process finds."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((ROOT, os.path.join(ROOT, "backends"))))


def contender(name):
    return next(item for item in CONTENDERS if item.name == name)


# --- A whole run -------------------------------------------------------------


@pytest.mark.parametrize("names", [("contention",), tuple(MORE_PARTS.keys() - {"contention"})], ids=len)
def test_every_part_ends_in_figures_or_in_a_reason_and_leaves_nothing_behind(tmp_path, names):
    """A smoke run of all parts exits 0, each row has figures or a reason, ours lose nothing, and no store remains."""
    report_path = tmp_path / "report.json"
    stores = tmp_path / "stores"
    stores.mkdir()
    patterns = [word for name in names for word in ("--only", name)]

    child = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--smoke", "--json", str(report_path), *patterns],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(stores)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert child.returncode == 0, child.stderr
    parts = json.loads(report_path.read_text(encoding="utf-8"))["parts"]
    assert set(parts) == set(names)
    for name, rows in parts.items():
        assert rows, name
        for row in rows:
            who = row.get("contestant") or row["backend"]
            needed = who.partition(",")[0] in {"memory", "file", "sqlite", "dict+Lock", "flock", "pipe"}
            may_fail = not needed or (row.get("kind") == "interpreters" and not isolated.is_supported())
            assert not row["failure"] or may_fail, row
            assert not row.get("lost"), row
            assert not row.get("torn"), row
    assert os.listdir(stores) == []


# --- The judges bite ---------------------------------------------------------


def test_lost_updates_of_a_racy_increment_are_counted(room):
    """One that reads, lets others run, and writes, is found to have lost increments with 4 threads, not with 1."""
    rows = {(row.quarrel, row.workers): row for row in contend(room, RACY, "threads")}

    assert not [row.failure for row in rows.values() if row.failure]
    assert rows["hot", 4].lost > 0
    assert rows["hot", 1].lost == 0
    assert rows["disjoint", 4].lost == 0


def test_torn_reads_of_a_record_in_two_halves_are_counted(room):
    """A contestant that stores a record as two halves is caught by readers with 4 threads, and loses no increment."""
    rows = {(row.quarrel, row.workers): row for row in contend(room, HALVED, "threads")}

    assert not [row.failure for row in rows.values() if row.failure]
    assert rows["mixed", 4].torn > 0
    assert all(row.lost == 0 for row in rows.values())


@pytest.mark.parametrize("name", ["memory", "file", "dict+Lock"])
def test_whoever_is_right_is_not_accused(room, name):
    """With 4 threads neither a backend nor a dict behind a lock has lost updates or torn reads."""
    rows = list(contend(room, contender(name), "threads"))

    assert [(row.quarrel, row.workers) for row in rows] == [
        (quarrel, workers) for quarrel in QUARRELS for workers in (1, 4)
    ]
    assert all((row.lost, row.torn, row.failure) == (0, 0, "") for row in rows), rows
    assert all(row.per_second > 0 and 0 <= row.least_share <= 1 for row in rows)


def test_acknowledged_writes_that_are_gone_are_counted():
    """A key counts as lost if it holds less than was acknowledged, or nothing; one write ahead is none."""
    assert count_lost([1, 2, 3, 4], 0, [None, 1, 2]) == 2  # 3 went to key 0 and 4 to key 1
    assert count_lost([1, 2, 3, 4], 0, [3, 4, 2]) == 0
    assert count_lost([1, 2, 3, 4], 0, [3, 4, 5]) == 0
    assert count_lost([], 4, [3, 1, 2]) == 1  # of the writer before


def test_two_holders_of_a_lock_are_an_error(room):
    """A lock that excludes nobody ends the measurement with an error."""

    class Lockless(Crew):
        def do(self, worker, task, **arguments):
            began, result, ended = super().do(worker, task, **arguments)
            late = 10**9 if arguments.get("verb") == "release" else 0
            return [began + late, result, ended + late]

    with (
        ours("file")(room, "locks") as where,
        Lockless("processes", "benchmarks.parts.attach:store", where, 2) as crew,
        pytest.raises(RuntimeError, match="at once"),
    ):
        time_hand_overs(crew, 3)


# --- Workers -----------------------------------------------------------------


def test_waiters_are_told_and_timed_between_processes(room):
    """Each hand-over of a file's lock and each write that is waited for gives one positive time."""
    with ours("file")(room, "wait") as where, Crew("processes", "benchmarks.parts.attach:store", where, 2) as crew:
        hand_overs = time_hand_overs(crew, 4)
        seen = time_watch(crew, 4)

    assert hand_overs
    assert seen
    assert min(hand_overs + seen) > 0


def test_a_worker_that_cannot_open_says_why():
    """The error of the contestant is that of the crew."""
    with pytest.raises(WorkerError, match="UrlError"), Crew("processes", "benchmarks.parts.attach:store", "no:", 1):
        pass


def test_a_worker_that_is_killed_is_missed(room):
    """A task for a worker that was killed ends in an error, at once."""
    with ours("file")(room, "killed") as where, Crew("processes", "benchmarks.parts.attach:store", where, 2) as crew:
        crew.kill(1)

        with pytest.raises(WorkerError, match="worker 1 ended"):
            crew.call(1, "total", [])


def test_a_failing_contestant_is_a_row(room):
    """What a contestant raises while it is made ends its part with a reason."""

    def refuse(room, purpose):
        raise sharedstate.UrlError(url="no:", reason="none", advice="None.")

    rows = list(contend(room, RACY._replace(run=refuse), "threads"))

    assert len(rows) == 1
    assert rows[0].failure.startswith("UrlError")


def test_messages_pass_whole_through_a_pipe():
    """A message longer than one read of a pipe arrives as it was; the end of the pipe is None."""
    ours_end, theirs = os.pipe()
    message = ["plan", {"steps": [["increment", f"key:{number}"] for number in range(500)]}]

    send(theirs, message)
    os.close(theirs)

    assert receive(ours_end) == message
    assert receive(ours_end) is None
    os.close(ours_end)


def test_a_histogram_keeps_times_to_one_percent():
    """A time less the clock's own is kept to within 1 %, small ones exactly, and never below 0."""
    histogram = {}

    fold([10, 50, 149, 100_050, 100_050], 50, histogram)

    assert {time_ns for time_ns in histogram if time_ns < 128} == {0, 99}
    large = max(histogram)
    assert histogram[large] == 2
    assert 0.99 * 100_000 <= large <= 100_000


def test_races_are_summed_up_over_all_workers():
    """Throughput is of the common time, the longest of all workers, and a worker that got nothing has no share."""
    race = [
        {"done": 300, "told": 300, "torn": 1, "wall_ns": 100, "cpu_ns": 90, "longest_ns": 7, "singles": {1: 99, 9: 1}},
        {"done": 0, "told": 1, "torn": 0, "wall_ns": 100, "cpu_ns": 10, "longest_ns": 80, "singles": {5: 100}},
    ]

    row = sum_up_races(Contended("hot", "x", "threads", 2), [race], 0.5, [300.0])

    assert row.per_second == 600
    assert row.ratio_to_one is not None
    assert row.ratio_to_one.median == 2
    assert (row.p50_ns, row.p99_ns, row.longest_ns) == (5, 5, 80)
    assert (row.least_share, row.cpu_share, row.torn) == (0, 0.5, 1)


# --- Targets -----------------------------------------------------------------


def test_targets_of_parts_find_their_rows():
    """With the rows that a full run has, each target that names a part finds a figure."""
    from benchmarks.measure import Interval
    from benchmarks.parts.group_commit import Synced
    from benchmarks.parts.growth import Grown
    from benchmarks.parts.opening import Opened
    from benchmarks.parts.stall import Stall
    from benchmarks.results import Results

    results = Results({}, {})
    one = Interval(1.0, 1.0, 1.0)
    results.parts = {
        "contention": [
            Contended("hot", name, "processes", 2, per_second=rate, ratio_to_one=one)
            for name, rate in (("shm", 20.0), ("LMDB", 1.0))
        ],
        "group-commit": [Synced("file, sync=disk", 8, ratio=one)],
        "stall": [Stall("shm", "hot", longest_ns=10**6)],
        "growth": [Grown("shm", PLANS["full"].sizes[-1], get_ratio=one)],
        "open-large": [Opened("file", PLANS["full"].live, PLANS["full"].writes, ratio_to_half=one)],
        "open-again": [Opened(name, 1000, 1000, first_ms=0.5) for name in ("shm", "sqlite")],
    }

    measured = {judgement.target.text for judgement in judge(results) if judgement.state() != "not measured"}

    assert measured == {target.text for target in PART_TARGETS}
