"""The file backend: opening, refusing, waiting, forking and running out of room; its end: test_file_descriptors.py."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import sharedstate
from sharedstate import (
    CapacityError,
    CorruptError,
    LockTimeoutError,
    StoreAccessError,
    UnavailableError,
    UrlError,
)
from sharedstate_file import compaction
from sharedstate_file.head import length_of, next_number, number_of, word_of
from sharedstate_file.place import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sharedstate_file.writers import WriterLock


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file:{tmp_path}/store"


def in_child(body: Callable[[], Any]) -> str:
    """Run `body` in a forked child and return what it returned, or the name of what it raised, as text."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = str(body())
        except Exception as error:  # noqa: BLE001  its name is the answer
            answer = type(error).__name__
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


@contextmanager
def somebody_inside(writers: WriterLock) -> Iterator[None]:
    """Have another thread stay in the writers' section meanwhile."""
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        entered.set()
        leave.wait()

    thread = threading.Thread(target=lambda: writers.run(stay))
    thread.start()
    entered.wait()
    try:
        yield
    finally:
        leave.set()
        thread.join()


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


# --- Opening ------------------------------------------------------------------


def test_new_store_is_private(tmp_path: Path) -> None:
    """Whatever the umask, the directory is 0700 and its files are 0600, unless the URL asks for more."""
    for mask in (0o000, 0o077):
        before = os.umask(mask)
        sharedstate.open(f"file:{tmp_path}/private{mask}").close()
        sharedstate.open(f"file:{tmp_path}/shared{mask}?mode=0660").close()
        os.umask(before)

        for name, directory_mode, file_mode in (("private", 0o700, 0o600), ("shared", 0o770, 0o660)):
            place = tmp_path / f"{name}{mask}"
            assert place.stat().st_mode & 0o777 == directory_mode
            assert {(place / file).stat().st_mode & 0o777 for file in ("lock", "head", "log-1")} == {file_mode}


def test_parents_are_made(tmp_path: Path) -> None:
    """A store may be named below directories that do not exist yet."""
    with sharedstate.open(f"file:{tmp_path}/a/b/store") as store:
        store["k"] = 1

    assert sharedstate.open(f"file:{tmp_path}/a/b/store")["k"] == 1


@pytest.mark.parametrize(
    ("query", "reason"),
    [("sync=maybe", "sync=maybe"), ("timeout=-1", "timeout"), ("tiemout=1", "timeout"), ("mode=7", "mode")],
)
def test_parameters_are_checked(url: str, query: str, reason: str) -> None:
    """A parameter that is unknown, or has no sensible value, is refused before anything is made."""
    with pytest.raises(UrlError, match=reason):
        sharedstate.open(f"{url}?{query}")

    assert not os.path.exists(url.removeprefix("file:"))


def test_processes_that_open_a_new_store_at_once_share_one(url: str) -> None:
    """8 children that make the same store at the same moment all write into one."""
    gate_reader, gate_writer = os.pipe()
    children = []
    for number in range(8):
        pid = os.fork()
        if pid == 0:
            os.close(gate_writer)
            os.read(gate_reader, 1)  # until the parent closes its end
            with sharedstate.open(url) as store:
                store[f"k{number}"] = number
            os._exit(0)
        children.append(pid)

    os.close(gate_writer)
    statuses = [os.waitpid(pid, 0)[1] for pid in children]
    os.close(gate_reader)

    assert statuses == [0] * 8
    with sharedstate.open(url) as store:
        assert sorted(store) == [f"k{number}" for number in range(8)]
        store.check()


def test_words_of_the_head_wrap_where_the_numbers_end() -> None:
    """The log after the last number is log 1, and no word is that of a removed store."""
    last = 2**28 - 2

    assert next_number(last) == 1
    assert next_number(1) == 2
    assert (number_of(word_of(last, 77)), length_of(word_of(last, 77))) == (last, 77)
    assert word_of(last, 2**36 - 1) < 2**64 - 1


