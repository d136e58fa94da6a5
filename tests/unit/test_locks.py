"""LockDirectory: whom its locks exclude, when they are freed, and what they say of themselves."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

import sharedstate
from sharedstate.backend import Deadline, LockDirectory
from sharedstate.errors import (
    CapacityError,
    CorruptError,
    LockLostError,
    LockOwnershipError,
    LockTimeoutError,
    StoreAccessError,
    ValueTypeError,
)
from sharedstate.probe.interpreters import ISOLATED, LEGACY, reason_unavailable, run_in_interpreter
from sharedstate.testing.conformance.support import interrupt, interrupt_at

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TRY = """
import sys
sys.path[:0] = {path!r}
from sharedstate.backend import LockDirectory
answer = str(LockDirectory("file:test", {directory!r}).lock({name!r}).try_acquire())
"""


@pytest.fixture
def locks(tmp_path: Path) -> LockDirectory:
    return LockDirectory("file:test", str(tmp_path / "locks"))


def trying(locks: LockDirectory, name: str) -> str:
    """Return code that tries to take the lock and leaves "True" or "False" in `answer`."""
    return TRY.format(path=[path for path in sys.path if path], directory=locks.path, name=name)


def try_in_thread(locks: LockDirectory, name: str) -> str:
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(str(locks.lock(name).try_acquire())))
    thread.start()
    thread.join()
    return answers[0]


def try_in_process(locks: LockDirectory, name: str) -> str:
    command = [sys.executable, "-c", f"{trying(locks, name)}print(answer)"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def try_in_interpreter(locks: LockDirectory, name: str, kind: str) -> str:
    reader, writer = os.pipe()
    code = trying(locks, name) + f"import os\nos.write({writer}, answer.encode())\n"
    try:
        assert run_in_interpreter(kind, code) == ""
    finally:
        os.close(writer)
    with os.fdopen(reader) as pipe:
        return pipe.read()


CONTENDERS: dict[str, Callable[[LockDirectory, str], str]] = {
    "thread": try_in_thread,
    "process": try_in_process,
    "legacy interpreter": lambda locks, name: try_in_interpreter(locks, name, LEGACY),
}
if not reason_unavailable(ISOLATED):
    CONTENDERS["isolated interpreter"] = lambda locks, name: try_in_interpreter(locks, name, ISOLATED)


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


class Gate:
    """Where a child says that it is ready, and then stays until it is killed or released."""

    def __init__(self) -> None:
        self._ready_reader, self._ready_writer = os.pipe()
        self._go_reader, self._go_writer = os.pipe()

    def stay(self) -> None:
        os.close(self._go_writer)
        os.write(self._ready_writer, b"!")
        os.read(self._go_reader, 1)

    def wait(self) -> None:
        assert os.read(self._ready_reader, 1) == b"!"

    def close(self) -> None:
        for fd in (self._ready_reader, self._ready_writer, self._go_reader, self._go_writer):
            os.close(fd)


# --- Whom it excludes -----------------------------------------------------------


@pytest.mark.parametrize("contender", CONTENDERS)
def test_held_lock_excludes(locks: LockDirectory, contender: str) -> None:
    """While this thread holds it no other kind of caller gets it; once released, each does."""
    attempt = CONTENDERS[contender]
    held = locks.lock("n")

    held.acquire()
    while_held = attempt(locks, "n")
    other_name = attempt(locks, "another")
    held.release()
    when_free = attempt(locks, "n")

    assert (while_held, other_name, when_free) == ("False", "True", "True")


def test_portalocker_takes_part(locks: LockDirectory) -> None:
    """A program that locks the file by portalocker excludes ours, and is excluded by it."""
    attempt = (
        "import portalocker, sys\nf = open(sys.argv[1], 'a')\n"
        "try: portalocker.lock(f, portalocker.LOCK_EX | portalocker.LOCK_NB)\n"
        "except portalocker.LockException: print('excluded', flush=True)\nelse: print('held', flush=True)\n"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", attempt, locks.file_of("n")]
    lock = locks.lock("n")

    with lock:
        inside = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        outside = other.stdout.readline()
        excluded = lock.try_acquire()

    assert (inside, outside, excluded) == ("excluded\n", "held\n", False)
    assert lock.try_acquire()


def test_timeout_names_the_holder(locks: LockDirectory) -> None:
    """Waiting for a held lock ends with LockTimeoutError that says who holds it; nothing is taken."""
    waiter = locks.lock("n", timeout_s=0.02)

    with locks.lock("n"), pytest.raises(LockTimeoutError, match=f"held by pid {os.getpid()}") as caught:
        waiter.acquire()

    assert caught.value.timeout_s == 0.02
    assert not waiter.is_held()
    assert waiter.acquire()


def test_waiter_gets_the_lock_when_it_is_released(locks: LockDirectory) -> None:
    """A thread that waits without a timeout is let in by the release."""
    held, let_in = locks.lock("n"), threading.Event()

    def wait() -> None:
        with locks.lock("n"):
            let_in.set()

    held.acquire()
    thread = threading.Thread(target=wait)
    thread.start()
    assert not let_in.is_set()
    held.release()
    thread.join()

    assert let_in.is_set()


# --- Whose it is ------------------------------------------------------------------


def test_only_the_owner_releases(locks: LockDirectory) -> None:
    """Another thread, a second release, and one that never acquired get LockOwnershipError; the holder keeps it."""
    lock = locks.lock("n")
    caught: list[type[Exception]] = []

    def release() -> None:
        try:
            lock.release()
        except LockOwnershipError as error:
            caught.append(type(error))

    release()
    lock.acquire()
    thread = threading.Thread(target=release)
    thread.start()
    thread.join()
    assert lock.is_held()
    assert try_in_thread(locks, "n") == "False"
    lock.release()
    release()

    assert caught == [LockOwnershipError] * 3


def test_no_later_thread_passes_for_a_dead_holder(locks: LockDirectory) -> None:
    """The system gives a dead thread's ident to new ones; none of them holds, or can release, what it held."""
    lock = locks.lock("n")
    answers: set[str] = set()

    def claim() -> None:
        try:
            lock.release()
        except LockOwnershipError:
            answers.add(f"refused, is_held {lock.is_held()}")
        else:
            answers.add("released")

    for body in (lock.acquire, *[claim] * 20):
        thread = threading.Thread(target=body)
        thread.start()
        thread.join()

    assert answers == {"refused, is_held False"}
    assert try_in_thread(locks, "n") == "False"


