"""A directory of diskcache's is read without a trace: in each state that its users leave it in, and nothing else."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from diskcache import Cache, FanoutCache

import sharedstate
from disk_cache import LONG, fill, statement
from sharedstate import CorruptError, ImportReport, Store, UnavailableError
from sharedstate.backend.waiting import Backoff
from sharedstate.migration import cache_directory
from sharedstate.migration.cache_directory import CacheDirectory, Shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


@pytest.fixture
def store(memory_url: str) -> Iterator[Store]:
    """A fresh store to read it into."""
    with sharedstate.open(memory_url) as store:
        yield store


def contents(directory: str) -> dict[str, Any]:
    """Return the name, content and time of each file."""
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in Path(directory).rglob("*") if path.is_file()
    }


def reasons(report: ImportReport) -> dict[str, str]:
    return dict(report.left_behind)


# --- Files --------------------------------------------------------------------------


def plant(directory: str, name: str) -> None:
    statement(directory, "UPDATE Cache SET filename = ? WHERE key = 'bad'", name)


@pytest.mark.parametrize("name", ["../secret", "{tmp}/secret", "zz/../../secret", ".", "", "zz/", "a\0b", "cache.db"])
def test_no_file_name_leads_out_of_the_directory(directory: str, store: Store, tmp_path: Path, name: str) -> None:
    """Upwards, absolute, to no file, to the database: it stays behind, and nothing is opened by that name."""
    check_planted(directory, store, tmp_path, name, "is none of the cache's own")


@pytest.mark.parametrize("name", ["link", "folder/secret", "folder", "zz", "fifo", "zz/zz/zz"])
def test_no_link_is_followed(directory: str, store: Store, tmp_path: Path, name: str) -> None:
    """Of a file, of a directory on the way to one; nor is a directory or FIFO read, or waited for."""
    check_planted(directory, store, tmp_path, name, "is ")


def check_planted(directory: str, store: Store, tmp_path: Path, name: str, reason: str) -> None:
    secret = "s" * LONG
    (tmp_path / "secret").write_text(secret)
    fill(directory, bad="x" * LONG, good="y" * LONG)
    os.mkdir(f"{directory}/zz")
    os.symlink(tmp_path / "secret", f"{directory}/link")
    os.symlink(tmp_path, f"{directory}/folder")
    os.mkfifo(f"{directory}/fifo")
    plant(directory, name.replace("{tmp}", str(tmp_path)))

    report = sharedstate.import_diskcache(directory, store)

    assert dict(store) == {"good": "y" * LONG}
    assert reasons(report)["bad"].startswith("its file ")
    assert reason in reasons(report)["bad"]
    plant(directory, "secret")
    shutil.copy(tmp_path / "secret", directory)
    sharedstate.import_diskcache(directory, store)
    assert store["bad"] == secret


def test_a_file_that_is_lost_or_cut_is_named(directory: str, store: Store) -> None:
    """Missing, shorter than it was written, a FIFO, text that is none: each with the reason."""
    fill(directory, bad="x" * LONG)
    (path,) = Path(directory).rglob("*.val")

    def reason() -> str:
        (found,) = sharedstate.import_diskcache(directory, store).left_behind
        return found.reason.replace(str(path.relative_to(directory)), "FILE")

    path.write_bytes(b"\xff" * LONG)
    assert reason() == "its text is no UTF-8: invalid start byte at byte 0"
    path.write_bytes(b"x" * 3)
    assert reason() == f"its file FILE has 3 bytes, and had {LONG} when it was written"
    path.unlink()
    assert reason() == "its file FILE is missing"
    os.mkfifo(path)
    assert reason() == "its file FILE is none"
    assert len(store) == 0


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        ("mode = 0", "its mode is 0, which is none of diskcache's"),
        ("mode = 'x'", "its mode is 'x', which is none of diskcache's"),
        ("mode = 2", "its file None is none of the cache's own"),
        ("mode = 4", "its pickle raises TypeError"),
        ("expire_time = 'soon'", "its deadline is no number"),
        ("value = CAST(x'ff' AS TEXT)", "value is a str with a lone surrogate"),
    ],
)
def test_a_row_that_diskcache_never_wrote_is_named(directory: str, store: Store, assignment: str, reason: str) -> None:
    """It stays behind, and the others come over."""
    fill(directory, bad=1, good=1)
    statement(directory, f"UPDATE Cache SET {assignment} WHERE key = 'bad'")

    report = sharedstate.import_diskcache(directory, store)

    assert dict(store) == {"good": 1}
    assert reasons(report)["bad"].startswith(reason)


# --- In use -------------------------------------------------------------------------

WRITER = """
import sys
from diskcache import Cache
with Cache(sys.argv[1], **eval(sys.argv[2])) as cache:
    cache["short"], cache["long"] = "s", "l" * 40_000
    print("ready", flush=True)
    for line in sys.stdin:
        cache[line.strip()] = line.strip() * 20_000
        assert not cache.check()
        print("written", flush=True)
