"""Who this interpreter is, in the words that it announces itself with to a store's other sharers."""

from __future__ import annotations

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any

__all__ = ["describe_self"]


def describe_self() -> dict[str, Any]:
    """Return the facts that a sharer tells of itself."""
    return {}
