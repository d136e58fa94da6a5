"""Sub-interpreters: redis-py imports datetime, which not every CPython bears there."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sharedstate.probe.interpreters import reason_unavailable

if TYPE_CHECKING:
    from sharedstate import Store

_SCRIPT = """
import sys, threading
sys.path[:] = {path!r}
from sharedstate.probe.interpreters import run_in_interpreter

import datetime  # 3.13.0 crashes in whoever imports it first and ends first, unless that is the main interpreter
count = "import sys; sys.path[:] = {path!r}; import sharedstate; sharedstate.open({url!r}).increment('n')"
threads = [threading.Thread(target=lambda: print(run_in_interpreter({kind!r}, count), flush=True)) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.parametrize("kind", [kind for kind in ("legacy", "isolated") if not reason_unavailable(kind)])
def test_interpreters_count_together_or_are_refused(store: Store, url: str, kind: str) -> None:
    """Two at once count; isolated ones of 3.12 are told that they would crash, and what to do, and nothing crashes."""
    ended = subprocess.run(
        [sys.executable, "-c", _SCRIPT.format(path=sys.path, url=url, kind=kind)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    if kind == "isolated" and sys.version_info < (3, 13):
        assert ended.stdout.count("BackendMissingError") == 2
        assert ended.stdout.count("Take Python 3.13 or later") == 2
        assert store.get("n") is None
    else:
        assert ended.stdout == "\n\n"
        assert store.get("n") == 2
