"""The Redis backend keeps every promise of the contract: in a server, in one that sentinels name, and in a cluster."""

from __future__ import annotations

import shutil
import tempfile
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from sharedstate.testing.conformance import BackendConformance

if TYPE_CHECKING:
    from collections.abc import Iterator


class TestRedis(BackendConformance):
    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return f"{redis_url}?name=conformance-{uuid4()}"


@pytest.fixture(scope="module")
def service_url() -> Iterator[str]:
    """The URL of a service with a primary, two replicas and three sentinels, without a store's name."""
    from sentinel_set import SentinelSet

    directory = tempfile.mkdtemp(prefix="ss-")
    # The largest values keep a server from answering for seconds.
    with SentinelSet(directory, down_after_ms=60_000) as everybody:
        everybody.settle()
        yield everybody.url("").partition("?")[0]
    shutil.rmtree(directory)


class TestRedisSentinel(BackendConformance):
    @pytest.fixture
    def url(self, service_url: str) -> str:
        return f"{service_url}conformance-{uuid4()}"


@pytest.fixture(scope="module")
def cluster_url() -> Iterator[str]:
    """The URL of a cluster of three primaries with a replica each, without a store's name."""
    from cluster_set import ClusterSet

    directory = tempfile.mkdtemp(prefix="ss-")
    with ClusterSet(directory, timeout_ms=60_000) as everybody:  # as above
        yield everybody.url("").partition("?")[0]
    shutil.rmtree(directory)


class TestRedisCluster(BackendConformance):
    @pytest.fixture
    def url(self, cluster_url: str) -> str:
        return f"{cluster_url}conformance-{uuid4()}"
