"""The benchmarks run, on whatever is installed, and compute what they say."""

import glob
import json
import os
import signal
import subprocess
import sys
import tempfile

import pytest

import sharedstate
from benchmarks.measure import Interval, Lane, Plan, Undo, bootstrap_ratio, build_loop, median, percentile, race
from benchmarks.parts.scaling import Run, Triple
from benchmarks.peers import BACKENDS, Place, url_of
from benchmarks.results import Results, Row
from benchmarks.targets import PART_TARGETS, Judgement, Target, judge
from benchmarks.workloads import KINDS, WORKLOADS, make_keys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def benchmark_command(*options: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks", "--smoke", *options]


def benchmark_environment(directory: str) -> dict[str, str]:
    roots = [ROOT, os.path.join(ROOT, "backends")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(roots), "TMPDIR": directory}


def opens(backend: str, directory: str) -> bool:
    # shm needs its C module; the others must open wherever the tests run.
    url = url_of(backend, Place(directory, f"{os.getpid()}-test", "try"))
    try:
        sharedstate.open(url).close()
    except sharedstate.BackendMissingError:
        return False
    sharedstate.remove(url)
    return True


def working_directory(process: str) -> str:
    try:
        return os.readlink(f"/proc/{process}/cwd")
    except OSError:  # it is no process, or no more
        return ""


def attempt(step, *arguments) -> str:
    try:
        step(*arguments)
    except ValueError as error:
        return str(error)
    return ""


def make_lane(name: str, call, keys: int = 20) -> Lane:
    operations = [(key,) for key in make_keys(keys)]
    return Lane(name, call, statement="call({k})" if call else "{k}", variables=("k",), operations=operations)


# --- A whole run -------------------------------------------------------------


def test_interrupted_run_keeps_what_it_has_measured(tmp_path):
    """Ctrl-C amid the second kind of value: the first one's figures are in the JSON, and the exit status tells."""
    report = tmp_path / "results.json"
    options = ["--quick", "--only", "get-int", "--only", "get-str", "--backend", "shm", "--json", str(report)]
    program = (  # which a background shell would have ignore SIGINT
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from benchmarks.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, *options],
        cwd=ROOT,
        env=benchmark_environment(str(tmp_path)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        for line in run.stderr:
            if "get-str" in line:
                break
        run.send_signal(signal.SIGINT)
        run.stderr.read()

    assert run.wait(60) == 130
    kept = json.loads(report.read_text())
    assert [row["workload"] for row in kept["workloads"]] == ["get-int"]
    assert any("interrupted" in line for line in kept["noise"])


def test_smoke_run_measures_every_contestant_that_opens_and_leaves_nothing_behind(tmp_path):
    """`--smoke` exits 0, its JSON has figures or a reason for each contestant, and every store is removed."""
    report_path = tmp_path / "report.json"
    stores = tmp_path / "stores"
    stores.mkdir()
    openable = {backend for backend in BACKENDS if opens(backend, str(tmp_path))}

    child = subprocess.run(
        benchmark_command("--only", "*-int", "--json", str(report_path)),
        cwd=ROOT,
        env=benchmark_environment(str(stores)),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert child.returncode == 0, child.stderr
    report = json.loads(report_path.read_text(encoding="utf-8"))
    left_out = {contestant["name"] for contestant in report["contestants"] if contestant["missing"]}
    assert not left_out & {*openable, "memory", "dict+Lock", "dict+Lock bound", "raw sqlite3"}
    by_name = {workload["workload"]: workload for workload in report["workloads"]}
    assert set(by_name) == {workload.name for workload in WORKLOADS if workload.kind == "int"}
    for workload in by_name.values():
        rows = {row["contestant"]: row for row in workload["rows"]}
        assert {*openable, "memory", "dict+Lock", "raw sqlite3"} <= set(rows)
        assert all(row["median_ns"] > 0 for row in rows.values()), rows
        assert rows["dict+Lock"]["ratio"]["median"] == 1.0
    assert "memory [k]" in {row["contestant"] for row in by_name["get-int"]["rows"]}
    assert os.listdir(stores) == []


def test_every_part_ends_in_figures_or_in_a_reason(tmp_path):
    """Scaling, light open and the codec in isolation each report figures, or why there are none."""
    report_path = tmp_path / "report.json"

    child = subprocess.run(
        benchmark_command(
            "--only", "scaling", "--only", "light-open", "--only", "isolated", "--json", str(report_path)
        ),
        cwd=ROOT,
        env=benchmark_environment(str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert child.returncode == 0, child.stderr
    report = json.loads(report_path.read_text(encoding="utf-8"))
    assert {(item["backend"], item["crew"]) for item in report["scaling"]} == {
        (backend, crew) for backend in ("shm", "file", "sqlite") for crew in ("interpreters", "processes")
    }
    for item in report["scaling"]:
        assert item["failure"] or (item["one"] > 0 and item["triples"] >= 1 and item["lost"] == 0), item
    for item in report["light_open"]:
        assert item["failure"] or item["median_ms"] > 0, item
    assert report["codec_isolated"]["failure"] or set(report["codec_isolated"]["ratio_to_main"]) == {"encode", "decode"}


def test_a_run_that_is_told_to_stop_removes_its_stores_and_ends_its_servers(tmp_path):
    """After SIGTERM in the middle of a run its directory of stores is gone, and no process has it as its own."""
    child = subprocess.Popen(
        benchmark_command("--rounds", "100000", "--only", "get-int", "--backend", "memory"),
        cwd=ROOT,
        env=benchmark_environment(str(tmp_path)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    for line in child.stderr:
        if "get-int" in line:  # the race is on
            break
    assert glob.glob(str(tmp_path / "sharedstate-bench-*"))

    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=60)

    assert child.returncode == 128 + signal.SIGTERM
    assert glob.glob(str(tmp_path / "sharedstate-bench-*")) == []
    assert [link for link in map(working_directory, os.listdir("/proc")) if link.startswith(str(tmp_path))] == []


def test_a_pattern_that_names_nothing_is_refused():
    """`--only` with an unknown name exits with status 2 and lists the known ones."""
    child = subprocess.run(
        benchmark_command("--only", "no-such-workload"),
        cwd=ROOT,
        env=benchmark_environment(tempfile.gettempdir()),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert child.returncode == 2
    assert "get-int" in child.stderr


# --- Measuring ---------------------------------------------------------------


def test_loop_makes_every_call_once_with_its_own_arguments():
    """An unrolled loop over two chunks of ten calls each operation once, in order."""
    calls = []
    chunks = [tuple(range(20)), tuple(range(20, 40))]

    elapsed = build_loop("call({k}, {v})", ("k", "v"))(chunks, lambda *pair: calls.append(pair), {})

    assert calls == [(number, number + 1) for number in range(0, 40, 2)]
    assert elapsed > 0


def test_lanes_take_turns_in_changing_order():
    """In each round every lane has one turn, the idle one too, and the order is not always the same."""
    turns = []

    class LoggedLane(Lane):
        def take_turn(self, *arguments):
            turns.append(self.name)
            super().take_turn(*arguments)

    operations = [(key,) for key in make_keys(20)]
    lanes = {
        name: LoggedLane(name, str.upper, statement="call({k})", variables=("k",), operations=operations)
        for name in ("idle", "a", "b", "c")
    }

    race([lanes["a"], lanes["b"], lanes["c"]], lanes["idle"], Plan(7, 0.001, 1, 20), attempt)

    rounds = [turns[at : at + 4] for at in range(0, len(turns), 4)]
    assert len(rounds) == 8  # one to warm up
    assert all(sorted(names) == ["a", "b", "c", "idle"] for names in rounds)
    assert len({tuple(names) for names in rounds}) > 2


def test_a_lane_that_fails_ends_alone():
    """An exception in one contestant's call becomes its reason; the others get all their rounds."""

    def refuse(key):
        raise ValueError(f"no {key}")

    good, bad = make_lane("good", str.upper), make_lane("bad", refuse)

    race([bad, good], make_lane("idle", None), Plan(rounds=3, sample_ms=0.01, singles=5, keys=20), attempt)

    assert bad.failure.startswith("no key:")
    assert not good.failure
    assert len(good.turns_ns) == 3
    assert good.singles_ns


def test_what_a_turn_does_is_undone_before_the_next_operation_on_that_key():
    """Each of a lane's set-new operations finds its key absent, and the table is as before when it is over."""
    table = {"old": 1}

    def set_new(key):
        assert key not in table
        table[key] = 2

    operations = [(key,) for key in make_keys(50)]
    undo = Undo(table.__delitem__, "call({k})")
    lane = Lane("lane", set_new, statement="call({k})", variables=("k",), operations=operations, undo=undo)

    race([lane], make_lane("idle", None), Plan(rounds=4, sample_ms=0.5, singles=20, keys=50), attempt)

    assert not lane.failure
    assert len(lane.turns_ns) == 4
    assert lane.singles_ns
    assert table == {"old": 1}


def test_a_slow_call_is_made_once_a_turn_and_timed_by_itself():
    """A call that overruns the turn is made once in each, and that is its single operation too."""
    calls = []

    def slow(key):
        calls.append(key)
        sum(range(20_000))

    lane = make_lane("slow", slow)
    lane.calibrate(1000.0)
    calls.clear()
    times = []

    lane.take_turn(100, 1000.0, times)

    assert len(calls) == 1
    assert times == lane.singles_ns


def test_a_lane_without_time_for_all_rounds_leaves_rounds_out():
    """What would need too long takes part in every second or fourth round, but in as many as the plan names."""

    class SlowLane(Lane):
        def take_turn(self, singles, target_ns, times):
            times.append(target_ns)
            sum(range(20_000))

    operations = [(key,) for key in make_keys(20)]
    slow = SlowLane("slow", str.upper, statement="call({k})", variables=("k",), operations=operations)
    usual = make_lane("usual", str.upper)
    plan = Plan(rounds=12, sample_ms=0.001, singles=1, keys=20)

    race([slow], make_lane("idle", None), plan._replace(lane_s=1e-9, fewest=3), attempt)
    race([usual], make_lane("idle", None), plan, attempt)

    assert (slow.every, len(slow.turns_ns)) == (4, 3)
    assert (usual.every, len(usual.turns_ns)) == (1, 12)


def test_times_of_batches_are_given_per_entry():
    """The time of an operation on a hundred entries is divided by a hundred, in turns and single operations."""
    # The clock's own time is subtracted and may be larger than a tenth of such a call, so this one is long.
    lane, batch = (make_lane(name, lambda _: sum(range(5_000))) for name in ("lane", "batch"))
    batch.entries = 100

    race([lane, batch], make_lane("idle", None), Plan(rounds=5, sample_ms=0.5, singles=5, keys=20), attempt)

    assert 20 < median(lane.turns_ns) / median(batch.turns_ns) < 500
    assert 20 < median(lane.singles_ns) / median(batch.singles_ns) < 500


def test_a_ratio_is_formed_over_the_rounds_that_both_took_part_in():
    """A contestant that left rounds out is compared with the others' times of those rounds only."""
    results = Results({}, {})
    results.rows.append(Row("w", "usual", "", [1.0, 9.0, 2.0, 9.0, 3.0], []))
    results.rows.append(Row("w", "slow", "", [10.0, 20.0, 30.0], [], every=2))

    assert results.ratio("w", "slow", "usual") == Interval(10.0, 10.0, 10.0)


def test_a_row_knows_the_middle_and_the_worst_of_its_single_operations():
    """p50, p99 and max are those of the operations timed one by one."""
    row = Row("w", "c", "", [1.0], [float(number) for number in range(1, 1001)])

    assert (row.p50_ns(), row.p99_ns(), row.max_ns()) == (500, 990, 1000)
    assert row._replace(singles_ns=[]).max_ns() is None


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_a_key_is_never_set_to_the_value_that_it_has(workload):
    """On each pass over the keys a workload that writes gives each key another value than the pass before."""
    verb = workload.name.partition("-")[0]
    if verb not in {"set", "compare_and_set", "set_many"}:
        assert workload.undo or "v" not in workload.variables or verb in {"encode", "decode"}
        return
    operations = workload.make(make_keys(300), KINDS[workload.kind])
    if verb == "set_many":
        operations = [pair for (batch,) in operations for pair in batch.items()]
    held = dict(operations)  # what the last pass leaves

    for key, value in operations:
        assert held[key] != value

        held[key] = value


def test_median_and_percentile_take_the_values_that_statistics_names():
    """The median of an even count is the mean of the middle two; a percentile is a value that occurs."""
    numbers = [5.0, 1.0, 4.0, 2.0]

    assert median(numbers) == 3.0
    assert percentile(numbers, 50) == 2.0
    assert percentile(list(range(1, 101)), 99) == 99


def test_ratio_is_formed_within_the_rounds():
    """Drift that hits both contestants of a round alike leaves the ratio exact."""
    drift = [1.0, 2.0, 1.5, 3.0, 1.2]

    ratio = bootstrap_ratio([200 * factor for factor in drift], [100 * factor for factor in drift])

    assert ratio == Interval(2.0, 2.0, 2.0)


def test_a_triple_counts_only_if_all_its_workers_had_their_core():
    """One worker with less than nine tenths of a core makes a triple disturbed."""
    ran, waited = Run(1000, 100, 95), Run(1000, 100, 50)

    assert Triple(ran, (ran, ran), ran).is_undisturbed()
    assert not Triple(ran, (ran, waited), ran).is_undisturbed()
    assert Triple(ran, (ran, ran), ran).two() / Triple(ran, (ran, ran), ran).one() == 2.0


# --- Targets -----------------------------------------------------------------


def test_targets_name_workloads_and_contestants_that_exist():
    """With figures for every contestant of every workload no target about workloads is left unmeasured."""
    results = Results({}, {})
    ours = ("memory", "file", "sqlite", "shm", "sharedstate redis")
    names = (*ours, "dict+codec", "dict+Lock", "raw sqlite3", "LMDB", "diskcache", "redis", "redis pipeline")
    for workload in WORKLOADS:
        for name in names if workload.family == "store" else ("sharedstate codec", "msgpack"):
            results.rows.append(Row(workload.name, name, "", [1.0, 1.0], []))

    states = {judgement.target.text: judgement.state() for judgement in judge(results)}

    assert {text for text, state in states.items() if state == "not measured"} == {
        "codec encode, isolated / main interpreter",
        "codec decode, isolated / main interpreter",
        "shm, 2 processes / 1, a key each",
        "shm, 2 processes / 1, 64 keys each",
        "shm, 2 isolated interpreters / 1, a key each",
        "shm, 2 isolated interpreters / 1, 64 keys each",
        "updates lost while scaling",
        "fresh interpreter: open shm / json, struct, threading",
        "forbidden modules that open loaded",
        *(target.text for target in PART_TARGETS),
    }


def test_a_target_is_met_by_its_median_and_certain_by_its_interval():
    """The median decides; an interval that spans the bound is marked as within the noise."""
    at_most = Target("", lambda results: None, 1.0)
    at_least = at_most._replace(at_least=True)

    assert Judgement(at_most, Interval(0.9, 0.8, 0.95)).state() == "met"
    assert Judgement(at_most, Interval(0.9, 0.8, 0.95)).is_certain()
    assert not Judgement(at_most, Interval(0.9, 0.8, 1.2)).is_certain()
    assert Judgement(at_least, Interval(0.9, 0.8, 0.95)).state() == "not met"
    assert Judgement(at_least, None).state() == "not measured"
