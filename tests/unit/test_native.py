"""The C module: fork, descriptors, interpreters and memory.

Forks and sub-interpreters happen in a Python of their own, so that a crash is
one failed test and no thread of the test runner is forked.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from sharedstate import _native
from sharedstate.errors import CorruptError, ValueTypeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def run_python(script: str) -> str:
    """Return what a fresh Python prints when it runs `script`; its standard error is the failure's text."""
    command = [sys.executable, "-W", "ignore", "-X", "faulthandler", "-c", textwrap.dedent(script)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stderr}"
    return done.stdout


# --- Files --------------------------------------------------------------------------


def test_file_without_a_name_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("w") as file:
        assert _native.has_name(file.fileno()) is True
        (tmp_path / "other").touch()
        (tmp_path / "other").rename(path)
        assert _native.has_name(file.fileno()) is False
        fd = file.fileno()

    with pytest.raises(OSError, match="Bad file descriptor"):
        _native.has_name(fd)
    with pytest.raises(ValueError, match="not a file descriptor"):
        _native.has_name(-1)


# --- Fork ---------------------------------------------------------------------------

FORKS = {"os.fork": "os.fork", "a fork that Python does not see, as uWSGI's": "ctypes.PyDLL(None).fork"}


@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS.keys())
def test_fork_epoch_grows_in_the_child_only(fork: str) -> None:
    """The epoch counts the forks on the way to a process, also those without Python's hooks."""
    printed = run_python(f"""
        import ctypes, os
        from sharedstate import _native

        first = _native.fork_epoch()
        if ({fork})() == 0:
            second = _native.fork_epoch()
            if ({fork})() == 0:
                os.write(1, repr((first, second, _native.fork_epoch())).encode())
                os._exit(0)
            os.wait()
            os._exit(0)
        os.wait()
        os.write(1, repr(_native.fork_epoch() == first).encode())
    """)

    assert printed == "(0, 1, 2)True"


def test_forks_made_grows_in_the_parent() -> None:
    """One fork adds one, so equal readings around open() and close_on_fork() mean that no child slipped between."""
    printed = run_python("""
        import os
        from sharedstate import _native

        before = _native.forks_made()
        if os.fork() == 0:
            os._exit(0)
        os.wait()
        print(_native.forks_made() - before, _native.forks_made() - before)
    """)

    assert printed == "1 1\n"


@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS.keys())
def test_a_child_has_the_registered_descriptors_closed_and_no_others(fork: str) -> None:
    """Registered, twice registered, taken back and never registered, among enough to grow the table."""
    printed = run_python(f"""
        import ctypes, os
        from sharedstate import _native

        opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(300)]
        closed, kept = opened[:200], opened[200:]
        for fd in opened[:250] + opened[:50]:
            _native.close_on_fork(fd)
        for fd in kept + kept:  # the second half was never registered, nor is any of them the second time
            _native.keep_on_fork(fd)

        def is_open(fd):
            try:
                os.fstat(fd)
            except OSError:
                return False
            return True

        if ({fork})() == 0:
            right = not any(map(is_open, closed)) and all(map(is_open, kept))
            # The child starts with an empty registry: a reused number is not closed by *its* fork.
            again = os.open("/dev/null", os.O_RDONLY)
            if ({fork})() == 0:
                os.write(1, repr((again in closed, right, is_open(again))).encode())
                os._exit(0)
            os.wait()
            os._exit(0)
        os.wait()
        os.write(1, repr(all(map(is_open, opened))).encode())
    """)

    assert printed == "(True, True, True)True"


@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS.keys())
@pytest.mark.parametrize("is_full", [False, True], ids=["", "no descriptor left"])
def test_a_child_keeps_the_number_of_a_blanked_descriptor(fork: str, is_full: bool) -> None:
    """A socket object of the parent's that the child collects closes its own number, and no file opened since."""
    printed = run_python(f"""
        import ctypes, os, resource, socket
        from sharedstate import _native

        ours, theirs = socket.socketpair()
        blanked = ours.fileno()
        _native.close_on_fork(blanked)
        _native.blank_on_fork(blanked)  # the later call counts
        taken_back, closed = os.dup(blanked), os.dup(blanked)
        _native.blank_on_fork(taken_back)
        _native.keep_on_fork(taken_back)
        _native.blank_on_fork(closed)
        _native.close_on_fork(closed)
        if {is_full}:
            resource.setrlimit(resource.RLIMIT_NOFILE, (closed + 1, closed + 1))

        def send(fd):
            try:
                return os.write(fd, b".")
            except OSError as error:
                return type(error).__name__ + str(error.errno)

        if ({fork})() == 0:
            found = send(blanked), os.get_inheritable(blanked), send(taken_back), send(closed)
            mine = os.open("/dev/null", os.O_WRONLY)
            del ours
            os.write(1, repr((*found, mine == closed, send(mine))).encode())
            os._exit(0)
        os.wait()
        os.write(1, repr(send(blanked)).encode())
    """)

    assert printed == f"('OSError{errno.ENOTCONN}', False, 1, 'OSError{errno.EBADF}', True, 1)1"


