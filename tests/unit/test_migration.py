"""Copying and comparing stores: from each backend to each, and while others write."""

from __future__ import annotations

import datetime as dt
import math
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import sharedstate
from sharedstate import Capabilities, Clock, Durability, Scope, Store, registry
from sharedstate.backend.urls import parse_url
from sharedstate.migration import Outcome, put_entry
from sharedstate.migration.comparing import TOLERANCE_S, Lasting, are_same

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SCHEMES = ("memory", "file", "sqlite", "shm")

VALUES: dict[str, Any] = {
    "none": None,
    "true": True,
    "one": 1,
    "float": 1.0,
    "nan": math.nan,
    "large": 2**64 - 1,
    "text": "ü\u2028",
    "bytes": b"\0\xff",
    "nested": {"a": [1, (2, {3: b""})], 4: ()},
    "moment": dt.datetime(2024, 5, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=2))),
}


def temporary(scheme: str, directory: Path) -> Iterator[Store]:
    url = registry.find_plugin(parse_url(f"{scheme}:any")).temporary_url(str(directory))
    with sharedstate.open(url) as store:
        yield store
        store.check()
        sharedstate.remove(url)


@pytest.fixture(params=SCHEMES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A fresh store of each backend."""
    yield from temporary(request.param, tmp_path)


@pytest.fixture(params=SCHEMES)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Another one."""
    yield from temporary(request.param, tmp_path)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Store]:
    """A fresh store of a fast backend, where one is enough."""
    yield from temporary("memory", tmp_path)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Store]:
    """Another one."""
    yield from temporary("memory", tmp_path)


def before_first(store: Store, verb: str, disturb: Callable[[], None]) -> None:
    """Have `disturb` run just before the store's next call of `verb`, as another caller would."""
    done = getattr(store, verb)

    def disturbed(*arguments: Any) -> Any:
        setattr(store, verb, done)
        disturb()
        return done(*arguments)

    setattr(store, verb, disturbed)


# --- Copying --------------------------------------------------------------------


def test_copy_carries_every_type_and_the_time_left(source: Store, target: Store) -> None:
    """From each backend to each: values come over as themselves, deadlines as the time left, and all is verified."""
    source.update(VALUES)
    source.set("expires", 1, ttl_s=600)

    report = sharedstate.copy_entries(source, target)

    assert report == (len(VALUES) + 1, 0, 0, (), (), (), len(VALUES) + 1)
    assert report.is_complete()
    assert {key: repr(target[key]) for key in VALUES} == {key: repr(value) for key, value in VALUES.items()}
    assert target.ttl("expires") == pytest.approx(600, abs=5)
    assert target.ttl("one") is None
    assert sharedstate.find_differences(source, target).is_empty()


def test_copy_writes_nothing_that_is_there(source: Store, target: Store) -> None:
    """A copy that was interrupted is begun again: what arrived keeps its generation, the rest follows."""
    source.update(VALUES)
    source.set("expires", 1, ttl_s=600)
    sharedstate.copy_entries(source, target, prefix="n")
    before = {key: target.generation(key) for key in target}

    report = sharedstate.copy_entries(source, target)

    assert report.same == len(before) == 3
    assert report.written == len(VALUES) + 1 - 3
    assert {key: target.generation(key) for key in before} == before
    assert sharedstate.copy_entries(source, target).written == 0


def test_copy_replaces_and_removes_only_if_told_to(source: Store, target: Store) -> None:
    """What differs in the target stays and is named; `overwrite` replaces it, `delete` removes what only it has."""
    source.update({"a": 1, "b": 2, "c": 3})
    target.update({"a": True, "b": 2, "z": 26})
    target.set("c", 3, ttl_s=600)

    careful = sharedstate.copy_entries(source, target)

    assert (careful.refused, careful.changed, careful.verified) == (("a", "c"), (), 1)
    assert not careful.is_complete()
    assert target["a"] is True
    replaced = sharedstate.copy_entries(source, target, overwrite=True)
    assert (replaced.written, replaced.deleted, replaced.verified) == (2, 0, 3)
    assert replaced.is_complete()
    assert target["z"] == 26
    exact = sharedstate.copy_entries(source, target, overwrite=True, delete=True)
    assert (exact.written, exact.deleted, exact.verified) == (0, 1, 3)
    assert dict(target) == {"a": 1, "b": 2, "c": 3}
    assert target.ttl("c") is None


def test_copy_keeps_to_its_prefix_and_namespace(one: Store, two: Store) -> None:
    """Only keys with the prefix are copied, compared and removed; a namespace is a store like any other."""
    one.update({"app:a": 1, "app:b": 2, "other": 3})
    two.update({"new:z": 26, "other": 4})

    report = sharedstate.copy_entries(one.namespace("app"), two.namespace("new"), delete=True)

    assert (report.written, report.deleted, report.verified) == (2, 1, 2)
    assert dict(two) == {"new:a": 1, "new:b": 2, "other": 4}
    assert sharedstate.find_differences(one, two, "app:").only_left == ("app:a", "app:b")


