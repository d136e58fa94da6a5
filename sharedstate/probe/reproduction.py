"""Whose crash was it?  The same steps in a process that runs CPython's own code only.

Several CPythons crash when an interpreter that imported certain standard
modules ends.  A crash is excused only if a bare script - interpreters, imports
of standard modules, an end - crashes in the same way, here and now.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Final

__all__ = ["HANG", "describe_crash", "find_standard_modules", "reproduce"]

HANG: Final = "hangs"

_TRIES: Final = 3
_PATIENCE_S: Final = 15.0

_LISTER: Final = """
import sys
sys.path[:] = {path!r}
from sharedstate.registry import connect
backend = connect({url!r})
backend.set("listing", ["a list"])
backend.read("listing")
backend.lock("listing").try_acquire()
backend.delete("listing")
import json
print(json.dumps(sorted(name for name in sys.modules if name.partition(".")[0] in sys.stdlib_module_names)))
"""

# What the actors' host does, and nothing else: two interpreters, each made, used and ended on a thread of its own.
_BARE: Final = """
import _thread
import sys
if sys.version_info >= (3, 13):
    import _interpreters as interpreters
    create = lambda: interpreters.create({kind!r})
else:
    import _xxsubinterpreters as interpreters
    create = lambda: interpreters.create(isolated={is_isolated!r})

def live(imported, go_on, ended):
    interpreter = create()
    interpreters.run_string(interpreter, {script!r})
    imported.release()
    go_on.acquire()
    interpreters.destroy(interpreter)
    ended.release()

lives = []
for _ in range(2):
    locks = [_thread.allocate_lock() for _ in range(3)]
    for lock in locks:
        lock.acquire()
    _thread.start_new_thread(live, tuple(locks))
    locks[0].acquire()
    lives.append(locks)
for imported, go_on, ended in reversed(lives):
    go_on.release()
    ended.acquire()
import os
os._exit(0)
"""


def describe_crash(status: int | None) -> str:
    """Return the name of the signal that ended a process, or "" if none did."""
    return signal.Signals(-status).name if status is not None and status < 0 else ""


def find_standard_modules(url: str, python: str = sys.executable) -> list[str]:
    """Return the standard library's modules that opening and using the store imports."""
    path = json.loads(_run(python, "import json, sys; print(json.dumps(sys.path))").stdout)
    listed = _run(python, _LISTER.format(path=[*sys.path, *path], url=url))
    names: list[str] = json.loads(listed.stdout) if listed.returncode == 0 else []
    return [name for name in names if name not in {"__main__", "json"} and not name.startswith("json.")]


def reproduce(kind: str, modules: list[str], symptom: str, python: str = sys.executable) -> str:
    """Import `modules` in two bare interpreters and end these; return the evidence if the symptom is the same, or "".

    Args:
        kind: of the interpreters, as in `interpreters`.
        modules: of the standard library.
        symptom: the signal's name, or `HANG`.
        python: the interpreter to run.
    """
    script = "import " + ", ".join(modules or ["sys"])
    bare = _BARE.format(kind=kind, is_isolated=kind == "isolated", script=script)
    for attempt in range(1, _TRIES + 1):
        try:
            found = describe_crash(_run(python, bare).returncode)
        except subprocess.TimeoutExpired:
            found = HANG
        if found == symptom:
            imported = ", ".join(modules)
            return f"{symptom}; so do two bare {kind} interpreters that only import {imported} (try {attempt})"
    return ""


def _run(python: str, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603  our own interpreter
        [python, "-c", script], capture_output=True, text=True, timeout=_PATIENCE_S, check=False
    )
