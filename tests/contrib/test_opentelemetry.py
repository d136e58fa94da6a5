"""`sharedstate.contrib.opentelemetry`: W1 to W4, by OpenTelemetry's own SDK, on every backend."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import sharedstate
import sharedstate.aio
from sharedstate.contrib.opentelemetry import _place_of, traced
from sharedstate.errors import (
    ClosedError,
    ConflictError,
    LockLostError,
    LockOwnershipError,
    LockTimeoutError,
    ScopeError,
    ValueTypeError,
)
from sharedstate.model import ABSENT, Scope
from sharedstate.testing.conformance.support import fork_and_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan

    from sharedstate.store import Store


class Recorder:
    """A provider, and what it was told."""

    def __init__(self) -> None:
        self.provider = TracerProvider()
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def take(self) -> list[ReadableSpan]:
        """The spans that have ended since the last call, in that order."""
        spans = list(self._exporter.get_finished_spans())
        self._exporter.clear()
        return spans

    def verbs(self) -> list[str]:
        return [attributes(span)["db.operation.name"] for span in self.take()]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def plain(any_url: str) -> Iterator[Store]:
    with sharedstate.open(any_url) as store:
        yield store


@pytest.fixture
def store(plain: Store, recorder: Recorder) -> Store:
    """A traced store of each backend."""
    return traced(plain, recorder.provider)


@pytest.fixture
def one(memory_url: str, recorder: Recorder) -> Iterator[Store]:
    """A traced store, where one backend is enough."""
    with traced(sharedstate.open(memory_url), recorder.provider) as store:
        yield store


# --- What is a span (W1) -------------------------------------------------------------------


def test_each_question_is_one_span(store: Store, recorder: Recorder) -> None:
    """Of kind CLIENT, by the name of the backend's verb; whatever that verb is made of."""
    store["a"] = 1
    assert store["a"] == 1
    assert store.add("b", 2)
    assert store.increment("a", 2) == 3
    assert store.compare_and_set("c", 3, ABSENT) > ABSENT
    assert store.read("c") is not None
    assert store.generation("c") > ABSENT
    assert store.touch("c", None)
    store.set_many({"d": 4, "e": 5})
    assert store.get_many(["d", "e"]) == {"d": 4, "e": 5}
    assert store.delete_many(["d", "e"]) == 2
    assert store.pop("c") == 3
    assert store.delete("b")
    assert next(iter(store)) == "a"
    assert len(store) == 1
    store.clear()
    assert store.stats()["entries"] == 0
    assert store.locks() == []
    assert len(store.sharers()) == 2
    store.check()

    spans = recorder.take()

    assert [attributes(span)["db.operation.name"] for span in spans] == [
        *("set", "get", "add", "increment", "compare_and_set", "read", "generation", "touch"),
        *("set_many", "get_many", "delete_many", "take", "delete", "keys", "count", "clear"),
        *("stats", "locks", "sharers", "check"),
    ]
    for span in spans:
        assert span.kind is SpanKind.CLIENT
        assert span.status.status_code is StatusCode.UNSET
        assert attributes(span)["db.system.name"] == "sharedstate"
        assert attributes(span)["sharedstate.backend"] == store.url.partition(":")[0]
        verb, _, target = span.name.partition(" ")
        assert verb == attributes(span)["db.operation.name"]
        assert target == attributes(span)["db.namespace"]


def test_spans_are_children_of_the_current_one(one: Store, recorder: Recorder) -> None:
    """Those of a transaction's reads and of its commit, too."""
    with recorder.provider.get_tracer("test").start_as_current_span("request") as request:
        with one.transaction() as tx:
            tx["a"] = tx.get("a", 0) + 1
        assert one["a"] == 1

    *spans, outer = recorder.take()
    assert outer.name == "request"
    assert [attributes(span)["db.operation.name"] for span in spans] == ["read", "commit", "get"]
    assert {span.parent.span_id if span.parent else None for span in spans} == {request.get_span_context().span_id}


def test_batches_have_their_size(one: Store, recorder: Recorder) -> None:
    """Where it is two or more, and known without a walk."""
    one.set_many({"a": 1, "b": 2, "c": 3})
    one.get_many(["a"])
    one.get_many(key for key in "abc")
    with one.transaction() as tx:
        tx["a"], tx["b"] = 5, 6

    sizes = [attributes(span).get("db.operation.batch.size") for span in recorder.take()]

    assert sizes == [3, None, None, 2]