@pytest.mark.parametrize("timeout_s", [float("nan"), "1", True])
def test_timeout_is_a_number_of_seconds(locks: LockDirectory, timeout_s: Any) -> None:
    """What is none is refused before anything is taken, not misread."""
    with pytest.raises(ValueTypeError, match="timeout_s"):
        locks.lock("n").acquire(timeout_s)

    assert locks.lock("n").try_acquire()


@pytest.mark.parametrize("timeout_s", [float("inf"), 1e300, 10**400])
def test_long_timeouts_are_as_long_as_they_say(locks: LockDirectory, timeout_s: float) -> None:
    """No limit of the system's clocks overflows or cuts them short."""
    with locks.lock("n", timeout_s):
        assert Deadline(timeout_s).remaining_s(1e9) == 1e9
    for negative in (-1, -float("inf"), -(10**400)):
        assert locks.lock("n").acquire(negative)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of open()
def test_interrupted_acquire_or_release_keeps_nothing_for_ever(locks: LockDirectory) -> None:
    """Whichever line an exception of a signal handler hits, the object can be released, or acquired, afterwards."""
    lock = locks.lock("n", timeout_s=1)

    def turn() -> None:
        if not lock.is_held():
            lock.acquire()
        lock.release()

    interrupt(turn, times=500)

    turn()
    assert try_in_thread(locks, "n") == "True"
    with lock:
        assert try_in_thread(locks, "n") == "False"


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_turn_that_is_interrupted_at_any_call_lets_others_have_theirs(locks: LockDirectory, scheme: str) -> None:
    """What a signal handler raises there costs no thread its turn through the same object."""
    with sharedstate.open("memory:interrupted-turns") as store, ThreadPoolExecutor(1) as other:
        lock = locks.lock("n") if scheme == "file" else store.lock("n")

        def turn() -> None:
            if not lock.is_held():
                lock.acquire(0)
            lock.release()

        for point in count(1):
            if not interrupt_at(point, turn):
                break
            turn()
            other.submit(turn).result(timeout=10)
    sharedstate.remove(store.url)
    assert point > 20


