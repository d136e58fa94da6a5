"""Who serves is told so once, after the fork; and once that it ends, whatever ends it in an orderly way."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

UWSGI = """
import os, sys, types
uwsgi = types.ModuleType("uwsgi")
first = os.getpid()
uwsgi.__dict__.update(
    numproc=2, cores=1, opt={}, version=b"2", worker_id=lambda: int(os.getpid() != first), masterpid=lambda: first
)
sys.modules["uwsgi"] = uwsgi
"""
"""A master of uWSGI's, in which the application is imported; its forked children are workers."""

APACHE = """
import sys, types
subscribed = []
mod_wsgi = types.ModuleType("mod_wsgi")
mod_wsgi.__dict__.update(
    process_group="", application_group="", maximum_processes=1, threads_per_process=1, version=(6, 1, 1),
    server_metrics=lambda: None, subscribe_shutdown=subscribed.append,
)
sys.modules["mod_wsgi"] = mod_wsgi
"""

SAY = """
import os
import sharedstate

def say(text):
    os.write(1, f"{text} {'master' if os.getpid() == started else 'worker'}\\n".encode())

started = os.getpid()
"""

FORK = """
if os.fork() == 0:
    {child}
    os._exit(0)
os.wait()
"""


def run(*parts: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(parts)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_who_serves_is_called_at_once() -> None:
    """In a plain program there is nothing to wait for, and what it raises is the caller's."""
    assert run(SAY, "sharedstate.when_serving(lambda: say('serving'))") == ["serving master"]
    assert run(SAY, "try: sharedstate.when_serving(lambda: 1 / 0)\nexcept ZeroDivisionError: say('raised')") == [
        "raised master"
    ]


def test_master_waits_for_its_workers() -> None:
    """Imported before the fork, it calls in each worker and not in the master, in the order given, each once."""
    asked = "for n in (1, 2): sharedstate.when_serving(lambda n=n: say(f'serving {n}'))"
    fork = FORK.format(child="sharedstate.detect(); sharedstate.incarnation()")

    assert run(UWSGI, SAY, asked, fork, fork) == ["serving 1 worker", "serving 2 worker"] * 2


def test_worker_goes_on_if_a_call_fails() -> None:
    """What is raised in a forked worker is printed, and keeps no other call from its turn."""
    asked = "sharedstate.when_serving(lambda: 1 / 0)\nsharedstate.when_serving(lambda: say('serving'))"

    assert run(UWSGI, SAY, asked, FORK.format(child="pass")) == ["serving worker"]


def test_hook_of_uwsgi_is_chained() -> None:
    """UWSGI forks without Python's hooks and calls its own: the application's goes first, and none is lost."""
    hooks = "uwsgi.post_fork_hook = lambda: say('theirs')"
    child = "uwsgi.worker_id = lambda: 1; uwsgi.post_fork_hook()"
    no_hooks = "os.register_at_fork = lambda **hooks: None"

    told = run(
        UWSGI, SAY, no_hooks, hooks, "sharedstate.when_serving(lambda: say('serving'))", FORK.format(child=child)
    )

    assert told == ["theirs worker", "serving worker"]


def test_unhooked_worker_is_called_when_it_is_looked_at() -> None:
    """Where nobody tells of the fork, the first look at the process does."""
    no_hooks = "os.register_at_fork = lambda **hooks: None"
    child = "say('request'); sharedstate.detect(); sharedstate.detect()"

    told = run(UWSGI, SAY, no_hooks, "sharedstate.when_serving(lambda: say('serving'))", FORK.format(child=child))

    assert told == ["request worker", "serving worker"]


# --- Ending ----------------------------------------------------------------------


def test_end_is_told_once() -> None:
    """By atexit, the last that asked first; what it raises is printed and keeps no other from its turn."""
    asked = "for n in (1, 2): sharedstate.when_stopping(lambda n=n: say(f'end {n}'))"

    assert run(SAY, asked, "sharedstate.when_stopping(lambda: 1 / 0)") == ["end 2 master", "end 1 master"]


def test_apache_tells_by_its_subscription_or_by_atexit() -> None:
    """Both call, neither always; whoever comes first, it is one call."""
    asked = "sharedstate.when_stopping(lambda: say('end'))\nassert not sharedstate.is_stopping()"
    told = "subscribed[0]('shutdown', reason='x')\nassert sharedstate.is_stopping()\nsay('after')"

    assert run(APACHE, SAY, asked, told) == ["end master", "after master"]
    assert run(APACHE, SAY, asked) == ["end master"]


def test_master_does_not_end_for_its_workers() -> None:
    """Handlers that a master has because the application was imported in it are its workers'."""
    asked = "sharedstate.when_stopping(lambda: say('end'))"

    assert run(UWSGI, SAY, asked, FORK.format(child="import atexit; atexit._run_exitfuncs()")) == ["end worker"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_child_of_multiprocessing_is_told(tmp_path: Path, method: str) -> None:
    """Multiprocessing ends its children without atexit by two of its three methods."""
    program = tmp_path / "program.py"
    program.write_text(
        "import multiprocessing, os, sys\nimport sharedstate\n"
        "def work():\n"
        "    sharedstate.when_stopping(lambda: os.write(1, b'child ended\\n'))\n"
        "    os.write(1, b'child works\\n')\n"
        "if __name__ == '__main__':\n"
        "    sharedstate.when_stopping(lambda: os.write(1, b'parent ended\\n'))\n"
        f"    child = multiprocessing.get_context({method!r}).Process(target=work)\n"
        "    child.start()\n    child.join()\n"
    )

    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=False)

    told = done.stdout.splitlines()
    assert told[0] == "child works", done.stderr
    assert told[1:] == ["child ended", "parent ended"]


def test_registering_in_a_stopping_interpreter_is_no_error() -> None:
    """Whoever asks too late is not called, and not harmed."""
    assert run(SAY, "sharedstate.when_stopping(lambda: sharedstate.when_stopping(lambda: say('late')))") == []
