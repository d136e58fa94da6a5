"""How a worker opens a contestant: functions of a place, as text, that return its verbs by name.

    increment(k) -> total      get(k)                     of ints
    set_record(k, record)      get_record(k)              of dicts
    total(keys)                the sum of their ints, for the count of lost updates
    fill(values), set(k, v)    many at once, and one
    close()

Ours have verbs beside these, for locks and for waiting.  Isolated interpreters
import this module too, so nothing is loaded before it is needed.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    Verbs = dict[str, Callable[..., Any]]

# What the threads of this process share; the first of them makes it, and they start one after the other.
_shared: dict[str, Any] = {}


def store(where: str) -> Verbs:
    """One of our own backends, by its URL."""
    import sharedstate

    opened = sharedstate.open(where)
    lock = opened.lock("hand-over")

    def total(keys: list[str]) -> int:
        return sum(opened.get(key, 0) for key in keys)

    return {
        "increment": opened.increment,
        "get": opened.get,
        "set": opened.set,
        "set_record": opened.set,
        "get_record": opened.get,
        "fill": opened.set_many,
        "total": total,
        "count": lambda: len(opened),
        "footprint": lambda: int(opened.stats()["bytes"]),
        "check": opened.check,
        "close": opened.close,
        "acquire": lambda: bool(lock.acquire()),
        "release": lock.release,
        "generation": opened.generation,
        "wait": opened.wait_for_change,
        "write": opened.set,
        "reopen": lambda rounds: _reopen(where, rounds),
    }


def _reopen(where: str, rounds: int) -> list[int]:
    """Open and close the store `rounds` times more; return the nanoseconds of each `open`."""
    import sharedstate

    times: list[int] = []
    for _ in range(rounds):
        begin = time.perf_counter_ns()
        opened = sharedstate.open(where)
        times.append(time.perf_counter_ns() - begin)
        opened.close()
    return times


def reader(where: str) -> Verbs:
    """Nothing as yet: `open_and_get` opens a store, so that its time can be taken."""
    import sharedstate

    # What an interpreter loads once is not part of opening: another store of the kind loads it.
    scheme = where.partition(":")[0]
    other = {"shm": f"shm://warm-{os.getpid()}?size=1MiB", "memory": "memory:warm"}.get(scheme)
    url = other or f"{scheme}:{os.path.dirname(where.partition(':')[2])}/warm-{os.getpid()}"
    with sharedstate.open(url) as opened:
        opened["key"] = 1
        opened.get("key")
    sharedstate.remove(url)
    kept: list[Any] = []

    def open_and_get(key: str) -> list[Any]:
        begin, cpu = time.perf_counter_ns(), time.process_time_ns()
        kept.append(sharedstate.open(where))
        opened_ns = time.perf_counter_ns() - begin
        found = kept[0].get(key)
        return [opened_ns, time.perf_counter_ns() - begin, time.process_time_ns() - cpu, found]

    def close() -> None:
        for opened in kept:
            opened.close()

    def check() -> None:
        kept[0].check()

    return {
        "open_and_get": open_and_get,
        "close": close,
        "check": check,
        "many": lambda keys: [kept[0].get(k) for k in keys],
    }


def dict_lock(_where: str) -> Verbs:
    """A dict behind a `threading.Lock`, in one process."""
    from threading import Lock

    lock, table = _shared.setdefault("dict", (Lock(), {}))

    def increment(key: str) -> int:
        with lock:
            number: int = table.get(key, 0) + 1
            table[key] = number
            return number

    def get(key: str) -> Any:
        with lock:
            return table.get(key)

    def set_(key: str, value: Any) -> None:
        with lock:
            table[key] = value

    return _verbs(increment, get, set_, close=lambda: None)


def _verbs(
    increment: Callable[[str], Any],
    get: Callable[[str], Any],
    set_: Callable[[str, Any], None],
    *,
    close: Callable[[], None],
    get_record: Callable[[str], Any] | None = None,
    set_record: Callable[[str, Any], None] | None = None,
) -> Verbs:
    def total(keys: Iterable[str]) -> int:
        return sum(get(key) or 0 for key in keys)

    return {
        "increment": increment,
        "get": get,
        "set": set_,
        "get_record": get_record or get,
        "set_record": set_record or set_,
        "total": total,
        "close": close,
    }


def lmdb(where: str) -> Verbs:
    """LMDB, one transaction per call; `where` may end in ?map_size."""
    import lmdb as library
    import msgpack

    directory, _, size = where.partition("?")
    if where not in _shared:
        # One per process: the threads share it, as LMDB demands.
        _shared[where] = library.open(directory, map_size=int(size or 2**28), sync=False, writemap=True)
    environment = _shared[where]
    begin = environment.begin

    def increment(key: str) -> int:
        name = key.encode()
        with begin(write=True) as transaction:
            number = int.from_bytes(transaction.get(name) or b"", "big") + 1
            transaction.put(name, number.to_bytes(8, "big"))
            return number

    def get(key: str) -> int:
        with begin() as transaction:
            return int.from_bytes(transaction.get(key.encode()) or b"", "big")

    def set_(key: str, value: int) -> None:
        with begin(write=True) as transaction:
            transaction.put(key.encode(), value.to_bytes(8, "big"))

    def get_record(key: str) -> Any:
        with begin() as transaction:
            return msgpack.unpackb(transaction.get(key.encode()))

    def set_record(key: str, record: Any) -> None:
        with begin(write=True) as transaction:
            transaction.put(key.encode(), msgpack.packb(record))

    def fill(values: Mapping[str, int]) -> None:
        with begin(write=True) as transaction:
            for key, value in values.items():
                transaction.put(key.encode(), value.to_bytes(8, "big"))

    def close() -> None:
        # A thread that ends does not close what the others still use.
        return None

    verbs = _verbs(increment, get, set_, close=close, get_record=get_record, set_record=set_record)
    return {**verbs, "fill": fill}


def sqlite3(where: str) -> Verbs:
    """SQLite by hand, a connection per worker: WAL, synchronous=NORMAL."""
    import sqlite3 as library

    import msgpack

    connection = library.connect(where, isolation_level=None, timeout=30)
    execute = connection.execute
    execute("PRAGMA journal_mode=WAL")
    execute("PRAGMA synchronous=NORMAL")
    execute("CREATE TABLE IF NOT EXISTS entry (k TEXT PRIMARY KEY, v) WITHOUT ROWID")

    def increment(key: str) -> int:
        upsert = "INSERT INTO entry VALUES (?, 1) ON CONFLICT (k) DO UPDATE SET v=v+1 RETURNING v"
        return int(execute(upsert, (key,)).fetchone()[0])

    def get(key: str) -> Any:
        row = execute("SELECT v FROM entry WHERE k=?", (key,)).fetchone()
        return row and row[0]

    def set_(key: str, value: Any) -> None:
        execute("INSERT INTO entry VALUES (?, ?) ON CONFLICT (k) DO UPDATE SET v=excluded.v", (key, value))

    return _verbs(
        increment,
        get,
        set_,
        close=connection.close,
        get_record=lambda key: msgpack.unpackb(get(key)),
        set_record=lambda key, record: set_(key, msgpack.packb(record)),
    )


def diskcache(where: str) -> Verbs:
    """diskcache, with its defaults."""
    import diskcache as library

    cache = library.Cache(where)
    return _verbs(cache.incr, cache.get, cache.set, close=cache.close)


def manager(where: str) -> Verbs:
    """A dict and a lock of a multiprocessing.Manager."""
    from benchmarks.parts.manager import connect

    table, lock = connect(where)

    def increment(key: str) -> int:
        with lock:
            number: int = table.get(key, 0) + 1
            table[key] = number
            return number

    return _verbs(increment, table.get, table.__setitem__, close=lambda: None)


def redis(where: str) -> Verbs:
    """Redis, over its unix socket."""
    import msgpack
    import redis as library

    client = library.Redis(unix_socket_path=where)

    return _verbs(
        client.incr,
        lambda key: int(client.get(key) or 0),
        client.set,
        close=client.close,
        get_record=lambda key: msgpack.unpackb(client.get(key)),
        set_record=lambda key, record: client.set(key, msgpack.packb(record)),
    )


def flock(where: str) -> Verbs:
    """The kernel's lock of a file, and nothing else: the least that a hand-over costs."""
    import fcntl

    descriptor = os.open(where, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def acquire() -> bool:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return True

    return {
        "acquire": acquire,
        "release": lambda: fcntl.flock(descriptor, fcntl.LOCK_UN),
        "close": lambda: os.close(descriptor),
    }


def pipe(where: str) -> Verbs:
    """A named pipe, and nothing else: the least that telling another process costs."""
    from select import select

    descriptor = os.open(where, os.O_RDWR | os.O_CLOEXEC)

    def drain(_key: str) -> int:
        while select([descriptor], [], [], 0)[0]:
            os.read(descriptor, 100)
        return 0

    return {
        "generation": drain,
        "wait": lambda _key, _since, _timeout_s: len(os.read(descriptor, 1)),
        "write": lambda _key, _value: os.write(descriptor, b"!"),
        "close": lambda: os.close(descriptor),
    }


def fsync(where: str) -> Verbs:
    """A file of its own for each worker, and one fdatasync per write."""
    descriptor = os.open(f"{where}-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def increment(_key: str) -> None:
        os.write(descriptor, b"." * 64)
        os.fdatasync(descriptor)

    return {
        "increment": increment,
        "get": lambda _key: 0,
        "get_record": lambda _key: {},
        "total": lambda _keys: os.fstat(descriptor).st_size // 64,
        "close": lambda: os.close(descriptor),
    }


def racy(where: str) -> Verbs:
    """A planted fault: an increment that others may come between.  Whoever counts losses must count some."""
    verbs = dict_lock(where)
    get, set_ = verbs["get"], verbs["set"]

    def increment(key: str) -> int:
        number: int = (get(key) or 0) + 1
        time.sleep(0)  # lets another thread run
        set_(key, number)
        return number

    return {**verbs, "increment": increment}


def halved(where: str) -> Verbs:
    """A planted fault: a record is stored as two halves.  Whoever counts torn reads must count some."""
    verbs = dict_lock(where)
    get, set_ = verbs["get"], verbs["set"]

    def set_record(key: str, record: Any) -> None:
        set_(f"{key}/a", record["a"])
        time.sleep(0)  # lets another thread run
        set_(f"{key}/b", record["b"])

    return {
        **verbs,
        "set_record": set_record,
        "get_record": lambda key: {"a": get(f"{key}/a"), "b": get(f"{key}/b")},
    }
