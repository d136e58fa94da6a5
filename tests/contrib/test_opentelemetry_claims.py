"""A traced store is a store: W3 of `sharedstate.contrib.opentelemetry`, that spans change nothing of what verbs do."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from opentelemetry.sdk.trace import TracerProvider

import sharedstate
from sharedstate.contrib.opentelemetry import traced
from sharedstate.testing.conformance import (
    ConcurrencyClaims,
    CountingClaims,
    EntryClaims,
    ExpiryClaims,
    KeyClaims,
    LifecycleClaims,
    LockClaims,
    MappingClaims,
    NamespaceClaims,
    SharingClaims,
    TransactionClaims,
    ValueClaims,
    WaitingClaims,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sharedstate import Store

_PROVIDER = TracerProvider()


class Traced(
    MappingClaims,
    KeyClaims,
    ValueClaims,
    EntryClaims,
    CountingClaims,
    ExpiryClaims,
    TransactionClaims,
    NamespaceClaims,
    LockClaims,
    WaitingClaims,
    SharingClaims,
    LifecycleClaims,
    ConcurrencyClaims,
):
    """Every claim of a store; those of a backend's primitives are the backend's own."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        with sharedstate.open(url) as witness:
            try:
                with traced(sharedstate.open(url), _PROVIDER, record_keys=True) as store:
                    yield store
                witness.check()
            finally:
                sharedstate.remove(url)

    @pytest.fixture
    def open_another(self, store: Store) -> Iterator[Callable[[], Store]]:
        handles: list[Store] = []

        def open_one() -> Store:
            handles.append(traced(sharedstate.open(store.url), _PROVIDER))
            return handles[-1]

        yield open_one
        for handle in handles:
            handle.close()


class TestTracedMemory(Traced):
    @pytest.fixture
    def url(self) -> str:
        return f"memory:traced-{uuid4()}"


class TestTracedShm(Traced):
    @pytest.fixture
    def url(self) -> str:
        return f"shm://traced-{uuid4()}?size=16MiB"


class TestTracedFile(Traced):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"file:{tmp_path}/store"


class TestTracedRedis(Traced):
    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return f"{redis_url}?name=traced-{uuid4()}"
