"""A plain program, its children of every kind and its sub-interpreters: what each says, and that they agree."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from sharedstate.probe.interpreters import ISOLATED, LEGACY, reason_unavailable

if TYPE_CHECKING:
    from pathlib import Path

TELL = """
import json, os, sys
import sharedstate
from sharedstate.deployment.identity import describe_self
from sharedstate.values import decode, encode

def tell(who):
    found, start = sharedstate.detect(), sharedstate.incarnation()
    told = {name: fact.value for name, fact in found._asdict().items()}
    told |= {"who": who, "token": start.token, "settled": start.is_settled, "pid": os.getpid()}
    decode(encode(describe_self()))
    os.write(1, (json.dumps(told) + "\\n").encode())
"""

CHILDREN = """
import multiprocessing, os, subprocess
from telling import tell

if __name__ == "__main__":
    tell("main")
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        child = context.Process(target=tell, args=(method,))
        child.start()
        child.join()
    if os.fork() == 0:
        tell("os.fork")
        os._exit(0)
    os.wait()
    tell("main again")
"""


def run(
    directory: Path, source: str, *arguments: str, name: str = "program.py", cwd: Path | None = None
) -> dict[str, Any]:
    """Run a program that tells of itself, and return what each `who` told."""
    (directory / "telling.py").write_text(TELL)
    (directory / name).write_text(source)
    command = [sys.executable, *(arguments or (str(directory / name),))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(directory), *sys.path])}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd or directory, env=environment
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({item["who"] for item in told}) == len(told)
    return {item["who"]: item for item in told}


def test_program_is_one_process(tmp_path: Path) -> None:
    """A program that loads nothing of the kind is one likely process with one interpreter, and its own supervisor."""
    told = run(tmp_path, "from telling import tell; tell('main')")["main"]

    assert told["server"] == "python"
    assert told["processes"] == told["interpreters"] == 1
    assert told["gil"] in {"only", "absent"}
    assert told["recycled"] is told["preloaded"] is False
    assert told["threads"] is None
    assert told["application"] == str(tmp_path / "program.py")
    assert told["settled"]
    assert f".{told['pid']}." in told["token"]


def test_children_belong_to_the_program(tmp_path: Path) -> None:
    """Children of multiprocessing, by each method, and of os.fork have its application and its incarnation."""
    told = run(tmp_path, CHILDREN)

    assert told.keys() == {"main", "fork", "spawn", "forkserver", "os.fork", "main again"}
    assert {item["application"] for item in told.values()} == {str(tmp_path / "program.py")}
    assert len({item["token"] for item in told.values()}) == 1
    assert len({item["pid"] for item in told.values()}) == 5
    for method in ("fork", "spawn", "forkserver"):
        assert told[method]["server"] == "multiprocessing"
        assert told[method]["mode"] == method
        assert told[method]["processes"] == "many"
        assert told[method]["preloaded"] == (method == "fork")


def test_program_with_multiprocessing_may_have_children(tmp_path: Path) -> None:
    """Who has loaded multiprocessing may start children: the number of processes is unknown, not 1."""
    told = run(tmp_path, "import multiprocessing\nfrom telling import tell; tell('main')")

    assert told["main"]["processes"] is None


def test_child_that_looks_first_finds_the_program(tmp_path: Path) -> None:
    """What a forked child finds does not depend on its parent having looked before the fork."""
    told = run(
        tmp_path,
        "import os\nfrom telling import tell\nif os.fork() == 0:\n    tell('child')\n    os._exit(0)\n"
        "os.wait()\ntell('main')",
    )

    assert told["child"]["token"] == told["main"]["token"]
    assert told["child"]["processes"] == "many"


def test_program_started_by_the_same_program_is_another(tmp_path: Path) -> None:
    """A process that executes the same command anew, as reloaders do, is no forked copy: it is a start of its own."""
    told = run(
        tmp_path,
        "import os, subprocess, sys\nfrom telling import tell\ntell('child' if 'AGAIN' in os.environ else 'main')\n"
        "if 'AGAIN' not in os.environ:\n"
        "    subprocess.run(sys.orig_argv, env={**os.environ, 'AGAIN': ''}, check=True)\n",
    )

    assert told["child"]["token"] != told["main"]["token"]
    assert told["child"]["application"] == told["main"]["application"]
    assert told["child"]["processes"] == 1


def test_orphans_keep_their_program(tmp_path: Path) -> None:
    """Forked children of a program that was killed keep its incarnation, which they read before."""
    told = run(
        tmp_path,
        "import os, signal\nfrom telling import tell\ntell('main')\nread, write = os.pipe()\n"
        "if os.fork() == 0:\n"  # the program that will be killed
        "    import sharedstate\n    tell('program')\n"
        "    if os.fork() == 0:\n"
        "        parent = os.getppid()\n        os.kill(parent, signal.SIGKILL)\n"
        "        while os.getppid() == parent: pass\n"
        "        tell('orphan')\n        os.write(write, b'.')\n        os._exit(0)\n"
        "    signal.pause()\n"
        "os.read(read, 1)\nos.wait()\n",
    )

    assert told["orphan"]["token"] == told["program"]["token"] == told["main"]["token"]


def test_daemon_is_no_orphan(tmp_path: Path) -> None:
    """A program that puts itself into the background, in a session of its own, is a start of its own."""
    told = run(
        tmp_path,
        "import os\nfrom telling import tell\ntell('main')\nread, write = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        parent = os.getppid()\n        os.write(write, b'.')\n"
        "        while os.getppid() == parent: pass\n"
        "        tell('daemon')\n        os.write(write, b'.')\n        os._exit(0)\n"
        "    os.read(read, 1)\n    os._exit(0)\n"
        "os.wait()\nos.read(read, 1)\n",
    )

    assert f".{told['daemon']['pid']}." in told["daemon"]["token"]


# --- Names of programs -----------------------------------------------------------


def test_program_is_named_by_its_real_path(tmp_path: Path) -> None:
    """Whatever the working directory, and however the path is spelled."""
    (tmp_path / "link.py").symlink_to("program.py")
    source = "from telling import tell; tell('main')"

    commands = [(), ("program.py",), ("./link.py",), ("-m", "program"), ("-Wd", "-mprogram")]
    told = [run(tmp_path, source, *command) for command in commands]
    told.append(run(tmp_path, source, f"{tmp_path.name}/program.py", cwd=tmp_path.parent))

    assert {item["main"]["application"] for item in told} == {str(tmp_path / "program.py")}


TELLING = "from telling import tell; tell('main')"


@pytest.mark.parametrize("arguments", [("-c", TELLING), ("-i", "-c", TELLING)])
def test_interactive_interpreter_has_no_name(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Without a program nothing tells one application from another."""
    assert run(tmp_path, "", *arguments)["main"]["application"] is None