"""


@pytest.mark.parametrize("settings", [{}, {"sqlite_journal_mode": "delete"}], ids=["wal", "rollback"])
def test_a_cache_in_use_is_read_and_goes_on(directory: str, store: Store, settings: dict[str, Any]) -> None:
    """What another process wrote is all there, though none is in cache.db itself; it writes on, and is whole."""
    arguments = [sys.executable, "-W", "error", "-c", WRITER, directory, repr(settings)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        before = {path: found for path, found in contents(directory).items() if not path.endswith("-shm")}

        first = sharedstate.import_diskcache(directory, store)

        assert first[:2] == (2, 0)
        assert {path: found for path, found in contents(directory).items() if not path.endswith("-shm")} == before
        writer.stdin.write("later\n")
        writer.stdin.flush()
        assert writer.stdout.readline() == "written\n"
        assert sharedstate.import_diskcache(directory, store)[:2] == (1, 2)
        writer.stdin.close()
        assert writer.wait() == 0
    assert dict(store) == {"short": "s", "long": "l" * LONG, "later": "later" * 20_000}


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist"])
def test_nothing_is_left_in_a_cache_that_nobody_uses(directory: str, store: Store, mode: str) -> None:
    """No file is made, removed or written, in any journal mode, also not by a refusal."""
    with Cache(directory, sqlite_journal_mode=mode) as cache:
        cache["short"], cache["long"], cache[1] = "s", "l" * LONG, 1
    before = contents(directory)

    report = sharedstate.import_diskcache(directory, store)

    assert (report.written, len(report.left_behind)) == (2, 1)
    assert contents(directory) == before


def test_what_a_killed_writer_wrote_comes_over(directory: str, store: Store) -> None:
    """What stands in the -wal of a writer that was killed comes over."""
    arguments = [sys.executable, "-c", WRITER, directory, "{}"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        writer.kill()

    assert sharedstate.import_diskcache(directory, store)[:2] == (2, 0)


def as_another(body: Callable[[], Any]) -> str:
    """Return what `body` returns in a forked child, under another uid if we are root."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            if not os.getuid():
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            answer = repr(body())
        except BaseException as error:  # noqa: BLE001  the parent judges
            answer = f"{type(error).__name__}: {error}"
        os.write(write, answer.encode()[:4000])
        os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


