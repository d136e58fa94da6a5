"""Who starts, stops and kills: the zygote of all workers, which never opens the store itself.

Kills come in storms, 1 to 20 ms apart, with calms between them in which the
survivors get on; the victim is anybody, or the newcomer amid its opening, or
whoever is at a certain operation just now (a growth, a compaction, a commit).
Now and then one is stopped for some ms instead, and some die stopped.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from turmoil import observing
from turmoil.hand import found
from turmoil.page import LANES, OPERATIONS, SEATS, Page
from turmoil.process import work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn

__all__ = ["Supervisor"]

_OPENING: Final = OPERATIONS.index("opening")
_HUNTED: Final = [OPERATIONS.index(name) for name in ("compact", "guard", "surge", "transfer", "write", "reopen")]
_PROGRESS_S: Final = 5.0
_SPARED_NS: Final = 150_000_000
_BURIAL_S: Final = 60.0


class Supervisor:
    """One run over one store.

    Args:
        orders: what every process is told, as JSON:
            url: of the store; directory: where it and the run's files are.
            page, findings: paths.
            seed: of everything that is left to chance.
            seconds: how long to go on.
            bound_s: how long anybody may wait.
            kinds: of the sub-interpreter of each seat.
            plant: the name of a bug, or "".
            yields: whether hands must let go of the GIL themselves.
            awaited: a pattern; the run ends at the first fault that it matches; "": it goes on.
            least_kills: the run goes on until so many, and each operation, were seen, up to four times as long.
    """

    def __init__(self, orders: dict[str, Any]) -> None:
        self._orders = orders
        self._page = Page(orders["page"])
        self._dice = random.Random(orders["seed"])
        self._seats: dict[int, int] = {}  # seat by pid
        self._since: dict[int, float] = {}  # start by seat
        self._observers: dict[int, str] = {}  # path of the answer by pid
        self._faults: list[str] = []
        self._looks: list[dict[str, Any]] = []
        self._counted = dict.fromkeys(("kills", "stops", "starts", "spawned", "hunted", "amid_opening"), 0)
        self._longest_s = 0.0

    def run(self) -> dict[str, Any]:
        """Go on for the time ordered, and return what was seen."""
        began = time.monotonic()
        self._await_observer(lambda: observing.found_store(self._orders))
        for seat in range(SEATS):
            self._start(seat)
        # From when all are at work: on a busy machine that may take a while.
        self._pause(1.0, lambda: any(not lane.counts[_OPENING] for lane in self._page.lanes))
        start = time.monotonic()
        end, shown, looked = start + self._orders["seconds"], start, start
        for beat in self._beats():
            if (now := time.monotonic()) >= end and (self._has_bitten() or now >= start + 4 * (end - start)):
                break
            if self._has_found():
                break
            beat()
            if now - looked > max(1.0, self._orders["seconds"] / 40):
                looked = now
                self._observe((now - start) / self._orders["seconds"])
            if now - shown > _PROGRESS_S:
                shown = now
                self._show(now - start)
        for pid in list(self._seats):
            self._kill(pid)
        while self._observers:
            self._reap(patient=True)
        last = self._await_observer(lambda: observing.look_at_the_end(self._orders))
        return self._report(last, time.monotonic() - began)

    # --- Rhythm -------------------------------------------------------------

    def _beats(self) -> Iterator[Callable[[], None]]:
        dice = self._dice
        while True:
            for _ in range(dice.randint(4, 16)):
                yield dice.choices(
                    (self._kill_anybody, self._kill_the_hunted, self._kill_a_newcomer, self._stop_somebody),
                    (55, 20, 15, 10),
                )[0]
                yield lambda: self._pause(dice.uniform(0.001, 0.02))
            calm = dice.uniform(0.03, 0.25)
            yield lambda: self._pause(calm)  # noqa: B023  used before it changes

    def _pause(self, seconds: float, goes_on: Callable[[], bool] = lambda: True) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and goes_on():
            time.sleep(min(left, 0.01))
            self._reap()
            self._watch()

    def _watch(self) -> None:
        """See to it that nobody has waited for longer than the bound."""
        now_s, bound_s = time.monotonic(), self._orders["bound_s"]
        for pid, seat in list(self._seats.items()):
            for lane in self._page.lanes[2 * seat : 2 * seat + 2]:
                began_ns = lane.began_ns
                waited_s = now_s - began_ns / 1e9 if began_ns else 0.0
                late = not lane.pid and now_s - self._since[seat] > bound_s + 10
                self._longest_s = max(self._longest_s, waited_s)
                if waited_s > bound_s or late:
                    what = "its beginning" if late else OPERATIONS[lane.operation]
                    self._faults.append(f"waited: lane {lane.number} for {what}, {max(waited_s, 0):.1f} s")
                    self._kill(pid)
                    self._start(seat)
                    break

    def _has_bitten(self) -> bool:
        """Return whether enough was killed and done to mean something, also on a busy machine."""
        done = [sum(lane.counts[number] for lane in self._page.lanes) for number in range(len(OPERATIONS))]
        done[OPERATIONS.index("compact")] = 1  # only a store in files does
        return self._counted["kills"] >= self._orders["least_kills"] and all(done)

    def _has_found(self) -> bool:
        awaited = self._orders["awaited"]
        if not awaited:
            return False
        faults = [*self._faults, *map(str, found(self._orders["findings"]))]
        return any(re.search(awaited, fault) for fault in faults)

    # --- Kills --------------------------------------------------------------

    def _spared(self) -> set[int]:
        """Return the seats where somebody waits already: a kill would hide that he waits for ever."""
        now_ns = time.monotonic_ns()
        return {
            lane.number // 2
            for lane in self._page.lanes
            if (began_ns := lane.began_ns) and now_ns - began_ns > _SPARED_NS
        }

    def _victim(self) -> int | None:
        """Return anybody's pid but those of the spared; None: they are all."""
        spared = self._spared()
        pids = [pid for pid, seat in self._seats.items() if seat not in spared]
        return self._dice.choice(pids) if pids else None

    def _kill_anybody(self) -> None:
        if victim := self._victim():
            self._replace(victim)

    def _kill_the_hunted(self) -> None:
        operation, end = self._dice.choice(_HUNTED), time.monotonic() + 0.03
        while time.monotonic() < end:
            spared = self._spared()
            for pid, seat in self._seats.items():
                if seat in spared:
                    continue
                lanes = self._page.lanes[2 * seat : 2 * seat + 2]
                if any(lane.operation == operation and lane.began_ns for lane in lanes):
                    self._counted["hunted"] += 1
                    self._replace(pid)
                    return
            time.sleep(50e-6)

    def _kill_a_newcomer(self) -> None:
        victim = self._victim()
        if victim is None:
            return
        seat = self._seats[victim]
        self._kill(victim)
        pid = self._start(seat)
        lanes = self._page.lanes[2 * seat : 2 * seat + 2]
        awaited = self._dice.choice(lanes)
        self._pause_finely(0.2, lambda: not (awaited.operation == _OPENING and awaited.began_ns))
        self._pause_finely(self._dice.choice((0.0, self._dice.uniform(0, 0.004))), lambda: True)
        self._counted["amid_opening"] += bool(awaited.operation == _OPENING and awaited.began_ns)
        if pid in self._seats:
            self._replace(pid)

    def _stop_somebody(self) -> None:
        pid = self._victim()
        if pid is None:
            return
        os.kill(pid, signal.SIGSTOP)
        self._counted["stops"] += 1
        time.sleep(self._dice.uniform(0.001, 0.05))
        if self._dice.random() < 0.3:
            self._replace(pid)
        else:
            os.kill(pid, signal.SIGCONT)

    def _pause_finely(self, seconds: float, goes_on: Callable[[], bool]) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and goes_on():
            time.sleep(50e-6)

    def _replace(self, pid: int) -> None:
        seat = self._seats[pid]
        self._kill(pid)
        self._start(seat)

    def _kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self._counted["kills"] += 1
        _, status = os.waitpid(pid, 0)
        self._bury(pid, status, signal.SIGKILL)

    def _bury(self, pid: int, status: int, expected: int) -> int:
        seat = self._seats.pop(pid)
        if os.waitstatus_to_exitcode(status) != -expected:
            self._faults.append(f"died by itself: seat {seat}, exit code {os.waitstatus_to_exitcode(status)}")
        for lane in self._page.lanes[2 * seat : 2 * seat + 2]:
            lane.began_ns = lane.pid = 0
        return seat

    def _reap(self, *, patient: bool = False) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, 0 if patient else os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._observers:
                self._take_answer(self._observers.pop(pid), status)
                patient = patient and bool(self._observers)
            else:
                self._start(self._bury(pid, status, 0))

    # --- Starts -------------------------------------------------------------

    def _start(self, seat: int) -> int:
        number = self._counted["starts"]
        self._counted["starts"] += 1
        self._since[seat] = time.monotonic()
        if self._dice.random() < 0.05:
            self._counted["spawned"] += 1
            order = json.dumps([self._orders, seat, number])
            pid = os.posix_spawn(sys.executable, [sys.executable, "-m", "turmoil", "work", order], os.environ)
        else:
            pid = self._fork(lambda: work(self._orders, seat, number))
        self._seats[pid] = seat
        return pid

    def _fork(self, body: Callable[[], object]) -> int:
        pid = os.fork()
        if pid == 0:
            self._be_a_child(body)
        return pid

    def _be_a_child(self, body: Callable[[], object]) -> NoReturn:
        status = 4
        try:
            body()
            status = 0
        except BaseException:  # noqa: BLE001  a forked child must never return into its parent's code
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)

    # --- Observers ----------------------------------------------------------

    def _observe(self, share: float) -> None:
        if not self._observers:  # one at a time
            self._send_observer(lambda: {"share": share, **observing.look(self._orders)})

    def _send_observer(self, look: Callable[[], Any]) -> int:
        path = os.path.join(self._orders["directory"], f"answer-{self._counted['starts']}-{len(self._looks)}")

        def answer() -> None:
            with open(path, "w", encoding="utf-8") as file:
                json.dump(look(), file)

        pid = self._fork(answer)
        self._observers[pid] = path
        return pid

    def _await_observer(self, look: Callable[[], Any]) -> Any:
        """Have one observer look while nobody else is about, and return its answer; None: it failed."""
        pid = self._send_observer(look)
        end = time.monotonic() + _BURIAL_S
        while pid in self._observers:
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
            time.sleep(1e-3)
            self._reap()
        return self._looks.pop() if self._looks else None

    def _take_answer(self, path: str, status: int) -> None:
        if status:
            self._faults.append(f"an observer failed: {os.waitstatus_to_exitcode(status)}; see the log")
            return
        with open(path, encoding="utf-8") as file:
            self._looks.append(json.load(file))
        os.unlink(path)

    # --- Reports ------------------------------------------------------------

    def _show(self, seconds: float) -> None:
        counted, page = self._counted, self._page
        print(  # noqa: T201  the test hands it on
            f"progress: {seconds:.0f} s, {counted['kills']} kills, {page.total('moved')} transfers, "
            f"{page.total('hits')} hits, longest wait {self._longest_s * 1e3:.0f} ms, {len(self._faults)} faults",
            flush=True,
        )

    def _report(self, last: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
        page = self._page
        findings = found(self._orders["findings"])
        operations = {name: sum(lane.counts[number] for lane in page.lanes) for number, name in enumerate(OPERATIONS)}
        return {
            **self._counted,
            "seconds": seconds,
            "faults": self._faults,
            "findings": findings[:20],
            "findings_counted": len(findings),
            "operations": operations,
            "sub_operations": sum(sum(page.lanes[number].counts) for number in range(1, LANES, 2)),
            "conflicts": page.total("conflicts"),
            "acknowledged_hits": page.total("hits"),
            "tallies": list(page.tallies),
            "entries": [sum(lane.entries[number] for lane in page.lanes) for number in range(len(page.tallies))],
            "longest_ms": max([self._longest_s * 1e3, *(lane.longest_ns / 1e6 for lane in page.lanes)]),
            "looks": self._looks,
            "last": last,
        }
