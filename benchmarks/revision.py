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

    from benchmarks import run as running
    from benchmarks.cli import SIZES

    chosen, names = set(workloads.split(",")), backends.split(",")
    # Nobody else takes part: it is two of ours that are compared.
    running.PEERS = tuple(peer for peer in running.PEERS if peer.name in names)
    size = SIZES[size_name]
    size = size._replace(plan=size.plan._replace(rounds=int(rounds)))
    results = running.run(size, running.Choice(lambda name: name in chosen, names, ""), lambda _line: None)
    strangers = _find_strangers(tree)
    if strangers:
        print(f"{', '.join(strangers)}: imported from elsewhere than {tree}", file=sys.stderr)
        return 1
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


def _find_strangers(tree: str) -> list[str]:
    """Return the files of ours that were imported and are not of the revision."""
    files = {
        os.path.realpath(module.__file__)
        for name, module in list(sys.modules.items())
        if name.partition(".")[0].partition("_")[0] == "sharedstate" and getattr(module, "__file__", None)
    }
    return sorted(file for file in files if not file.startswith(os.path.realpath(tree) + os.sep))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
