"""The shared-memory backend keeps every promise of the contract."""

from __future__ import annotations

from uuid import uuid4

import pytest

from sharedstate.testing.conformance import BackendConformance


class TestShm(BackendConformance):
    @pytest.fixture
    def url(self) -> str:
        return f"shm://conformance-{uuid4()}?size=32MiB"
