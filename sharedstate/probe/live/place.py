"""This interpreter in this process, as the probe meets it: who it is, its module-level variables, its store.

    P1  A place is made anew in a forked child, whatever the parent was asked.
    P2  A run's store is opened once here, and closed and removed when the run
        ends or is overdue; a run that has ended is not begun again.

Thread safety: any thread; `turn` guards the runs, and is held while a store is
opened or removed, not while it is used.
"""

from __future__ import annotations

import os
import sys
import time
from _thread import allocate_lock, get_native_id

from sharedstate.errors import StateError
from sharedstate.model import boot_id, interpreter_id, process_start_time
from sharedstate.probe.live.protocol import MOST_SKEW_S, RUN_S, OrderError, age_of, store_name

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any, Final

    from sharedstate.probe.live.protocol import Order
    from sharedstate.store import Store

__all__ = ["Place", "Run", "Variables", "here", "sweep"]

_MOST_RUNS: Final = 4
_LONGEST_TEXT: Final = 4000


class Variables:
    """What a program keeps in module-level variables: marks, and a counter with a careful lock around it."""

    def __init__(self) -> None:
        self.turn = allocate_lock()
        self.marks: dict[str, str] = {}  # guarded by turn
        self.count = 0  # guarded by turn


_variables: dict[str, Variables] = {}
"""By run: the module-level variable that the probe shows the copies of."""

_places: dict[int, Place] = {}
"""By pid: one that a fork copied from the parent is never taken for our own (P1)."""


def here() -> Place:
    """Return the place of the calling interpreter in this process."""
    pid = os.getpid()
    # setdefault is atomic: two first requests at the same time get one place.
    return _places.get(pid) or _places.setdefault(pid, Place(pid))


def sweep() -> None:
    """End the runs at this place that are overdue: their driver is gone."""
    place = _places.get(os.getpid())
    if place is not None:
        place.sweep()


class Run:
    """One run of the probe at this place.

    Attributes:
        name: of the run.
        backend: as it was ordered; "" is the deployment's choice.
        variables: of this run, at module level.
        store: this place's handle; None if it could not be opened.
        problem: why not.
        choice: why it is this backend, in words for people.
        ends_at: on the monotonic clock.
    """

    def __init__(self, order: Order) -> None:
        self.name = order.run
        self.backend = order.backend
        self.variables = _variables.setdefault(order.run, Variables())
        self.store: Store | None = None
        self.problem = ""
        self.choice = ""
        self.ends_at = time.monotonic() + RUN_S
        try:
            self.store = self._open()
        except StateError as error:
            self.problem = f"{type(error).__name__}: {error}"[:_LONGEST_TEXT]

    def _open(self) -> Store:
        from sharedstate.opening import open_store

        name = store_name(self.name)
        if self.backend:
            from sharedstate.model import Durability, Scope
            from sharedstate.selection import Needs, choose

            # It was asked for by name: that it falls short is then to be seen, not refused.
            url = choose(needs=Needs(Scope.INTERPRETER, Durability.PROCESS), name=name, schemes=(self.backend,)).url
            store = open_store(url, allow_narrow=True)
        else:
            store = open_store(name=name)
            self.choice = store.choice.explain() if store.choice else ""
            if os.environ.get("SHAREDSTATE_URL"):
                self.choice += "\nSHAREDSTATE_URL is set here: open() takes that store, which the probe leaves alone."
            self.choice = self.choice[:_LONGEST_TEXT]
        _remove_leftovers(store.url, name)
        return store

    def end(self) -> None:
        """Close the store and remove it, unless another place has done that."""
        _variables.pop(self.name, None)
        store, self.store = self.store, None
        if store is not None:
            url = store.url
            try:
                store.close()
            finally:
                _remove(url, store_name(self.name))


