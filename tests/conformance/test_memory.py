"""The memory backend keeps every promise of the contract, with its entries in C and in Python."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from sharedstate.testing.conformance import BackendConformance
from sharedstate_memory import _entries, backend, entries


class MemoryConformance(BackendConformance):
    implementation: Any

    @pytest.fixture
    def url(self, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setattr(backend, "Entries", self.implementation.Entries)
        monkeypatch.setattr(backend, "Handle", self.implementation.Handle)
        return f"memory:conformance-{uuid4()}"


class TestMemory(MemoryConformance):
    implementation = _entries


class TestMemoryWithoutC(MemoryConformance):
    implementation = entries
