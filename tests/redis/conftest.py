"""A server of a test's own, where it must be stopped, filled or set up otherwise than the session's."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

import sharedstate
from cutting_proxy import CuttingProxy
from redis_server import RedisServer
from sentinel_set import Sentinel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sharedstate import Store


@pytest.fixture
def serve() -> Iterator[Callable[..., RedisServer]]:
    """Start a server with the given options; it ends with the test."""
    with ExitStack() as stack:

        def start(*options: str, has_port: bool = False) -> RedisServer:
            directory = tempfile.mkdtemp(prefix="ss-")
            stack.callback(shutil.rmtree, directory)
            return stack.enter_context(RedisServer(directory, *options, has_port=has_port))

        yield start


@pytest.fixture
def watch() -> Iterator[Callable[..., Sentinel]]:
    """Start one sentinel for the server at a port, with lines of its configuration; it ends with the test."""
    with ExitStack() as stack:

        def start(port: int, *options: str) -> Sentinel:
            directory = tempfile.mkdtemp(prefix="ss-")
            stack.callback(shutil.rmtree, directory)
            return stack.enter_context(Sentinel(directory, port, *options))

        yield start


@pytest.fixture
def proxy(redis_url: str) -> Iterator[CuttingProxy]:
    """A way to the session's server that can be cut."""
    directory = tempfile.mkdtemp(prefix="ss-")
    with CuttingProxy(directory, redis_url.partition(":")[2]) as proxy:
        yield proxy
    shutil.rmtree(directory)


@pytest.fixture
def url(redis_url: str) -> Iterator[str]:
    """The URL of a fresh store in the session's server; its invariants are checked afterwards."""
    url = f"{redis_url}?name=test-{uuid4()}"
    with sharedstate.open(url) as witness:
        yield url
        witness.check()
    sharedstate.remove(url)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """A handle on that store."""
    with sharedstate.open(url) as store:
        yield store


@pytest.fixture
def cut_off(url: str, proxy: CuttingProxy) -> Iterator[Store]:
    """A handle on the same store, by the way that can be cut."""
    name = url.partition("name=")[2]
    with sharedstate.open(f"redis+unix:{proxy.path}?name={name}&timeout=10") as store:
        yield store


@pytest.fixture
def old_url(tmp_path: Path) -> str:
    """The URL of a store that is to move."""
    return f"sqlite:{tmp_path}/old.db"


@pytest.fixture
def old(old_url: str) -> Iterator[Store]:
    """A handle of somebody who uses it."""
    with sharedstate.open(old_url) as store:
        yield store