class Place:
    """One interpreter in one process.

    Attributes:
        token: its name among all places; drawn by chance, so that no other copy of this module has it.
    """

    def __init__(self, pid: int) -> None:
        self.token = os.urandom(8).hex()
        self._pid = pid
        self._started = process_start_time(pid)
        self._interpreter = interpreter_id()
        self._detected: dict[str, Any] | None = None
        self._turn = allocate_lock()
        self._runs: dict[str, Run] = {}  # guarded by _turn
        self._ended: list[str] = []  # guarded by _turn; the names of the latest runs that are over

    def describe(self, mount: str) -> dict[str, Any]:
        """Return who answers: the place, and the calling thread in it."""
        return {
            "host": os.uname().nodename,
            "boot": boot_id(),
            "space": _namespace("pid"),
            "clock": f"{boot_id()}.{_namespace('time')}",
            "pid": self._pid,
            "started": self._started,
            "born_s": self._started / os.sysconf("SC_CLK_TCK"),
            "up_s": time.clock_gettime(time.CLOCK_BOOTTIME),
            "parent": os.getppid(),
            "interpreter": self._interpreter,
            "place": self.token,
            "thread": get_native_id(),
            "mount": mount,
            "python": sys.version.partition(" ")[0],
        }

    def detect(self, environ: dict[str, Any] | None) -> dict[str, Any]:
        """Return what the library says of the deployment here, by field: value, certainty, evidence."""
        if self._detected is None:
            from sharedstate.deployment.detection import detect

            try:
                self._detected = {
                    name: [_plain(fact.value), fact.certainty.value, str(fact.evidence)[:500]]
                    for name, fact in detect(environ)._asdict().items()
                }
            except Exception as error:  # noqa: BLE001  a server that it fails in is one that has to be looked at
                self._detected = {"server": [None, "unknown", f"detect() failed: {type(error).__name__}"]}
        return self._detected

    def run(self, order: Order) -> Run:
        """Return the run that the order belongs to, with its store opened.

        Raises:
            OrderError: it is over, or its name is of another time.
        """
        self.sweep()
        with self._turn:
            run = self._runs.get(order.run)
            if run is None:
                self._refuse_untimely(order.run)
                while len(self._runs) >= _MOST_RUNS:
                    self._end(next(iter(self._runs)))
                run = self._runs[order.run] = Run(order)
            if run.backend != order.backend:
                raise OrderError("this run uses another backend")
        return run

    def end(self, name: str) -> None:
        """Close and remove what the run has here.  Ending twice is no error."""
        with self._turn:
            self._end(name)

    def sweep(self) -> None:
        """End the runs that are overdue."""
        now = time.monotonic()
        if any(run.ends_at < now for run in list(self._runs.values())):
            with self._turn:
                for run in [run for run in self._runs.values() if run.ends_at < now]:
                    self._end(run.name)

    def _end(self, name: str) -> None:
        run = self._runs.pop(name, None)
        if name not in self._ended:
            self._ended = [*self._ended[-20:], name]
        if run is not None:
            run.end()

    def _refuse_untimely(self, name: str) -> None:
        if name in self._ended:
            raise OrderError("this run is over")
        age_s = age_of(store_name(name), time.time())
        if age_s is None or abs(age_s) > MOST_SKEW_S:
            raise OrderError(
                f"this run began {age_s:.0f} s ago by the clock of this host: set the clocks, or begin anew"
            )


def _namespace(kind: str) -> int:
    """Return which of the kernel's namespaces this process is in; 0 where that is not told."""
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino
    except OSError:
        return 0


def _plain(value: object) -> object:
    return value if value is None or type(value) in {bool, int, float} else str(value)[:200]


# --- Removing -------------------------------------------------------------------


def _remove(url: str, name: str) -> None:
    """Remove the store; where its plug-in gave it a directory of its name, that too."""
    from sharedstate.opening import remove

    try:
        remove(url)
        directory = os.path.dirname(url.partition(":")[2])
        if os.path.basename(directory) == name:
            os.rmdir(directory)
    except (StateError, OSError):
        pass  # another place was first, or is just at it


def _remove_leftovers(url: str, name: str) -> None:
    """Remove the stores of runs that were never ended, where this run's store lies."""
    from sharedstate.backend.urls import parse_url
    from sharedstate.registry import find_plugin

    found = [known.rpartition(":")[2].lstrip("/") for known in find_plugin(parse_url(url)).discover()]
    directory = os.path.dirname(url.partition(":")[2])
    if os.path.basename(directory) == name:
        try:  # noqa: SIM105  contextlib would cost each fresh interpreter its import
            found += os.listdir(os.path.dirname(directory))
        except OSError:
            pass
    now = time.time()
    for other in found:
        age_s = age_of(other, now)
        if age_s is not None and age_s > MOST_SKEW_S + RUN_S:
            _remove(url.replace(name, other), other)
