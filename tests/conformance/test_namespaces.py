"""A namespace is a store: what a Store promises of entries, values and time, its namespaces keep too."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

import sharedstate
from sharedstate.testing.conformance import (
    ConcurrencyClaims,
    CountingClaims,
    EntryClaims,
    ExpiryClaims,
    LockClaims,
    MappingClaims,
    TransactionClaims,
    ValueClaims,
    WaitingClaims,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sharedstate import Store


class TestNamespace(
    MappingClaims, ValueClaims, EntryClaims, CountingClaims, ExpiryClaims, LockClaims, WaitingClaims, ConcurrencyClaims
):
    @pytest.fixture
    def store(self) -> Iterator[Store]:
        url = f"memory:namespace-{uuid4()}"
        with sharedstate.open(url) as root:
            outside = {"k": "outside", "appk": "outside", "other:k": "outside"}
            root.update(outside)
            yield root.namespace("app")
            assert {key: value for key, value in root.items() if not key.startswith("app:")} == outside
            root.check()
        sharedstate.remove(url)

    @pytest.fixture
    def open_another(self, store: Store) -> Iterator[Callable[[], Store]]:
        handles: list[Store] = []

        def open_one() -> Store:
            handles.append(sharedstate.open(store.url))
            return handles[-1].namespace("app")

        yield open_one
        for handle in handles:
            handle.close()


class TestNestedNamespaceTransactions(TransactionClaims):
    @pytest.fixture
    def store(self) -> Iterator[Store]:
        url = f"memory:namespace-{uuid4()}"
        with sharedstate.open(url) as root:
            yield root.namespace("a").namespace("b")
            root.check()
        sharedstate.remove(url)

    @pytest.fixture
    def open_another(self, store: Store) -> Iterator[Callable[[], Store]]:
        with sharedstate.open(store.url) as root:
            yield lambda: root.namespace("a").namespace("b")
