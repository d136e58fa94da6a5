"""`sharedstate.contrib.dogpile`: dogpile.cache's own suites, and G1 to G4, on every backend."""

from __future__ import annotations

import os
import threading
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from dogpile.cache import make_region
from dogpile.testing.fixtures import (
    _GenericBackendFixture,
    _GenericBackendTestSuite,
    _GenericMutexTestSuite,
    _GenericSerializerTestSuite,
)

import sharedstate
from sharedstate.contrib.dogpile import SharedStateBackend
from sharedstate.errors import ClaimLostError, CorruptError
from sharedstate.registry import find_plugin, parse_url
from sharedstate.testing.conformance.support import fork_and_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="class", params=["memory", "file", "sqlite", "shm"])
def suite_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give a suite of dogpile.cache's a fresh store of each backend."""
    url = find_plugin(parse_url(f"{request.param}:any")).temporary_url(str(tmp_path_factory.mktemp("store")))
    with sharedstate.open(url) as witness:
        request.cls.config_args = {"arguments": {"url": url}}
        yield
        witness.check()
    sharedstate.remove(url)


@pytest.mark.usefixtures("suite_url")
class _Ours:
    backend = "sharedstate"
    config_args: ClassVar[dict[str, Any]] = {}

    @classmethod
    def setup_class(cls) -> None:
        """Nothing that could skip: the backend is here, or the tests fail."""


class TestBackend(_Ours, _GenericBackendTestSuite):
    """dogpile.cache's own suite of a backend, but for what sleeps for seconds and asks no more than TestMutex."""

    test_threaded_dogpile = None
    test_threaded_get_multi = None


class TestMutex(_Ours, _GenericMutexTestSuite):
    """dogpile.cache's own suite of a mutex."""


class TestSerializer(_Ours, _GenericSerializerTestSuite, _GenericBackendFixture):
    """dogpile.cache's own suite of a region with a serializer of the user's."""


# --- What the suites do not ask ---------------------------------------------------


@pytest.fixture
def backend(any_url: str) -> SharedStateBackend:
    """A backend over a fresh store of each kind."""
    return SharedStateBackend({"url": any_url})


def test_a_mutex_leaves_nothing_behind(backend: SharedStateBackend, any_url: str) -> None:
    """A hundred keys were locked and released: the store has no trace of them (G4)."""
    for number in range(100):
        mutex = backend.get_mutex(str(number))
        assert mutex.acquire()
        mutex.release()

    with sharedstate.open(any_url) as store:
        assert list(store) == []
        assert store.locks() == []


def test_another_thread_may_release_and_only_once(backend: SharedStateBackend) -> None:
    """An asynchronous creation ends in its own thread (G2); who does not hold the mutex is told so."""
    mutex = backend.get_mutex("k")
    mutex.acquire()
    releasing = threading.Thread(target=mutex.release)
    releasing.start()
    releasing.join()

    assert not backend.get_mutex("k").locked()
    for other in (mutex, backend.get_mutex("k")):
        with pytest.raises(ClaimLostError):
            other.release()


def test_a_forked_child_does_not_release_its_parents_mutex(shared_url: str) -> None:
    """What the child inherits it does not hold."""
    backend = SharedStateBackend({"url": shared_url})
    mutex = backend.get_mutex("k")
    mutex.acquire()

    def release() -> str:
        try:
            mutex.release()
        except ClaimLostError as error:
            return error.reason
        return ""

    assert fork_and_run(release)()
    assert backend.get_mutex("k").locked()
    mutex.release()


def test_the_mutex_of_a_dead_process_is_free(shared_url: str) -> None:
    """A child dies while it holds the mutex: it is free, and who waited for it gets it (G3)."""
    told, teller = os.pipe()
    gate, opener = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(opener)
        holding = SharedStateBackend({"url": shared_url}).get_mutex("k")
        holding.acquire()
        os.write(teller, b"!")
        os.read(gate, 1)
        os._exit(1)
    os.read(told, 1)
    mutex = SharedStateBackend({"url": shared_url}).get_mutex("k")
    assert not mutex.acquire(wait=False)
    waiting = threading.Thread(target=mutex.acquire)
    waiting.start()

    os.close(opener)
    os.waitpid(child, 0)
    waiting.join(30)

    assert not waiting.is_alive()
    mutex.release()
    for fd in (told, teller, gate):
        os.close(fd)


def test_of_four_processes_one_makes_the_value(
    shared_url: str, in_four_processes: Callable[[Callable[[], object]], None]
) -> None:
    """4 processes ask for the same 20 values at the same time: each is made once."""

    def use() -> None:
        region = make_region().configure("sharedstate", arguments={"url": shared_url})
        with sharedstate.open(shared_url) as store:
            for number in range(20):
                key = f"value {number}"
                assert region.get_or_create(key, lambda key=key: store.increment(f"made {key}")) == 1

    in_four_processes(use)

    with sharedstate.open(shared_url) as store:
        assert [count for _, count in store.items("made")] == [1] * 20


def test_regions_are_apart_and_values_expire(any_url: str) -> None:
    """Two names in one store are two regions; `expiration_time` reaches the store; long keys are apart."""
    one, other = (SharedStateBackend({"url": any_url, "name": name, "expiration_time": 60}) for name in ("a", "a:b"))
    one.set_serialized("k", b"1")
    one.set_serialized_multi({"k" * 600 + end: end.encode() for end in "ab"})

    assert not other.get_serialized("k")
    assert one.get_serialized_multi(["k" * 600 + end for end in "ab"]) == [b"a", b"b"]
    with sharedstate.open(any_url) as store:
        assert all(0 < (store.ttl(key) or 0) <= 60 for key in store)


def test_what_is_no_mutex_is_refused(backend: SharedStateBackend, any_url: str) -> None:
    """Something else under a mutex's key is never taken for one."""
    with sharedstate.open(any_url) as store:
        store["dogpile-mutex/:k"] = 1
    with pytest.raises(CorruptError):
        backend.get_mutex("k").acquire()


def test_the_entry_point_names_the_backend() -> None:
    """What pyproject.toml tells dogpile.cache is there."""
    with (Path(__file__).parents[2] / "pyproject.toml").open("rb") as file:
        entry = tomllib.load(file)["project"]["entry-points"]["dogpile.cache"]

    assert entry == {"sharedstate": f"{SharedStateBackend.__module__}:{SharedStateBackend.__name__}"}
