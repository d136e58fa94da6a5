"""An actor: does the steps of its plan, burst by burst, and keeps a record that outlives its death.

Each record is one marshalled tuple, appended by one write:

    ("call", burst, number, verb, key, argument, called_ns)     only where actors are killed
    ("done", burst, number, verb, key, argument, outcome, result, called_ns, returned_ns)
    ("clock", burst, least_ns, most_ns)     between which the store's clock is ahead of the monotonic one

Imports only what every interpreter can: no random, no json, no mmap.
"""

from __future__ import annotations

import marshal
import os
import time

from sharedstate import registry
from sharedstate.backend.urls import parse_url
from sharedstate.errors import ConflictError, OutcomeUnknownError
from sharedstate.model import Clock
from sharedstate.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Actor", "Bell", "open_store"]

_PATIENCE_S = 90.0
_REST_S = 2e-5
_NS = time.monotonic_ns


def open_store(url: str) -> Store:
    """Open a handle, without a place among the sharers: nobody asks."""
    return Store(registry.connect(parse_url(url).text))


class Bell:
    """Rings when all have come: a word for each seat, in a file."""

    def __init__(self, path: str, seats: int) -> None:
        self._fd = os.open(path, os.O_RDWR)
        self._bytes = 8 * seats

    def arrive(self, seat: int, burst: int) -> None:
        """Say that this seat is ready for that burst."""
        os.pwrite(self._fd, burst.to_bytes(8, "little"), 8 * seat)

    def wait(self, seats: Any, burst: int) -> None:
        """Wait until these seats are."""
        ends_ns = _NS() + int(_PATIENCE_S * 1e9)
        while True:
            words = os.pread(self._fd, self._bytes, 0)
            if all(int.from_bytes(words[8 * seat : 8 * seat + 8], "little") >= burst for seat in seats):
                return
            if _NS() > ends_ns:
                raise TimeoutError(f"not all were ready for burst {burst}")
            time.sleep(_REST_S)


