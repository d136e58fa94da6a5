"""One process of a comparison: the revision that stands first on sys.path races through some workloads, alone.

    python -m benchmarks.revision TREE WORKLOADS BACKENDS ROUNDS SIZE

Prints JSON: for each workload, for each row, its median in nanoseconds or why
there is none.
"""

from __future__ import annotations

import json
import os
import sys

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Measure; return the exit status."""
    tree, workloads, backends, rounds, size_name = arguments
    # Before anything of ours is imported: a venv's .pth names the tree of these
    # benchmarks, and would lend its plug-ins to a revision that lacks one.
    here = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    lent = {here, os.path.join(here, "backends")} - {os.path.realpath(tree)}
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) not in lent]

    import sharedstate
    from benchmarks import run as running
    from benchmarks.cli import SIZES

    if os.path.commonpath([os.path.realpath(tree), os.path.realpath(sharedstate.__file__)]) != os.path.realpath(tree):
        print(f"sharedstate was imported from {sharedstate.__file__}, not from {tree}", file=sys.stderr)
        return 1
    chosen, names = set(workloads.split(",")), backends.split(",")
    # Nobody else takes part: it is two of ours that are compared.
    running.PEERS = tuple(peer for peer in running.PEERS if peer.name in names)
    size = SIZES[size_name]
    size = size._replace(plan=size.plan._replace(rounds=int(rounds)))
    results = running.run(size, running.Choice(lambda name: name in chosen, names, ""), lambda _line: None)
    missing = {name: item.missing for name, item in results.contestants.items() if item.missing}
    rows = [
        {
            "workload": row.workload,
            "contestant": row.contestant,
            "median_ns": row.median_ns(),
            "failure": row.failure,
        }
        for row in results.rows
    ]
    print(json.dumps({"rows": rows, "missing": missing}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