def test_copy_names_values_that_the_target_does_not_take(one: Store, tmp_path: Path) -> None:
    """A value beyond the target's limit is named, and the others are copied."""
    for target in temporary("shm", tmp_path):
        most = target.capabilities.max_value_bytes
        one.update({"large": b"x" * most, "small": 1})

        report = sharedstate.copy_entries(one, target, overwrite=True)

        assert report.too_large == ("large",)
        assert not report.is_complete()
        assert dict(target) == {"small": 1}


def test_copy_tells_its_progress(one: Store, two: Store) -> None:
    """Steps done only grow, and never pass the total."""
    one.update(VALUES)
    told: list[tuple[int, int]] = []

    sharedstate.copy_entries(one, two, progress=lambda done, total: told.append((done, total)))

    assert [done for done, _ in told] == list(range(2 * len(VALUES)))
    assert {total for _, total in told} == {2 * len(VALUES)}


# --- While others write -----------------------------------------------------------


def test_a_write_to_the_target_is_not_lost(source: Store, target: Store) -> None:
    """Y1: what somebody writes to the target just before the copy would is found, kept and named."""
    source["k"] = "copied"
    before_first(target, "compare_and_set", lambda: target.set("k", "written meanwhile"))

    report = sharedstate.copy_entries(source, target)

    assert target["k"] == "written meanwhile"
    assert (report.written, report.refused) == (0, ("k",))


@pytest.mark.parametrize("moment", ["target.read", "source.read", "target.compare_and_set"])
def test_of_two_copies_the_last_to_write_has_read_last(one: Store, two: Store, moment: str) -> None:
    """Y2: a copy that was overtaken by a newer one, at whatever step, does not bring the older value back."""
    one["k"] = "old"
    two["k"] = "before"

    def overtake() -> None:
        one["k"] = "new"
        sharedstate.copy_entries(one, two, overwrite=True)

    whose, _, verb = moment.partition(".")
    before_first(two if whose == "target" else one, verb, overtake)

    report = sharedstate.copy_entries(one, two, overwrite=True)

    assert two["k"] == "new"
    assert report.is_complete()


def test_a_key_that_comes_back_is_not_deleted(one: Store, two: Store) -> None:
    """With `delete`, a key that the source has again when its turn comes stays in the target."""
    two["k"] = 1
    before_first(one, "generation", lambda: one.set("k", 1))

    report = sharedstate.copy_entries(one, two, delete=True)

    assert (report.deleted, report.verified) == (0, 1)
    assert two["k"] == 1


@pytest.mark.parametrize(
    ("disturb", "changed"),
    [
        (lambda store: store.set("a", "newer"), ("a",)),
        (lambda store: store.delete("a"), ("a",)),
        (lambda store: store.set("new", 1), ("new",)),
        (lambda store: store.touch("b", 600), ("b",)),
    ],
    ids=["set", "delete", "add", "touch"],
)
def test_what_a_live_writer_changed_is_named(
    one: Store, two: Store, disturb: Callable[[Store], None], changed: tuple[str, ...]
) -> None:
    """Y4: a key that is set, deleted, added or touched once it was copied is named; copying again ends it."""
    one.update({"a": 1, "b": 2, "c": 3})
    two["mine"] = "only here"

    def when_a_is_copied(done: int, _total: int) -> None:
        if done == 2:  # `a` and `b` are there, `c` is next
            disturb(one)

    report = sharedstate.copy_entries(one, two, progress=when_a_is_copied)

    assert report.changed == changed
    assert not report.is_complete()
    last = sharedstate.copy_entries(one, two, overwrite=True, delete=True)
    assert last.is_complete()
    assert sharedstate.find_differences(one, two).is_empty()


def test_what_expires_meanwhile_is_no_difference(one: Store, two: Store) -> None:
    """C3: an entry about to expire is as good as gone, so its end is reported as nobody's change."""
    one.set("k", 1, ttl_s=TOLERANCE_S / 2)
    one.set("l", 1, ttl_s=1e-6)

    report = sharedstate.copy_entries(one, two)

    assert report.is_complete()
    assert sharedstate.find_differences(one, two).is_empty()
    assert sharedstate.find_differences(two, one).is_empty()
    assert put_entry(two, "gone", lambda: None, overwrite=False) is Outcome.GONE


MOVER = """
import os, sys, sharedstate
source, target = map(sharedstate.open, sys.argv[1:3])
count = 0
def until_killed(done, total):
    if done == 10:
        os.kill(os.getpid(), 9)
sharedstate.copy_entries(source, target, progress=until_killed)
"""

