"""The example keeps every promise of the contract: all that a plug-in's author has to write as a test."""

# ruff: noqa: INP001  a plug-in may be one module

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sharedstate.testing.conformance import BackendConformance

if TYPE_CHECKING:
    from pathlib import Path


class TestOneFile(BackendConformance):
    """Every claim of the suite."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        """A store that does not exist yet."""
        return f"onefile:{tmp_path}/store"