def test_namespaces_are_traced(store: Store, recorder: Recorder) -> None:
    """All the way down, and what they do is what it is without spans."""
    inner = store.namespace("app").namespace("jobs")
    inner["k"] = 1
    assert inner.update_with("k", lambda n: n + 1) == 2
    assert inner.transact(lambda tx: tx.increment("k")) == 3
    with pytest.raises(ConflictError, match="'k'"):
        inner.compare_and_set("k", 1, ABSENT)

    assert recorder.verbs() == [
        *("set", "read", "compare_and_set", "update_with", "read", "commit", "transact", "compare_and_set")
    ]
    assert store["app:jobs:k"] == 3


def test_coordination_over_a_traced_store_is_traced(store: Store, recorder: Recorder) -> None:
    """A body that runs once does, and its record's questions have spans."""
    assert sharedstate.once(store, "setup", lambda: 7, per="v1").result == 7
    assert not sharedstate.once(store, "setup", lambda: 8, per="v1").ran

    assert {"read", "compare_and_set", "lock"} <= set(recorder.verbs())


def test_the_store_that_is_not_traced_pays_nothing(plain: Store, recorder: Recorder) -> None:
    """Its verbs are still the backend's own, and have no spans; both stand on one handle."""
    other = traced(plain, recorder.provider)

    plain["k"] = 1

    assert plain.get == plain.backend.get
    assert recorder.take() == []
    assert other["k"] == 1
    assert other.join() == plain.join()
    assert traced(other) is other
    other.close()
    with pytest.raises(ClosedError):
        plain.get("k")


def test_a_copy_is_not_traced(store: Store, recorder: Recorder) -> None:
    """A pickled store is its URL, and the other side has a provider of its own."""
    store["k"] = 1
    recorder.take()
    if store.capabilities.scope < Scope.PROCESS:
        with pytest.raises(ScopeError):
            pickle.dumps(store)
        return

    with pickle.loads(pickle.dumps(store)) as copy:
        assert copy["k"] == 1

    assert recorder.take() == []


def test_a_forked_child_goes_on(store: Store) -> None:
    """Its spans are its own provider's affair; its verbs are as ever."""
    store["k"] = 1

    result = fork_and_run(lambda: (store.increment("k"), type(store.namespace("n")).__name__))()

    assert result == (2, "TracedStore")


# --- What is in it (W2) --------------------------------------------------------------------


def test_neither_keys_nor_values_are_told(store: Store, recorder: Recorder) -> None:
    """Whether a verb succeeds or fails: an error's text may name both."""
    secret = store.namespace("ns-secret")
    secret["key-secret"] = "value-secret"
    secret.set_many({"key-secret": "value-secret", "b": 1})
    with pytest.raises(ConflictError):
        secret.compare_and_set("key-secret", 1, ABSENT)
    with pytest.raises(ValueTypeError):
        secret.increment("key-secret")
    with secret.lock("lock-secret"):
        pass
    secret.clear("key-secret")
    list(secret)

    for span in recorder.take():
        assert "secret" not in span.to_json()


def test_keys_are_told_to_who_asks_for_them(plain: Store, recorder: Recorder) -> None:
    """As the storage has them: with the namespace.  Values still are not."""
    store = traced(plain, recorder.provider, record_keys=True).namespace("n")
    store["a"] = "value-secret"
    store.set_many({"a": "value-secret", "b": 1})
    with store.transaction() as tx:
        tx["c"] = "value-secret"
    with store.lock("l"):
        pass
    store.clear("x")

    told = [
        {name: value for name, value in attributes(span).items() if name.startswith("sharedstate.")}
        for span in recorder.take()
    ]

    backend = {"sharedstate.backend": store.url.partition(":")[0]}
    assert told == [
        {**backend, "sharedstate.key": "n:a"},
        {**backend, "sharedstate.keys": ("n:a", "n:b")},
        {**backend, "sharedstate.keys": ("n:c",)},
        {**backend, "sharedstate.lock": "n:l"},
        {**backend, "sharedstate.prefix": "n:x"},
    ]


