"""Hold one peer of the benchmarks to what its verbs say, in a process of its own.

    python tests/unit/benchmark_peer.py NAME TOKEN DIRECTORY

Peers load what would tell other tests that this process starts others, and change what
they share with it.  Exit status 77: it is not installed; the last line says what is not.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager

import pytest

from benchmarks.peers import PEERS, Place
from benchmarks.workloads import KINDS, WORKLOADS, make_keys

KEYS = make_keys(30)
NOT_INSTALLED = 77


def fill(verbs, kind):
    held = {key: kind.pool[number % len(kind.pool)] for number, key in enumerate(KEYS)}
    for key, value in held.items():
        verbs["set"](key, value)
    return held


def check_reading(verbs, held):
    """What was set is read again, one by one and together."""
    assert all(verbs["get"](key) == value for key, value in held.items())
    if "getitem" in verbs:
        assert verbs["getitem"][KEYS[0]] == held[KEYS[0]]
    if "items" in verbs:
        assert dict(verbs["items"]()) == held
    if "get_many" in verbs:
        assert verbs["get_many"](KEYS[:20]) == {key: held[key] for key in KEYS[:20]}


def check_writing(verbs, kind):
    """What was set together is there; what was deleted is gone; numbers count; pairs swap."""
    first, second, _ = KEYS[:3]
    one, other = kind.pool[5:7]
    if "set_many" in verbs:
        verbs["set_many"]({first: one, second: other})
        assert [verbs["get"](first), verbs["get"](second)] == [one, other]
    if "swap" in verbs:
        verbs["set"](first, one)
        verbs["set"](second, other)
        verbs["swap"](first, second)
        assert [verbs["get"](first), verbs["get"](second)] == [other, one]
    if kind.name == "int":
        for verb in {"increment", "increment_apart"} & verbs.keys():
            verbs["set"](first, 41)
            verbs[verb](first)
            assert verbs["get"](first) == 42
    if "delete" in verbs:
        verbs["delete"](first)
        assert verbs["get"](first) is None
        verbs["set"](first, other)
        assert verbs["get"](first) == other


def check_comparing(session, kind, name):
    """A generation serves one compare-and-set; the next needs the one that this returned."""
    key, compare_and_set = KEYS[0], session.verbs["compare_and_set"]
    generation = session.generation(key)
    following = compare_and_set(key, kind.pool[3], generation)
    if name == "pymemcache":  # reads the generation itself, each time
        return
    assert following != generation
    with pytest.raises(Exception):  # noqa: B017, PT011  each has its own
        compare_and_set(key, kind.pool[4], generation)
    compare_and_set(key, kind.pool[5], following)


def check_turns(session, kind):
    """Every workload whose verbs it has runs inside the server, and its times come back."""
    session.host.fill(len(KEYS))
    measured = set()
    for workload in WORKLOADS:
        form = workload.forms[0]
        if workload.kind == kind.name and {form.verb, *workload.needs} <= set(session.verbs):
            lane, times = session.host.make_lane("lane", workload, form), []
            lane.calibrate(1e5)
            lane.take_turn(5, 1e5, times)
            assert times[0] > 0
            assert lane.singles_ns
            measured.add(form.verb)
    assert {"get", "set", "delete", "items"} <= measured


def main(name, token, directory):
    peer = next(peer for peer in PEERS if peer.name == name)
    for kind in KINDS.values():
        place = Place(os.path.join(directory, kind.name), token, kind.name, len(KEYS), kind.value_bytes)
        os.mkdir(place.directory)
        try:
            with contextmanager(peer.open)(place) as session:
                if session.host:
                    check_turns(session, kind)
                else:
                    held = fill(session.verbs, kind)
                    check_reading(session.verbs, held)
                    check_writing(session.verbs, kind)
                    if "compare_and_set" in session.verbs:
                        check_comparing(session, kind, name)
        except (ImportError, FileNotFoundError) as error:
            if kind is not KINDS["int"]:
                raise
            sys.stderr.write(f"{error}\n")
            return NOT_INSTALLED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
