"""What each new interpreter does; imports nothing that sharedstate does not take itself."""

from __future__ import annotations

import sys

import sharedstate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["list_modules", "visit"]


def visit(urls: Sequence[str]) -> None:
    """Open a store of each URL, use it, and close it."""
    for url in urls:
        with sharedstate.open(url, allow_narrow=True) as store:
            store.set("k", {"n": [1, 2.5, None, b"3"]})
            store.get("k")
            store.increment("n")
            with store.transaction() as tx:
                tx["m"] = tx["n"]
            with store.lock("guard", timeout_s=30):
                store.add("once", True)
            try:  # noqa: SIM105  contextlib is no module that a store takes
                store.compare_and_set("k", 1, expected=2**60)
            except sharedstate.ConflictError:
                pass
    # One that is not closed ends with its interpreter.
    sharedstate.open(urls[-1], allow_narrow=True).get("k")


def list_modules(path: str) -> None:
    """Write down, as JSON, the modules of others that are loaded here, and where the code of ours is kept."""
    import json

    modules, codes = [], []
    for name, module in sorted(sys.modules.items()):
        if name.startswith(("sharedstate", "leaks")):
            codes += [cached] if (cached := getattr(module, "__cached__", None)) else []
        elif name != "__main__":
            modules.append(name)
    with open(path, "w", encoding="utf-8") as file:
        json.dump([modules, codes], file)
