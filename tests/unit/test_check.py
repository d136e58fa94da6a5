"""`sharedstate check`, and what `--repair` makes of a damaged store: nothing is guessed, a copy is kept first."""

from __future__ import annotations

import json
import mmap
import os
import sqlite3
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

import sharedstate
from sharedstate import CorruptError, LockTimeoutError, UnavailableError, registry
from sharedstate.backend.urls import parse_url
from sharedstate.cli import main
from sharedstate.opening import repair
from sharedstate_file import compaction, handle
from sharedstate_file.head import Head
from sharedstate_sqlite import place, schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENTRIES = {f"key-{i:03}": {"number": i, "text": "x" * (i % 50)} for i in range(400)}


@pytest.fixture(params=["file", "sqlite", "shm"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A store of 400 entries that nobody has open."""
    yield from _store(request.param, tmp_path)


@pytest.fixture
def file_url(tmp_path: Path) -> Iterator[str]:
    yield from _store("file", tmp_path)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> Iterator[str]:
    yield from _store("sqlite", tmp_path)


@pytest.fixture
def shm_url(tmp_path: Path) -> Iterator[str]:
    yield from _store("shm", tmp_path)


def _store(scheme: str, tmp_path: Path) -> Iterator[str]:
    url: str = registry.find_plugin(parse_url(f"{scheme}:any")).temporary_url(str(tmp_path))
    with sharedstate.open(url) as store:
        for key, value in ENTRIES.items():
            store[key] = value  # each a write of its own
    yield url
    if scheme == "shm":
        name = url.partition("?")[0].removeprefix("shm://")
        for file in os.listdir("/dev/shm"):
            if file.startswith(f"sharedstate-{name}") and not file.endswith((".region", ".locks")):
                os.unlink(f"/dev/shm/{file}")
        sharedstate.remove(url)


def damage(url: str) -> str:
    """Damage an entry about the middle of a store, on its medium; return the path of what was damaged."""
    scheme, _, rest = url.partition(":")
    if scheme == "file":
        path = f"{rest}/log-1"
    elif scheme == "sqlite":
        path = rest
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE entry SET value = x'c1' WHERE key = 'key-200'")
        connection.close()
        return path
    else:
        path = f"/dev/shm/sharedstate-{rest[2:].partition('?')[0]}.region"
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        at = content.find(b"key-200")
        content[at + 6 : at + 7] = b"X"
    return path


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["check", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_a_whole_store_is_whole(url: str) -> None:
    """Exit status 0 and the number of entries; with --repair nothing is copied and nothing changes."""
    for arguments in ([url], [url, "--repair"]):
        result = run(*arguments)

        assert (result.exit_code, result.stdout) == (0, f"{url}: whole, 400 entries\n")
    report = json.loads(run(url, "--json").stdout)
    assert report == {"url": url, "whole": True, "entries": 400, "wrong": None, "repair": None}
    assert repair(url).copy == ""


def test_damage_is_named_and_left_alone(url: str) -> None:
    """Without --repair: exit status 1, one line that says what is wrong, and not a byte changes."""
    path = damage(url)
    before = content(path)

    result = run(url)
    plain = run(url, "--json")

    assert result.exit_code == plain.exit_code == 1
    assert result.stderr.count("\n") == 1
    wrong = json.loads(plain.stdout)["wrong"]
    assert any(place in wrong for place in ("offset ", "0x", "'key-200'")), wrong
    assert content(path) == before


def content(path: str) -> bytes:
    with open(path, "rb") as file:
        file.seek(200_000 if path.endswith(".region") else 0)  # behind the mutexes, which each look takes
        return file.read()


def test_repair_keeps_a_copy_and_what_is_certain(url: str) -> None:
    """Exit status 0; the copy is the damaged store; what was kept is right, and what is missing was said to be."""
    path = damage(url)
    before = content(path)

    report = json.loads(run(url, "--repair", "--json").stdout)

    kept = report["repair"]["kept"]
    with sharedstate.open(url) as store:
        found = dict(store.items())
        store.check()
    assert len(found) == kept == report["entries"]
    assert found.items() <= ENTRIES.items()
    missing = ENTRIES.keys() - found.keys()
    assert missing == {f"key-{i:03}" for i in range(200, 400)} if url.startswith("file:") else missing == {"key-200"}
    assert report["repair"]["dropped"] >= len(report["repair"]["keys"])
    assert set(report["repair"]["keys"]) <= missing
    copy = report["repair"]["copy"]
    if not url.startswith("sqlite:"):
        damaged = content(f"{copy}/log-1") if os.path.isdir(copy) else content(copy)[200_000:]
        assert damaged == before
    else:
        with sqlite3.connect(copy) as connection:
            assert connection.execute("SELECT count(*), sum(value = x'c1') FROM entry").fetchone() == (400, 1)
        connection.close()
    assert run(url).exit_code == 0


def test_generations_go_on_growing_across_a_repair(url: str) -> None:
    """No generation is given out twice, of kept keys and of lost ones."""
    with sharedstate.open(url) as store:
        for _ in range(20):
            store["key-200"] = ENTRIES["key-200"]
        seen = {key: entry.generation for key in ENTRIES if (entry := store.read(key)) is not None}
    damage(url)
    if url.startswith("file:"):  # so that nothing beyond the damage can be read either
        os.truncate(url.removeprefix("file:") + "/log-1", 3000)

    repair(url)

    with sharedstate.open(url) as store:
        for key, generation in seen.items():
            entry = store.read(key)
            assert entry is None or entry.generation >= generation
            store[key] = "again"
            again = store.read(key)
            assert again is not None
            assert again.generation > generation


def test_a_place_that_is_taken_stops_the_repair(url: str, tmp_path: Path) -> None:
    """A copy replaces nothing, and without one nothing is changed."""
    path = damage(url)
    before = content(path)
    taken = tmp_path / "taken"
    taken.write_text("precious")

    result = run(url, "--repair", "--copy-to", str(taken))

    assert result.exit_code == 1
    assert "is taken" in result.stderr
    assert taken.read_text() == "precious"
    assert content(path) == before


def test_the_copy_goes_where_it_is_told(url: str, tmp_path: Path) -> None:
    """--copy-to names the copy; it is the owner's alone."""
    damage(url)

    result = run(url, "--repair", "--copy-to", str(tmp_path / "copy"))

    assert result.exit_code == 0
    assert f"a copy of what was there: {tmp_path}/copy" in result.stdout
    assert os.stat(tmp_path / "copy").st_mode & 0o077 == 0


def test_a_copy_without_a_repair_is_a_mistake(url: str) -> None:
    """Exit status 2."""
    assert run(url, "--copy-to", "anywhere").exit_code == 2


def test_memory_repairs_nothing() -> None:
    """A backend without a repair says so."""
    with pytest.raises(UnavailableError, match="repairs nothing"):
        repair("memory:any")


def test_there_must_be_a_store(tmp_path: Path) -> None:
    """A repair makes none."""
    for url in (f"file:{tmp_path}/none", f"sqlite:{tmp_path}/none", "shm://test-check-none"):
        with pytest.raises(UnavailableError):
            repair(url)
    assert os.listdir(tmp_path) == []


# --- file -----------------------------------------------------------------------------


def test_who_has_a_file_open_sees_what_was_kept(file_url: str) -> None:
    """Open handles go on with the repaired store; an old generation is refused."""
    with sharedstate.open(file_url) as store:
        old = store.read("key-100")
        damage(file_url)

        repair(file_url)

        assert len(store) == 200
        assert old is not None
        with pytest.raises(sharedstate.ConflictError):
            store.compare_and_set("key-100", 1, expected=old.generation)
        store["new"] = 1
        store.check()
    with sharedstate.open(file_url) as other:
        assert other["new"] == 1


def test_a_repair_that_dies_before_its_head_is_true_leaves_one_log(
    file_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The damaged log has gone by then: later writes to the new one have no rival."""
    damage(file_url)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Head, "make_true", die)
    with pytest.raises(KeyboardInterrupt):
        repair(file_url)
    monkeypatch.undo()

    assert [name for name in os.listdir(file_url[5:]) if name.startswith("log-")] == ["log-2"]
    with sharedstate.open(file_url) as store:
        assert len(store) == 200
        store["after"] = 1
    os.unlink(f"{file_url[5:]}/head")  # as after a reboot
    with sharedstate.open(file_url) as store:
        assert store["after"] == 1
        store.check()


@pytest.mark.parametrize("calls", range(1, 8))
def test_a_sqlite_repair_that_dies_amid_its_names_loses_nothing(
    sqlite_url: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each of the steps by which the whole database takes the damaged one's place: no empty store is made."""
    database = damage(sqlite_url)
    steps = {"_give_name": place._give_name, "_unlink": place._unlink, "_link": place._link}
    left = calls

    def step(name: str, *arguments: Any) -> None:
        nonlocal left
        if name != "_unlink" or any("repaired" in str(each) or each == database for each in arguments):
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        steps[name](*arguments)

    for name in steps:
        monkeypatch.setattr(place, name, partial(step, name))
    with pytest.raises(KeyboardInterrupt):
        repair(sqlite_url)
    monkeypatch.undo()

    if calls == 4:  # retired, and still named
        with pytest.raises(CorruptError, match="a repair, that was killed, call that again"):
            sharedstate.open(sqlite_url)
        assert "finished" in run(sqlite_url, "--repair").stdout
    with sharedstate.open(sqlite_url) as store:
        assert len(store) >= 399
        store["new"] = 1
    repaired = f"{database}.repaired"  # the last of the steps is to take this other name away
    assert not os.path.exists(repaired) or os.path.samefile(repaired, database)


def test_a_damaged_checkpoint_is_not_called_nothing(file_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entries take no generations; the report counts at least the keys that were seen beyond the damage."""
    monkeypatch.setattr(compaction, "FLOOR_BYTES", 10_000)
    monkeypatch.setattr(compaction, "_FRAME_BYTES", 1_000)
    with sharedstate.open(file_url) as store:
        while not store.stats()["compactions"]:
            store["filler"] = "f" * 1000
    (log,) = [name for name in os.listdir(file_url[5:]) if name.startswith("log-")]
    with open(f"{file_url[5:]}/{log}", "r+b") as file:
        file.seek(32 + 40)
        file.write(b"\xff")

    report = repair(file_url)

    assert report.dropped >= len(report.keys) > 300


def test_a_writer_holds_the_repair_of_a_file_off(file_url: str) -> None:
    """The repair waits at the writers' lock, and gives up after the URL's timeout."""
    damage(file_url)
    program = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
    )
    lock = file_url.removeprefix("file:") + "/lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", program, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    holder.stdout.readline()

    with pytest.raises(LockTimeoutError):
        repair(file_url + "?timeout=0.05")

    holder.communicate("\n")
    assert repair(file_url).kept == 200


@pytest.mark.parametrize("head", ["whole", "lost", "zeros", "noise"])
@pytest.mark.parametrize("at", [0, 8, 12, 16, 28])
def test_a_damaged_header_of_a_log_is_made_good_by_its_frames(file_url: str, at: int, head: str) -> None:
    """The first frame's checksum proves the mark, and its payload the base: nothing is lost; whatever ails the head."""
    place = file_url.removeprefix("file:")
    with open(f"{place}/log-1", "r+b") as file:
        file.seek(at)
        file.write(b"\xff")
    spoil_head(f"{place}/head", head)

    report = repair(file_url)

    assert (report.kept, report.dropped) == (400, 0)
    with sharedstate.open(file_url) as store:
        assert dict(store.items()) == ENTRIES


def spoil_head(path: str, how: str) -> None:
    if how == "lost":
        os.unlink(path)
    elif how != "whole":
        with open(path, "r+b") as file:
            file.write(bytes(4096) if how == "zeros" else b"\xa5" * 4096)


@pytest.mark.parametrize("how", ["lost", "zeros", "noise"])
def test_a_broken_head_is_made_anew_from_the_log(file_url: str, how: str) -> None:
    """Nothing is lost, nothing need be copied, and open handles go on."""
    place = file_url.removeprefix("file:")
    spoil_head(f"{place}/head", how)

    assert repair(file_url) == ("", 400, 0, (), ("the head was made anew from the log",))
    assert run(file_url).exit_code == 0


def test_a_log_that_nothing_is_certain_of_stays(file_url: str) -> None:
    """Neither header nor first frame: CorruptError, and no byte changes."""
    log = file_url.removeprefix("file:") + "/log-1"
    os.truncate(log, 20)

    with pytest.raises(CorruptError, match="nothing is certain"):
        repair(file_url)

    assert os.path.getsize(log) == 20


def test_the_end_of_an_old_log_leads_on_past_its_damage(file_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed amid a compaction, and the old log damaged: its last frame names the new one, which is complete."""
    place = file_url.removeprefix("file:")

    def stop(point: str) -> None:
        if point == "old log ended":
            os._exit(0)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(compaction, "reached", stop)
        monkeypatch.setattr(handle, "due_at", lambda *_: 0)
        with sharedstate.open(file_url) as store:
            backend: Any = store._backend
            backend._consider_compaction()
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert {"log-1", "log-2"} <= set(os.listdir(place))
    damage(file_url)

    report = repair(file_url)

    assert (report.kept, report.dropped) == (400, 0)


# --- sqlite -----------------------------------------------------------------------------


def test_who_has_a_database_open_is_refused_afterwards(sqlite_url: str) -> None:
    """Their next statement says that the store has gone; opened again it is the repaired one."""
    with sharedstate.open(sqlite_url) as store:
        assert len(store) == 400
        damage(sqlite_url)

        repair(sqlite_url)

        with pytest.raises(UnavailableError):
            store["lost"] = 1
    with sharedstate.open(sqlite_url) as store:
        assert "lost" not in store
        assert len(store) == 399


def test_nobody_writes_to_a_database_that_is_about_to_be_replaced(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its write lock is held from the reading of its rows until it is retired: nothing acknowledged is left behind."""
    path = damage(sqlite_url)
    tried: list[str] = []
    retire = schema.retire

    def look(*arguments: Any) -> None:
        writer = sqlite3.connect(path, timeout=0, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            writer.execute("BEGIN IMMEDIATE")
        writer.close()
        tried.append("before")
        retire(*arguments)

    monkeypatch.setattr(schema, "retire", look)

    assert repair(sqlite_url).kept == 399
    assert tried == ["before"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can repair for somebody else")
def test_what_root_repairs_stays_its_owners(sqlite_url: str) -> None:
    """The database and the copy belong to whom the database belonged, not to whom its directory does."""
    path = damage(sqlite_url)
    os.chown(path, 65534, 65533)

    report = repair(sqlite_url)

    for made in (path, report.copy):
        found = os.stat(made)
        assert (found.st_uid, found.st_gid) == (65534, 65533)


@pytest.mark.parametrize("page", range(2, 24))
def test_rows_of_the_other_pages_are_kept(sqlite_url: str, page: int) -> None:
    """One page overwritten, whichever: what is whole is kept; lost keys are named, or more is said to be lost."""
    path = sqlite_url.removeprefix("sqlite:")
    with open(path, "r+b") as file:
        file.seek(4096 * (page - 1))
        if file.read(4096) in {b"", bytes(4096)}:
            return
        file.seek(4096 * (page - 1))
        file.write(b"\xff" * 4096)

    try:
        report = repair(sqlite_url)
    except CorruptError:
        assert page == 2  # the table's root: no row can be reached
        return

    with sharedstate.open(sqlite_url) as store:
        found = dict(store.items())
        store.check()
        store["again"] = 1
    assert found.items() <= ENTRIES.items()
    missing = ENTRIES.keys() - found.keys()
    assert missing == set(report.keys) or any("more may be lost" in note for note in report.notes)


def test_a_table_that_another_tool_added_stays_in_the_copy(sqlite_url: str) -> None:
    """The store is what it was; the copy has the rest."""
    path = sqlite_url.removeprefix("sqlite:")
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()

    report = repair(sqlite_url)

    assert (report.kept, report.dropped) == (400, 0)
    with sqlite3.connect(report.copy) as connection:
        assert connection.execute("SELECT count(*) FROM other").fetchone() == (0,)
    connection.close()
    assert run(sqlite_url).exit_code == 0


def test_a_foreign_database_is_not_repaired(tmp_path: Path) -> None:
    """It is no store, and stays as it is."""
    with sqlite3.connect(tmp_path / "foreign") as connection:
        connection.execute("CREATE TABLE entry (x)")
    connection.close()
    before = content(str(tmp_path / "foreign"))

    with pytest.raises(CorruptError, match="not a store"):
        repair(f"sqlite:{tmp_path}/foreign")

    assert content(str(tmp_path / "foreign")) == before


# --- shm --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["a sharer", "a mapping"])
def test_a_region_in_use_is_left_alone(shm_url: str, how: str) -> None:
    """Whoever has it open, by our door or any other, is named, and nothing changes."""
    path = damage(shm_url)
    before = content(path)
    program = {
        "a sharer": f"import sharedstate; store = sharedstate.open({shm_url!r})",
        "a mapping": f"import mmap; file = open({path!r}, 'r+b'); mapped = mmap.mmap(file.fileno(), 0)",
    }[how]
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{program}\nprint('open', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    holder.stdout.readline()

    with pytest.raises(UnavailableError, match=f"in use by .*{holder.pid}"):
        repair(shm_url)

    holder.communicate("\n")
    assert content(path) == before
    assert repair(shm_url).kept == 399


def test_a_fresh_region_has_the_parameters_of_the_old(tmp_path: Path) -> None:
    """Size, eviction, mode and deadlines are those of the old one; the expired stay behind."""
    for url in _store("shm", tmp_path):
        sharedstate.remove(url)
        name = url.partition("?")[0]
        with sharedstate.open(f"{name}?size=4MiB&full=evict&mode=0640") as store:
            store.update(ENTRIES)
            store.set("soon", 1, ttl_s=1000)
            store.set("gone", 1, ttl_s=1e-6)
        path = damage(url)

        repair(name)

        assert os.stat(path).st_mode & 0o777 == 0o640
        with sharedstate.open(f"{name}?size=4MiB&full=evict") as store:
            assert len(store) == 400
            ttl = store.ttl("soon")
            assert ttl is not None
            assert 0 < ttl <= 1000
