"""`python -m turmoil supervise ORDERS`: go on for the time ordered, and print what was seen as the last line.

`python -m turmoil work ORDER` is a worker that is started afresh instead of forked.
"""

from __future__ import annotations

import json
import sys

from turmoil.process import work


def main() -> None:
    """Do what the first argument says."""
    part, order = sys.argv[1], json.loads(sys.argv[2])
    if part == "work":
        work(*order)
    from turmoil.supervisor import Supervisor

    print(json.dumps(Supervisor(order).run()), flush=True)  # noqa: T201  the answer


if __name__ == "__main__":
    main()
