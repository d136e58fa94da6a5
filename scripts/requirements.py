"""Print what pip has to install for some extras, read from pyproject.toml so that it stands in one place only.

    python scripts/requirements.py [EXTRA...]

Extras of our own project that an extra names are followed; the project itself is not installed.
"""

import sys
import tomllib
from pathlib import Path

with (Path(__file__).parent.parent / "pyproject.toml").open("rb") as file:
    project = tomllib.load(file)["project"]
wanted = set(project["dependencies"])
pending, seen = sys.argv[1:], set()
while pending:
    extra = pending.pop()
    if extra in seen:
        continue
    seen.add(extra)
    for requirement in project["optional-dependencies"][extra]:
        if requirement.startswith(project["name"] + "["):
            pending += requirement[len(project["name"]) + 1 :].rstrip("]").split(",")
        else:
            wanted.add(requirement)
sys.stdout.write("\n".join(sorted(wanted)) + "\n")
