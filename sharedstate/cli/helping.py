"""What the help of every command ends with: examples, and the meaning of its exit status."""

from __future__ import annotations

__all__ = ["examples"]


def examples(*lines: str, status: str = "") -> str:
    """Return the epilog of a command's help.

    Args:
        lines: commands that can be copied as they are; not rewrapped.
        status: what its exit status means, where that is not the usual.
    """
    shown = "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))
    return f"{shown}\n\n{status}" if status else shown
