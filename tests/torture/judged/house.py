"""A process in which actors live: threads, sub-interpreters, forked children; or one that forks actors and kills them.

Its orders are one marshalled dict: see `recording`.
"""

from __future__ import annotations

import marshal
import os
import signal
import sys
import time
from _thread import allocate_lock, start_new_thread

from judged.acting import Actor, Bell, open_store
from sharedstate.probe.interpreters import run_in_interpreter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from sharedstate.store import Store

__all__ = ["main", "sit"]

_OVER = 2**62
"""The burst that a seat is ready for when it has no more to do, or failed."""


def main(path: str) -> NoReturn:
    """Do what the orders at `path` say, and end this process."""
    with open(path, "rb") as file:
        orders = marshal.load(file)
    status = 1
    try:
        sys.setswitchinterval(1e-6)
        (_kill if orders["waves"] else _live)(orders)
        status = 0
    except BaseException as error:  # noqa: BLE001  the one who waits is told
        _fail(orders, "house", error)
    finally:
        os._exit(status)


def sit(orders: dict[str, Any], seat: int, store: Store | None) -> None:
    """Be the actor of one seat until its plan is done."""
    bell = Bell(orders["bell"], orders["seats"])
    try:
        own = store if store is not None else _opened(orders, seat)
        with open(os.path.join(orders["directory"], f"plan-{seat}"), "rb") as file:
            plan = marshal.load(file)
        actor = Actor(own, os.path.join(orders["directory"], f"record-{seat}"), is_mortal=orders["is_mortal"])
        for burst, steps in enumerate(plan):
            play = actor.prepare(burst, steps)
            bell.arrive(seat, burst + 1)
            bell.wait(range(orders["seats"]), burst + 1)
            play()
        actor.close()
        if store is None:
            own.close()
    except BaseException as error:  # noqa: BLE001  the one who waits is told
        _fail(orders, seat, error)
    finally:
        bell.arrive(seat, _OVER)


def _opened(orders: dict[str, Any], seat: Any) -> Store:
    store = open_store(orders["url"])
    if orders["plant"]:
        from judged.plants import plant

        plant(orders["plant"], store, seat)
    return store


def _fail(orders: dict[str, Any], seat: Any, error: BaseException) -> None:
    with open(os.path.join(orders["directory"], f"failure-{seat}"), "a", encoding="utf-8") as file:
        file.write(f"seat {seat}: {type(error).__name__}: {error}\n")


# --- A house of the living ---------------------------------------------------------


def _live(orders: dict[str, Any]) -> None:
    kinds = orders["kinds"]
    forked = [seat for kind, seat in kinds if kind == "forked"]
    shared = _opened(orders, "house") if any(kind in {"thread", "forked"} for kind, _ in kinds) else None
    children = []
    for place, seat in enumerate(forked):
        pid = os.fork()
        if pid == 0:
            sit(orders, seat, shared if place % 2 == 0 else None)  # some go on with their parent's handle
            os._exit(0)
        children.append(pid)
    ended = []
    for place, (kind, seat) in enumerate(kinds):
        if kind == "forked":
            continue
        lock = allocate_lock()
        lock.acquire()
        ended.append(lock)
        if kind in {"legacy", "isolated"}:
            start_new_thread(_sit_in_interpreter, (orders, kind, seat, lock))
        else:
            start_new_thread(_sit_in_thread, (orders, seat, shared if place % 2 else None, lock))
    for lock in ended:
        lock.acquire()
    for pid in children:
        os.waitpid(pid, 0)


def _sit_in_thread(orders: dict[str, Any], seat: int, store: Store | None, ended: Any) -> None:
    sit(orders, seat, store)
    ended.release()


def _sit_in_interpreter(orders: dict[str, Any], kind: str, seat: int, ended: Any) -> None:
    script = (
        f"import sys; sys.path[:] = {sys.path!r}; from judged.house import sit; sys.setswitchinterval(1e-6); "
        f"sit({orders!r}, {seat}, None)"
    )
    failure = run_in_interpreter(kind, script)
    if failure:
        _fail(orders, seat, RuntimeError(failure))
        Bell(orders["bell"], orders["seats"]).arrive(seat, _OVER)
    ended.release()


# --- A house of the dying ----------------------------------------------------------


def _kill(orders: dict[str, Any]) -> None:
    """For each burst: fork the first wave, kill some of it, fork the second wave among the survivors."""
    bell = Bell(orders["bell"], orders["seats"])
    shared = _opened(orders, "house")
    killer = orders["seats"] - 1
    for burst, (first, victims, second) in enumerate(orders["waves"]):
        alive = {seat: _fork(orders, burst, seat, shared, [*first, killer]) for seat in first}
        bell.wait(first, burst + 1)
        bell.arrive(killer, burst + 1)
        begun_ns = time.monotonic_ns()
        for seat, delay_ns in victims:
            while time.monotonic_ns() - begun_ns < delay_ns:
                pass
            os.kill(alive[seat], signal.SIGKILL)
        for seat, _ in victims:
            os.waitpid(alive.pop(seat), 0)
        alive.update({seat: _fork(orders, burst, seat, shared, []) for seat in second})
        for pid in alive.values():
            os.waitpid(pid, 0)


def _fork(orders: dict[str, Any], burst: int, seat: int, shared: Store, ready: list[int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        store = shared if seat % 2 else _opened(orders, seat)
        with open(os.path.join(orders["directory"], f"plan-{seat}"), "rb") as file:
            steps = marshal.load(file)[burst]
        actor = Actor(store, os.path.join(orders["directory"], f"record-{seat}"), is_mortal=True)
        play = actor.prepare(burst, steps)
        bell = Bell(orders["bell"], orders["seats"])
        bell.arrive(seat, burst + 1)
        bell.wait(ready, burst + 1)
        play()
    except BaseException as error:  # noqa: BLE001  the one who waits is told
        _fail(orders, seat, error)
        Bell(orders["bell"], orders["seats"]).arrive(seat, _OVER)
    finally:
        os._exit(0)