def test_not_re_entrant(locks: LockDirectory) -> None:
    """A second acquire by the holder raises at once, and leaves the first one held."""
    with locks.lock("n") as lock:
        with pytest.raises(LockOwnershipError, match="not re-entrant"):
            lock.acquire()
        assert lock.is_held()


def test_collected_lock_object_frees_it(locks: LockDirectory) -> None:
    """A Lock object that nobody refers to any more holds nothing."""
    lock = locks.lock("n")
    lock.acquire()

    del lock
    gc.collect()

    assert locks.lock("n").try_acquire()


def test_token_grows_from_holder_to_holder(locks: LockDirectory) -> None:
    """Each acquisition's token is greater than every earlier one, also after the record or the whole file was lost."""
    tokens = []
    for loss in (None, None, "record", None, "zeroed", "file", None):
        if loss == "record":
            os.truncate(locks.file_of("n"), 0)
        if loss == "zeroed":  # as a power loss may leave it
            with open(locks.file_of("n"), "r+b") as file:
                file.write(bytes(os.fstat(file.fileno()).st_size))
        if loss == "file":
            os.unlink(locks.file_of("n"))
        with locks.lock("n") as lock:
            tokens.append(lock.token)

    assert tokens == sorted(set(tokens))
    assert len(tokens) == 7