@pytest.fixture
def read_only() -> Iterator[str]:
    """A directory that others may read and enter, and nobody may write to once a test has filled it."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        os.mkdir(f"{name}/cache")
        yield f"{name}/cache"
        os.chmod(f"{name}/cache", 0o755)


def let_read(directory: str) -> None:
    for path in Path(directory).rglob("*"):
        os.chmod(path, 0o555 if path.is_dir() else 0o444)
    os.chmod(directory, 0o555)


def test_a_directory_that_may_not_be_written_to_is_read(read_only: str) -> None:
    """By who has no right to write there."""
    fill(read_only, short="s", long="l" * LONG)
    let_read(read_only)

    def body() -> Any:
        with sharedstate.open("memory:read-only", allow_narrow=True) as store:
            return sharedstate.import_diskcache(read_only, store)[:2]

    assert as_another(body) == "(2, 0)"


def test_what_a_killed_writer_left_may_need_the_right_to_write(read_only: str) -> None:
    """A -wal whose index is lost can be read only by who may make one; that is told, and no half of it is taken."""
    fill(read_only, old=1)
    with Cache(read_only) as cache:
        cache["new"] = 2
        copy = {name: Path(f"{read_only}/{name}").read_bytes() for name in ("cache.db", "cache.db-wal")}
    for name, content in copy.items():
        Path(f"{read_only}/{name}").write_bytes(content)
    let_read(read_only)

    def body() -> Any:
        with sharedstate.open("memory:read-only", allow_narrow=True) as store:
            return sharedstate.import_diskcache(read_only, store)[:2]

    assert as_another(body).startswith(f"StoreAccessError: {read_only}: cache.db is open, or was not closed, and only")


def test_what_may_not_be_read_is_told(read_only: str) -> None:
    """Of a database, or directory, of another user's: which, and that it is no matter of its content."""
    fill(read_only, k=1)

    def body() -> Any:
        with sharedstate.open("memory:unreadable", allow_narrow=True) as store:
            return sharedstate.import_diskcache(read_only, store)

    os.chmod(f"{read_only}/cache.db", 0)
    assert as_another(body).startswith(f"StoreAccessError: {read_only}: cache.db cannot be opened")
    os.chmod(read_only, 0)
    assert as_another(body).startswith(f"StoreAccessError: {read_only}: it cannot be read: Permission denied")


def test_a_cache_of_this_process_keeps_its_locks(directory: str, store: Store) -> None:
    """D3: an import by a process that has the cache open itself releases none of its locks on it."""

    def locks() -> int:
        inode = os.stat(f"{directory}/cache.db").st_ino
        with open("/proc/locks", encoding="ascii") as file:
            return sum(f" {os.getpid()} " in line and line.split()[-3].endswith(f":{inode}") for line in file)

    with Cache(directory) as cache:
        cache["k"] = 1
        before = locks()

        sharedstate.import_diskcache(directory, store)

        assert locks() == before > 0
        cache["k"] = 2
        assert sharedstate.import_diskcache(directory, store, overwrite=True).written == 1


def test_who_writes_behind_the_back_of_a_reader_is_noticed(directory: str, store: Store) -> None:
    """D2: a cache that nobody used when the import began is opened, written and closed: what is new is read."""
    fill(directory, a=1, b="old", c=[3])

    def meanwhile(done: int, _total: int) -> None:
        if done == 1:
            fill(directory, b="new " * LONG)
        if done == 2:
            with Cache(directory) as cache:
                del cache["c"]

    report = sharedstate.import_diskcache(directory, store, progress=meanwhile)

    assert dict(store) == {"a": 1, "b": "new " * LONG}
    assert report == (2, 0, 1, 0, (), (), ())