@pytest.mark.parametrize("name", ["pytest.py", "celery.py", "gunicorn.py"])
def test_runner_of_applications_is_none(tmp_path: Path, name: str) -> None:
    """A program that runs any application does not name it."""
    told = run(tmp_path, "from telling import tell; tell('main')", str(tmp_path / name), name=name)

    assert told["main"]["application"] is None
    assert told["main"]["processes"] == (1 if name == "pytest.py" else None)


# --- Sub-interpreters ------------------------------------------------------------

INTERPRETERS = """
import os, sys
from sharedstate.probe.interpreters import run_in_interpreter
from telling import tell

tell("main")
script = f"import sys; sys.path[:] = {sys.path!r}\\nfrom telling import tell; tell('sub')"
if len(sys.argv) > 2:
    os.chdir("/")
failure = run_in_interpreter(sys.argv[1], script)
assert not failure, failure
tell("main again")
"""


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("kind", [LEGACY, ISOLATED])
def test_sub_interpreter_belongs_to_the_program(tmp_path: Path, kind: str, moved: bool) -> None:
    """It has the program's name and incarnation, knows its GIL, and that it is not alone."""
    if reason_unavailable(kind):
        pytest.skip(reason_unavailable(kind))

    told = run(tmp_path, INTERPRETERS, "program.py", kind, *["moved"] * moved)

    assert told["sub"]["server"] == "interpreters"
    assert told["sub"]["gil"] in {{LEGACY: "shared", ISOLATED: "own"}[kind], "absent"}
    assert told["sub"]["interpreters"] == "many"
    assert told["sub"]["processes"] == 1
    assert told["sub"]["token"] == told["main"]["token"]
    known = {str(tmp_path / "program.py")}
    # Up to 3.11 its path does not tell where the program is, once the working directory is another.
    assert told["sub"]["application"] in (known | {None} if moved and sys.version_info < (3, 12) else known)