COUNTER = """
import sys, sharedstate
store = sharedstate.open(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        store.increment("hits")
        store.increment("hits:" + sys.argv[2], ttl_s=600)
"""


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_a_service_moves_and_no_count_is_lost(tmp_path: Path) -> None:
    """Counters go on in two processes during a copy and one that is killed; after their end a last copy has all."""
    for source in temporary("shm", tmp_path):
        for target in temporary("sqlite", tmp_path):
            source.update({f"other:{number}": number for number in range(40)})
            workers = [start(COUNTER, source.url, name) for name in "ab"]
            for worker in workers:
                assert worker.stdout is not None
                assert worker.stdout.readline() == "ready\n"
                assert worker.stdin is not None
                worker.stdin.write("2000\n")
                worker.stdin.flush()
            mover = start(MOVER, source.url, target.url)
            assert mover.wait() == -9
            mover.communicate()
            sharedstate.copy_entries(source, target, overwrite=True)
            for worker in workers:
                worker.communicate()
                assert worker.returncode == 0

            report = sharedstate.copy_entries(source, target, overwrite=True, delete=True)

            assert report.is_complete()
            assert report.verified == 43
            assert (target["hits"], target["hits:a"], target["hits:b"]) == (4000, 2000, 2000)
            assert target.increment("hits") == 4001


# --- Comparing --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right"),
    [(1, True), (1, 1.0), (0.0, -0.0), ([1], (1,)), ("a", b"a"), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), (None, 0)],
    ids=repr,
)
def test_values_that_python_calls_equal_may_differ(left: Any, right: Any) -> None:
    """C1: type, sign and order count; a NaN is the same as itself."""
    assert not are_same(Lasting(left, None), Lasting(right, None))
    assert are_same(Lasting(left, None), Lasting(left, None))
    assert are_same(Lasting(math.nan, None), Lasting(math.nan, None))


@pytest.mark.parametrize(
    ("left_s", "right_s", "same"),
    [(None, None, True), (None, 600, False), (600, None, False), (600, 600.9, True), (600, 602, False)],
)
def test_deadlines_are_compared_by_the_time_left(left_s: float | None, right_s: float | None, same: bool) -> None:
    """C2: both for ever, or both for as long, give or take the tolerance."""
    assert are_same(Lasting(1, left_s), Lasting(1, right_s)) == same


def test_differences_name_the_keys(source: Store, target: Store) -> None:
    """Keys of one side, of the other, and of both with another value, in order; the rest is counted."""
    source.update({"a": 1, "b": 2, "both": 0, "a2": 1})
    target.update({"b": 3, "z": 1, "both": 0})

    found = sharedstate.find_differences(source, target)

    assert found == (("a", "a2"), ("z",), ("b",), 1)
    assert not found.is_empty()
    assert sharedstate.find_differences(source, source).is_empty()


# --- What the two stores promise ----------------------------------------------------

SHM = Capabilities(Scope.HOST, Durability.BOOT, Clock.BOOT, 2**20, 4096)


def test_stores_that_promise_the_same_change_nothing() -> None:
    """Equal capabilities: no change to report."""
    assert sharedstate.compare_capabilities(SHM, SHM) == []


@pytest.mark.parametrize(
    ("what", "value", "is_weaker"),
    [
        ("scope", Scope.CLUSTER, False),
        ("scope", Scope.INTERPRETER, True),
        ("durability", Durability.DISK, False),
        ("durability", Durability.PROCESS, True),
        ("clock", Clock.WALL, True),
        ("max_value_bytes", 2**28, False),
        ("max_value_bytes", 1000, True),
        ("max_transaction_keys", 10**6, False),
        ("max_transaction_keys", 16, True),
        ("evicts", True, True),
    ],
)
def test_each_promise_that_changes_is_reported(what: str, value: Any, is_weaker: bool) -> None:
    """One change for one field, with both sides in words, and whether a program may fail by it; and none is missed."""
    other = SHM._replace(**{what: value})

    (change,) = sharedstate.compare_capabilities(SHM, other)
    (back,) = sharedstate.compare_capabilities(other, SHM)

    assert (change.what, change.is_weaker) == (what, is_weaker)
    assert (change.before, change.after) == (back.after, back.before)
    assert back.is_weaker != is_weaker or what == "evicts"
    assert change.meaning
    assert change.meaning != back.meaning


def test_no_field_of_the_capabilities_is_forgotten() -> None:
    """A field that is added later must be reported too."""
    other = Capabilities(Scope.PROCESS, Durability.DISK, Clock.WALL, 1, 1, True)

    assert {change.what for change in sharedstate.compare_capabilities(SHM, other)} == set(Capabilities._fields)
