"""The Redis backend keeps every promise of the contract, in a real server."""

from __future__ import annotations

from uuid import uuid4

import pytest

from sharedstate.testing.conformance import BackendConformance


class TestRedis(BackendConformance):
    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return f"{redis_url}?name=conformance-{uuid4()}"