def test_a_key_that_is_no_utf8_is_told_readably(memory_url: str, recorder: Recorder) -> None:
    """It is refused as ever, and its span can be exported."""
    with traced(sharedstate.open(memory_url), recorder.provider, record_keys=True) as store:
        with pytest.raises(sharedstate.KeyFormatError):
            store.get("\udcff")

        (span,) = recorder.take()
    assert attributes(span)["sharedstate.key"] == "\\udcff"
    assert attributes(span)["error.type"] == "KeyFormatError"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("memory:jobs", {"db.namespace": "jobs"}),
        ("shm://jobs?size=64MiB", {"db.namespace": "jobs"}),
        ("file:/var/lib/app/state", {"db.namespace": "/var/lib/app/state"}),
        ("sqlite:///var/lib/app.db", {"db.namespace": "/var/lib/app.db"}),
        ("redis://host", {"server.address": "host"}),
        ("redis://host:6380/0/jobs", {"server.address": "host", "server.port": 6380, "db.namespace": "0/jobs"}),
        ("rediss://u:p@w/x@host/jobs?key=/k", {"server.address": "host", "db.namespace": "jobs"}),
        ("redis://:hunter2@[::1]:7/jobs", {"server.address": "::1", "server.port": 7, "db.namespace": "jobs"}),
        ("redis+unix:/run/redis.sock?db=0&name=jobs", {"server.address": "/run/redis.sock", "db.namespace": "jobs"}),
        ("redis+sentinel://u:hunter2@h1:1,h2/main/jobs", {"server.address": "h1:1,h2", "db.namespace": "main/jobs"}),
        ("redis+cluster://u:hunter2@h1:1,h2/jobs", {"server.address": "h1:1,h2", "db.namespace": "jobs"}),
        ("file:/tmp/\udcff", {"db.namespace": "/tmp/\\udcff"}),
    ],
)
def test_where_a_store_is_is_told_without_secrets(memory_url: str, url: str, place: dict[str, Any]) -> None:
    """Server and namespace, of any backend's URL; never a password."""
    scope = Scope.CLUSTER if url.startswith("redis") else Scope.HOST
    with sharedstate.open(memory_url) as store:
        given = store.capabilities._replace(scope=scope)

    found = _place_of(url, given)

    assert found == {**place, "sharedstate.backend": url.partition(":")[0]}


def test_an_unreadable_url_is_no_hindrance(memory_url: str) -> None:
    """A stranger's backend may have one of its own kind."""
    with sharedstate.open(memory_url) as store:
        assert _place_of("no url", store.capabilities) == {}


# --- Errors, and what is tried again --------------------------------------------------------


def test_an_error_is_the_spans_status(store: Store, recorder: Recorder) -> None:
    """`error.type` is its class; it comes out as it is without a span."""
    store["k"] = "x"
    with pytest.raises(ConflictError) as conflict:
        store.compare_and_set("k", 1, ABSENT)
    with pytest.raises(ValueTypeError):
        store.increment("k")
    store.close()
    with pytest.raises(ClosedError):
        store.transact(lambda tx: tx.get("k"))

    assert conflict.value.key == "k"
    spans = recorder.take()
    told = [(attributes(span).get("error.type"), span.status.status_code) for span in spans]
    assert told[:3] == [
        (None, StatusCode.UNSET),
        ("ConflictError", StatusCode.ERROR),
        ("ValueTypeError", StatusCode.ERROR),
    ]
    assert told[-1] == ("ClosedError", StatusCode.ERROR)
    assert all(span.status.description is None and not span.events for span in spans)


def test_a_conflict_that_is_tried_again_is_an_event(store: Store, recorder: Recorder) -> None:
    """Spans of `transact` and `update_with` that succeed say after how many attempts; lost commits that they lost."""
    store["k"] = 0
    with sharedstate.open(store.url) as rival:
        rivals = [lambda: rival.increment("k"), lambda: rival.increment("k")]
        recorder.take()

        def add_ten(found: int) -> int:
            if rivals:
                rivals.pop()()
            return found + 10

        assert store.transact(lambda tx: tx.set("k", add_ten(tx["k"])) or tx["k"]) == 12
        first = recorder.take()
        rivals.append(lambda: rival.increment("k"))
        assert store.update_with("k", add_ten) == 23
        second = recorder.take()

    for spans, verb, lost in ((first, "commit", 2), (second, "compare_and_set", 1)):
        *tries, whole = spans
        assert whole.kind is SpanKind.INTERNAL
        assert whole.status.status_code is StatusCode.UNSET
        assert attributes(whole)["sharedstate.attempts"] == lost + 1
        assert [event.name for event in whole.events] == ["sharedstate.conflict"] * lost
        failed = [span for span in tries if attributes(span).get("error.type") == "ConflictError"]
        assert [attributes(span)["db.operation.name"] for span in failed] == [verb] * lost
        assert {span.parent.span_id if span.parent else 0 for span in tries} == {whole.context.span_id}


def test_a_transaction_that_gives_up_says_so(one: Store, recorder: Recorder) -> None:
    """Its last conflict is the error of the whole."""
    one["k"] = 0

    def lose(tx: Any) -> None:
        tx["k"] += 1
        one.increment("k")

    with pytest.raises(ConflictError):
        one.transact(lose, timeout_s=0)

    whole = recorder.take()[-1]
    assert attributes(whole)["db.operation.name"] == "transact"
    assert attributes(whole)["error.type"] == "ConflictError"
    assert attributes(whole)["sharedstate.attempts"] == 1
    assert one["k"] == 1


def test_what_is_asked_again_and_again_has_no_span(one: Store, recorder: Recorder) -> None:
    """A wait is a look before it and one after it."""
    assert one.wait_for_change("k", ABSENT, timeout_s=0.01) == ABSENT
    assert one.now() > 0

    assert set(recorder.verbs()) == {"read"}


