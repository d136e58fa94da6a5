"""A process that runs out of address space: `python -m hardship.address_space URL LIMITS`, prints figures as JSON."""

from __future__ import annotations

import json
import resource
import sys

import sharedstate
from hardship.kernel import limit
from hardship.ledger import Ledger


def run_out_of_address_space(url: str, limits: int) -> dict[str, int]:
    """Store large values under RLIMIT_AS, a MiB more each time; go on without the limit, and lose nothing."""
    ledger = Ledger(sharedstate.open(url))
    ledger.do_all()
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    refused = 0
    for room in range(1, limits + 1):
        with limit(resource.RLIMIT_AS, used + (room << 20)):
            try:
                ledger.store["large"] = b"x" * (2 << 20)
                ledger.model["large"] = b"x" * (2 << 20)
            except MemoryError:
                refused += 1
        ledger.do_all()
        ledger.audit_anew()
    return {"limits": limits, "refused": refused}


if __name__ == "__main__":
    json.dump(run_out_of_address_space(sys.argv[1], int(sys.argv[2])), sys.stdout)