BESIDE = """
import os, sys, threading, types
from sharedstate.probe.interpreters import run_in_interpreter
from telling import tell

for name in ("uvicorn.config", "waitress", "gunicorn.arbiter"):  # each is looked for on all stacks
    sys.modules[name] = types.ModuleType(name)
ready, running = os.pipe()
release, released = os.pipe()
os.set_blocking(release, False)
script = f'''
import os
os.write({running}, b'.')
while True:
    try:
        os.read({release}, 1)
        break
    except BlockingIOError:
        pass
'''
busy = threading.Thread(target=run_in_interpreter, args=(sys.argv[1], script))
busy.start()
os.read(ready, 1)
import sharedstate
for _ in range(100):
    assert sharedstate.detect().server.value == "python"
tell("main")
os.write(released, b".")
busy.join()
"""


@pytest.mark.parametrize("kind", [LEGACY, ISOLATED])
def test_looking_does_not_harm_interpreters_at_work(tmp_path: Path, kind: str) -> None:
    """sys._current_frames() corrupts a process in which an isolated interpreter runs: it is not called there."""
    if reason_unavailable(kind):
        pytest.skip(reason_unavailable(kind))

    told = run(tmp_path, BESIDE, "program.py", kind)["main"]

    assert told["interpreters"] == "many"
    assert told["gil"] in {{LEGACY: "shared", ISOLATED: "own"}[kind], "absent", None}


def test_looking_at_the_stack_keeps_nobody_who_called(tmp_path: Path) -> None:
    """No cycle of frames is left, which would keep a store open until the garbage collector comes by."""
    told = run(
        tmp_path,
        "import gc, weakref\nfrom telling import tell\nfrom sharedstate.deployment import surroundings\n"
        "class Local: pass\n"
        "def look():\n    local = Local()\n    surroundings.find_frame('nowhere')\n    return weakref.ref(local)\n"
        "gc.disable()\ntell('gone' if look()() is None else 'kept')\n",
    )

    assert list(told) == ["gone"]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="InterpreterPoolExecutor came with Python 3.14")
def test_interpreter_pool_belongs_to_the_program(tmp_path: Path) -> None:
    """Workers of an InterpreterPoolExecutor have GILs of their own, and are told from the main interpreter."""
    told = run(
        tmp_path,
        "from concurrent.futures import InterpreterPoolExecutor\nfrom telling import tell\n"
        "if __name__ == '__main__':\n    tell('main')\n"
        "    with InterpreterPoolExecutor(1) as pool:\n        pool.submit(tell, 'worker').result()\n"
        "        tell('main again')\n",
    )

    assert told["worker"]["gil"] in {"own", "absent"}
    assert told["worker"]["token"] == told["main"]["token"]
    assert told["worker"]["application"] == told["main"]["application"]
    assert told["main"]["interpreters"] == told["main again"]["interpreters"] == "many"


def test_signal_is_not_swallowed() -> None:
    """Nothing here changes a signal handler."""
    import sharedstate

    before = signal.getsignal(signal.SIGTERM)
    sharedstate.detect()
    sharedstate.is_stopping()

    assert signal.getsignal(signal.SIGTERM) is before