def test_token_grows_when_the_clock_steps_back(locks: LockDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record carries the token over a step of the wall clock."""
    first = locks.lock("n").acquire()
    gc.collect()
    monkeypatch.setattr("time.time_ns", lambda: 10**15)

    second = locks.lock("n").acquire()

    assert second == first + 1


def test_lock_whose_file_was_removed_is_lost(locks: LockDirectory) -> None:
    """Its holder learns so from `token` and from `release`, and the name can be locked anew."""
    lock = locks.lock("n")
    lock.acquire()
    os.unlink(locks.file_of("n"))

    with pytest.raises(LockLostError, match="removed"):
        _ = lock.token
    with pytest.raises(LockLostError, match="removed"):
        lock.release()

    assert not lock.is_held()
    assert lock.acquire()


# --- Death and forks ----------------------------------------------------------------


def test_killed_holder_frees_it(locks: LockDirectory) -> None:
    """The kernel frees the lock of a process killed with -9, and who waits for it gets it."""
    gate = Gate()
    pid = os.fork()
    if pid == 0:
        lock = locks.lock("n")
        lock.acquire()
        gate.stay()
    gate.wait()
    while_alive = locks.lock("n").try_acquire()

    os.kill(pid, signal.SIGKILL)

    assert locks.lock("n", timeout_s=5).acquire()
    assert not while_alive
    os.waitpid(pid, 0)
    gate.close()


def test_child_neither_holds_nor_frees_its_parents_lock(locks: LockDirectory) -> None:
    """In a forked child the lock is lost: it cannot release it, and its exit does not free it."""
    lock = locks.lock("n")
    lock.acquire()

    answers = [in_child(lock.is_held), in_child(lock.release), in_child(lambda: lock.token), in_child(lock.try_acquire)]

    assert answers == ["False", "LockLostError", "LockLostError", "False"]
    assert lock.is_held()
    assert try_in_process(locks, "n") == "False"
    lock.release()
    assert in_child(lock.try_acquire) == "True"
    assert lock.try_acquire()


def test_child_does_not_keep_its_dead_parents_lock(locks: LockDirectory) -> None:
    """A holder killed after it forked frees the lock although its child lives on."""
    gate = Gate()
    parent = os.fork()
    if parent == 0:
        lock = locks.lock("n")
        lock.acquire()
        if os.fork() == 0:
            gate.stay()
            os._exit(0)
        signal.pause()
    gate.wait()
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)

    free = locks.lock("n").try_acquire()

    gate.close()  # ends the child
    assert free


def test_child_may_use_a_lock_object_that_a_thread_of_its_parent_held(locks: LockDirectory) -> None:
    """The child starts anew: it waits for its parent's thread like a stranger, and is let in after it."""
    lock = locks.lock("n", timeout_s=0.02)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            inside.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    while_held = in_child(lambda: bool(lock.acquire()))
    leave.set()
    thread.join()

    assert while_held == "LockTimeoutError"
    assert in_child(lambda: bool(lock.acquire())) == "True"


# --- What it says of itself -----------------------------------------------------------


def test_records_tell_held_free_and_dead(locks: LockDirectory) -> None:
    """Each lock ever acquired has one record, with its owner; one whose owner died is not held."""
    assert locks.records() == []
    gate = Gate()
    pid = os.fork()
    if pid == 0:
        dead = locks.lock("dead")
        dead.acquire()
        gate.stay()
    gate.wait()
    before = {record.name: record.held for record in locks.records()}
    gate.close()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with locks.lock("released"):
        pass

    with locks.lock("held") as lock:
        records = {record.name: record for record in locks.records()}
        token = lock.token

    assert before == {"dead": True}
    assert {name: record.held for name, record in records.items()} == {"dead": False, "released": False, "held": True}
    assert records["dead"].owner.pid == pid
    assert not records["dead"].owner.is_alive()
    assert records["held"].owner.is_alive()
    assert records["held"].token == token


@pytest.mark.parametrize("name", ["/", "..", "a/b", "ä", "a" * 512, "é" * 256, "a=b", "a\nb", "a b", "+", "A", "a"])
def test_any_name_has_a_file_of_its_own(locks: LockDirectory, name: str) -> None:
    """Whatever the name, its file lies in the directory, and its record gives the name back."""
    with locks.lock(name), locks.lock("other"):
        records = locks.records()

    assert {record.name for record in records} == {name, "other"}
    assert len(os.listdir(locks.path)) == 2


@pytest.mark.parametrize("content", [b"4711\n", b"+ 1 2 3\n", b"\xff\xfe", b"* 1 1 b 1 1 0 1 t name\n"])
def test_foreign_bytes_in_the_file_are_refused(locks: LockDirectory, content: bytes) -> None:
    """A lock file that holds no record of ours is CorruptError to all, and is left as it is, unlocked."""
    os.mkdir(locks.path)
    with open(locks.file_of("n"), "wb") as file:
        file.write(content)

    with pytest.raises(CorruptError, match="no lock record"):
        locks.lock("n").acquire()
    with pytest.raises(CorruptError, match="no lock record"):
        locks.records()

    with open(locks.file_of("n"), "rb") as file:
        assert file.read() == content
    os.truncate(locks.file_of("n"), 0)
    assert locks.lock("n").try_acquire()


def test_planted_link_is_not_followed(locks: LockDirectory, tmp_path: Path) -> None:
    """A symbolic link in the place of a lock file, or of the directory, is refused; its target stays as it is."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    os.mkdir(locks.path)
    os.symlink(victim, locks.file_of("n"))

    with pytest.raises(StoreAccessError):
        locks.lock("n").acquire()

    assert victim.read_text() == "precious"


def test_another_users_directory_is_refused() -> None:
    """Locks in a directory of somebody else's could be removed under their holders: refused, to root as well."""
    with tempfile.TemporaryDirectory() as place:  # not tmp_path, which others cannot reach
        os.chmod(place, 0o1777)
        store, planted = os.path.join(place, "store"), os.path.join(place, "locks")
        with open(store, "wb"):
            os.chmod(store, 0o666)
        os.mkdir(planted)
        os.chmod(planted, 0o777)
        if os.geteuid() == 0:
            os.chown(planted, 12345, 12345)
            os.chown(store, 54321, 54321)
        locks = LockDirectory("file:test", planted, 0o600, store)

        def as_owner() -> str:
            os.setuid(54321)
            return str(locks.lock("n").try_acquire())

        if os.geteuid() == 0:
            assert in_child(as_owner) == "StoreAccessError"
            with pytest.raises(StoreAccessError, match="planted"):
                locks.lock("n").acquire()
            with pytest.raises(StoreAccessError, match="planted"):
                locks.records()
            os.chown(planted, 54321, 54321)
            assert in_child(as_owner) == "True"
        assert locks.lock("n").try_acquire()


def test_no_room_for_the_record_is_a_capacity_error(locks: LockDirectory) -> None:
    """A record that cannot be written, or only in part, leaves the lock free and usable later."""
    lock = locks.lock("n")
    with lock:
        pass
    os.truncate(locks.file_of("n"), 0)

    def body(limit: int) -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            lock.acquire()
        except CapacityError:
            return "refused"
        return "held"

    assert [in_child(lambda limit=limit: body(limit)) for limit in (0, 10, 4096)] == ["refused", "refused", "held"]
    assert lock.try_acquire()
