"""A module of ours as it is where no C module is built."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType


def without_native(module: ModuleType) -> Any:
    """Return another copy of `module`, which did not find `sharedstate._native`."""
    native = sys.modules.get("sharedstate._native")
    sys.modules["sharedstate._native"] = None  # type: ignore[assignment]
    try:
        spec = importlib.util.spec_from_file_location(f"{module.__name__}_without_c", module.__file__)
        assert spec is not None
        assert spec.loader is not None
        found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
        return found
    finally:
        if native is None:
            del sys.modules["sharedstate._native"]
        else:
            sys.modules["sharedstate._native"] = native
