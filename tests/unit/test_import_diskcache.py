"""Out of diskcache's own directories, into stores: what comes over, what stays behind, and that nothing is executed."""

from __future__ import annotations

import copyreg
import datetime as dt
import json
import math
import os
import pickle
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from diskcache import Cache, FanoutCache, JSONDisk
from hypothesis import given
from hypothesis import strategies as st

import sharedstate
from disk_cache import LONG, fill, statement
from sharedstate import ImportReport, LeftBehind, Store, UnavailableError, registry
from sharedstate.backend.urls import parse_url
from sharedstate.cli import main
from sharedstate.migration.pickles import NamingError, read_plain
from sharedstate.testing.same import is_same

if TYPE_CHECKING:
    from collections.abc import Iterator

VALUES: dict[str, Any] = {
    "none": None,
    "true": True,
    "one": 1,
    "lowest": -(2**63),
    "large": 2**64 - 1,
    "float": 1.0,
    "minus nothing": -0.0,
    "infinite": math.inf,
    "nan": math.nan,
    "empty": "",
    "text": "ü\u2028\0",
    "long text": "ü\r\n\r" * LONG,
    "bytes": b"\0\xff",
    "long bytes": bytes(range(256)) * LONG,
    "list": [1, "two", 3.0, None, True],
    "long list": [number / 7 for number in range(LONG)],
    "nested": {"a": [1, (2, {3: b"\xfe"})], 4: (), "empty": b""},
    "ü": "the key is no ASCII",
}


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


