"""Servers of their own, each on a unix socket: Redis and memcached, with their fastest clients, and our `redis:`."""

from __future__ import annotations

import os
import pwd
from contextlib import closing, contextmanager
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any, Final

from benchmarks.peers.base import Session, packing
from benchmarks.peers.ours import open_store
from benchmarks.peers.process import find_program, serving, version_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from benchmarks.peers.base import Place

__all__ = ["open_pymemcache", "open_redis", "open_redis_pipeline", "open_sharedstate_redis"]

_COMPARE_AND_SET: Final = """
if tonumber(redis.call('GET', KEYS[2]) or 0) ~= tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return redis.call('INCR', KEYS[2])
"""


def _packing(kind: str) -> tuple[Callable[[Any], bytes | int], Callable[[bytes], Any]]:
    # Both servers count in decimal digits.
    return (int, int) if kind == "int" else packing(kind)


@contextmanager
def _serving_redis(place: Place) -> Iterator[tuple[str, str]]:
    """Start a server, and yield its socket, and its version with the client's."""
    program, address = find_program("redis-server"), os.path.join(place.directory, "s")
    options = f"--port 0 --unixsocket {address} --unixsocketperm 700 --daemonize no --appendonly no --loglevel warning"
    with serving([program, *options.split(), "--save", ""], place.directory, address):
        yield address, f"{version_of(program, '--version')}, redis-py {metadata.version('redis')}"


def open_redis(place: Place) -> Generator[Session, None, None]:
    """Redis, without persistence."""
    redis: Any = import_module("redis")
    import_module("hiredis")  # found by redis-py, which without it parses in Python
    with _serving_redis(place) as (address, version):
        client = redis.Redis(unix_socket_path=address)
        try:
            note = "unix socket, no persistence; a call is a round trip; dicts as msgpack"
            yield _use_redis(client, redis.WatchError, place.kind)._replace(
                version=f"{version}, hiredis {metadata.version('hiredis')}", note=note
            )
        finally:
            client.close()


def open_redis_pipeline(place: Place) -> Generator[Session, None, None]:
    """Redis, several commands in one round trip: what redis-py has for batches of any commands."""
    redis: Any = import_module("redis")
    import_module("hiredis")
    pack, unpack = _packing(place.kind)
    with _serving_redis(place) as (address, version), closing(redis.Redis(unix_socket_path=address)) as client:

        def get_many(ks: Sequence[str]) -> dict[str, Any]:
            pipe = client.pipeline(transaction=False)
            for k in ks:
                pipe.get(k)
            return {k: unpack(v) for k, v in zip(ks, pipe.execute(), strict=True) if v is not None}

        def set_many(values: Mapping[str, Any]) -> None:
            pipe = client.pipeline(transaction=False)
            for k, v in values.items():
                pipe.set(k, pack(v))
            pipe.execute()

        verbs = {**_use_redis(client, redis.WatchError, place.kind).verbs, "get_many": get_many, "set_many": set_many}
        verbs = {name: verbs[name] for name in ("get", "set", "get_many", "set_many")}
        note = "as redis, but that a batch is a pipeline, without a transaction"
        yield Session(verbs, f"{version}, hiredis {metadata.version('hiredis')}", note)


def open_sharedstate_redis(place: Place) -> Generator[Session, None, None]:
    """Our backend `redis:`, with a server of the same kind."""
    with _serving_redis(place) as (address, version), closing(open_store(f"redis+unix:{address}?name=bench")) as opened:
        for session in opened:
            note = "our `redis:`, unix socket, no persistence; a call is a round trip, and each write a script"
            yield session._replace(version=f"source tree, {version}", note=note)


