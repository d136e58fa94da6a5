"""The SQLite backend keeps every promise of the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sharedstate.testing.conformance import BackendConformance

if TYPE_CHECKING:
    from pathlib import Path


class TestSqlite(BackendConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:{tmp_path}/state.db"
