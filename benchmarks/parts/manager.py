"""A manager of multiprocessing, with one dict and one lock: `python -m benchmarks.parts.manager SOCKET`.

Only those who use it import it: a process that has loaded multiprocessing may
start children, says `sharedstate.detect`, and gets no store of memory.
"""

from __future__ import annotations

import sys
from multiprocessing.managers import AcquirerProxy, DictProxy, SyncManager
from threading import Lock
from typing import Any, Final

__all__ = ["connect", "serve"]

_KEY: Final = b"benchmarks"  # the socket lies in a directory of the run's own

_table: dict[str, Any] = {}
_lock = Lock()


class _Manager(SyncManager):
    """Hands out the same dict and the same lock to all who connect."""


_Manager.register("table", lambda: _table, DictProxy)
_Manager.register("table_lock", lambda: _lock, AcquirerProxy)


def serve(path: str) -> None:
    """Listen at `path` until the process is ended."""
    _Manager(address=path, authkey=_KEY).get_server().serve_forever()


def connect(path: str) -> tuple[Any, Any]:
    """Return proxies of the dict and of the lock."""
    manager: Any = _Manager(address=path, authkey=_KEY)
    manager.connect()
    return manager.table(), manager.table_lock()


if __name__ == "__main__":
    serve(sys.argv[1])