@pytest.mark.parametrize("registered", [True, False], ids=["registered", "not registered: the control"])
def test_a_lock_dies_with_its_holder_although_a_child_lives(registered: bool, tmp_path: Path) -> None:
    """After kill -9 of a holder that has forked, its flock is free; unregistered, the idle child keeps it."""
    script = f"""
        import fcntl, os, sys
        from sharedstate import _native

        fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
        if {registered}:
            _native.close_on_fork(fd)
        fcntl.flock(fd, fcntl.LOCK_EX)
        child = os.fork()
        if child == 0:
            os.write(1, b"up")
            os.read(0, 1)  # until the test closes the pipe
            os._exit(0)
        os.waitpid(child, 0)
    """
    path = str(tmp_path / "lock")
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout
        assert holder.stdout.read(2) == b"up"

        holder.send_signal(signal.SIGKILL)
        holder.wait()
        fd = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_free = True
        except BlockingIOError:
            is_free = False
        finally:
            os.close(fd)

        assert is_free is registered


def test_forks_and_registrations_of_many_threads_agree() -> None:
    """While 4 threads register and take back descriptors, each of 60 forked children finds all settled ones closed."""
    printed = run_python("""
        import os, threading
        from sharedstate import _native

        settled = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
        for fd in settled:
            _native.close_on_fork(fd)
        stop = threading.Event()

        def churn():
            while not stop.is_set():
                fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(30)]
                for fd in fds:
                    _native.close_on_fork(fd)
                for fd in fds:
                    _native.keep_on_fork(fd)
                    os.close(fd)

        threads = [threading.Thread(target=churn) for _ in range(4)]
        for thread in threads:
            thread.start()
        failures = 0
        for _ in range(60):
            pid = os.fork()
            if pid == 0:
                still_open = 0
                for fd in settled:
                    try:
                        os.fstat(fd)
                        still_open += 1
                    except OSError:
                        pass
                os._exit(1 if still_open else 0)
            failures += os.waitpid(pid, 0)[1] != 0
        stop.set()
        for thread in threads:
            thread.join()
        print(failures)
    """)

    assert printed == "0\n"


@pytest.mark.parametrize("wrong", [-1, 2**31, 2**80])
def test_what_is_no_descriptor_is_refused(wrong: int) -> None:
    """Out of range is a ValueError; a number that is not open is an OSError."""
    with pytest.raises(ValueError, match="not a file descriptor"):
        _native.close_on_fork(wrong)
    with pytest.raises(OSError, match="Bad file descriptor"):
        _native.close_on_fork(2**31 - 1)


# --- The clock ---------------------------------------------------------------------------


def test_boot_ns_is_the_boot_clock() -> None:
    """It lies between two readings of CLOCK_BOOTTIME taken around it."""
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    between = _native.boot_ns()

    assert before <= between <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)


# --- Interpreters -----------------------------------------------------------------------------

IN_EACH = textwrap.dedent("""
    import sys
    from sharedstate import _native, values

    assert values.ACCELERATED
    value = {"a": [1, 2.5, None, (1, "two")], "b": b"x", 7: "é" * 99}
    assert values.decode(values.encode(value)) == value
    try:
        values.encode({"a": {1}})
    except TypeError as error:
        assert error.path == 'value["a"]'
    try:
        values.decode(b"\\xc1")
    except ValueError as error:
        assert "0xc1" in error.reason
    assert not {"datetime", "msgpack"} & set(sys.modules), "unsafe here on CPython 3.12.1 and 3.13.0"
""")

CREATE = textwrap.dedent("""
    import sys
    if sys.version_info >= (3, 13):
        import _interpreters as interpreters
        def create(kind):
            return interpreters.create(kind)
        def run(interpreter, script):
            failure = interpreters.exec(interpreter, script)
            assert failure is None, failure.formatted
    else:
        import _xxsubinterpreters as interpreters
        def create(kind):
            return interpreters.create(isolated=kind == "isolated")
        def run(interpreter, script):
            interpreters.run_string(interpreter, script)
""")

KINDS = ["legacy", *(["isolated"] if sys.version_info >= (3, 12) else [])]


