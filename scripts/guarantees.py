#!/usr/bin/env python3
"""Hold docs/guarantees.md and docs/security.md to the tests that they name: each exists, and passed.

    scripts/guarantees.py [PASSED]

PASSED has the ids of tests that passed, a line each (see tests/conftest.py);
without it only their existence is checked.  Between backticks a name means

    test_x.py, tests/unit/test_x.py     a file of tests, of which one passed at least
    values.py                           a file of the conformance suite, likewise
    test_that_it_holds                  a test, which passed under one parameter at least
    tests/native/test_steps.c, crew/judges.py   what has no test that pytest runs: must exist
"""

from __future__ import annotations

import os
import re
import sys
from typing import Final

ROOT: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DOCUMENTS: Final = tuple(os.path.join(ROOT, "docs", name) for name in ("guarantees.md", "security.md"))

_NAME: Final = re.compile(r"`((?:[a-z_]+/)*[a-z][a-z0-9_]*\.(?:py|c)|test_[a-z0-9_]+)`")
_FUNCTION: Final = re.compile(r"^ *def (test_[a-z0-9_]+)", re.MULTILINE)
_PLACES: Final = ("tests", os.path.join("sharedstate", "testing", "conformance"))


def names_in(text: str) -> list[str]:
    """Return the tests and files that a document names, once each, in order."""
    return list(dict.fromkeys(_NAME.findall(text)))


class Tree:
    """The tests that there are.

    Attributes:
        functions: by path within the project, the tests defined there.
    """

    def __init__(self, root: str = ROOT) -> None:
        self.functions: dict[str, set[str]] = {}
        for place in _PLACES:
            for directory, _, files in os.walk(os.path.join(root, place)):
                for name in files:
                    if name.endswith((".py", ".c")):
                        path = os.path.join(directory, name)
                        with open(path, encoding="utf-8") as file:
                            self.functions[os.path.relpath(path, root)] = set(_FUNCTION.findall(file.read()))

    def files(self, name: str) -> list[str]:
        """Return the paths that end in `name`."""
        return [path for path in self.functions if f"/{path}".endswith(f"/{name}")]

    def tests(self, name: str) -> set[str]:
        """Return the tests that `name`, a file or a test, stands for."""
        if "." in name:
            return set().union(*(self.functions[path] for path in self.files(name)))
        return {name} if any(name in functions for functions in self.functions.values()) else set()


def missing_in(text: str, tree: Tree) -> list[str]:
    """Return the names that stand for nothing."""
    return [name for name in names_in(text) if not (tree.files(name) or tree.tests(name))]


def unproved_in(text: str, tree: Tree, passed: set[str]) -> list[str]:
    """Return the names of which no test is among `passed`, the bare names of tests."""
    tests = {name: tree.tests(name) for name in names_in(text)}
    return [name for name, those in tests.items() if those and not those & passed]


def read_documents() -> str:
    """Return all that is promised."""
    texts = []
    for path in DOCUMENTS:
        with open(path, encoding="utf-8") as file:
            texts.append(file.read())
    return "\n".join(texts)


def main() -> int:
    """Check, and name what is wrong."""
    text = read_documents()
    tree = Tree()
    wrong = [f"{name}: there is no such test" for name in missing_in(text, tree)]
    if len(sys.argv) > 1:
        with open(sys.argv[1], encoding="utf-8") as file:
            passed = {line.strip().rpartition("::")[2].partition("[")[0] for line in file}
        wrong += [f"{name}: no test of it passed" for name in unproved_in(text, tree, passed)]
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"The promises name {len(names_in(text))} tests and files of tests, {len(wrong)} of them in vain.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