def _use_redis(client: Any, watch_error: type[Exception], kind: str) -> Session:  # noqa: C901  many small functions
    pack, unpack = _packing(kind)
    server_get, server_set, mget, mset = client.get, client.set, client.mget, client.mset

    def get(k: str) -> Any:
        found = server_get(k)
        return None if found is None else unpack(found)

    def set_(k: str, v: Any) -> None:
        server_set(k, pack(v))

    def get_many(ks: Sequence[str]) -> dict[str, Any]:
        return {k: unpack(v) for k, v in zip(ks, mget(ks), strict=True) if v is not None}

    def set_many(values: Mapping[str, Any]) -> None:
        mset({k: pack(v) for k, v in values.items()})

    def items() -> Iterator[tuple[str, Any]]:
        keys = list(client.scan_iter(count=1000))
        for at in range(0, len(keys), 100):
            some = keys[at : at + 100]
            for key, value in zip(some, mget(some), strict=True):
                yield key.decode(), unpack(value)

    script = client.register_script(_COMPARE_AND_SET)

    def compare_and_set(k: str, v: Any, expected: int) -> int:
        generation: int = script([k, f"g{k}"], [pack(v), expected])
        if not generation:
            raise ValueError(k)
        return generation

    def swap(k: str, j: str) -> None:
        while True:
            with client.pipeline() as pipe:
                try:
                    pipe.watch(k, j)
                    first, second = pipe.mget(k, j)
                    pipe.multi()
                    pipe.mset({k: second, j: first})
                    pipe.execute()
                except watch_error:
                    continue
                return

    def generation(key: str) -> int:
        return int(server_get(f"g{key}") or 0)

    verbs = {
        "get": get,
        "set": set_,
        "delete": client.delete,
        "increment": client.incr,
        "compare_and_set": compare_and_set,
        "swap": swap,
        "items": items,
        "get_many": get_many,
        "set_many": set_many,
    }
    return Session(verbs, "", "", generation)


def open_pymemcache(place: Place) -> Generator[Session, None, None]:
    """Memcached, with pymemcache."""
    client_class: Any = import_module("pymemcache").Client
    program, address = find_program("memcached"), os.path.join(place.directory, "s")
    # It refuses to run as root unless told so; larger items than 1 MiB, for their headers.
    options = f"-s {address} -a 0700 -m 256 -I 2m -t 1 -u {pwd.getpwuid(os.getuid()).pw_name}"
    with serving([program, *options.split()], place.directory, address):
        # By default it does not wait for the answers to its writes.
        client = client_class(address, default_noreply=False, no_delay=True)
        try:
            version = f"{version_of(program, '--version')} (pymemcache {metadata.version('pymemcache')})"
            note = "unix socket, one thread; compare_and_set is gets, then cas; dicts as msgpack"
            yield _use_pymemcache(client, place.kind)._replace(version=version, note=note)
        finally:
            client.close()


def _use_pymemcache(client: Any, kind: str) -> Session:
    pack, unpack = _packing(kind)
    server_get, server_set, server_incr = client.get, client.set, client.incr

    def get(k: str) -> Any:
        found = server_get(k)
        return None if found is None else unpack(found)

    def set_(k: str, v: Any) -> None:
        if not server_set(k, pack(v)):
            raise ValueError(k)

    def increment(k: str) -> Any:
        return server_incr(k, 1)

    def get_many(ks: Sequence[str]) -> dict[str, Any]:
        return {k: unpack(v) for k, v in client.get_many(ks).items()}

    def set_many(values: Mapping[str, Any]) -> None:
        if client.set_many({k: pack(v) for k, v in values.items()}):
            raise ValueError("not all were stored")

    def compare_and_set(k: str, v: Any, _expected: int) -> int:
        # Its generation is an opaque number that the reply to cas does not tell, so each needs a gets.
        _, token = client.gets(k)
        if not client.cas(k, pack(v), token):
            raise ValueError(k)
        return 0

    verbs = {
        "get": get,
        "set": set_,
        "delete": client.delete,
        "increment": increment,
        "compare_and_set": compare_and_set,
        "get_many": get_many,
        "set_many": set_many,
    }
    return Session(verbs, "")
