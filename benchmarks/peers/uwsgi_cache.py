"""uWSGI's cache, which exists inside uWSGI only: the turns are taken there.

This module is both sides.  The run starts a uWSGI whose only worker runs it as
`__main__`, connects to the run's socket, and from then on does what it is told, one
line of JSON at a time: fill, make a lane, calibrate it, take a turn.  So the same
loop runs around the same call as everywhere else, and the socket is not timed.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any, Final

from benchmarks.measure import Lane, Undo
from benchmarks.peers.base import Session, packing
from benchmarks.peers.process import find_program, serving, version_of
from benchmarks.workloads import KINDS, WORKLOADS, make_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from benchmarks.peers.base import Place
    from benchmarks.workloads import Form, Workload

__all__ = ["open_uwsgi"]

_ADDRESS: Final = "SHAREDSTATE_BENCH_SOCKET"
_START_S: Final = 20.0
_ANSWER_S: Final = 60.0
_CACHE: Final = "bench"


# --- Outside -----------------------------------------------------------------


def open_uwsgi(place: Place) -> Generator[Session, None, None]:
    """The cache of a uWSGI with one worker, measured from inside it."""
    program, address = find_program("uwsgi"), os.path.join(place.directory, "s")
    # Keys of the workloads that add some are beside those that are there.
    cache = f"name={_CACHE},items={2 * place.keys + 64},blocksize={_block_bytes(place)},keysize=64"
    options = ["--master", "--die-on-term", "--need-app=0", "--virtualenv", sys.prefix, "--cache2", cache]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        _ADDRESS: address,
    }
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(1)
        listener.settimeout(_START_S)
        with serving([program, *options, "--pyrun", os.path.abspath(__file__)], place.directory, "", environment):
            connection, _ = listener.accept()
            connection.settimeout(_ANSWER_S)
            with connection, connection.makefile("rw", encoding="utf-8") as lines:
                host = _Host(lines)
                verbs = dict.fromkeys(host.ask(do="open", kind=place.kind))
                note = "measured inside its only worker; bytes only, dicts as msgpack; no compare-and-set"
                yield Session(verbs, version_of(program, "--version"), note, host=host)


def _block_bytes(place: Place) -> int:
    # A value takes a whole block; they come in powers of two, of 64 bytes at least.
    return max(64, 1 << (place.value_bytes - 1).bit_length())


class _Host:
    """The other side, as the run sees it."""

    def __init__(self, lines: IO[str]) -> None:
        self._lines = lines

    def ask(self, **question: Any) -> Any:
        """Return the answer to a question.

        Raises:
            RuntimeError: what was asked for failed there, or it is gone.
        """
        self._lines.write(json.dumps(question) + "\n")
        self._lines.flush()
        line = self._lines.readline()
        if not line:
            raise RuntimeError("uWSGI ended")
        answer = json.loads(line)
        if answer["failure"]:
            raise RuntimeError(answer["failure"])
        return answer["result"]

    def fill(self, keys: int) -> None:
        self.ask(do="fill", keys=keys)

    def make_lane(self, name: str, workload: Workload, form: Form) -> Lane:
        return _DistantLane(name, self, workload, form)


class _DistantLane(Lane):
    """Hands its turns on to a lane on the other side."""

    def __init__(self, name: str, host: _Host, workload: Workload, form: Form) -> None:
        self._host = host
        self._workload = workload
        self._form = form
        entries = host.ask(do="lane", workload=workload.name, form=workload.forms.index(form))
        super().__init__(name, None, statement="{n}", variables=("n",), operations=[(None,)], entries=entries)

    def calibrate(self, target_ns: float) -> None:
        self._host.ask(do="calibrate", target_ns=target_ns)

    def take_turn(self, singles: int, target_ns: float, times: list[float]) -> None:
        turn = self._host.ask(do="turn", singles=singles, target_ns=target_ns)
        times.append(turn["ns"])
        self.singles_ns += turn["singles_ns"]
        self.interrupted += turn["interrupted"]


# --- Inside ------------------------------------------------------------------


class _Inside:
    """What each question is answered with."""

    def __init__(self) -> None:
        self._verbs: dict[str, Any] = {}
        self._kind = ""
        self._keys: list[str] = []
        self._lane: Lane | None = None

    def open(self, kind: str) -> list[str]:
        self._kind = kind
        self._verbs = _make_verbs(kind)
        return list(self._verbs)

    def fill(self, keys: int) -> None:
        self._keys, pool = make_keys(keys), KINDS[self._kind].pool
        for index, key in enumerate(self._keys):
            self._verbs["set"](key, pool[index % len(pool)])
        if self._verbs["get"](self._keys[-1]) != pool[(keys - 1) % len(pool)]:
            raise ValueError("it returned something else than what was just stored")

    def lane(self, workload: str, form: int) -> int:
        chosen = next(item for item in WORKLOADS if item.name == workload)
        undo = chosen.undo
        self._lane = Lane(
            "",
            self._verbs[chosen.forms[form].verb],
            statement=chosen.forms[form].statement,
            variables=chosen.variables,
            operations=chosen.make(self._keys, KINDS[self._kind]),
            undo=Undo(self._verbs[undo.verb], undo.statement) if undo else None,
            entries=chosen.entries(len(self._keys)),
        )
        return self._lane.entries

    def calibrate(self, target_ns: float) -> None:
        assert self._lane
        self._lane.calibrate(target_ns)

    def turn(self, singles: int, target_ns: float) -> dict[str, Any]:
        assert self._lane
        times: list[float] = []
        self._lane.singles_ns.clear()
        self._lane.interrupted = 0
        self._lane.take_turn(singles, target_ns, times)
        return {"ns": times[0], "singles_ns": self._lane.singles_ns, "interrupted": self._lane.interrupted}


def _make_verbs(kind: str) -> dict[str, Any]:
    uwsgi: Any = import_module("uwsgi")
    cache_get, cache_set, cache_inc = uwsgi.cache_get, uwsgi.cache_update, uwsgi.cache_inc
    pack, unpack = packing(kind)
    if kind == "int":
        from struct import Struct

        # As cache_inc counts: 64 bits in the machine's own order.
        number = Struct("=q")
        pack, unpack = number.pack, lambda found: number.unpack(found)[0]

    def get(k: str) -> Any:
        found = cache_get(k)
        return None if found is None else unpack(found)

    def set_(k: str, v: Any) -> None:
        if not cache_set(k, pack(v)):
            raise ValueError(k)

    def increment(k: str) -> None:
        if not cache_inc(k, 1):
            raise ValueError(k)

    def items() -> list[tuple[str, Any]]:
        return [(key.decode(), unpack(cache_get(key.decode()))) for key in uwsgi.cache_keys()]

    verbs = {"get": get, "set": set_, "delete": uwsgi.cache_del, "items": items}
    return verbs | {"increment": increment} if kind == "int" else verbs


def _answer(step: Callable[..., Any], question: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": step(**question), "failure": ""}
    except Exception as error:  # noqa: BLE001  the other side says what became of it
        return {"result": None, "failure": f"{type(error).__name__}: {error}"}


def _serve(address: str) -> None:
    inside = _Inside()
    gc.disable()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        with connection.makefile("rw", encoding="utf-8") as lines:
            for line in lines:
                question = json.loads(line)
                step = getattr(inside, question.pop("do"))
                lines.write(json.dumps(_answer(step, question)) + "\n")
                lines.flush()


if __name__ == "__main__" and _ADDRESS in os.environ:
    _serve(os.environ[_ADDRESS])