@pytest.mark.parametrize("main_first", [True, False], ids=["after the main one", "before the main one"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_module_works_in_every_kind_of_interpreter(kind: str, main_first: bool) -> None:
    """Three sub-interpreters encode, decode and explain errors, come and go, and leave the others whole."""
    printed = run_python(
        CREATE
        + textwrap.dedent(f"""
        script = {IN_EACH!r}
        if {main_first}:
            exec(script)
        made = [create({kind!r}) for _ in range(3)]
        for interpreter in made:
            run(interpreter, script)
        interpreters.destroy(made.pop(0))
        for interpreter in made:
            run(interpreter, script)
            interpreters.destroy(interpreter)
        exec(script)
        print("whole")
        """)
    )

    assert printed == "whole\n"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="interpreters with a GIL of their own came with 3.12")
def test_isolated_interpreters_encode_at_the_same_time() -> None:
    """Two threads, each in an interpreter with its own GIL, encode and decode without a shared object between them."""
    script = IN_EACH + textwrap.dedent("""
        for number in range(3000):
            value = {"key %d" % (number % 700): [number, (number,)], "same": number}
            assert values.decode(values.encode(value)) == value
    """)
    printed = run_python(
        CREATE
        + textwrap.dedent(f"""
        import threading
        failures = []
        def work(interpreter):
            try:
                run(interpreter, {script!r})
            except BaseException as error:
                failures.append(error)
        made = [create("isolated") for _ in range(2)]
        for interpreter in made:
            run(interpreter, "import sharedstate.values")
        threads = [threading.Thread(target=work, args=(interpreter,)) for interpreter in made]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for interpreter in made:
            interpreters.destroy(interpreter)
        print(failures)
        """)
    )

    assert printed == "[]\n"


# --- Memory --------------------------------------------------------------------------------------


MOMENT = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
VALUE: Any = {"a": [1, 2**63, -5, 2.5, None, True, (1, ("two",), ())], "é": b"x" * 3000, 7: MOMENT, "k" * 40: ""}
ENCODED = _native.encode(VALUE)
AFTER_HEADS = [0, 1, 3, 5, 20, 30, 45, 50, 100, len(ENCODED) - 45, len(ENCODED) - 1]

PATHS: dict[str, Callable[[], object]] = {
    "encode": lambda: _native.encode(VALUE),
    "decode": lambda: _native.decode(ENCODED),
    "decode a bytearray": lambda: _native.decode(bytearray(ENCODED)),
    "refuse a set": lambda: _native.encode(["x" * 5000, ({1},)]),
    "refuse a surrogate": lambda: _native.encode(["x" * 5000, {"a": "\ud800"}]),
    "refuse a dict key": lambda: _native.encode({"a": {b"": 1}}),
    "refuse a large int": lambda: _native.encode([(2**64,)]),
    "refuse a naive datetime": lambda: _native.encode([MOMENT.replace(tzinfo=None)]),
    "refuse a datetime out of range": lambda: _native.decode(b"\x92\xa2ab\xd8\x02" + b"\x7f" * 16),
    "refuse a key twice": lambda: _native.decode(b"\x92\xa2ab\x82\x01\x01\x01\x01"),
    **{f"truncated at {at}": lambda at=at: _native.decode(ENCODED[:at]) for at in AFTER_HEADS},  # type: ignore[misc]
    **{f"0xc1 at {at}": lambda at=at: _native.decode(ENCODED[:at] + b"\xc1" + ENCODED[at:]) for at in AFTER_HEADS},  # type: ignore[misc]
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_nothing_leaks(path: Callable[[], object]) -> None:
    """1000 calls leave less than a block of memory for every second one, on success and on each kind of failure."""

    def call(times: int) -> int:
        for _ in range(times):
            with contextlib.suppress(ValueTypeError, CorruptError):
                path()
        gc.collect()
        return sys.getallocatedblocks()

    before = call(100)

    after = call(1000)

    assert after - before < 500


def test_decoded_containers_own_their_parts() -> None:
    """Equal keys may be one str object; values and containers of two decodings are never shared."""
    encoded = _native.encode({"key": [1, {"key": []}]})

    first, second = _native.decode(encoded), _native.decode(encoded)
    first["key"][1]["key"].append("mine")

    assert second == {"key": [1, {"key": []}]}


def test_threads_share_one_codec() -> None:
    """4 threads that decode other keys through one key cache each get their own."""
    failures: list[Any] = []

    def work(number: int) -> None:
        for turn in range(500):
            value = {f"{number}-{turn % 50}": turn, "same": [number]}
            if _native.decode(_native.encode(value)) != value:
                failures.append(value)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failures