class Actor:
    """Does steps with a store and records them.

    Args:
        store: its handle, which it may share.
        path: of its record.
        is_mortal: each call is recorded before it is made, since there may be no later.
    """

    def __init__(self, store: Store, path: str, *, is_mortal: bool) -> None:
        self._store = store
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._is_mortal = is_mortal
        self._kept: list[tuple[Any, ...]] = []
        self._number = 0
        self._burst = 0
        self._generations: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        self._is_boot = store.capabilities.clock is Clock.BOOT

    def prepare(self, burst: int, steps: list[Any]) -> Any:
        """Return what does the steps of a burst, with as little between them as can be."""
        prepared = []
        for verb, key, argument, pause_s in steps:
            method = getattr(self, f"_do_{verb}", None)
            if method is None:
                does = (verb, key, argument, self._call_of(verb, key, argument))
                prepared.append((pause_s, self._perform, does))
            else:
                prepared.append((pause_s, method, (key, argument)))

        def play() -> None:
            self._burst = burst
            self._see_clock()
            for pause_s, method, arguments in prepared:
                if pause_s is not None:
                    time.sleep(pause_s)
                method(*arguments)
            self._see_clock()

        return play

    def close(self) -> None:
        """Write what is kept."""
        with open(self._fd, "wb") as file:
            for record in self._kept:
                marshal.dump(record, file)

    # --- Recording ----------------------------------------------------------

    def _write(self, record: tuple[Any, ...]) -> None:
        if self._is_mortal:
            os.write(self._fd, marshal.dumps(record))
        else:
            self._kept.append(record)

    def _see_clock(self) -> None:
        looks = []
        for _ in range(3):
            before_ns = _NS()
            clock_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) if self._is_boot else time.time_ns()
            after_ns = _NS()
            looks.append((after_ns - before_ns, clock_ns - after_ns, clock_ns - before_ns))
        _, least_ns, most_ns = min(looks)  # the one that was not interrupted
        self._write(("clock", self._burst, least_ns, most_ns))

    def _perform(self, verb: str, key: str, argument: Any, call: Any) -> Any:
        self._number += 1
        if self._is_mortal:
            self._write(("call", self._burst, self._number, verb, key, argument, _NS()))
        outcome, result = "told", None
        called_ns = _NS()
        try:
            result = call()
        except ConflictError:
            outcome = "conflict"
        except OutcomeUnknownError:
            outcome = "unknown"
        except Exception as error:  # noqa: BLE001  the judge decides which of them may be
            outcome, result = "refused", type(error).__name__
        returned_ns = _NS()
        if result is not None and outcome == "told":
            if verb == "read":
                self._generations[key] = result.generation
                result = tuple(result)
            elif verb == "compare_and_set":
                self._generations[key] = result
        self._write(("done", self._burst, self._number, verb, key, argument, outcome, result, called_ns, returned_ns))
        return result

    # --- Steps that are one verb ----------------------------------------------

    def _call_of(self, verb: str, key: str, argument: Any) -> Any:
        store = self._store
        match verb:
            case "get" | "read" | "delete" | "ttl":
                return lambda: getattr(store, verb)(key)
            case "pop":
                return lambda: store.pop(key, None)
            case "setdefault" | "touch":
                return lambda: getattr(store, verb)(key, argument)
            case "set" | "add":
                return lambda: getattr(store, verb)(key, argument[0], argument[1])
            case "increment":
                return lambda: store.increment(key, argument[0], 0, argument[1])
            case "update_with":
                return lambda: store.update_with(
                    key, lambda value: (value if type(value) is int else 0) + argument, default=0
                )
            case "compare_and_set":
                return lambda: store.compare_and_set(key, argument[0], argument[1], argument[2])
        raise ValueError(verb)

    # --- Steps that are more or less than one ---------------------------------

    def _do_swap(self, key: str, argument: Any) -> None:
        """Compare-and-set from the generation that this actor knows, after a look if it knows none."""
        if key not in self._generations:
            self._perform("read", key, None, self._call_of("read", key, None))
        value, ttl_s = argument
        whole = (value, self._generations.pop(key, 0), ttl_s)
        self._perform("compare_and_set", key, whole, self._call_of("compare_and_set", key, whole))

    def _do_get_many(self, _key: str, keys: Any) -> None:
        """Each key is read at an instant of its own."""
        self._perform("get_many", "", keys, lambda: self._store.get_many(keys))

    def _do_set_many(self, _key: str, pairs: Any) -> None:
        self._perform("set_many", "", pairs, lambda: self._store.set_many(dict(pairs)))

    def _do_clear(self, prefix: str, keys: Any) -> None:
        self._perform("clear", prefix, keys, lambda: self._store.clear(prefix))

    def _do_fill(self, prefix: str, argument: Any) -> None:
        """Take all room with what nobody reads: whatever evicts, evicts."""
        count, size = argument
        for number in range(count):
            self._store.set(f"{prefix}{number}", bytes(size))

    def _do_transact(self, _key: str, argument: Any) -> None:
        reads, steps, pause_s = argument

        def run() -> tuple[Any, ...]:
            with self._store.transaction() as tx:
                seen = tuple(tx.get(key) for key in reads)
                if pause_s is not None:
                    time.sleep(pause_s)
                total = sum(value for value in seen if type(value) is int)
                for how, key, number in steps:
                    if how == "drop":
                        tx.delete(key)
                    else:
                        tx.set(key, number if how == "put" else total + number)
            return seen

        self._perform("transact", "", (reads, steps), run)

    def _do_hold(self, name: str, argument: Any) -> None:
        """Hold a lock, and write with its token to what it guards; `beats`: how often the hold is said to go on."""
        beats, pause_s = argument
        self._write(("ask", self._burst, _NS()))
        with self._store.lock(name, 60) as lock:
            token = self._tokens[name] = lock.token
            self._write(("had", self._burst, name, token, _NS()))
            for _ in range(beats):
                self._do_fenced(name, None)
                time.sleep(pause_s)
                self._write(("beat", self._burst, _NS()))
            self._write(("beat", self._burst, _NS()))
        self._write(("freed", self._burst, _NS()))

    def _do_fenced(self, name: str, _argument: Any) -> None:
        """Write with the latest token that this actor was told, also if the lock has gone on since."""
        token = self._tokens.get(name)
        if token is None:
            return
        key = f"guarded by {name}"

        def write(tx: Any) -> bool:
            if token < tx.get(key, 0):
                return False
            tx.set(key, token)
            return True

        self._perform("write", key, token, lambda: self._store.transact(write))
