"""Judge a kept history again: `PYTHONPATH=tests/torture python -m judged FILE.json`."""

import sys

from judged.evidence import describe, judge_again

for part in ("whole", "small"):
    print(f"{part}: {describe(judge_again(sys.argv[1], part))}")  # noqa: T201  that is what it is for
