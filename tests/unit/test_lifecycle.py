"""An interpreter's end is told to who asks, early enough to act on it."""

from __future__ import annotations

import subprocess
import sys

import pytest

ASKING = """
import threading
import sharedstate

def work():
    while not sharedstate.is_stopping():
        asked.set()
        again.wait(0.01)
    print("told")

asked, again = threading.Event(), threading.Event()
sharedstate.is_stopping()
threading.Thread(target=work).start()
asked.wait()
"""


@pytest.mark.parametrize("end", ["", "raise RuntimeError", "raise KeyboardInterrupt", "raise SystemExit"])
def test_thread_that_asks_is_told_before_it_is_waited_for(end: str) -> None:
    """Python calls atexit after it has waited for threads that are no daemons: it would wait for this one for ever."""
    done = subprocess.run([sys.executable, "-c", ASKING + end], capture_output=True, text=True, timeout=20, check=False)

    assert done.stdout == "told\n", done.stderr