def test_a_write_in_the_same_tick_of_the_clock_is_noticed(
    directory: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D2: the time of a file that was written just now may be that of the next write too, so it is waited for."""
    fill(directory, k="old")
    path = f"{directory}/cache.db"
    written_ns = os.stat(path).st_mtime_ns
    since_ns = 1_000_000

    def write_again(_backoff: Backoff) -> None:
        nonlocal since_ns
        fill(directory, k="new")
        os.utime(path, ns=(written_ns, written_ns))
        since_ns = 10**9

    monkeypatch.setattr(Backoff, "sleep", write_again)
    monkeypatch.setattr(cache_directory.time, "time", lambda: (written_ns + since_ns) / 1e9)

    sharedstate.import_diskcache(directory, store)

    assert store["k"] == "new"


def test_a_value_that_is_replaced_while_it_is_read_is_read_anew(
    directory: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is gone between the look at the row and the reading of the file: the new one is read."""
    fill(directory, k="old" * LONG)
    read_file = Shard.read_file

    def late(shard: Shard, *arguments: Any) -> Any:
        monkeypatch.setattr(Shard, "read_file", read_file)
        fill(directory, k="new" * LONG)
        return read_file(shard, *arguments)

    monkeypatch.setattr(Shard, "read_file", late)

    assert sharedstate.import_diskcache(directory, store).written == 1
    assert store["k"] == "new" * LONG


# --- What is no cache -----------------------------------------------------------------


def no_directory(_directory: str) -> None:
    return


def no_cache(directory: str) -> None:
    os.makedirs(f"{directory}/00/aa")


def a_file(directory: str) -> None:
    Path(directory).write_text("file")


def no_database(directory: str) -> None:
    os.mkdir(directory)
    Path(f"{directory}/cache.db").write_text("no database" * 1000)


def an_empty_one(directory: str) -> None:
    os.mkdir(directory)
    Path(f"{directory}/cache.db").touch()


def another_one(directory: str) -> None:
    os.mkdir(directory)
    statement(directory, "PRAGMA journal_mode = wal")
    statement(directory, "CREATE TABLE Cache (name)")


def a_view(directory: str) -> None:
    fill(directory)
    statement(directory, "ALTER TABLE Cache RENAME TO Other")
    statement(directory, "CREATE VIEW Cache AS SELECT * FROM Other")


def a_directory(directory: str) -> None:
    os.makedirs(f"{directory}/cache.db")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (no_directory, "there is no such directory"),
        (no_cache, "there is no cache.db in it, and there are no directories 000, 001 and so on"),
        (a_file, "it cannot be read: Not a directory"),
        (no_database, "cache.db is no database of diskcache's"),
        (an_empty_one, "cache.db is no database of diskcache's"),
        (another_one, "cache.db is no database of diskcache's"),
        (a_view, "cache.db is no database of diskcache's"),
        (a_directory, "cache.db cannot be opened"),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_what_is_no_cache_is_refused(directory: str, store: Store, make: Any, reason: str) -> None:
    """The directory and what is wrong with it are told, and nothing in it is changed."""
    make(directory)
    before = contents(directory)

    with pytest.raises(UnavailableError) as caught:
        sharedstate.import_diskcache(directory, store)

    assert str(caught.value).startswith(f"{directory}: {reason}")
    assert contents(directory) == before


def test_a_damaged_database_is_refused(directory: str, store: Store) -> None:
    """Of a database of which some page is overwritten nothing is stored, and nothing in it is changed."""
    fill(directory, **{f"k{number}": number for number in range(2000)})
    path = Path(f"{directory}/cache.db")
    content = path.read_bytes()
    pages = [*range(4096, len(content), 4096)]
    assert len(pages) > 30
    for page in pages[::5]:
        path.write_bytes(content[:page] + b"\x55" * 4096 + content[page + 4096 :])

        with pytest.raises((CorruptError, UnavailableError)) as caught:
            sharedstate.import_diskcache(directory, store)

        assert "cache.db is damaged" in str(caught.value) or "is no database of diskcache's" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert len(store) == 0


def test_a_lost_index_entry_is_damage(directory: str, store: Store) -> None:
    """An index that misses an entry does not make it one that has expired."""
    fill(directory, a=1, b=2)
    with closing(sqlite3.connect(f"{directory}/cache.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = sql || ' WHERE key > ''a''' WHERE name = 'Cache_key_raw'")
        connection.execute("PRAGMA writable_schema = RESET")
        connection.execute("REINDEX Cache_key_raw")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, ' WHERE key > ''a''', '') WHERE name = 'Cache_key_raw'"
        )

    with pytest.raises(CorruptError, match=r"cache\.db is damaged: "):
        sharedstate.import_diskcache(directory, store)


def test_a_locked_database_is_told(directory: str, store: Store) -> None:
    """Who locked it for longer than the timeout keeps the import from reading it, and nothing is stored."""
    with Cache(directory, sqlite_journal_mode="delete") as cache:
        cache["k"] = 1
    os.utime(f"{directory}/cache.db", (0, 0))  # not to be taken for one that is being written to
    with closing(sqlite3.connect(f"{directory}/cache.db", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")

        with pytest.raises(UnavailableError, match=r"somebody has locked cache\.db for 0\.05 s"):
            sharedstate.import_diskcache(directory, store, timeout_s=0.05)

    assert sharedstate.import_diskcache(directory, store).written == 1


def test_a_refusal_closes_what_was_opened(directory: str) -> None:
    """Of a FanoutCache whose last shard is damaged, no database stays open."""
    FanoutCache(directory, shards=3).close()
    Path(f"{directory}/002/cache.db").write_text("no database" * 1000)
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(UnavailableError):
        CacheDirectory(directory, 1.0)

    assert len(os.listdir("/proc/self/fd")) == before