@pytest.fixture(params=["memory", "sqlite"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A fresh store of a backend that keeps values as they are, and of one that keeps them in a file."""
    url = registry.find_plugin(parse_url(f"{request.param}:any")).temporary_url(str(tmp_path))
    with sharedstate.open(url) as store:
        yield store
        store.check()
        sharedstate.remove(url)


@pytest.fixture
def store(memory_url: str) -> Iterator[Store]:
    """A fresh store, where one backend is enough."""
    with sharedstate.open(memory_url) as store:
        yield store


def reasons(report: ImportReport) -> dict[str, str]:
    return dict(report.left_behind)


# --- Values and keys ----------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_each_kind_of_value_comes_over_as_itself(directory: str, target: Store, protocol: int) -> None:
    """Short ones from the database and long ones from files, pickled by each protocol: the same to the bit."""
    with Cache(directory, disk_pickle_protocol=protocol) as cache:
        for key, value in VALUES.items():
            cache[key] = value

    report = sharedstate.import_diskcache(directory, target)

    assert report == (len(VALUES), 0, 0, 0, (), (), ())
    assert report.is_complete()
    assert [key for key in VALUES if not is_same(target[key], VALUES[key])] == []
    assert len(target) == len(VALUES)


def test_the_time_left_comes_over_and_tags_do_not(directory: str, target: Store) -> None:
    """A deadline is as far off as before; what has expired is counted; a deadline in 300 years is none."""
    with Cache(directory, cull_limit=0) as cache:
        cache.set("stays", 1)
        cache.set("expires", 2, expire=600, tag="group")
        cache.set("far", 3, expire=1e10, tag=b"group")
        cache.set("expired", 4, expire=-1, tag="group")

    report = sharedstate.import_diskcache(directory, target)

    assert report == (3, 0, 1, 2, (), (), ())
    assert dict(target) == {"stays": 1, "expires": 2, "far": 3}
    assert target.ttl("expires") == pytest.approx(600, abs=5)
    assert target.ttl("stays") is None
    assert target.ttl("far") is None


KEYS: dict[str, tuple[Any, str]] = {
    "1": (1, "its key is an int"),
    "2.5": (2.5, "its key is a float"),
    "b'bytes'": (b"bytes", "its key is bytes"),
    "('pair', 1)": (("pair", 1), "its key is a pickle"),
    "None": (None, "its key is a pickle"),
    "True": (True, "its key is a pickle"),
    "18446744073709551616": (2**64, "its key is a pickle"),
    "''": ("", "a key is a str of 1 to 512 bytes of UTF-8, not an empty one"),
}


def test_keys_that_are_no_str_are_named(directory: str, target: Store) -> None:
    """Each stays behind, as Python writes it and with the reason; a long one is named shortly."""
    with Cache(directory) as cache:
        for key, _ in KEYS.values():
            cache[key] = 1
        cache["k" * 600] = 1
        cache[b"b" * 10**6] = 1
        cache["good"] = 1

    report = sharedstate.import_diskcache(directory, target)

    assert dict(target) == {"good": 1}
    found = reasons(report)
    assert not report.is_complete()
    assert {key: found[key] for key in KEYS} == {key: reason for key, (_, reason) in KEYS.items()}
    assert len(found) == len(KEYS) + 2
    assert max(map(len, found)) < 250


def test_int_keys_come_over_as_text_if_asked_for(directory: str, target: Store) -> None:
    """The number is the key; of 1 and "1" both stay behind, since nobody can tell which is meant."""
    with Cache(directory) as cache:
        cache[-7] = "seven"
        cache[1] = "int"
        cache["1"] = "str"

    report = sharedstate.import_diskcache(directory, target, int_keys=True)

    assert dict(target) == {"-7": "seven"}
    assert reasons(report) == {"1": "several entries would have this key: 1 in cache, '1' in cache"}
    assert sharedstate.import_diskcache(directory, target).written == 1
    assert dict(target) == {"-7": "seven", "1": "str"}


def test_what_has_expired_is_not_named(directory: str, store: Store) -> None:
    """Neither for its key, nor as another entry of the same key, nor for its value: it is counted."""
    with Cache(directory, cull_limit=0) as cache:
        for key in (1, 2.5, ("pair", 1), "", "bad"):
            cache.set(key, {1}, expire=-1)
        cache["1"] = "str"

    assert sharedstate.import_diskcache(directory, store, int_keys=True) == (1, 0, 5, 0, (), (), ())
    assert dict(store) == {"1": "str"}


def test_what_another_disk_wrote_is_not_taken_for_what_it_is_not(directory: str, store: Store) -> None:
    """A `JSONDisk` has compressed JSON for keys: they are named, and nothing comes over."""
    with Cache(directory, disk=JSONDisk) as cache:
        cache["k"] = "v" * LONG

    (found,) = sharedstate.import_diskcache(directory, store).left_behind

    assert found.reason == "its key is bytes"
    assert len(store) == 0


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({1}, "value is a set"),
        ([bytearray(b"x")], "value[0] is a bytearray"),
        ([2**64], "value[0] is an int of 65 bits"),
        ({"a": {1.5: 0}}, 'the key of value["a"][1.5] is a float'),
        (OrderedDict(a=1), "its pickle names collections.OrderedDict"),
        (dt.datetime(2024, 5, 1, tzinfo=dt.UTC), "its pickle names datetime.datetime"),
        ({"at": Path("/tmp")}, "its pickle names pathlib"),
        (print, "its pickle names builtins.print"),
    ],
    ids=range(8),
)
def test_values_that_no_store_has_are_named(directory: str, target: Store, value: Any, reason: str) -> None:
    """With the path to what is at fault, or the name in their pickle; the others come over."""
    fill(directory, bad=value, good=1)

    report = sharedstate.import_diskcache(directory, target)

    assert dict(target) == {"good": 1}
    assert reasons(report)["bad"].startswith(reason)


def test_what_is_there_is_not_replaced_unasked(directory: str, target: Store) -> None:
    """The same is not written, another value or deadline is kept and named, and replaced with `overwrite`."""
    fill(directory, same=1, other=2, new=3)
    target.update({"same": 1, "other": True, "mine": 0})
    before = target.generation("same")

    careful = sharedstate.import_diskcache(directory, target)

    assert careful == (1, 1, 0, 0, ("other",), (), ())
    assert not careful.is_complete()
    assert target["other"] is True
    assert sharedstate.import_diskcache(directory, target, overwrite=True) == (1, 2, 0, 0, (), (), ())
    assert dict(target) == {"same": 1, "other": 2, "new": 3, "mine": 0}
    assert target.generation("same") == before


def test_an_import_that_was_interrupted_is_begun_again(directory: str, target: Store) -> None:
    """What arrived is whole, and is not written again; the progress told is of each entry in turn."""
    fill(directory, **VALUES)
    told: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sharedstate.import_diskcache(directory, target, progress=stop)

    assert told == [(done, len(VALUES)) for done in range(6)]
    assert len(target) == 5
    assert sharedstate.import_diskcache(directory, target)[:2] == (len(VALUES) - 5, 5)


def test_values_too_large_for_the_target_are_named(directory: str, shm_url: str) -> None:
    """Text, bytes and pickles beyond its limit, and the others are brought over, into a namespace too."""
    with sharedstate.open(shm_url) as store:
        size = store.capabilities.max_value_bytes
        fill(directory, bytes=b"x" * size, text="x" * size, pickle=["x" * size], small=1)

        report = sharedstate.import_diskcache(directory, store.namespace("app"))

        assert report == (1, 0, 0, 0, (), ("bytes", "pickle", "text"), ())
        assert dict(store) == {"app:small": 1}


def test_a_file_that_is_too_large_is_not_read(directory: str, store: Store) -> None:
    """One of a terabyte, with a hole for its content, is named by its length."""
    fill(directory, bad="x" * LONG)
    (path,) = Path(directory).rglob("*.val")
    os.truncate(path, 2**40)
    statement(directory, "UPDATE Cache SET size = ?", 2**40)

    assert sharedstate.import_diskcache(directory, store).too_large == ("bad",)


# --- Shards -------------------------------------------------------------------------


def test_a_fanout_cache_comes_over_from_all_shards(directory: str, target: Store) -> None:
    """Short and long values, whatever the number of shards."""
    with FanoutCache(directory, shards=5) as cache:
        for key, value in VALUES.items():
            cache[key] = value

    report = sharedstate.import_diskcache(directory, target)

    assert report == (len(VALUES), 0, 0, 0, (), (), ())
    assert [key for key in VALUES if not is_same(target[key], VALUES[key])] == []


def test_a_key_in_two_shards_stays_behind(directory: str, target: Store) -> None:
    """A cache that had another number of shards once has old entries: nobody can tell which one counts."""
    keys = [f"key {number}" for number in range(20)]
    for shards in (4, 3):
        with FanoutCache(directory, shards=shards) as cache:
            for key in keys:
                cache[key] = shards

    found = reasons(sharedstate.import_diskcache(directory, target))

    assert 0 < len(found) < len(keys)
    assert {*found, *target} == {*keys}
    assert not found.keys() & {*target}
    assert all(reason.startswith("several entries would have this key: ") for reason in found.values())
    assert set(target.values()) == {3}


def test_a_missing_shard_is_no_empty_one(directory: str, store: Store) -> None:
    """It is told which one is missing, and nothing is stored."""
    FanoutCache(directory, shards=3).close()
    shutil.rmtree(f"{directory}/001")

    with pytest.raises(UnavailableError, match=r"a shard is missing: there are 2, and no .*/001/cache\.db"):
        sharedstate.import_diskcache(directory, store)


# --- Pickles ------------------------------------------------------------------------


class Evil:
    """What its pickle says is done where it is loaded."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_is_executed_unless_told_to(directory: str, target: Store, tmp_path: Path, protocol: int) -> None:
    """A value and a key that would run a program stay behind, named with what they name; `allow_pickle` runs it."""
    mark = tmp_path / "executed"
    with Cache(directory, disk_pickle_protocol=protocol) as cache:
        cache["evil"] = ["before", Evil(f"touch {mark}")]
        cache["long evil"] = ["x" * LONG, Evil(f"touch {mark}")]
        cache[Evil(f"touch {mark}")] = 1

    report = sharedstate.import_diskcache(directory, target, int_keys=True)

    assert not mark.exists()
    assert len(target) == 0
    assert len(report.left_behind) == 3
    assert reasons(report)["evil"] == reasons(report)["long evil"] == "its pickle names posix.system"
    sharedstate.import_diskcache(directory, target, allow_pickle=True)
    assert mark.exists()
    assert target["evil"] == ["before", 0]


def test_what_a_pickle_makes_is_checked_when_it_is_executed(directory: str, target: Store) -> None:
    """With `allow_pickle` a datetime comes over; an object that no store has is named, and so is an error."""
    moment = dt.datetime(2024, 5, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    fill(directory, moment=moment, ordered=OrderedDict(a=1), broken=Evil(""))
    statement(directory, "UPDATE Cache SET value = ? WHERE key = 'broken'", b"cno_such_module\nname\n.")

    report = sharedstate.import_diskcache(directory, target, allow_pickle=True)

    assert is_same(dict(target), {"moment": moment})
    assert reasons(report) == {
        "ordered": "value is a collections.OrderedDict",
        "broken": "its pickle raises ModuleNotFoundError: No module named 'no_such_module'",
    }


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers() | st.binary(max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(value=plain, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_pickles_are_read_back(value: Any, protocol: int) -> None:
    """Of each protocol, bytes included, which protocols 0 to 2 write as a call."""
    assert is_same(read_plain(pickle.dumps(value, protocol)), value)


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b"\x80",
        b"garbage",
        b"(lp0\nI1\na",
        b"(dp0\n(lp1\nI1\ns.",  # a list as a key
        b"Ppersistent\n.",
        b"(lp0\n}b.",  # state of a list
        b"\x8c\x07_codecs\x8c\x06encode\x93\x8c\x01a\x8c\x05utf-8\x86R.",  # other than latin1
        b"\x8c\x08builtins\x8c\x05bytes\x93K\x05\x85R.",
        b"\x8c\x08builtins\x8c\x05bytes\x93)\x81.",  # as a class
        b"\x8c\x07_codecs\x8c\x06encode\x93}\x8c\x01a\x8c\x01bsb.",  # an attribute of what stands for it
        b"\x8c\x07_codecs\x8c\x06encode\x93N}\x8c\x08__call__\x8c\x01bs\x86b.",
        b"\x80\x05\x97.",  # a buffer from outside
    ],
    ids=range(13),
)
def test_a_malformed_pickle_stays_behind(directory: str, store: Store, pickled: bytes) -> None:
    """It raises something or other, and is named with that; what stands for bytes only makes bytes."""
    fill(directory, bad=[], good=1)
    statement(directory, "UPDATE Cache SET value = ? WHERE key = 'bad'", pickled)

    report = sharedstate.import_diskcache(directory, store)

    assert dict(store) == {"good": 1}
    assert reasons(report)["bad"].startswith("its pickle raises ")
    assert read_plain(pickle.dumps(b"bytes", 0)) == b"bytes"


@pytest.mark.parametrize(
    ("pickled", "name"),
    [
        (b"cposix\nsystem\n.", "posix.system"),
        (b"(S'true'\niposix\nsystem\n.", "posix.system"),
        (b"\x8c\x05posix\x8c\x06system\x93.", "posix.system"),
        (b"\x82\x07.", "posix.system"),
        (b"c__builtin__\neval\n.", "__builtin__.eval"),
        (b"cbuiltins\nbytes.fromhex\n.", "builtins.bytes.fromhex"),
        (b"c_codecs\ndecode\n.", "_codecs.decode"),
    ],
)
def test_a_pickle_that_names_anything_is_refused(pickled: bytes, name: str) -> None:
    """By each opcode that names, the number of a registered extension that was loaded before among them."""
    copyreg.add_extension("posix", "system", 7)
    try:
        assert pickle.loads(b"\x82\x07.") is os.system

        with pytest.raises(NamingError) as caught:
            read_plain(pickled)
    finally:
        copyreg.remove_extension("posix", "system", 7)
        copyreg.clear_extension_cache()

    assert caught.value.name == name


def test_a_reason_is_one_line(directory: str, store: Store) -> None:
    """Escape sequences and line breaks in what a pickle names are shown as Python writes them, shortly."""
    fill(directory, bad=[])
    statement(directory, "UPDATE Cache SET value = ?", b"c\x1b[31m\n" + b"x" * 10_000 + b"\n.")

    reason = reasons(sharedstate.import_diskcache(directory, store))["bad"]

    assert reason.startswith("its pickle names '\\x1b[31m.xxx")
    assert len(reason) < 250


# --- The command ----------------------------------------------------------------------


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, ["import-diskcache", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == status, result.output
    return result


def test_the_command_tells_what_came_over(directory: str, target: Store) -> None:
    """Counts, keys that differ, and one line for each that stays behind, with status 1; status 0 if there is none."""
    with Cache(directory, cull_limit=0) as cache:
        cache["good"] = 1
        cache.set("tagged", 2, tag="group")
        cache.set("gone", 0, expire=-1)
    target["good"] = 1
    complete = run(directory, target.url).stdout
    with Cache(directory) as cache:
        cache["good"], cache["a\nb"], cache[7] = 5, {1}, 7

    told = run(directory, target.url, status=1).stdout

    assert complete == (
        f"{target.url}: 1 entries written, 1 were there already, 1 had expired\n  1 had a tag, which stays behind\n"
    )
    assert told == (
        f"{target.url}: 0 entries written, 1 were there already, 1 had expired\n"
        "  1 had a tag, which stays behind\n"
        "  1 differ, and were left as they are; --overwrite replaces them: good\n"
        "  2 were left behind:\n"
        "    7: its key is an int\n"
        '    "a\\nb": value is a set\n'
    )
    assert "1 entries written" in run(directory, target.url, "--overwrite", status=1).stdout
    assert "1 entries written" in run(directory, target.url, "--int-keys", status=1).stdout
    assert dict(target) == {"good": 5, "tagged": 2, "7": 7}


def test_the_command_prints_json(directory: str, target: Store) -> None:
    """One object, with each that stays behind, and the reason."""
    with Cache(directory) as cache:
        cache.set("good", 1, tag="group")
        for number in range(30):
            cache[number] = number

    found = json.loads(run(directory, target.url, "--json", status=1).stdout)

    assert found == {
        "directory": directory,
        "url": target.url,
        "written": 1,
        "same": 0,
        "expired": 0,
        "tags": 1,
        "refused": [],
        "too_large": [],
        "left_behind": [{"key": key, "reason": "its key is an int"} for key in sorted(map(str, range(30)))],
    }
    told = run(directory, target.url, status=1).stdout
    assert told.count("its key is an int") == 20
    assert told.endswith("\n    and 10 more (see --json)\n")


def test_the_command_executes_pickles_only_if_told_to(directory: str, target: Store, tmp_path: Path) -> None:
    """`--unsafe-pickle` is the only way."""
    mark = tmp_path / "executed"
    fill(directory, evil=[Evil(f"touch {mark}")])

    told = run(directory, target.url, "--overwrite", "--int-keys", status=1).stdout

    assert "    evil: its pickle names posix.system\n" in told
    assert not mark.exists()
    run(directory, target.url, "--unsafe-pickle")
    assert mark.exists()


def test_the_command_makes_no_store_for_no_cache(directory: str, tmp_path: Path) -> None:
    """A directory that is none is refused in one line, and the store is not made."""
    url = f"sqlite:{tmp_path}/state.db"

    told = run(directory, url, status=1).stderr

    assert told.startswith(f"sharedstate: {directory}: there is no such directory. ")
    assert told.count("\n") == 1
    assert not os.path.exists(f"{tmp_path}/state.db")


def test_the_report_is_made_of_plain_parts() -> None:
    """It survives pickling and is shown with its fields' names."""
    report = ImportReport(1, 2, 3, 4, ("a",), ("b",), (LeftBehind("c", "why"),))

    assert pickle.loads(pickle.dumps(report)) == report
    assert "left_behind=(LeftBehind(key='c', reason='why'),)" in repr(report)
