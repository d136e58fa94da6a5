"""`python -m benchmarks`."""

import sys

from benchmarks.cli import main

# Workers are started with `-m` too, and their modules must not run a second benchmark.
if __name__ == "__main__":
    sys.exit(main())