# --- Refusing -------------------------------------------------------------------


def test_foreign_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A directory that holds anything but a store is CorruptError, and nothing is made in it."""
    (tmp_path / "photo.jpg").write_bytes(b"jpeg")

    with pytest.raises(CorruptError, match=r"photo\.jpg"):
        sharedstate.open(f"file:{tmp_path}")
    with pytest.raises(UnavailableError, match="no store"):
        sharedstate.remove(f"file:{tmp_path}")
    (tmp_path / "lock").touch()
    with pytest.raises(CorruptError, match=r"photo\.jpg"):
        sharedstate.open(f"file:{tmp_path}")
    with pytest.raises(CorruptError, match=r"photo\.jpg"):
        sharedstate.remove(f"file:{tmp_path}")

    assert sorted(os.listdir(tmp_path)) == ["lock", "photo.jpg"]


def test_lock_file_with_content_is_foreign(tmp_path: Path) -> None:
    """A directory that holds only a `lock` of some other program is not taken over."""
    (tmp_path / "lock").write_text("4711\n")

    with pytest.raises(CorruptError, match="lock"):
        sharedstate.open(f"file:{tmp_path}")

    assert os.listdir(tmp_path) == ["lock"]


def test_file_or_link_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    """A file, and a symbolic link even to a store, are refused; the link's target is untouched."""
    (tmp_path / "file").write_text("text")
    sharedstate.open(f"file:{tmp_path}/store").close()
    (tmp_path / "link").symlink_to(tmp_path / "store")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")

    for name in ("file", "link", "dangling"):
        with pytest.raises(StoreAccessError):
            sharedstate.open(f"file:{tmp_path}/{name}")
    with pytest.raises(StoreAccessError):
        sharedstate.remove(f"file:{tmp_path}/link")
    with pytest.raises(UnavailableError):
        sharedstate.open(f"file:{tmp_path}/file/below")

    assert not (tmp_path / "nowhere").exists()
    assert (tmp_path / "store" / "log-1").exists()


@pytest.mark.parametrize("name", ["head", "log-1", "lock"])
def test_planted_link_or_fifo_inside_is_refused(tmp_path: Path, name: str) -> None:
    """A part of a store that is a link or a FIFO is refused at once; it is neither followed nor waited for."""
    url = f"file:{tmp_path}/store"
    sharedstate.open(url).close()
    part = tmp_path / "store" / name
    part.rename(tmp_path / "aside")

    part.symlink_to(tmp_path / "aside")
    with pytest.raises(StoreAccessError):
        sharedstate.open(url)["k"] = 1
    part.unlink()
    os.mkfifo(part)
    with pytest.raises(UnavailableError):
        sharedstate.open(url)["k"] = 1


def test_store_without_its_lock_file_takes_no_writes(url: str, tmp_path: Path) -> None:
    """A new lock file would not exclude who holds the old one, so none is made."""
    old = sharedstate.open(url)
    old["k"] = 1
    (tmp_path / "store" / "lock").unlink()

    with pytest.raises(CorruptError, match="lock was removed"):
        sharedstate.open(url)["k"] = 2
    with pytest.raises(UnavailableError, match="removed"):
        old["k"] = 2

    assert not (tmp_path / "store" / "lock").exists()


def test_logs_gone_is_never_an_empty_store(url: str, tmp_path: Path) -> None:
    """A store whose logs were deleted is CorruptError, with its head and without being believed empty."""
    sharedstate.open(url).close()
    (tmp_path / "store" / "log-1").unlink()

    with pytest.raises(CorruptError, match="log-1"):
        sharedstate.open(url)
    (tmp_path / "store" / "head").write_bytes(b"")
    with pytest.raises(CorruptError, match="head"):
        sharedstate.open(url)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else; CI runs this file as root too")
