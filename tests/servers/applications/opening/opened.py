"""What both fronts share: the store, and a route that counts in it."""

from typing import Any

import kit
import sharedstate

store = sharedstate.open()
try:
    with sharedstate.open("memory:narrow"):
        refusal = ""
except sharedstate.ScopeError as error:
    refusal = str(error)


def count(request: kit.Request) -> dict[str, Any]:
    """Count this request, and say where, and who shares the store."""
    return kit.report(request) | {
        "total": store.increment("total"),
        "url": store.url,
        "scheme": store.url.partition(":")[0],
        "choice": store.choice.explain() if store.choice else "",
        "sharers": len(store.sharers()),
        "refusal": refusal,
    }
