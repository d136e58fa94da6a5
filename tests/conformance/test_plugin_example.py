"""The example of docs/writing-a-backend.md keeps every promise of the contract, found as a stranger's plug-in is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sharedstate.testing.conformance import BackendConformance

if TYPE_CHECKING:
    from pathlib import Path

_EXAMPLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "plugin-example")


class TestPluginExample(BackendConformance):
    @pytest.fixture
    def url(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.syspath_prepend(_EXAMPLE)
        return f"onefile:{tmp_path}/store"