def test_store_of_another_user_is_refused() -> None:
    """Neither a store that another user planted, nor one that this user may not write, is opened or changed."""
    with tempfile.TemporaryDirectory() as place:  # not tmp_path, which others cannot reach
        os.chmod(place, 0o755)
        planted, closed, new = f"file:{place}/planted?mode=0666", f"file:{place}/closed", f"file:{place}/new"
        sharedstate.open(planted).close()
        sharedstate.open(closed).close()
        for name in ("", "/lock", "/head", "/log-1", "/locks"):
            os.chown(f"{place}/planted{name}", 1234, 1234)

        def open_as(uid: int, url: str) -> str:
            os.setuid(uid)
            return sharedstate.open(url).url

        assert in_child(lambda: open_as(4321, planted)) == "StoreAccessError"
        assert in_child(lambda: open_as(4321, closed)) == "StoreAccessError"
        assert in_child(lambda: open_as(4321, new)) == "StoreAccessError"
        assert in_child(lambda: open_as(1234, planted)) == planted


def test_network_file_system_is_refused(tmp_path: Path) -> None:
    """A directory that the kernel's mount table calls nfs is refused with the reason."""
    device = os.stat("/dev/shm").st_dev  # a file system without a disk, as a network one is
    table = tmp_path / "mountinfo"
    place = Place("file:/dev/shm/any", "/dev/shm/any/below", 0o600, 1.0)

    table.write_text(f"36 35 {os.major(device)}:{os.minor(device)} / /mnt rw shared:1 - nfs4 server:/export rw\n")
    with pytest.raises(UnavailableError, match="nfs4"):
        place.refuse_network(str(table))
    table.write_text(f"36 35 {os.major(device)}:{os.minor(device)} / /mnt rw - tmpfs tmpfs rw\n")
    place.refuse_network(str(table))


# --- Taking turns ---------------------------------------------------------------