# --- Locks -----------------------------------------------------------------------------------


def test_a_wait_for_a_lock_is_a_span(store: Store, recorder: Recorder) -> None:
    """One that ends with the lock, and one that ends without; not a try that finds it held."""
    with sharedstate.open(store.url) as rival:
        lock = store.lock("l")
        with lock:
            assert lock.is_held()
            assert lock.token > 0
            assert not rival.lock("l").try_acquire()
            with pytest.raises(LockOwnershipError):
                lock.acquire()
        with rival.lock("l"):
            assert not lock.try_acquire()
            with pytest.raises(LockTimeoutError):
                lock.acquire(0.01)
        assert lock.try_acquire()
        lock.release()

    spans = recorder.take()
    assert [attributes(span)["db.operation.name"] for span in spans] == ["lock"] * 3
    assert [attributes(span).get("error.type") for span in spans] == [None, "LockTimeoutError", None]
    assert spans[1].end_time - spans[1].start_time >= 5e6


def test_an_acquisition_that_was_interrupted_is_taken_back(store: Store) -> None:
    """An exception out of a signal handler came when the storage's lock was held, and the traced one not yet."""
    lock: Any = store.lock("l")
    lock.inner.acquire()

    with lock:
        assert lock.is_held()

    assert not lock.inner.is_held()


def test_a_traced_locks_end_frees_it(store: Store) -> None:
    """L3: who lets go of the object lets go of the lock."""
    lock = store.lock("l")
    lock.acquire()

    del lock

    with sharedstate.open(store.url) as rival:
        assert rival.lock("l").try_acquire()


def test_a_lost_lock_says_so(plain: Store, recorder: Recorder) -> None:
    """Where somebody removed its file: by its token, and once more when it is released."""
    lock: Any = traced(plain, recorder.provider).lock("l")
    path = getattr(lock.inner, "path", None)
    if path is None:
        pytest.skip("a lock without a file")
    lock.acquire()
    os.unlink(path)

    with pytest.raises(LockLostError):
        _ = lock.token
    with pytest.raises(LockLostError):
        lock.release()
    assert not lock.is_held()
    with lock:
        pass


def test_a_childs_copy_frees_nothing(store: Store) -> None:
    """L5: a forked child holds no lock of its parent's."""
    lock = store.lock("l")

    def use() -> tuple[bool, str]:
        held = lock.is_held()
        try:
            lock.release()
        except LockLostError as error:
            return held, type(error).__name__
        return held, ""

    with lock:
        assert fork_and_run(use)() == (False, "LockLostError")
        assert lock.is_held()
        with sharedstate.open(store.url) as rival:
            assert not rival.lock("l").try_acquire()


# --- asyncio ----------------------------------------------------------------------------------


def test_coroutines_are_traced_in_their_tasks(plain: Store, recorder: Recorder) -> None:
    """On the loop or in a thread, each span is a child of the task's; also those of namespaces and locks."""
    store = traced(sharedstate.aio.AsyncStore(plain), recorder.provider)
    tracer = recorder.provider.get_tracer("test")

    async def serve(number: int) -> int:
        with tracer.start_as_current_span("request", attributes={"number": number}) as span:
            inner = store.namespace(f"n{number}")
            await inner.set("k", number)
            async with inner.lock("l"):
                await inner.update_with("k", lambda found: found + 1)

            async def body(tx: sharedstate.aio.AsyncTransaction) -> Any:
                return await tx.increment("k")

            assert await inner.transact(body) == number + 2
            assert await inner.get("k") == number + 2
            return span.get_span_context().trace_id

    async def main() -> list[int]:
        return await asyncio.gather(*map(serve, range(3)))

    traces = asyncio.run(main())

    spans = recorder.take()
    for trace in traces:
        ours = [span for span in spans if span.context.trace_id == trace]
        assert [attributes(span).get("db.operation.name") for span in ours] == [
            *("set", "lock", "read", "compare_and_set", "update_with", "read", "commit", "transact", "get"),
            None,
        ]
    assert len(spans) == 30


def test_a_synchronous_program_loads_no_asyncio(memory_url: str) -> None:
    """And none needs the SDK: the API alone makes spans that go nowhere."""
    program = f"""
import sys
import sharedstate
from sharedstate.contrib.opentelemetry import traced
with traced(sharedstate.open({memory_url!r})) as store:
    store["k"] = 1
    assert store.transact(lambda tx: tx["k"]) == 1
print("sharedstate.aio" in sys.modules, any(name.startswith("opentelemetry.sdk") for name in sys.modules))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)

    assert (done.stdout, done.stderr) == ("False False\n", "")