def test_portalocker_and_the_writers_exclude_one_another(tmp_path: Path) -> None:
    """Who holds the lock file by portalocker keeps writers out, and is kept out by them: it is one kernel lock."""
    url = f"file:{tmp_path}/store?timeout=0.05"
    store = sharedstate.open(url)
    hold = (
        "import portalocker, sys\nf = open(sys.argv[1], 'a')\nportalocker.lock(f, portalocker.LOCK_EX)\n"
        "print('held', flush=True)\nsys.stdin.read()"
    )
    attempt = (
        "import portalocker, sys\nf = open(sys.argv[1], 'a')\n"
        "try: portalocker.lock(f, portalocker.LOCK_EX | portalocker.LOCK_NB)\n"
        "except portalocker.LockException: print('excluded')\nelse: print('held')"
    )
    path = str(tmp_path / "store" / "lock")

    with subprocess.Popen([sys.executable, "-c", hold, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockTimeoutError, match=f"pid {holder.pid}"):
            store["k"] = 1
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        store["k"] = 2
    with somebody_inside(store._backend._writers):
        inside = run_python(attempt, path).stdout.strip()
    outside = run_python(attempt, path).stdout.strip()

    assert (inside, outside) == ("excluded", "held")
    assert store["k"] == 2


def test_reads_go_on_while_a_writer_stands_still(tmp_path: Path) -> None:
    """With the writers' lock held by another handle for ever, reads work, also those that have to catch up."""
    url = f"file:{tmp_path}/store?timeout=0.05"
    store, other = sharedstate.open(url), sharedstate.open(url)
    other["k"] = 1

    with somebody_inside(other._backend._writers):
        assert store["k"] == 1
        assert sharedstate.open(url)["k"] == 1
        with pytest.raises(LockTimeoutError):
            store["k"] = 2

    store["k"] = 3
    assert other["k"] == 3


def test_thread_waits_for_a_thread_of_the_same_handle(tmp_path: Path) -> None:
    """Two threads of one handle exclude one another though they share a descriptor, for the timeout at most."""
    store = sharedstate.open(f"file:{tmp_path}/store?timeout=0.05")
    outcome: list[str] = []

    def write() -> None:
        try:
            store["k"] = 1
        except LockTimeoutError as error:
            outcome.append(error.holder)

    with somebody_inside(store._backend._writers):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()

    assert outcome == ["another thread of this handle"]
    assert "k" not in store


def test_threads_of_one_handle_lose_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 threads write through one handle and a fifth reads, over compactions: every increment counts."""
    monkeypatch.setattr(compaction, "FLOOR_BYTES", 2000)
    store = sharedstate.open(url)
    done = threading.Event()
    seen: list[int] = [0]

    def read() -> None:
        while not done.is_set():
            seen.append(store.get("n", 0))

    def write() -> None:
        for _ in range(300):
            store.increment("n")

    threads = [threading.Thread(target=write) for _ in range(4)]
    reader = threading.Thread(target=read)
    for thread in (reader, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reader.join()

    assert store["n"] == 1200
    assert seen == sorted(seen)
    store.check()


def test_finalizer_that_reads_while_its_thread_catches_up_does_no_harm(url: str) -> None:
    """The index lock is re-entrant: garbage collection may run a finalizer at any allocation."""
    store, other = sharedstate.open(url), sharedstate.open(url)
    other["k"] = 1

    with store._backend._writers.index():
        assert store["k"] == 1


# --- Forks ------------------------------------------------------------------------


def test_child_takes_its_own_turn(tmp_path: Path) -> None:
    """A child forked while a thread of its parent is inside waits for it, and writes once it has left."""
    store = sharedstate.open(f"file:{tmp_path}/store?timeout=0.05")
    store["k"] = 0

    with somebody_inside(store._backend._writers):
        assert in_child(lambda: store.set("k", 1)) == "LockTimeoutError"
        assert in_child(lambda: store["k"]) == "0"
    assert in_child(lambda: store.increment("k")) == "1"
    store.increment("k")

    assert store["k"] == 2
    store.check()


def test_child_of_a_half_updated_parent_reads_the_truth(url: str) -> None:
    """Forked between the head's word and the index, a child catches up by itself (B1)."""
    store = sharedstate.open(url)
    backend = store._backend
    writer = sharedstate.open(url)

    with backend._writers.index():  # as a thread of the parent would hold it
        writer["k"] = "new"
        answer = in_child(lambda: store["k"])

    assert answer == "new"


# --- No room ----------------------------------------------------------------------


def test_limit_on_file_size_is_a_capacity_error_that_loses_nothing(url: str) -> None:
    """A write that would exceed the limit is refused whole; what was there stays, and a smaller one still fits."""
    store = sharedstate.open(url)
    store["kept"] = "x" * 1000

    def body() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        try:
            store["large"] = "y" * 20_000
        except CapacityError:
            store["small"] = 1
            store.check()
            return "refused"
        return "accepted"

    assert in_child(body) == "refused"
    assert dict(store) == {"kept": "x" * 1000, "small": 1}
    store.check()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k,mode=0755", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def try_set(store: sharedstate.Store, key: str, value: object) -> bool:
    try:
        store[key] = value
    except CapacityError:
        return False
    return True


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount; the limit on file sizes above takes the same path")
def test_full_disk_is_a_capacity_error_that_loses_nothing(tiny_disk: Path) -> None:
    """On a full disk every verb that writes is refused whole, reads go on, and after room was made so do writes."""
    url = f"file:{tiny_disk}/store"
    store = sharedstate.open(url)
    written = 0
    while try_set(store, f"k{written}", "x" * 1000):
        written += 1

    with pytest.raises(CapacityError):
        store.transact(lambda tx: [tx.set(f"new{number}", "x" * 4000) for number in range(9)])
    with pytest.raises(CapacityError, match="No space"):
        sharedstate.open(f"file:{tiny_disk}/second")
    assert dict(store) == {f"k{number}": "x" * 1000 for number in range(written)}
    store.check()
    assert len(sharedstate.open(url)) == written

    subprocess.run(["mount", "-o", "remount,size=2m", str(tiny_disk)], check=True)
    store["more"] = "x" * 10_000
    assert len(sharedstate.open(url)) == written + 1
    sharedstate.open(f"file:{tiny_disk}/second").close()
    store.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_compaction_that_finds_no_room_refuses_no_write(tiny_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction that fails for want of space is counted, leaves no half-made log, and is tried again later."""
    monkeypatch.setattr(compaction, "FLOOR_BYTES", 20_000)
    monkeypatch.setattr("sharedstate_file.handle.FLOOR_BYTES", 20_000)
    store = sharedstate.open(f"file:{tiny_disk}/store")
    (tiny_disk / "ballast").write_bytes(b"x" * 190_000)
    store["kept"] = "x" * 40_000

    for number in range(60):
        store["k"] = str(number % 10) * 800
    failed = store.stats()
    (tiny_disk / "ballast").unlink()
    for number in range(60):
        store["k"] = str(number % 10) * 800

    assert failed["compactions_failed"]
    assert not failed["compactions"]
    assert store.stats()["compactions"]
    assert [name for name in os.listdir(tiny_disk / "store") if name.startswith("log-")] == ["log-2"]
    assert store["kept"] == "x" * 40_000
    store.check()
    store.close()


def test_value_beyond_the_limit_is_a_capacity_error(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value larger than max_value_bytes is refused by its size, wherever it comes from."""
    store = sharedstate.open(url)
    monkeypatch.setattr("sharedstate_file.backend._MAX_VALUE_BYTES", 1000)

    for write in (
        lambda: store.set("k", "x" * 1000),
        lambda: store.add("k", "x" * 1000),
        lambda: store.set_many({"k": "x" * 1000}),
        lambda: store.transact(lambda tx: tx.set("k", "x" * 1000)),
    ):
        with pytest.raises(CapacityError, match="1000"):
            write()

    assert "k" not in store


# --- Large values -----------------------------------------------------------------


def test_large_values_stay_in_the_log_and_come_back_whole(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large values, several in one transaction among small ones, survive catch-up, reopening and compaction."""
    monkeypatch.setattr(compaction, "FLOOR_BYTES", 100_000)
    store, other = sharedstate.open(url), sharedstate.open(url)
    values: dict[str, Any] = {
        "a": "x" * 20_000,
        "small": 1,
        "b": b"y" * 300_000,
        "": None,
        "c": [("z" * 30_000, number) for number in range(3)],
        "d": {"k": "w" * 16_380},
    }
    del values[""]

    store.set_many(values)
    store.transact(lambda tx: [tx.set(key + "2", value) for key, value in values.items()])
    held = other.read("b")
    for number in range(12):
        store["filler"] = str(number) * 100_000

    expected = {**values, **{key + "2": value for key, value in values.items()}}
    for opened in (store, other, sharedstate.open(url)):
        assert {key: value for key, value in opened.items() if key != "filler"} == expected
        opened.check()
    assert held is not None
    assert held.value == values["b"]
    assert store.stats()["compactions"]


def test_many_large_values_in_one_transaction_are_found_again(url: str) -> None:
    """Each of 500 values of 20 kB in one frame is read back from its own place."""
    store, other = sharedstate.open(url), sharedstate.open(url)
    values = {f"k{number}": f"{number:05}" * 4000 for number in range(500)}

    store.transact(lambda tx: [tx.set(key, value) for key, value in values.items()])

    assert dict(store) == values
    assert dict(other) == values
    store.check()


def test_light_to_import(tmp_path: Path) -> None:
    """Opening and using a file store in a fresh interpreter imports nothing heavy."""
    code = (
        "import sys, sharedstate\nstore = sharedstate.open(sys.argv[1])\nstore['k'] = {'a': 1}\nstore['k']\n"
        "heavy = {'typing', 'threading', 'datetime', 'dataclasses', 're', 'contextlib', 'urllib', 'logging',"
        " 'portalocker', 'sqlite3', 'click', 'rich', 'importlib.metadata', 'multiprocessing', 'hashlib', 'msgpack'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}", f"file:{tmp_path}/store"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert answer.stdout == "[]\n", answer.stderr
